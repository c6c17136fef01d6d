"""The PID file of a daemon. It is locked while the daemon lives, so a stale one is known for what it is.

Whoever can open a file can lock it, by fcntl(2) too, and keep a daemon from starting: so nobody else can open this one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from attrs import define, field

DIRECTORIES = ("/run", "/var/run")
NAME = "mandos.pid"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class AlreadyRunning(Exception):
    """Another server holds the PID file; the text says which."""


def default_path() -> Path:
    """Where mandos(8) has it."""
    return next((Path(d) for d in DIRECTORIES if os.path.isdir(d)), Path(DIRECTORIES[-1])) / NAME


@define(eq=False)
class PIDFile:
    """Written before root is shed; emptied at the end, since by then we may no longer remove it."""

    path: Path = field(factory=default_path)
    _descriptor: int | None = field(init=False, default=None)

    def write(self) -> None:
        """Put our process ID there. Raises AlreadyRunning, OSError."""
        descriptor = self._open()
        if os.fstat(descriptor).st_mode & _OTHERS:
            # Left by a server that let others open it, or by another program: somebody may have it open still.
            os.close(descriptor)
            self.path.unlink()
            descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(f"{self.path}: a server is running already, process ID {other}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
        self._descriptor = descriptor

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def clear(self) -> None:
        """Let nobody take us for running any more."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
