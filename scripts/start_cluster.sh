#!/usr/bin/env bash
# Starts a cluster on this machine, waits until a leader serves, and prints a table of the nodes.
#
#   scripts/start_cluster.sh [N]    N nodes (default 5), on 127.0.0.1:50051 and the ports that follow
#
# Nodes that are running already are left alone, so the same command starts what is missing, and a stopped cluster goes on
# with its data. Data, logs and pid files are in data/cluster-N, or in data/cluster-N-PORT if the first port is not 50051;
# data/current is the cluster started last. A node that has been removed from the cluster (REMOVE) is stopped again. The first
# run makes .venv. Two variables of the environment change what it does:
#
#   RAFTKV_BASE_PORT=PORT      the first node's port (default: that of the last cluster if it had N nodes too, else 50051)
#   RAFTKV_START_SECONDS=30    how long to wait for the nodes, and then for a leader

# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in -h | --help) show_help && exit ;; esac
[ $# -le 1 ] || wrong_usage "expected at most one argument, the number of nodes"
is_number "${1-5}" || wrong_usage "the number of nodes must be from 1 to 99, not '$1'"
ensure_environment run
exec "$root/.venv/bin/python" "$root/scripts/cluster.py" up "${1-5}"
