#!/usr/bin/env bash
# Does something to one node of the cluster that scripts/start_cluster.sh started.
#
#   scripts/node.sh kill <id>      kill -9: it stops at once, and keeps what is on its disk
#   scripts/node.sh pause <id>     SIGSTOP: it stands still, as on a machine that hangs
#   scripts/node.sh resume <id>    SIGCONT: it goes on
#   scripts/node.sh start <id>     starts it again

# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
-h | --help) show_help && exit ;;
kill | pause | resume | start) [ $# -eq 2 ] || wrong_usage "expected: $1 <id>" ;;
*) wrong_usage "expected: kill, pause, resume or start, and a node's id" ;;
esac
is_number "$2" || wrong_usage "a node's id must be from 1 to 99, not '$2'"
ensure_environment run
exec "$root/.venv/bin/python" "$root/scripts/cluster.py" "$1" "$2"
