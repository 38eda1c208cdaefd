"""The memo: what need not be evaluated again, on disk, without pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, final

from suture import _tree
from suture._content import Damaged, encoded, leaf_pieces, structure_bytes
from suture._memo_file import PATIENCE, File, is_shut, is_waiting
from suture._memo_info import Counts, Info, date
from suture._memo_path import unusable
from suture._memo_row import packed, unpacked
from suture.errors import MethodError, shown

# Two of 10¹² points share a key of 32 bytes with a probability of 10²⁴ · 2⁻²⁵⁷, or 10⁻⁵³.
_KEY = 32

# Pages that are given back at once; one statement must not keep others from writing for long.
_PAGES = 10_000

# How often a damaged row is deleted and written: others may do both in between.
_TRIES = 3

_MISSING = object()


@final
class Memo:
    """Values of black boxes on disk: a point that was evaluated once is looked up from then on.

    Many threads and processes may share a file. They all use the value that was written first, to
    the last bit. A process that is killed loses nothing that it wrote. A full or failing disk
    costs a warning, and its points are evaluated again; so is a damaged value, and a file that
    cannot be read is kept under another name.

    Args:
        path: the file; it is made if it does not exist, for the user alone. It is no secret from
            others, and no proof against them: who can write to the file can change results.
        version: your word for everything that the results depend on: change it when the function
            changes. It stands for the function together with its name, so functions that share
            a file need different names. None: the fingerprint of the function's code; then a
            function is refused that reaches what can change unseen.
        allow_random: take values also of a function that `suture.check` found to be random: its
            first values are used forever.
        durable: whether values survive a loss of power at once, for some milliseconds a value.
            Without it, power loss may cost the last values and nothing else.

    Raises:
        MethodError: if the path cannot be used: a directory, no permission, or the database of
            something else.

    Example:
        >>> import os, suture, tempfile, torch
        >>> with suture.Memo(os.path.join(tempfile.mkdtemp(), "memo.db")) as memo:
        ...     f = suture.differentiable(torch.sin, memo=memo)
        ...     f(torch.ones(2)), f(torch.ones(2)), f.evaluations
        (tensor([0.8415, 0.8415]), tensor([0.8415, 0.8415]), 1)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        version: str | int | None = None,
        allow_random: bool = False,
        durable: bool = False,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.version, self.allow_random, self.durable = version, allow_random, durable
        self._counts = dict.fromkeys((field.name for field in dataclasses.fields(Counts)), 0)
        # With a version: the functions that it stands for, by name.
        self.owners: dict[str, weakref.ref[Any]] = {}
        self._lock = threading.Lock()
        self._warned = False
        self._begun: tuple[bytes, Any, object, Any] = (b"", None, None, None)
        self._paused_until = -float("inf")
        self._file = File(self.path, durable)
        try:
            self._file.rows("SELECT 1 FROM memo LIMIT 1")
        except sqlite3.Error as error:
            if is_shut(error):
                raise unusable(self.path, str(error)) from error
            self._warn(error)

    def __repr__(self) -> str:
        return f"Memo({str(self.path)!r})"

    def __enter__(self) -> Memo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pass the path to other processes; each opens the file by itself."""
        return {
            "path": str(self.path),
            "version": self.version,
            "allow_random": self.allow_random,
            "durable": self.durable,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def key(
        self,
        fingerprint: bytes,
        tree: _tree.Structure,
        leaves: Sequence[Any],
        precision: object = None,
    ) -> bytes:
        """Return the key of a point: a digest of all that its value may depend on.

        Args:
            fingerprint: of the black box, from `suture._fingerprint.fingerprint`.
            tree: the structure of (args, kwargs).
            leaves: their leaves: tensors and arrays count by dtype, shape and bytes as they are
                (-0.0 is not 0.0), wherever they are; int, float, complex, str, bool and None
                by type and value.
            precision: the precision that the black box receives, as `torch.float64`; its `str`
                counts.

        Raises:
            MethodError: for any other leaf, naming it.
        """
        # All points of a gradient have these in common. A tree that is the same object is compared
        # by that: its `==` would take longer than the rest of the key.
        begun = self._begun
        if begun[1] is not tree or begun[0] != fingerprint or begun[2] != precision:
            begin = encoded((fingerprint, structure_bytes(tree), str(precision)))
            begun = (fingerprint, tree, precision, hashlib.blake2b(begin, digest_size=_KEY))
            self._begun = begun
        digest = begun[3].copy()
        for piece in leaf_pieces(leaves, tree):
            digest.update(piece)
        key: bytes = digest.digest()
        return key

    def get(self, key: bytes) -> Any:
        """Return the value of a point, a copy, or None if there is none that can be read.

        None itself is no value: a black box that returns it has nothing to remember.
        """
        found: Any = _MISSING
        if not self._is_pausing():
            try:
                found = self._read(key)
            except sqlite3.Error as error:
                self._give_up(error)
        self._count("misses" if found is _MISSING else "hits")
        return None if found is _MISSING else found

    def put(self, key: bytes, value: Any) -> Any:
        """Write the value of a point and return what is stored, a copy.

        If somebody was faster, that is their value: all go on with the same bits.

        Args:
            key: from `key`.
            value: tensors, arrays, numbers, strings and None, in tuples, lists and dicts.
                Tensors come back on the CPU.

        Raises:
            BadResult: for a value of anything else.
        """
        row = packed(key, value)
        if not self._is_pausing():
            try:
                return self._write(key, row)
            except (sqlite3.Error, OverflowError) as error:  # the latter above 2 GB
                self._give_up(error)
        self._count("failed_writes")
        return unpacked(key, row)

    def note(self, fingerprint: bytes, fact: str) -> None:
        """Write down what was found out about the function of a fingerprint."""
        if self._is_pausing():
            return
        key = _fact_key(fingerprint, fact)
        row = (key, packed(key, True), time.time())
        try:
            self._file.changed("INSERT OR REPLACE INTO memo VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            self._give_up(error)

    def is_noted(self, fingerprint: bytes, fact: str) -> bool:
        """Return whether that was found out, as far as the file can be read."""
        if self._is_pausing():
            return False
        try:
            return self._read(_fact_key(fingerprint, fact)) is True
        except sqlite3.Error as error:
            self._give_up(error)
            return False

    def _write(self, key: bytes, row: bytes) -> Any:
        """Insert a row and return the value that is in the file then."""
        for _ in range(_TRIES):
            if self._file.changed(
                "INSERT OR IGNORE INTO memo VALUES (?, ?, ?)", (key, row, time.time())
            ):
                self._count("writes")
                return unpacked(key, row)
            if (found := self._read(key)) is not _MISSING:
                return found
        raise sqlite3.DatabaseError("a damaged value cannot be replaced")

    def _read(self, key: bytes) -> Any:
        """Return a value; a damaged row is deleted, so that it can be written anew."""
        rows = self._file.rows("SELECT value FROM memo WHERE key = ?", (key,))
        if not rows:
            return _MISSING
        ((row,),) = rows
        try:
            return unpacked(key, row)
        except Damaged:
            self._count("bad_rows")
            # If it is still the same: somebody may have written a good one.
            self._file.changed(
                "DELETE FROM memo WHERE key = ? AND CAST(value AS BLOB) IS CAST(? AS BLOB)",
                (key, row),
            )
            return _MISSING

    def _is_pausing(self) -> bool:
        return time.monotonic() < self._paused_until

    def _give_up(self, error: Exception) -> None:
        """Leave a point to the black box, and warn of it once."""
        if is_waiting(error):  # so waiting takes no more than half of the time
            self._paused_until = time.monotonic() + PATIENCE
        self._warn(error)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    @property
    def counts(self) -> Counts:
        """What happened in this process."""
        with self._lock:
            return Counts(**self._counts)

    def _warn(self, error: Exception) -> None:
        """Warn, the first time; `counts` tells of the other times."""
        with self._lock:
            if self._warned:
                return
            self._warned = True
        warnings.warn(
            f"The memo {self.path} cannot be used now: {error}. Points are evaluated that might "
            "have been in it, and values are not kept; `counts.failed_writes` says how many.",
            stacklevel=3,
        )

    def info(self) -> Info:
        """Return what the memo holds.

        Raises:
            sqlite3.Error: if the file cannot be read.
        """
        ((values, largest, oldest, newest),) = self._file.rows(
            "SELECT count(*), max(length(value)), min(created), max(created) FROM memo"
        )
        return Info(
            path=self.path,
            values=values,
            size=self._file.size(),
            largest=largest or 0,
            oldest=date(oldest),
            newest=date(newest),
            journal=self._file.journal,
            counts=self.counts,
        )

    def prune(
        self,
        *,
        older_than: timedelta | float | None = None,
        larger_than: int | None = None,
    ) -> int:
        """Delete values, give their space back, and return how many there were.

        Args:
            older_than: delete what was written longer ago than this, in seconds if a number.
            larger_than: delete values of more than this many bytes.

        Raises:
            MethodError: if neither is given, or one is negative.
            sqlite3.Error: if the file cannot be written.
        """
        age = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        given = [limit for limit in (age, larger_than) if limit is not None]
        if not given or not min(given) >= 0:
            raise MethodError(
                f"`prune(older_than={shown(older_than)}, larger_than={shown(larger_than)})` does "
                "not say what to delete.",
                "At least one limit is needed, and none is negative.",
                "For example `prune(older_than=timedelta(days=30))`, or `prune(older_than=0)` for "
                "all.",
            )
        gone = 0
        if age is not None:
            gone += self._delete("created <= ?", time.time() - age)
        if larger_than is not None:
            gone += self._delete("length(value) > ?", larger_than)
        self._shrink()
        return gone

    def _delete(self, condition: str, limit: float) -> int:
        return self._file.changed(f"DELETE FROM memo WHERE {condition}", (limit,))

    def _shrink(self) -> None:
        """Give the freed pages back to the file system."""
        while self._file.rows("PRAGMA freelist_count")[0][0]:
            before = self._file.rows("PRAGMA freelist_count")
            self._file.rows(f"PRAGMA incremental_vacuum({_PAGES})")
            if self._file.rows("PRAGMA freelist_count") == before:  # not made by this version
                break
        self._file.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        self._file.close()


def _fact_key(fingerprint: bytes, fact: str) -> bytes:
    """Return the key under which a fact stands; no point has it, for it has other bytes."""
    return hashlib.blake2b(b"fact" + encoded((fingerprint, fact)), digest_size=_KEY).digest()
