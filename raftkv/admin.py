"""What is done to data while no node runs: `python -m raftkv.admin`: theory of operation.

    restore             makes the data directory of one member of a new cluster, out of a backup
    force-new-cluster   makes a cluster of one out of what is left of a cluster that has lost its majority for good

The work is done in restore.py; here are the words. As with a node, the exit status is 2 for wrong arguments and 1 if it
can't be done, with one line on stderr that names the thing and the mend; nothing has been changed then.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from raftkv.config import ConfigError, parse_members
from raftkv.restore import (
    Survivor,
    Unusable,
    check_cluster_id,
    check_directory,
    make_directory,
    new_cluster_id,
    read_backup,
    read_survivor,
)

PROGRAM: Final = "python -m raftkv.admin"
CONFIRMATION: Final = "--accept-that-acknowledged-writes-may-be-lost"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 can't be done, 2 wrong arguments."""
    try:
        arguments = _parser().parse_args(argv)
        lines: list[str] = arguments.run(arguments)
    except ConfigError as error:
        return _complain(error, 2)
    except Unusable as error:
        return _complain(error, 1)
    print("\n".join(lines))
    return 0


def _complain(error: Exception, status: int) -> int:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the whole usage."""
        raise ConfigError(f"{message} (--help tells more)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Works on data directories while no node runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    restore = commands.add_parser("restore", help="make a member of a new cluster out of a backup")
    restore.add_argument("backup", metavar="BACKUP", help="a file that BACKUP of client.py has written")
    restore.add_argument("id", type=_member_id, help="which of the members the directory is for")
    restore.add_argument("addresses", nargs="+", metavar="address", help="host:port of each member of the new cluster")
    restore.add_argument("--cluster-id", type=_cluster_id, help="as printed when the first member was restored")
    restore.add_argument("--data-dir", help="the directory to make (default: data/node-<id>)")
    restore.set_defaults(run=_restore)
    force = commands.add_parser(
        "force-new-cluster",
        help="make a cluster of one out of the directory of one member; LOSES what that member does not have",
    )
    force.add_argument("directory", metavar="OLD_DIR", help="the data directory that is left; it is not changed")
    force.add_argument("--data-dir", required=True, metavar="NEW_DIR", help="the directory to make")
    force.add_argument("--address", help="host:port of the new member (default: as before)")
    force.add_argument(CONFIRMATION, dest="is_confirmed", action="store_true", help="nothing is done without this")
    force.set_defaults(run=_force_new_cluster)
    return parser


def _member_id(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _cluster_id(text: str) -> bytes:
    try:
        cluster_id = bytes.fromhex(text)
    except ValueError:
        cluster_id = b""
    if len(cluster_id) != 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a cluster id: 32 hexadecimal digits")
    return cluster_id


# ---- restore ---------------------------------------------------------------------------------------------------------


def _restore(arguments: argparse.Namespace) -> list[str]:
    members = parse_members(arguments.addresses)
    member = arguments.id
    if member not in members:
        ids = ", ".join(map(str, sorted(members)))
        raise ConfigError(f"node {member} is not one of the members that are given ({ids})")
    directory = arguments.data_dir or os.path.join("data", f"node-{member}")
    check_directory(directory)
    found = read_backup(arguments.backup)
    cluster_id = arguments.cluster_id or new_cluster_id(found.fingerprint, members)
    check_cluster_id(cluster_id, found.fingerprint, members)
    state = found.state
    make_directory(directory, state, state.applied_term, member, members, cluster_id)
    lines = [
        f"restored {len(state.records)} keys, as entry {state.applied_index} of the log left them, into {directory}",
        f"it belongs to member {member} of the new cluster {cluster_id.hex()}",
    ]
    others = [other for other in sorted(members) if other != member]
    if others and arguments.cluster_id is None:
        lines += ["now the same for the other members, each on its machine, with a copy of the backup:"]
        words = [arguments.backup, "{}", *arguments.addresses, "--cluster-id", cluster_id.hex()]
        lines += [f"  {PROGRAM} restore {shlex.join(words)}".replace("'{}'", str(other)) for other in others]
    return [*lines, "start it, when all are restored, with", f"  {_start(member, arguments.addresses, directory)}"]


def _start(member: int, addresses: Sequence[str], directory: str) -> str:
    words = ["raft_node.py", str(member), *addresses]
    if Path(directory) != Path("data", f"node-{member}"):
        words += ["--data-dir", directory]
    return f"python {shlex.join(words)}"


# ---- force-new-cluster -----------------------------------------------------------------------------------------------


def _force_new_cluster(arguments: argparse.Namespace) -> list[str]:
    check_directory(arguments.data_dir)
    survivor = read_survivor(arguments.directory)
    member = survivor.member_id
    address = arguments.address or survivor.address
    members = parse_members([f"{member}={address}"])
    if not arguments.is_confirmed:
        raise Unusable(f"{_what_may_be_lost(arguments.directory, survivor)}; if that is so, add {CONFIRMATION}")
    cluster_id = new_cluster_id(b"", members)
    make_directory(arguments.data_dir, survivor.state, survivor.term, member, members, cluster_id)
    return [
        f"made a new cluster {cluster_id.hex()} of member {member} alone, with {len(survivor.state.records)} keys, "
        f"in {arguments.data_dir}",
        f"{arguments.directory} is as it was; do not start it, nor any other member of the old cluster, again",
        "start the new one with",
        f"  {_start(member, [f'{member}={address}'], arguments.data_dir)}",
        "and then give it more members (ADD, in client.py)",
    ]


def _what_may_be_lost(directory: str, survivor: Survivor) -> str:
    """One line."""
    last, committed = survivor.last, survivor.commit_index
    words = [f"{directory}: ends with entry {last.index} of term {last.term}"]
    if last.index > committed:
        words += [f"entries {committed + 1} to {last.index} may never have been acknowledged and are kept all the same"]
    words += [
        "what the other members have acknowledged after that is lost for good, and so are all client sessions",
        "do this only if a majority of the old members can never be started again",
    ]
    return "; ".join(words)


if __name__ == "__main__":
    sys.exit(main())
