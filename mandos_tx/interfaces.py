"""The ports: what adapters may ask of the server, and what the server asks of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol, TypeAlias

from attrs import field, frozen
from twisted.internet.defer import Deferred

from mandos_tx.clock import TimeLine
from mandos_tx.core.client import Client, ClientDefinition, KeyID
from mandos_tx.core.happenings import Change, Event, Fact, Refusal

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


class Registrar(Registry, Protocol):
    """The registry as those see it who let clients in and out."""

    def introduce(self, client: Client, facts: tuple[Fact, ...], by: str = "") -> None:
        """Take in a client that is new, or back after a restart."""
        ...

    def redefine(self, name: str, definition: ClientDefinition, spread: float, by: str = "") -> Client:
        """Apply what the client's source now says of it. Raises NoSuchClient."""
        ...

    def remove(self, name: str, *, by_administrator: bool, by: str = "") -> None:
        """Forget a client. Raises NoSuchClient."""
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

    def petition(self, key_id: KeyID, address: str) -> Grant | Deferred[Grant]:
        """Ask for the secret on behalf of a peer that has proven ``key_id``. Raises Refused.

        A Deferred is the answer if somebody or something has to be waited for, which may take as long as the client's
        approval delay. It fires with a Grant or fails with Refused; cancel it when the peer goes away.
        """
        ...


class StateUnusable(Exception):
    """What is saved cannot be read, or must not be touched; the message names the file and the remedy."""


class StateUnwritable(Exception):
    """Nothing can be saved at present; the message says where and why."""


@frozen
class SavedState:
    """All that was saved, as of the last commit."""

    documents: dict[str, str]
    """By the clients' names; see ``mandos_tx.formats.saved_state``."""
    key: bytes = field(repr=False)
    """Seals the secrets of clients that have no definition."""
    generation: int = 0
    """How many commits there have been."""
    time_line: TimeLine | None = None
    """What the instants in the documents refer to; None if nothing was ever saved."""
    saved_at: datetime | None = None
    problem: str = ""
    """Why nothing can be written, as far as it is known yet; empty if all is well."""


class StateStore(Protocol):
    """Where clients are saved. Every call may block; no two may run at once."""

    def load(self) -> SavedState:
        """Read everything; to be called once, before anything else. Raises StateUnusable."""
        ...

    def save(self, changes: Mapping[str, str | None], generation: int, time_line: TimeLine, saved_at: datetime) -> None:
        """Put documents in place (None: delete) in one transaction, which is durable on return.

        After StateUnwritable it is not known whether the changes are saved; what is saved is one or the other.
        """
        ...

    def close(self) -> None: ...


class StateKeeper(Protocol):
    """Sees to it that what becomes of clients is saved."""

    @property
    def removed(self) -> Mapping[str, str]:
        """What is saved of clients that an administrator removed although their source still lists them."""
        ...

    @property
    def absent(self) -> Mapping[str, str]:
        """What is saved of disabled clients that their source no longer lists."""
        ...

    def forget(self, name: str) -> None:
        """Forget that the client was removed."""
        ...

    def mark(self, name: str) -> None:
        """Have the client's present value saved soon."""
        ...

    def write_ahead(self, name: str, client: Client | None) -> Deferred[None]:
        """Save what a client is about to become (None: removed by an administrator).

        Fires when that is durable, or fails with StateUnwritable.
        """
        ...
