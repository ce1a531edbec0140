"""What all tests share."""

from __future__ import annotations

import signal

import hypothesis

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a shell starts in the background: the programs that tests start, and press Ctrl-C in, would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The machine that runs the tests may be slow or busy: how long an example takes says nothing. A failure prints the line
# that replays it.
hypothesis.settings.register_profile("raftkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("raftkv")
