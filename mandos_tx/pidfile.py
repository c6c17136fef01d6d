"""The PID file of a daemon. It is locked while the daemon lives, so a stale one is known for what it is."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from attrs import define, field

DIRECTORIES = ("/run", "/var/run")
NAME = "mandos.pid"


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
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyRunning(f"{self.path}: a server is running already, process ID {other}") from None
        os.fchmod(descriptor, 0o644)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode("ascii"))
        self._descriptor = descriptor

    def clear(self) -> None:
        """Let nobody take us for running any more."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
