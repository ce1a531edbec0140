"""Bugs put into the code by name, to see that the tests notice them: see mutant.py, and docs/testing.md."""
