# What the scripts share; sourced, never run. Sets `root`, the repository's directory, and needs nothing but bash.
# shellcheck shell=bash
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
program=$(basename -- "$0")

# One line that says what is wrong and how to mend it; then the end.
die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit 1
}

# Wrong arguments: the same, with the status that the contract gives to wrong usage.
wrong_usage() {
    printf '%s: %s (%s --help says more)\n' "$program" "$1" "$program" >&2
    exit 2
}

# Whether the text is a whole number from 1 to 99.
is_number() {
    [[ $1 =~ ^[1-9][0-9]?$ ]]
}

# Prints the comment at the top of the calling script, which is its help text.
show_help() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
}

# find_python OLDEST NEWEST: prints a Python whose version (as 310, 312) lies between the two, or nothing. $PYTHON comes first.
find_python() {
    local name
    for name in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        [ -n "$name" ] || continue
        if "$name" -c "import sys; v = sys.version_info; sys.exit(not $1 <= v[0] * 100 + v[1] <= $2)" 2>/dev/null; then
            command -v -- "$name"
            return
        fi
    done
}

# ensure_environment run|test: makes $root/.venv with what the nodes (and the tests) need; instant when it is up to date.
ensure_environment() {
    local extra=$1 python stamp
    # The stamp names all that the environment depends on: what is installed, and where (an environment can't be moved).
    stamp="$root $(cksum <"$root/pyproject.toml")"
    if [ -x "$root/.venv/bin/python" ] && [ "$(cat "$root/.venv/installed-$extra" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    python=$(find_python 310 399)
    [ -n "$python" ] || die "needs Python 3.10 or newer: install python3, or name one with PYTHON=/path/to/python3"
    "$python" "$root/scripts/environment.py" "$extra" "$stamp" || exit 1
}
