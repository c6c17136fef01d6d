"""The directory that the state lives in: who may use it, its lock, and the key that is kept there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path

from attrs import define, field

from mandos_tx.formats.saved_state import KEY_BYTES
from mandos_tx.interfaces import StateUnusable, StateUnwritable

KEY_FILE = "state.key"
COMPANIONS = ("-wal", "-shm", "-journal", "")
"""What SQLite adds to a file's name for what belongs to it: it must not find what an earlier one has left."""


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).absolute()


@define
class StateDirectory:
    """Takes part in a server's life from ``lock`` until ``unlock``. Nothing in it may be read by others."""

    path: Path = field(converter=_absolute)
    """The server's working directory may change."""
    strict: bool = True
    """Whether files that others may write are refused."""
    _lock: int | None = field(init=False, default=None)

    def lock(self) -> None:
        """Keep every other server out.

        Raises StateUnusable if one is in, StateUnwritable if there is no directory.
        """
        if self._lock is not None:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise StateUnwritable(f"{self.path}: {e.strerror}; create the directory, writable by the server") from e
        except OSError as e:
            raise StateUnusable(f"{self.path}: {e.strerror}; give the directory to the server's user") from e
        try:
            # The kernel releases it with the last descriptor, so none is ever stale.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StateUnusable(
                f"{self.path}: another server uses this state directory; stop it, or give this one its own (--statedir)"
            ) from None
        self._lock = descriptor

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name, fit to be read. Raises StateUnusable if it is unfit."""
        path = self.path / name
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as e:
            raise StateUnusable(f"{path}: {e.strerror}; give it to the server's user") from e
        if not stat.S_ISREG(status.st_mode):
            raise StateUnusable(f"{path}: not a regular file; move it away, or choose another --statedir")
        if self.strict:
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                mode = stat.S_IMODE(status.st_mode)
                raise StateUnusable(
                    f"{path}: others may write it (mode {mode:04o}); make sure that nobody did, then chmod 600"
                )
            if status.st_uid not in (0, os.geteuid()):
                raise StateUnusable(f"{path}: belongs to uid {status.st_uid}; give it to the server's user")
        return True

    def create(self, name: str) -> Path:
        """Make an empty file that nobody else can ever read, under a name that is not the final one yet.

        Raises OSError.
        """
        path = self.path / f"{name}.new"
        for companion in COMPANIONS:
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + companion).unlink()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return path

    def publish(self, name: str) -> None:
        """Let the file that ``create`` made appear under its name, whole, for good. Raises OSError."""
        new = self.path / f"{name}.new"
        _sync(new, os.O_RDONLY)
        new.rename(self.path / name)
        _sync(self.path, os.O_RDONLY | os.O_DIRECTORY)

    def read_key(self) -> bytes | None:
        """The key, or None if there is none yet. Raises StateUnusable."""
        if not self.holds(KEY_FILE):
            return None
        path = self.path / KEY_FILE
        try:
            key = bytes.fromhex(path.read_text("ascii"))
        except OSError as e:
            raise StateUnusable(f"{path}: {e.strerror}; give it to the server's user") from e
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise StateUnusable(f"{path}: damaged; restore it from a backup")
        return key

    def write_key(self, key: bytes) -> None:
        """Keep the key for good. Raises OSError."""
        self.create(KEY_FILE).write_text(key.hex() + "\n", "ascii")
        self.publish(KEY_FILE)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
