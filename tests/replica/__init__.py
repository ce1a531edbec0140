"""Tests of one member as a whole: algorithm, storage and state machine, without threads, clock and network."""
