"""The state in one SQLite file, which a crash at any instant leaves either as it was or as it should be.

Write-ahead log, synchronous=FULL: on disk when COMMIT returns. The file is made under another name and appears whole,
so an empty one is damage and never a beginning. What cannot be understood stops the start and is never written to.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from urllib.parse import quote

from attrs import define, evolve, field

from mandos_tx.clock import TimeLine
from mandos_tx.formats.saved_state import KEY_BYTES
from mandos_tx.interfaces import SavedState, StateUnusable, StateUnwritable
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.schema import (
    APPLICATION_ID,
    STEPS,
    Damaged,
    Server,
    Step,
    put,
    read_all,
    read_server,
    take_step,
    write_server,
)

DATABASE = "mandos.sqlite"
_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_FAULTS = (sqlite3.Error, Damaged, UnicodeError)
"""What reading and writing may raise: SQLite quotes what it does not understand, be it text or not."""

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


@define(eq=False)
class SqliteStore:
    """See ``mandos_tx.interfaces.StateStore``. Open it in the process that will use it: never fork after ``load``."""

    directory: StateDirectory
    steps: tuple[Step, ...] = STEPS
    busy_timeout: float = 5.0
    """Seconds to wait for another program that reads the file, such as a backup."""
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
        if not found and self._has_log():
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
        server = Server(generation, time_line, saved_at)
        try:
            connection.execute("BEGIN IMMEDIATE")
            server.total = put(connection, changes, self._known[1])
            self._in_doubt = server.generation, server.total
            write_server(connection, server)
            connection.execute("COMMIT")
        except _FAULTS as e:
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

    def _has_log(self) -> bool:
        """Whether a crash left changes that are not in the file itself."""
        try:
            return self._log.stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _read(self) -> tuple[dict[str, str], Server]:
        """Read and verify everything, and change nothing."""
        try:
            self._check_header()
            try:
                # Without a log nothing at all is written for reading, so this works where nothing can be written.
                with closing(_open(self.path, "ro" if self._has_log() else "ro&immutable=1")) as connection:
                    version = self._check_version(connection)
                    if version == len(self.steps):
                        return read_all(connection)
            except sqlite3.Error as e:
                if not _is_circumstance(e):
                    raise
            return self._read_copy()
        except OSError as e:
            raise StateUnusable(f"{self.path}: cannot be read: {e.strerror}; give it to the server's user") from e
        except _FAULTS as e:
            verdict = " ".join(str(e).split())
            raise StateUnusable(
                f"{self.path}: damaged ({verdict}); restore it from a backup, or move it away, and with it all that was"
                " changed at run time: clients that were disabled may be enabled again"
            ) from e

    def _read_copy(self) -> tuple[dict[str, str], Server]:
        """Do so where something can be written, as a log or an older version needs it."""
        with TemporaryDirectory(prefix="mandos-state-") as private:
            copy = Path(private, DATABASE)
            copyfile(self.path, copy)
            if self._has_log():
                copyfile(self._log, copy.with_name(self._log.name))
            with closing(_open(copy, "rw")) as connection:
                self._upgrade(connection)
                return read_all(connection)

    def _check_header(self) -> None:
        with self.path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            raise Damaged("it is cut off")
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
            raise Damaged("it has no version")
        return version

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        for number in range(self._check_version(connection), len(self.steps)):
            take_step(connection, number, self.steps[number])

    # -- writing -------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        """Be ready to write to what was read, and to nothing else. Raises StateUnwritable."""
        try:
            self.directory.lock()
            present = self.directory.holds(DATABASE)
            if self._known is None:
                if present or self._has_log():
                    raise StateUnwritable(f"{self.path}: has appeared since the server started; restart the server")
                self._make()
            self._check_place()
            if not self._key_is_saved:
                self.directory.write_key(self._key)
                self._key_is_saved = True
            connection = _open(self.path, "rw", self.busy_timeout)
            try:
                self._check_connection(connection)
            except BaseException:
                connection.close()
                raise
        except StateUnusable as e:
            raise StateUnwritable(str(e)) from e
        except OSError as e:
            raise StateUnwritable(f"{self.path}: {e.strerror}") from e
        except _FAULTS as e:
            raise StateUnwritable(self._says(e)) from e
        self._connection = connection
        return connection

    def _make(self) -> None:
        new = self.directory.create(DATABASE)
        with closing(_open(new, "rw")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for number, step in enumerate(self.steps):
                take_step(connection, number, step)
            # Closing would do so too, but says nothing if it fails, and the log does not move with the file.
            self._empty_log(connection)
        self.directory.publish(DATABASE)
        self._known = 0, 0

    def _check_place(self) -> None:
        """SQLite would go on writing to a file that was moved away, or mix its log into another one."""
        try:
            inode = os.stat(self.path).st_ino
        except OSError as e:
            raise StateUnwritable(f"{self.path}: {e.strerror}; put it back") from e
        if self._inode not in (0, inode):
            raise StateUnwritable(self._replaced)
        self._inode = inode

    @property
    def _replaced(self) -> str:
        return f"{self.path}: was replaced while the server ran; put the old one back, or restart the server"

    def _check_connection(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        self._upgrade(connection)
        server = read_server(connection)
        found = server.generation, server.total
        if found not in (self._known, self._in_doubt):
            raise StateUnwritable(self._replaced)
        if self._in_doubt is not None:
            # After a failed fsync(2) what the log holds may be in memory only; so begin a new one.
            self._empty_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        write_server(connection, server)
        connection.execute("COMMIT")
        self._known = found

    def _empty_log(self, connection: sqlite3.Connection) -> None:
        """Bring everything into the file itself."""
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StateUnwritable(f"{self.path}: another program uses it")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _says(self, error: Exception) -> str:
        return f"{self.path}: {error}"


def _open(path: Path, mode: str, busy_timeout: float = 0.0) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _is_circumstance(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF) in _CIRCUMSTANCES
