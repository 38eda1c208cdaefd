"""Where a memo lies: its file and directory, and what holds them."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from suture.errors import MethodError

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows, where nobody can rename a file that is open
    fcntl = None  # type: ignore[assignment]

# Where memory cannot be shared between hosts, which write-ahead logs need (sqlite.org/wal.html).
# fmt: off
NETWORK = frozenset((
    "9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "davfs", "fuse.glusterfs", "fuse.sshfs",
    "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs",
    "pvfs2", "smb2", "smb3", "smbfs",
))
# fmt: on

# What is no mistake in the path, and may be over soon: a full disk, a network that is away.
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


def identity(path: Path) -> tuple[int, int] | None:
    """Return which file is under a path now, None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def free(path: Path) -> Path:
    """Return a name for a damaged file that is not taken."""
    stamp, number = time.strftime("%Y%m%d-%H%M%S"), 0
    while True:
        aside = path.with_name(f"{path.name}.corrupt-{stamp}{f'-{number}' if number else ''}")
        if not aside.exists():
            return aside
        number += 1


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep all other processes on this host from replacing a file in a directory."""
    if fcntl is None:
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def make(path: Path) -> None:
    """Make the file, and its directory, for the user alone."""
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only if it is not there: to close any file drops the locks of SQLite in this process.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _PASSING:
            raise unusable(path, str(error.strerror)) from error
        raise sqlite3.OperationalError(str(error)) from error
    if path.is_dir():
        raise unusable(path, "it is a directory")


def unusable(path: Path, reason: str) -> MethodError:
    return MethodError(
        f"The memo {path} cannot be used: {reason}.",
        "A memo is a file that can be read and written; it is made if it does not exist.",
        'Give another path, for example `Memo("runs/memo.db")`.',
    )


def file_system(path: Path) -> str:
    """Return the type of the file system that holds a path, "" where that is not known."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    place, found, longest = path.parent.resolve(), "", -1
    for line in lines:
        _, mount, kind, *_ = line.split(" ")
        folder = Path(mount.replace(r"\040", " "))
        if (folder == place or folder in place.parents) and len(folder.parts) >= longest:
            found, longest = kind, len(folder.parts)
    return found
