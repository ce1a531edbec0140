"""Mutants of what is done about a whole cluster: backups, restoring, a new cluster of what is left.

Only rule 11 and hazard 52, members of different clusters that meet, stand behind some of them.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

_BACKUP, _BACKUP_FILE, _RESTORE, _ADMIN, _SNAPSHOTS = (
    "backup.py",
    "backup_file.py",
    "restore.py",
    "admin.py",
    "snapshots.py",
)
_TEST_BACKUP = "tests/client/test_backup.py"
_TEST_RESTORE = "tests/storage/test_restore.py"
_TEST_WANTED = "tests/replica/test_wanted_snapshots.py"


def _mutant(name: str, module: str, place: str, old: str, new: str, test: str, hazards: tuple[int, ...] = ()) -> Mutant:
    return Mutant(name, hazards, (Patch(module, place, old, new),), (test,))


OPERATIONS = [
    _mutant(
        "a backup is whatever snapshot there is",
        *(_BACKUP, "Backups._ask_index", "lambda machine: machine.applied_index", "lambda machine: 0"),
        "tests/node/test_backup.py",
    ),
    _mutant(
        "a snapshot that was begun too early is handed out",
        *(_SNAPSHOTS, "Snapshots._hand_out"),
        "if wanted.index <= self._saved_index]",
        "if wanted.index <= self._saved_index + 2]",
        _TEST_WANTED,
    ),
    _mutant(
        "a wanted snapshot waits for the next write",
        *("replica.py", "Replica.turn", "or self._snapshots.hurry(now)", ""),
        _TEST_WANTED,
    ),
    _mutant(
        "who wants a snapshot is not told that it can't be saved",
        *(_SNAPSHOTS, "Snapshots.failed"),
        'self.give_up(f"the state could not be saved: {result.reason}")',
        "pass",
        _TEST_WANTED,
    ),
    _mutant(
        "the place of a backup's piece is not looked at",
        *(_BACKUP_FILE, "_take", "reply.offset != file.size or", ""),
        _TEST_BACKUP,
    ),
    _mutant(
        "a backup that ends too early is taken for whole",
        *(_BACKUP_FILE, "_take", "if not size or file.size != size:", "if False:"),
        _TEST_BACKUP,
    ),
    _mutant(
        "a backup is not read before it gets its name",
        *(
            _BACKUP_FILE,
            "_write",
            "contents = check(file)\nfile.move_to(path)",
            "file.move_to(path)\ncontents = check(file)",
        ),
        _TEST_BACKUP,
    ),
    _mutant(
        "a backup takes the place of another file",
        *(_BACKUP_FILE, "make_backup", "if os.path.lexists(path):", "if False:"),
        _TEST_BACKUP,
    ),
    _mutant(
        "a backup that fails leaves its part",
        *(_BACKUP_FILE, "_write", "file.discard()", "pass"),
        _TEST_BACKUP,
    ),
    _mutant(
        "a restored cluster has the id of the old one",
        *(_RESTORE, "make_directory", "state = replace(state, cluster_id=cluster_id, ", "state = replace(state, "),
        _TEST_RESTORE,
        (52,),
    ),
    _mutant(
        "a restored directory does not know its cluster before it meets others",
        *(_RESTORE, "_write", "storage.remember_cluster(cluster_id)", "pass"),
        _TEST_RESTORE,
        (52,),
    ),
    _mutant(
        "members of different backups come together",
        *(_RESTORE, "check_cluster_id", "if cluster_id[_HALF:] != _seal(", "if not _seal("),
        _TEST_RESTORE,
        (52,),
    ),
    _mutant(
        "sessions go over into the restored cluster",
        *(_RESTORE, "make_directory", ", sessions=[])", ")"),
        _TEST_RESTORE,
    ),
    _mutant(
        "a restored log ends in a term that was never begun",
        *(_ADMIN, "_restore", "state, state.applied_term, member,", "state, state.applied_term + 1, member,"),
        _TEST_RESTORE,
    ),
    _mutant(
        "a new cluster of a survivor leaves out what may not be committed",
        *(_RESTORE, "read_survivor", "last = log.index.last_index", "last = log.commit_index"),
        _TEST_RESTORE,
    ),
    _mutant(
        "a new cluster is made without the word",
        *(_ADMIN, "_force_new_cluster", "if not arguments.is_confirmed:", "if False:"),
        _TEST_RESTORE,
    ),
    _mutant(
        "a survivor's directory may be in use",
        *("storage.py", "at_rest", "held.callback(OS_DISK.lock(os.path.join(directory, LOCK), shared=True).release)"),
        "pass",
        _TEST_RESTORE,
    ),
    _mutant(
        "a restore writes into a directory that is in use",
        *(_RESTORE, "check_directory", "if names:", "if False:"),
        _TEST_RESTORE,
    ),
    _mutant(
        "a request of a later version is taken for one of this",
        *("transport.py", "Membership.admit", "if header.protocol > self.protocol:", "if False:"),
        "tests/node/test_upgrade.py",
    ),
    _mutant(
        "a request of an earlier version is refused",
        *("transport.py", "Membership.admit", "header.protocol > self.protocol", "header.protocol != self.protocol"),
        "tests/node/test_upgrade.py",
    ),
    _mutant(
        "requests do not say of which version they are",
        *("transport.py", "Membership.identity_for", "protocol=self.protocol,", ""),
        "tests/node/test_upgrade.py",
    ),
]
