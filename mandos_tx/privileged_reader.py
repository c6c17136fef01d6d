"""A small process that stays root and reads the client configuration again for a server that no longer may.

The server starts it before it gives root up.  The two are joined by a socket, which is the child's descriptor 0; when
the server is gone the socket ends, and so does the child.  The server cannot choose what is read: a request is one
byte, whatever it is, and the answer is everything that loading the configuration asked of the file system::

    request  = OCTET
    answer   = length header *content     ; the contents, in the order of the header
    length   = 8 OCTET                    ; of the header, most significant first
    header   = JSON

The server parses what it gets as it would have parsed the files.  Nor can it choose by writing configuration: the
child was told at its start whether strict modes apply, and of a file that they refuse it answers all but the content.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from attrs import astuple

from mandos_tx.configuration import load
from mandos_tx.configuration_files import Access, ConfigFile, ConfigFiles, LocalFiles, RecordedFiles, RecordingFiles
from mandos_tx.formats.complaint import ConfigurationError

_REQUEST = b"\n"
_LENGTH_SIZE = 8
_STRICT, _LENIENT = "strict", "lenient"
_LONGEST_HEADER = 1 << 28
_LARGEST_READ = 1 << 20

PATIENCE_AT_END = 0.3
"""Seconds that the other process gets to end; nothing else of the server happens meanwhile."""


class PrivilegedReadError(Exception):
    """The other process did not answer; nothing was read."""


class PrivilegedReader:
    """The server's side of the socket."""

    def __init__(self, connection: socket.socket, pid: int | None = None) -> None:
        self._connection = connection
        self.pid = pid

    def read(self, patience: float = 60.0) -> RecordedFiles:
        """What there is to read now.  Blocks: to be called in a thread, by one at a time.

        :param patience: seconds to wait for each next piece of the answer
        :raises PrivilegedReadError: there is no answer, nor will there be one to a later call.
        """
        try:
            self._connection.settimeout(patience)
            self._connection.sendall(_REQUEST)
            header = self._receive(self._length())
            return decode(header, self._receive)
        except (OSError, ValueError) as error:
            self._connection.close()
            raise PrivilegedReadError(f"the process that reads the configuration does not answer: {error}") from None

    def close(self) -> None:
        """End the other process, and wait until it is gone, but not long: it may hang in a disk, and end later."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        if self.pid is not None:
            with suppress(OSError):
                _wait(self.pid, PATIENCE_AT_END)
            self.pid = None

    def _length(self) -> int:
        length = int.from_bytes(self._receive(_LENGTH_SIZE), "big")
        if length > _LONGEST_HEADER:
            raise ValueError("an answer without end")
        return length

    def _receive(self, size: int) -> bytes:
        received = bytearray()
        while missing := size - len(received):
            piece = self._connection.recv(min(missing, _LARGEST_READ))
            if not piece:
                raise ValueError("it has ended")
            received += piece
        return bytes(received)


def _wait(pid: int, patience: float) -> None:
    """Wait so many seconds for a child to end. Raises OSError if it is none, or if the kernel is older than 5.3."""
    if os.waitpid(pid, os.WNOHANG) == (0, 0):
        descriptor = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(patience * 1000)
        finally:
            os.close(descriptor)
        os.waitpid(pid, os.WNOHANG)


def start(configdir: str, strict: bool, spawn: Callable[..., int] = os.posix_spawn) -> PrivilegedReader:
    """Start the process as the user that this one is now; to be called while that is root, and after daemonising.

    :raises OSError: it cannot be started.
    """
    ours, its = socket.socketpair()
    with its:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        try:
            pid = spawn(
                sys.executable,
                [
                    *(sys.executable, "-P", "-m", "mandos_tx.privileged_reader"),
                    *(_STRICT if strict else _LENIENT, os.path.abspath(configdir)),
                ],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, its.fileno(), 0),
                    # a daemon's terminal is not its to hold on to
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        except OSError:
            ours.close()
            raise
    return PrivilegedReader(ours, pid)


def serve(connection: socket.socket, configdir: str, files: ConfigFiles, *, strict: bool) -> None:
    """Answer requests until the socket ends."""
    while connection.recv(1):
        recording = RecordingFiles(files)
        with suppress(ConfigurationError):
            load(configdir, recording, strict=strict, refused=recording.withhold)
        for piece in encode(recording.recorded()):
            connection.sendall(piece)


def encode(recorded: RecordedFiles) -> Iterable[bytes]:
    """The pieces of an answer."""
    header = {
        "trusted": sorted(recorded.trusted),
        "server_users": sorted(recorded.server_users),
        "files": {path: _file(found) for path, found in recorded.read_files.items()},
        "directories": {path: _directory(found) for path, found in recorded.directories.items()},
    }
    packed = json.dumps(header).encode("ascii")
    yield len(packed).to_bytes(_LENGTH_SIZE, "big")
    yield packed
    for found in recorded.read_files.values():
        if isinstance(found, ConfigFile):
            yield found.content


def decode(header: bytes, receive: Callable[[int], bytes]) -> RecordedFiles:
    """The answer that this header begins, and ``receive(size)`` goes on with.

    :raises ValueError: it is no answer.
    """
    fields = json.loads(header)
    try:
        return RecordedFiles(
            trusted=frozenset(fields["trusted"]),
            server_users=frozenset(fields["server_users"]),
            read_files={
                path: _os_error(found)
                or ConfigFile(receive(found["size"]), Access(*found["access"]), _accesses(found["directories"]))
                for path, found in fields["files"].items()
            },
            directories={
                path: _os_error(found) or (Access(*found["access"]), tuple(found["names"]))
                for path, found in fields["directories"].items()
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer: {error!r}") from None


def _os_error(fields: dict[str, Any]) -> OSError | None:
    return OSError(fields["errno"], fields["strerror"]) if "errno" in fields else None


def _file(found: ConfigFile | OSError) -> dict[str, Any]:
    if isinstance(found, OSError):
        return _error(found)
    directories = [astuple(directory) for directory in found.directories]
    return {"size": len(found.content), "access": astuple(found.access), "directories": directories}


def _directory(found: tuple[Access, tuple[str, ...]] | OSError) -> dict[str, Any]:
    if isinstance(found, OSError):
        return _error(found)
    access, names = found
    return {"access": astuple(access), "names": names}


def _error(error: OSError) -> dict[str, Any]:
    return {"errno": error.errno, "strerror": error.strerror}


def _accesses(fields: list[list[Any]]) -> tuple[Access, ...]:
    return tuple(Access(*access) for access in fields)


def main(arguments: list[str]) -> None:
    """The process itself; its end of the socket is descriptor 0."""
    # Signals from the terminal are for the server, whose end ends this process too.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    mode, configdir = arguments
    with socket.socket(fileno=0) as connection, suppress(ConnectionError):
        serve(connection, configdir, LocalFiles(), strict=mode != _LENIENT)


if __name__ == "__main__":
    main(sys.argv[1:])
