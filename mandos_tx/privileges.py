"""What the process is allowed: it sheds root for good, and lets nobody look into its memory."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.logger import Logger

_CANDIDATES = (("_mandos", "_mandos"), ("mandos", "mandos"), ("nobody", "nogroup"))
_NOBODY = 65534
_PR_SET_DUMPABLE = 4


@frozen
class Identity:
    """A user and a group to run as."""

    name: str
    uid: int
    gid: int


def unprivileged_identity(candidates: Iterable[tuple[str, str]] = _CANDIDATES) -> Identity:
    """Whom a server that was started by root becomes: the first pair that exists."""
    for user, group in candidates:
        try:
            return Identity(user, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
        except KeyError:
            continue
    return Identity(str(_NOBODY), _NOBODY, _NOBODY)


class System(Protocol):
    """The system calls by which a process becomes somebody else; ``os`` has them."""

    def geteuid(self) -> int: ...
    def setgroups(self, groups: list[int], /) -> None: ...
    def setresgid(self, rgid: int, egid: int, sgid: int, /) -> None: ...
    def setresuid(self, ruid: int, euid: int, suid: int, /) -> None: ...


def is_root(system: System = os) -> bool:
    return system.geteuid() == 0


def shed(identity: Identity, system: System = os) -> None:
    """Become ``identity``, with no supplementary groups and no way back."""
    system.setgroups([])
    system.setresgid(identity.gid, identity.gid, identity.gid)
    system.setresuid(identity.uid, identity.uid, identity.uid)


@contextmanager
def acting_as(identity: Identity) -> Iterator[None]:
    """Be ``identity`` to the file system for a while, with root's way back. Raises OSError."""
    groups, gid, uid = os.getgroups(), os.getegid(), os.geteuid()
    os.setgroups([])
    try:
        os.setegid(identity.gid)
        os.seteuid(identity.uid)
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)


def guard_memory() -> None:
    """Leave no core file, and refuse to be traced by others of the same user (prctl(2), PR_SET_DUMPABLE)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_descriptor_limit() -> int:
    """Have as many file descriptors as we may; the result is how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


class PrivilegeShedding(Service):
    """The moment from which on the server is nobody in particular; must start before anything that need not be root."""

    _log = Logger()

    def __init__(self, give_up: Callable[[str], None], system: System = os) -> None:
        self._give_up = give_up
        self._system = system

    def startService(self) -> None:
        super().startService()
        if is_root(self._system):
            identity = unprivileged_identity()
            try:
                shed(identity, self._system)
            except OSError as error:
                self._give_up(
                    f"Cannot become {identity.name} (uid {identity.uid}, gid {identity.gid}): {error.strerror};"
                    " root needs CAP_SETUID and CAP_SETGID for it, and a user namespace these IDs"
                )
            self._log.debug(
                "Running as {user} (uid {uid}, gid {gid})", user=identity.name, uid=identity.uid, gid=identity.gid
            )
        guard_memory()
