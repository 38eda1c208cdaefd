"""The file of a memo: SQLite, shared by threads and processes, replaced when it is damaged."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from suture._memo_path import NETWORK, alone, file_system, free, identity, make
from suture.errors import MethodError

T = TypeVar("T")

# Seconds that a writer waits for the others. A write takes 0.1 ms, so this is a queue of 10⁵.
PATIENCE = 30.0

# "SUTR", in the header of the file: it is ours, and not another program's database.
_APPLICATION = 0x53555452
# Raised when older versions of Suture would misread the file.
_FORMAT = 1

_TABLE = (
    # Keys are digests, so no order of rows is better than another; values may be large, which
    # a table without rowids is not made for (sqlite.org/withoutrowid.html).
    "CREATE TABLE IF NOT EXISTS memo "
    "(key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL, created REAL NOT NULL)"
)

# An error in a statement, too: the statements are always right, so the table is not.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
# Python fails to read messages of SQLite that quote a damaged table.
_ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
_WAITING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# SQLite must not be closed in a child after a fork, so what a child inherits stays open.
_INHERITED: list[Any] = []


class _Connection:
    """A connection of one thread, closed with it."""

    def __init__(
        self, database: sqlite3.Connection, number: int, file: tuple[int, int] | None
    ) -> None:
        self.database = database
        self.number = number
        self.file = file

    def __del__(self) -> None:
        self.database.close()


class File:
    """The rows of a memo, by key. Any thread of any process may use it at any time.

    Args:
        path: of the file; it and its directory are made if they do not exist.
        durable: whether a value survives a loss of power as soon as it is written.

    Attributes:
        journal: how SQLite writes: "wal", or "delete" on network file systems.
        replaced: how many damaged files were renamed.
    """

    def __init__(self, path: Path, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.journal = ""
        self.replaced = 0
        self.is_closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._of_thread = threading.local()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows. A damaged file is replaced, once.

        Raises:
            sqlite3.Error: if the file cannot be read or written, now.
            MethodError: if the memo is closed, or the path cannot be used.
        """
        return self._run(statement, values, sqlite3.Cursor.fetchall)

    def changed(self, statement: str, values: tuple[Any, ...] = ()) -> int:
        """Run a statement, as `rows` does, and return how many rows it changed."""
        return self._run(statement, values, lambda cursor: cursor.rowcount)

    def _run(
        self, statement: str, values: tuple[Any, ...], read: Callable[[sqlite3.Cursor], T]
    ) -> T:
        connection = self._connected()
        try:
            return read(connection.database.execute(statement, values))
        except _ERRORS as error:
            if not _is_damage(error):
                raise
        self._replace(connection)
        return read(self._connected().database.execute(statement, values))

    def _connected(self) -> _Connection:
        if self._process != os.getpid():
            _INHERITED.append((self._of_thread, list(self._all)))
            self._begin()
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None and connection.number == self.replaced and not self.is_closed:
            return connection
        if self.is_closed:
            raise MethodError(
                f"The memo {self.path} is closed.",
                "Its values can be read and written only while it is open.",
                f'Open it again: `Memo("{self.path}")`.',
            )
        return self._connect()

    def _connect(self) -> _Connection:
        """Open a connection for this thread; a damaged file is replaced, once."""
        with self._lock:
            make(self.path)
            # Nobody may rename the file while a connection finds its log.
            with alone(self.path.parent):
                try:
                    connection = self._opened()
                except _ERRORS as error:
                    if not _is_damage(error):
                        raise
                    self._set_aside()
                    make(self.path)
                    connection = self._opened()
            self._of_thread.connection = connection
            self._all.add(connection)
        return connection

    def _opened(self) -> _Connection:
        database = sqlite3.connect(
            self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        connection = _Connection(database, self.replaced, identity(self.path))
        database.text_factory = bytes  # damage may turn a BLOB into text that is none
        _patiently(lambda: self._prepare(database))
        return connection

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Set up a connection, and the table if there is none."""
        ((application,),) = database.execute("PRAGMA application_id")
        ((tables,),) = database.execute("SELECT count(*) FROM sqlite_master")
        ((version,),) = database.execute("PRAGMA user_version")
        if application != _APPLICATION and (application or tables):
            raise MethodError(
                f"{self.path} is a database of something else.",
                "A memo has its file to itself, and does not write into others.",
                'Give another path, for example `Memo("runs/memo.db")`.',
            )
        if version > _FORMAT:
            raise MethodError(
                f"The memo {self.path} has format {version}; this version of Suture reads "
                f"{_FORMAT}.",
                "A newer version of Suture wrote it.",
                "`pip install --upgrade suture`, or give another path.",
            )
        if not tables:
            # Freed pages can then be given back without a copy of the whole file.
            database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        self._set_journal(database)
        # NORMAL: the file is never damaged; a loss of power may cost the last values.
        database.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}")
        if not tables:
            with _transaction(database):
                database.execute(_TABLE)
                database.execute(f"PRAGMA application_id={_APPLICATION}")
                database.execute(f"PRAGMA user_version={_FORMAT}")
        database.execute("SELECT key, value, created FROM memo LIMIT 0")

    def _set_journal(self, database: sqlite3.Connection) -> None:
        wanted = "delete" if file_system(self.path) in NETWORK else "wal"
        try:
            ((found,),) = database.execute(f"PRAGMA journal_mode={wanted}")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (*_DAMAGE, *_WAITING, sqlite3.SQLITE_FULL):
                raise
            ((found,),) = database.execute("PRAGMA journal_mode=DELETE")
        mode = found.decode() if isinstance(found, bytes) else found
        if mode != "wal" and not self.journal:
            warnings.warn(
                f"The memo {self.path} is on a file system without write-ahead logs, as networks "
                "have. It works with a slower journal. Better, give each host a memo on its own "
                "disk.",
                stacklevel=2,
            )
        self.journal = mode

    def _replace(self, damaged: _Connection) -> None:
        """Rename a damaged file, unless another thread or process has done it already."""
        with self._lock, alone(self.path.parent):
            if damaged.number == self.replaced:
                if identity(self.path) == damaged.file:
                    self._set_aside()
                else:
                    self.replaced += 1

    def _set_aside(self) -> None:
        """Rename the file that is there; all threads open another one. Nobody else may do it."""
        self.replaced += 1
        aside = free(self.path)
        # The log first: left behind, it would be written into the next file of this name.
        for ending in ("-wal", "-shm", "-journal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}{ending}", f"{aside}{ending}")
        warnings.warn(
            f"The memo {self.path} is damaged. It is kept as {aside.name}, and a new one is begun: "
            "its points are evaluated again.",
            stacklevel=2,
        )

    def close(self) -> None:
        """Close the connections of all threads of this process."""
        self.is_closed = True
        if self._process != os.getpid():
            return
        with self._lock:
            for connection in list(self._all):
                connection.database.close()

    def size(self) -> int:
        """Return the bytes on disk, with what is not yet written into the file itself."""
        found = 0
        for ending in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                found += os.stat(f"{self.path}{ending}").st_size
        return found


def _is_damage(error: Exception) -> bool:
    if isinstance(error, UnicodeDecodeError):
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def is_shut(error: Exception) -> bool:
    """Whether the file cannot be opened at all."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN


def is_waiting(error: Exception) -> bool:
    """Whether others held the file for too long."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _WAITING


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _patiently(prepare: Callable[[], None]) -> None:
    """Call it again while others begin the same file: SQLite does not wait for all locks then."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return prepare()
        except sqlite3.OperationalError as error:
            if not is_waiting(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def refuse_others(path: Path) -> None:
    """Raise if there is no memo under a path; nothing is made or renamed.

    Raises:
        MethodError: if there is none.
    """
    reason = "there is no such file"
    if path.is_file():
        try:
            database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            with contextlib.closing(database):
                ((application,),) = database.execute("PRAGMA application_id")
            reason = "" if application == _APPLICATION else "it is something else"
        except _ERRORS as error:
            reason = f"{error}"
    if reason:
        raise MethodError(
            f"{path} is not a memo that can be read: {reason}.",
            "This command looks at memos that exist.",
            f"Look for it: `ls {path.parent}`. A damaged memo is renamed as soon as a program "
            "uses it.",
        )
