"""The ports: what adapters may ask of the server, and what the server asks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred

from mandos_tx.core.client import Client, KeyID
from mandos_tx.core.happenings import Change, Event, Refusal

Observer: TypeAlias = Callable[[Change], None]


class NoSuchClient(Exception):
    """No client has that name."""


class Registry(Protocol):
    """The clients; the only thing that changes them.

    A ``tell`` from inside an observer is applied at once; its Change is delivered after the current one. An observer
    that raises is logged, and the others still hear.
    """

    @property
    def clients(self) -> Mapping[str, Client]: ...

    def now(self) -> datetime: ...

    def find(self, key_id: KeyID) -> Client | None: ...

    def tell(self, name: str, event: Event, by: str = "") -> Client:
        """Apply ``event`` and return the client after it. Raises NoSuchClient."""
        ...

    def report_unknown(self, key_id: KeyID, address: str) -> None:
        """Publish that somebody proved a key that no client has."""
        ...

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have ``observer`` called with every Change; call the result to end that."""
        ...


class Refused(Exception):
    """The petition is refused; the reason is for the log, never for the peer. None: no client has that key."""

    def __init__(self, reason: Refusal | None) -> None:
        super().__init__(reason.value if reason else "unknown key")
        self.reason = reason


class Grant(Protocol):
    """The permission to send one secret, once."""

    @property
    def secret(self) -> bytes: ...

    def delivered(self) -> None:
        """Say that the last byte was accepted by the network."""
        ...

    def abandoned(self) -> None:
        """Say that the connection ended before that."""
        ...

    def on_revoked(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called if the client is disabled or removed before the grant is used up."""
        ...


class Gatekeeper(Protocol):
    """Decides who gets its secret."""

    def petition(self, key_id: KeyID, address: str) -> Deferred[Grant]:
        """Ask for the secret on behalf of a peer that has proven ``key_id``.

        Fires with a Grant or fails with Refused. May take as long as the client's approval delay; cancel it when the
        peer goes away.
        """
        ...
