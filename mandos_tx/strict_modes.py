"""Whether a file that the server relies on could have been written, or read, by somebody who should not.

After sshd's StrictModes: what the group or others may write, or exchange because they may write its directory, is
refused, and so is what belongs to a stranger; what others may read is doubtful.  A sticky directory such as /tmp
lets nobody exchange a file of somebody else.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from mandos_tx.configuration_files import Access, ConfigFile
from mandos_tx.formats.complaint import Fault

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def faults(file: ConfigFile, trusted: frozenset[int]) -> Iterator[Fault]:
    """Who could have written the file and is not trusted."""
    yield from access_faults(file.access, trusted)
    *on_the_way, last = file.directories
    for directory in on_the_way:
        yield from access_faults(directory, trusted)
    yield from access_faults(last, trusted, sticky_is_enough=True)


def secret_faults(file: ConfigFile, trusted: frozenset[int], server_users: frozenset[int]) -> Iterator[Fault]:
    """As ``faults``, of a file that may also be the server's own.

    It must be its own in the directories of its own: a link from there to a file of root's is not root's word.
    """
    return faults(file, trusted | server_users if file.access.owner in server_users - trusted else trusted)


def access_faults(access: Access, trusted: frozenset[int], *, sticky_is_enough: bool = False) -> Iterator[Fault]:
    """Who could have written there and is not trusted; in a sticky directory only its owner could."""
    if access.owner not in trusted:
        yield Fault(f"{access.path} belongs to user ID {access.owner}", f"chown root {access.path}")
    if access.mode & _WRITABLE_BY_OTHERS and not (sticky_is_enough and access.mode & stat.S_ISVTX):
        who = "others" if access.mode & stat.S_IWOTH else "its group"
        yield Fault(
            f"{access.path} can be written by {who} (mode {stat.S_IMODE(access.mode):04o})",
            f"chmod go-w {access.path}, or set strict_modes = no in mandos.conf",
        )


def doubts(file: ConfigFile) -> Iterator[Fault]:
    """Whether others may read the file."""
    if file.access.mode & stat.S_IROTH:
        mode = stat.S_IMODE(file.access.mode)
        yield Fault(f"{file.access.path} can be read by others (mode {mode:04o})", f"chmod o-r {file.access.path}")
