"""The file that the audit is written to: one line after the other, each whole and on disk. Every call may block."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

from attrs import define, field

TAIL_BYTES = 1 << 16
"""How far from its end the file is searched for the last generation."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class AuditUnusable(Exception):
    """The file cannot be opened, or must not be trusted; the message names it and the remedy."""


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).absolute()


@define(eq=False)
class AuditFile:
    """A file, or a pipe or device, to append to."""

    path: Path = field(converter=_absolute)
    """The server's working directory may change."""
    _descriptor: int | None = field(init=False, default=None)
    _torn: bool = field(init=False, default=False)
    """Whether the last line was not written to its end."""

    def open(self) -> None:
        """Open the file, or make it: readable by us alone. Raises AuditUnusable."""
        self._descriptor = self._open()

    def examine(self) -> None:
        """See whether it can be opened, or made, without making it. Raises AuditUnusable."""
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            self._examine_access(self.path.parent, os.W_OK | os.X_OK)
        except OSError as e:
            raise self._unusable(e) from e
        else:
            if stat.S_ISFIFO(mode):  # whoever reads it would take our closing it for the end
                self._examine_access(self.path, os.W_OK)
            else:
                os.close(self._open())

    def _examine_access(self, path: Path, mode: int) -> None:
        try:
            os.stat(path)
        except OSError as e:
            raise self._unusable(e) from e
        if not os.access(path, mode, effective_ids=True):
            raise self._unusable(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def reopen(self) -> None:
        """Change over to the file that has the name now; if that fails, the old one stays. Raises AuditUnusable."""
        fresh = self._open()
        self.close()
        self._descriptor = fresh
        self._torn = False

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def write(self, lines: bytes) -> None:
        """Append lines and have them on disk on return. Raises OSError or AuditUnusable; then some may be missing."""
        if self._descriptor is None:
            self.open()
        assert self._descriptor is not None
        rest = memoryview(b"\n" + lines if self._torn else lines)
        while rest:
            written = os.write(self._descriptor, rest)
            self._torn = not rest[:written].tobytes().endswith(b"\n")
            rest = rest[written:]
        try:
            os.fsync(self._descriptor)
        except OSError as e:
            # Pipes and devices have nothing to synchronise (fsync(2)).
            if e.errno not in (errno.EINVAL, errno.EROFS):
                raise

    def last_generation(self) -> int | None:
        """The last generation of the state in the file, if any can be read. Raises nothing."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    return None
                file.seek(max(0, status.st_size - TAIL_BYTES))
                lines = file.read(TAIL_BYTES).splitlines()
        except OSError:
            return None
        generations = (_generation(line) for line in reversed(lines))
        return next((generation for generation in generations if generation is not None), None)

    def _unusable(self, error: OSError) -> AuditUnusable:
        return AuditUnusable(
            f"{self.path}: {error.strerror}; the audit log must be a file that user ID {os.geteuid()}, as which the"
            " server runs, may append to, or make in its directory"
        )

    def _open(self) -> int:
        try:
            try:
                descriptor = os.open(self.path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                # Without O_NONBLOCK a pipe that nobody reads would hold us up.
                descriptor = os.open(self.path, _FLAGS | os.O_NONBLOCK)
                os.set_blocking(descriptor, True)
        except OSError as e:
            raise self._unusable(e) from e
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            remedy = None
            if status.st_nlink > 1:
                remedy = "it has other names; move it away"
            elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                remedy = f"others may write it (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600"
            if remedy is not None:
                os.close(descriptor)
                raise AuditUnusable(f"{self.path}: {remedy}")
        return descriptor


def _generation(line: bytes) -> int | None:
    try:
        generation = json.loads(line)["generation"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return generation if type(generation) is int else None
