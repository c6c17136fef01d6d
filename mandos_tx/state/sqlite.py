"""The state in one SQLite file, which a crash at any instant leaves either as it was or as it should be.

=========  ============================================================================================
clients    name, document (``mandos_tx.formats.saved_state``), digest of both
server     one row: generation, the time line, when it was saved, the sum of all digests, and a digest
           of that row. A page that was lost, torn or brought back from an older time cannot pass: the
           sum would not be right.
=========  ============================================================================================

Write-ahead log, synchronous=FULL: on disk when COMMIT returns. The file is made under another name and appears whole,
so an empty one is damage and never a beginning. What cannot be understood stops the start and is never written to.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from urllib.parse import quote

from attrs import define, evolve, field

from mandos_tx.clock import TimeLine
from mandos_tx.formats.saved_state import KEY_BYTES
from mandos_tx.interfaces import SavedState, StateUnusable, StateUnwritable
from mandos_tx.state.directory import StateDirectory

DATABASE = "mandos.sqlite"
APPLICATION_ID = 0x4D4E4458
"""Marks our files, in the header at offset 68 (SQLite's file format, 1.3.14)."""

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_DIGEST_BYTES = 16
_MODULUS = 1 << 8 * _DIGEST_BYTES
_BUSY_TIMEOUT = 5.0
"""Seconds to wait for another program that reads the file, such as a backup."""

_CIRCUMSTANCES = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Primary result codes that say nothing about the file's content."""


class _Damaged(Exception):
    """The content is not what was written."""


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE clients (name TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL, digest BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE server (only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL,"
        " boot_id TEXT NOT NULL, epoch TEXT, saved_at TEXT, total BLOB NOT NULL, digest BLOB NOT NULL)"
    )
    _write_server(connection, _Server())


Step = Callable[[sqlite3.Connection], None]
STEPS: tuple[Step, ...] = (_create,)
"""The n-th brings a file of version n to version n + 1; never change one that was released."""


@define
class _Server:
    """The row that speaks for all the others."""

    generation: int = 0
    time_line: TimeLine | None = None
    saved_at: datetime | None = None
    total: int = 0

    def columns(self) -> tuple[int, str, str | None, str | None, bytes]:
        line = self.time_line
        return (
            self.generation,
            line.boot_id if line else "",
            line.epoch.isoformat() if line else None,
            self.saved_at.isoformat() if self.saved_at else None,
            self.total.to_bytes(_DIGEST_BYTES, "big"),
        )


@define(eq=False)
class SqliteStore:
    """See ``mandos_tx.interfaces.StateStore``. Open it in the process that will use it: never fork after ``load``."""

    directory: StateDirectory
    steps: tuple[Step, ...] = STEPS
    _connection: sqlite3.Connection | None = field(init=False, default=None)
    _inode: int = field(init=False, default=0)
    _known: tuple[int, int] | None = field(init=False, default=None)
    """Generation and total of what is saved; None if there was nothing to read."""
    _in_doubt: tuple[int, int] | None = field(init=False, default=None)
    """The same of a commit that failed, for it may have been saved all the same."""
    _key: bytes = field(init=False, default=b"", repr=False)
    _key_is_saved: bool = field(init=False, default=False)

    @property
    def path(self) -> Path:
        return self.directory.path / DATABASE

    def load(self) -> SavedState:
        problem = ""
        try:
            self.directory.lock()
        except StateUnwritable as e:
            problem = str(e)
        found = self.directory.holds(DATABASE)
        if not found and os.path.lexists(self._log):
            raise StateUnusable(f"{self._log}: belongs to {DATABASE}, which is not there; restore both, or remove it")
        key = self.directory.read_key()
        self._key, self._key_is_saved = key or os.urandom(KEY_BYTES), key is not None
        saved = SavedState({}, self._key)
        if found:
            documents, server = self._read()
            self._known = server.generation, server.total
            saved = SavedState(documents, self._key, server.generation, server.time_line, server.saved_at)
        if not problem:
            try:
                self._connect()
            except StateUnwritable as e:
                problem = str(e)
        return evolve(saved, problem=problem)

    def save(self, changes: Mapping[str, str | None], generation: int, time_line: TimeLine, saved_at: datetime) -> None:
        connection = self._connection or self._connect()
        self._check_place()
        assert self._known is not None
        server = _Server(generation, time_line, saved_at, self._known[1])
        try:
            connection.execute("BEGIN IMMEDIATE")
            server.total = (server.total + _put(connection, changes.items())) % _MODULUS
            self._in_doubt = server.generation, server.total
            _write_server(connection, server)
            connection.execute("COMMIT")
        except sqlite3.Error as e:
            self._disconnect()
            raise StateUnwritable(self._says(e)) from e
        self._known, self._in_doubt = self._in_doubt, None

    def close(self) -> None:
        self._disconnect()
        self.directory.unlock()

    # -- reading -------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.path.with_name(DATABASE + "-wal")

    def _read(self) -> tuple[dict[str, str], _Server]:
        """Read and verify everything, and change nothing."""
        try:
            self._check_header()
            try:
                with closing(_open(self.path, "ro")) as connection:
                    version = self._check_version(connection)
                    if version == len(self.steps):
                        return _read_all(connection)
            except sqlite3.Error as e:
                if not _is_circumstance(e):
                    raise
            # What is left of a crash cannot be read where nothing can be written, nor can an older version.
            return self._read_copy()
        except OSError as e:
            raise StateUnusable(f"{self.path}: cannot be read: {e.strerror}; give it to the server's user") from e
        except (sqlite3.Error, _Damaged) as e:
            raise StateUnusable(
                f"{self.path}: damaged ({e}); restore it from a backup, or move it away, and with it all that was"
                " changed at run time: clients that were disabled may be enabled again"
            ) from e

    def _read_copy(self) -> tuple[dict[str, str], _Server]:
        with TemporaryDirectory(prefix="mandos-state-") as private:
            copy = Path(private, DATABASE)
            copyfile(self.path, copy)
            if self._log.exists():
                copyfile(self._log, copy.with_name(self._log.name))
            with closing(_open(copy, "rw")) as connection:
                self._upgrade(connection)
                return _read_all(connection)

    def _check_header(self) -> None:
        with self.path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            raise _Damaged("it is cut off")
        if not header.startswith(_MAGIC) or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise StateUnusable(f"{self.path}: not a state of this server; move it away, or choose another --statedir")

    def _check_version(self, connection: sqlite3.Connection) -> int:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        assert isinstance(version, int)
        if version > len(self.steps):
            raise StateUnusable(
                f"{self.path}: written by a newer server (version {version}, this one knows {len(self.steps)});"
                " install that one, or restore the backup from before the upgrade"
            )
        if version < 1:
            raise _Damaged("it has no version")
        return version

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        for number in range(self._check_version(connection), len(self.steps)):
            _take_step(connection, number, self.steps[number])

    # -- writing -------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        """Be ready to write to what was read, and to nothing else. Raises StateUnwritable."""
        try:
            self.directory.lock()
            present = self.directory.holds(DATABASE)
            if self._known is None:
                if present or os.path.lexists(self._log):
                    raise StateUnwritable(f"{self.path}: has appeared since the server started; restart the server")
                self._make()
            self._check_place(opening=True)
            if not self._key_is_saved:
                self.directory.write_key(self._key)
                self._key_is_saved = True
            connection = _open(self.path, "rw")
            try:
                self._check_connection(connection)
            except BaseException:
                connection.close()
                raise
        except StateUnusable as e:
            raise StateUnwritable(str(e)) from e
        except OSError as e:
            raise StateUnwritable(f"{self.path}: {e.strerror}") from e
        except (sqlite3.Error, _Damaged) as e:
            raise StateUnwritable(self._says(e)) from e
        self._connection = connection
        return connection

    def _make(self) -> None:
        new = self.directory.create(DATABASE)
        with closing(_open(new, "rw")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for number, step in enumerate(self.steps):
                _take_step(connection, number, step)
        self.directory.publish(DATABASE)
        self._known = 0, 0

    def _check_place(self, *, opening: bool = False) -> None:
        """SQLite would go on writing to a file that was moved away."""
        try:
            inode = os.stat(self.path).st_ino
        except OSError as e:
            raise StateUnwritable(f"{self.path}: {e.strerror}; put it back, or restart the server") from e
        if opening:
            self._inode = inode
        elif inode != self._inode:
            self._disconnect()
            raise StateUnwritable(f"{self.path}: was replaced while the server ran; restart the server")

    def _check_connection(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        self._upgrade(connection)
        server = _read_server(connection)
        found = server.generation, server.total
        if found not in (self._known, self._in_doubt):
            raise StateUnwritable(f"{self.path}: was replaced while the server ran; restart the server")
        if self._in_doubt is not None:
            # After a failed fsync(2) what the log holds may be in memory only; so begin a new one.
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StateUnwritable(f"{self.path}: another program uses it")
        connection.execute("BEGIN IMMEDIATE")
        _write_server(connection, server)
        connection.execute("COMMIT")
        self._known = found

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _says(self, error: Exception) -> str:
        return f"{self.path}: {error}"


def _open(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode={mode}",
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )


def _take_step(connection: sqlite3.Connection, number: int, step: Step) -> None:
    connection.execute("BEGIN IMMEDIATE")
    step(connection)
    connection.execute(f"PRAGMA user_version = {number + 1}")
    connection.execute("COMMIT")


def _is_circumstance(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF) in _CIRCUMSTANCES


def _read_all(connection: sqlite3.Connection) -> tuple[dict[str, str], _Server]:
    verdicts = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if verdicts != ["ok"]:
        raise _Damaged("; ".join(map(str, verdicts)))
    server = _read_server(connection)
    documents: dict[str, str] = {}
    total = 0
    for name, document, digest in connection.execute("SELECT name, document, digest FROM clients"):
        if not isinstance(name, str) or not isinstance(document, str) or _digest(name, document) != digest:
            raise _Damaged(f"what is saved of {name!r} is not what was written")
        documents[name] = document
        total += int.from_bytes(digest, "big")
    if total % _MODULUS != server.total:
        raise _Damaged("some clients are missing or out of date")
    return documents, server


def _read_server(connection: sqlite3.Connection) -> _Server:
    rows = connection.execute("SELECT generation, boot_id, epoch, saved_at, total, digest FROM server").fetchall()
    if len(rows) != 1 or _digest_of_server(rows[0][:-1]) != rows[0][-1]:
        raise _Damaged("its head is not what was written")
    generation, boot_id, epoch, saved_at, total, _ = rows[0]
    return _Server(
        generation,
        None if epoch is None else TimeLine(boot_id, _instant(epoch)),
        None if saved_at is None else _instant(saved_at),
        int.from_bytes(total, "big"),
    )


def _write_server(connection: sqlite3.Connection, server: _Server) -> None:
    columns = server.columns()
    connection.execute(
        "REPLACE INTO server (only, generation, boot_id, epoch, saved_at, total, digest) VALUES (1, ?, ?, ?, ?, ?, ?)",
        (*columns, _digest_of_server(columns)),
    )


def _put(connection: sqlite3.Connection, changes: Iterable[tuple[str, str | None]]) -> int:
    """Write, and return by how much the sum of all digests changes."""
    difference = 0
    for name, document in changes:
        old = connection.execute("SELECT digest FROM clients WHERE name = ?", (name,)).fetchone()
        if old is not None:
            difference -= int.from_bytes(old[0], "big")
        if document is None:
            connection.execute("DELETE FROM clients WHERE name = ?", (name,))
            continue
        digest = _digest(name, document)
        difference += int.from_bytes(digest, "big")
        connection.execute(
            "INSERT INTO clients (name, document, digest) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET document = excluded.document, digest = excluded.digest",
            (name, document, digest),
        )
    return difference


def _digest(name: str, document: str) -> bytes:
    hashed = blake2b(document.encode(), digest_size=_DIGEST_BYTES)
    hashed.update(b"\0" + name.encode())
    return hashed.digest()


def _digest_of_server(columns: tuple[object, ...]) -> bytes:
    return blake2b(repr(columns).encode(), digest_size=_DIGEST_BYTES).digest()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
