"""Run-time expansion: what ``%(name)s`` and ``%%`` in a checker become each time that it is started.

The template is the ``checker`` option after its start-time expansion, so ``%%(host)s`` in clients.conf is
``%(host)s`` here.  Every value is quoted for /bin/sh, whatever it contains, and can never be more than one word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from shlex import quote
from typing import Final

from mandos_tx.core.client import Client
from mandos_tx.formats.complaint import show

_PERCENT = re.compile(r"%(?:(%)|\(([^)]*)\)s)?")


class CheckerCommandError(ValueError):
    """A template that no checker can be started from; says in one line why."""


class UnknownNameError(CheckerCommandError):
    """A template that refers to something that is no run-time value."""


def check_template(template: str) -> None:
    """See whether the template can be expanded.

    :raises CheckerCommandError: it has a stray percent sign, or a name that is no run-time value.
    """
    _pieces(template)


def expand(template: str, client: Client, dbus_object_path: str | None = None) -> str:
    """The shell command to run for the client now.

    :raises CheckerCommandError: as `check_template`.
    """
    return "".join(
        piece if isinstance(piece, str) else quote(piece(client, dbus_object_path)) for piece in _pieces(template)
    )


def _instant(instant: datetime | None) -> str:
    return str(None if instant is None else instant.astimezone(UTC).replace(tzinfo=None))


_Value = Callable[[Client, str | None], str]

_VALUES: Final[dict[str, _Value]] = {
    "approval_delay": lambda client, path: str(client.settings.approval_delay),
    "approval_duration": lambda client, path: str(client.settings.approval_duration),
    "created": lambda client, path: _instant(client.created),
    "dbus_object_path": lambda client, path: str(path),
    "enabled": lambda client, path: str(client.enabled),
    "expires": lambda client, path: _instant(client.expires),
    "fingerprint": lambda client, path: client.settings.fingerprint or "",
    "host": lambda client, path: client.settings.host,
    "interval": lambda client, path: str(client.settings.interval),
    "key_id": lambda client, path: client.settings.key_id or "",
    "last_approval_request": lambda client, path: _instant(client.last_approval_request),
    "last_checked_ok": lambda client, path: _instant(client.last_checked_ok),
    "last_enabled": lambda client, path: _instant(client.last_enabled),
    "name": lambda client, path: client.name,
    "timeout": lambda client, path: str(client.settings.timeout),
}

RUN_TIME_NAMES: Final = frozenset(_VALUES)
"""What may stand in ``%(...)s``."""


@lru_cache(maxsize=256)
def _pieces(template: str) -> tuple[str | _Value, ...]:
    pieces: list[str | _Value] = []
    end = 0
    for match in _PERCENT.finditer(template):
        percent, name = match.groups()
        pieces.append(template[end : match.start()])
        end = match.end()
        if percent:
            pieces.append("%")
        elif name is None:
            raise CheckerCommandError("a percent sign by itself")
        elif name in _VALUES:
            pieces.append(_VALUES[name])
        else:
            raise UnknownNameError(f'no such run-time value: "{show(name)}"')
    pieces.append(template[end:])
    return tuple(piece for piece in pieces if piece)
