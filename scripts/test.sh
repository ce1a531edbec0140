#!/usr/bin/env bash
# Runs the tests; arguments go to pytest, and its exit status comes back.
#
#   scripts/test.sh                                all of them, two files at a time
#   scripts/test.sh tests/test_config.py -k range  some; paths are relative to the repository's directory
#
# The first run makes .venv and installs the dependencies, those of the tests included. `.venv/bin/pytest --help` tells of
# pytest's arguments.

# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) show_help && exit ;; esac
ensure_environment test
cd -- "$root"
# Tests start more than a thousand Pythons: each would compile the whole package.
unset PYTHONDONTWRITEBYTECODE
[ $# -gt 0 ] || set -- -n 2 --dist loadfile --no-loadscope-reorder
exec .venv/bin/python -m pytest "$@"
