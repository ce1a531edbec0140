"""Tests of the durable state of a member."""
