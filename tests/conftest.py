"""What all tests share."""

from __future__ import annotations

import hypothesis

# The machine that runs the tests may be slow or busy: how long an example takes says nothing. A failure prints the line
# that replays it.
hypothesis.settings.register_profile("raftkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("raftkv")
