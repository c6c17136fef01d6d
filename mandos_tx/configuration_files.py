"""Configuration files as the server reads them: content, and who else may change or read it.

`LocalFiles` reads the file system.  `RecordingFiles` remembers what came out of another, so that `RecordedFiles` can
give it to a process that may not read the files themselves (`mandos_tx.privileged_reader`), and to tests.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

from attrs import Factory, define, evolve, field, frozen

LARGEST_FILE = 1 << 30
"""Bytes; a clients.conf of 500,000 clients."""

_MOST_LINKS = 40
_SERVER_USERS = ("_mandos", "mandos")
_T = TypeVar("_T")


@frozen
class Access:
    """Whose a file or a directory is, and what its mode lets others do."""

    path: str
    """Without symbolic links."""
    mode: int
    """As ``st_mode``."""
    owner: int


@frozen
class ConfigFile:
    """A file that was read."""

    content: bytes = field(repr=False)
    access: Access
    directories: tuple[Access, ...]
    """Where its name stands, and each symbolic link on the way to it, and last itself: who may write there may
    exchange it."""


class ConfigFiles(Protocol):
    """Reads what a configuration consists of."""

    @property
    def trusted(self) -> frozenset[int]:
        """User IDs whose files can be relied on."""

    @property
    def server_users(self) -> frozenset[int]:
        """User IDs that a server has given root up for: of theirs are secfiles at most, which name nothing."""

    def read(self, path: str) -> ConfigFile:
        """The file at this absolute path, which may begin with ``~user/`` or ``$VAR/``; raises OSError."""

    def directory(self, path: str) -> tuple[Access, tuple[str, ...]]:
        """The directory at this absolute path, and the sorted names in it; raises OSError."""


class LocalFiles:
    """What is in the file system, as this process may read it."""

    @property
    def trusted(self) -> frozenset[int]:
        return frozenset({0, os.geteuid()})

    @property
    def server_users(self) -> frozenset[int]:
        return frozenset(_server_users())

    def read(self, path: str) -> ConfigFile:
        path = os.path.expanduser(os.path.expandvars(path))
        if not os.path.isabs(path):
            raise OSError(errno.EINVAL, "not an absolute path", path)
        *on_the_way, place = _places(path)
        directories = tuple(dict.fromkeys(_access(os.path.dirname(link)) for link in (*on_the_way, place)))
        # Opened without waiting, or a FIFO would hold the server up; looked at once open, so that it is what is read.
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            if status.st_size > LARGEST_FILE:
                raise OSError(errno.EINVAL, "larger than 1 GiB", path)
            content = file.read(LARGEST_FILE)
        return ConfigFile(content, Access(place, status.st_mode, status.st_uid), directories)

    def directory(self, path: str) -> tuple[Access, tuple[str, ...]]:
        names = tuple(sorted(os.listdir(path)))
        return _access(os.path.realpath(path)), names


@define
class RecordingFiles:
    """Other files, and a record of all that was asked of them."""

    files: ConfigFiles
    read_files: dict[str, ConfigFile | OSError] = Factory(dict)
    directories: dict[str, tuple[Access, tuple[str, ...]] | OSError] = Factory(dict)

    @property
    def trusted(self) -> frozenset[int]:
        return self.files.trusted

    @property
    def server_users(self) -> frozenset[int]:
        return self.files.server_users

    def read(self, path: str) -> ConfigFile:
        return _remembered(self.read_files, path, self.files.read)

    def directory(self, path: str) -> tuple[Access, tuple[str, ...]]:
        return _remembered(self.directories, path, self.files.directory)

    def withhold(self, path: str) -> None:
        """Forget what is in a file, but not whose it is."""
        found = self.read_files[path]
        assert isinstance(found, ConfigFile)
        self.read_files[path] = evolve(found, content=b"")

    def recorded(self) -> RecordedFiles:
        return RecordedFiles(self.trusted, self.read_files, self.directories, self.server_users)


@frozen
class RecordedFiles:
    """What was recorded, and nothing else."""

    trusted: frozenset[int]
    read_files: Mapping[str, ConfigFile | OSError] = Factory(dict)
    directories: Mapping[str, tuple[Access, tuple[str, ...]] | OSError] = Factory(dict)
    server_users: frozenset[int] = frozenset()

    def read(self, path: str) -> ConfigFile:
        return _recalled(self.read_files, path)

    def directory(self, path: str) -> tuple[Access, tuple[str, ...]]:
        return _recalled(self.directories, path)


def _remembered(record: dict[str, _T | OSError], path: str, ask: Callable[[str], _T]) -> _T:
    try:
        record[path] = answer = ask(path)
    except OSError as error:
        record[path] = error.with_traceback(None)
        raise
    return answer


def _recalled(record: Mapping[str, _T | OSError], path: str) -> _T:
    answer = record.get(path)
    if answer is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if isinstance(answer, OSError):
        raise answer
    return answer


def _access(directory: str) -> Access:
    status = os.stat(directory)
    return Access(directory, status.st_mode, status.st_uid)


def _places(path: str) -> Iterator[str]:
    """The path, where each symbolic link on the way leads, and last what it is a path of; all in real directories."""
    for _ in range(_MOST_LINKS):
        directory, name = os.path.split(path)
        path = os.path.join(os.path.realpath(directory), name)
        yield path
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _server_users() -> Iterator[int]:
    for name in _SERVER_USERS:
        try:
            yield pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
