#!/usr/bin/env bash
# Stops the nodes that scripts/start_cluster.sh started on this machine, and nothing else. Their data stays.
#
#   scripts/stop_cluster.sh

# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) show_help && exit ;; esac
[ $# -eq 0 ] || wrong_usage "takes no arguments"
python=$root/.venv/bin/python
[ -x "$python" ] || python=$(find_python 310 399) # stopping needs nothing installed
[ -n "$python" ] || die "needs Python 3.10 or newer: install python3, or name one with PYTHON=/path/to/python3"
exec "$python" "$root/scripts/cluster.py" down
