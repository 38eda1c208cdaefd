"""Where programs run: a fresh directory for each run, and the last that failed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

from suture.errors import MethodError, shown

KEPT = 20
"""Directories of failed runs that are kept in one place: enough to see a pattern, and no more
than 20 times what one run writes."""

_PAUSES = (0.001, 0.01, 0.1)
"""Seconds until a directory is removed once more: a child of the program, killed but not yet dead,
may have written into it. Measured: without, 3 directories of 60 stayed."""


def fresh(base: Path | None) -> Path:
    """Make an empty directory.

    Args:
        base: where; None = in a directory of the user's own among the temporary ones.

    Raises:
        MethodError: somebody else has made that directory.
    """
    if base is None:
        base = Path(tempfile.gettempdir()) / f"suture-{os.getuid()}"
        with suppress(FileExistsError):
            base.mkdir(mode=0o700)
        found = base.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise MethodError(
                f"`{base}` is not a directory that only you can use.",
                "Runs of `Command` take place in it, and others must not change their files.",
                'Remove it, or give `Command` another place: `folder="runs"`.',
            )
    else:
        base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=base))


def fill(
    folder: Path,
    subfolders: Iterable[str],
    files: Mapping[str, bytes],
    modes: Mapping[str, int],
) -> None:
    """Make directories and files below a directory.

    Args:
        folder: the directory.
        subfolders: directories; those of files need not be among them.
        files: by their paths.
        modes: permissions of some of the files.
    """
    for name in subfolders:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if name in modes:
            path.chmod(modes[name])


def remove(folder: Path) -> None:
    """Remove a directory; what has escaped from its process group may still write there."""
    for pause in _PAUSES:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(pause)


def keep(folder: Path, streams: tuple[bytes, bytes]) -> Path:
    """Keep the directory of a failed run, with its output; return its new path."""
    folder.mkdir(exist_ok=True)  # programs have removed theirs
    for name, content in zip(("stdout", "stderr"), streams, strict=True):
        with suppress(OSError), open(folder / f"{name}.txt", "xb") as file:
            file.write(content)
    kept = folder.with_name(f"failed-{time.time_ns()}-{folder.name.removeprefix('run-')}")
    folder.rename(kept)
    older = sorted(kept.parent.glob("failed-*"), key=lambda path: path.name.split("-")[1])
    for path in older[:-KEPT]:
        remove(path)
    return kept


def inside(path: object, what: str) -> str:
    """Return a path below the run directory.

    Raises:
        MethodError: it is none, or leads out of it.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if isinstance(text, str) and text and "\0" not in text:
        pure = PurePosixPath(text)
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            return str(pure)
    raise MethodError(
        f"{what} {shown(path)} is not a path inside of the run directory.",
        "A run reads and writes only below its own directory.",
        'Write a relative path without `..`, for example `"results/out.csv"`.',
    )
