"""Tests of the client library and of the program on it."""
