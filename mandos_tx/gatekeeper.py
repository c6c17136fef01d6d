"""The gatekeeper: decides on petitions for a secret, waits for approval, and takes grants back.

The decision itself is ``mandos_tx.core.approval.decide``; it is taken at the moment of sending, so once more after any
wait, be it for an administrator or for the audit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import NoReturn, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mandos_tx.core.approval import Wait, decide
from mandos_tx.core.client import Client, KeyID
from mandos_tx.core.happenings import (
    Change,
    PetitionDecided,
    Petitioned,
    PetitionRefused,
    PetitionWithdrawn,
    Refusal,
    SecretDelivered,
)
from mandos_tx.interfaces import Grant, NoSuchClient, Refused, Registry


class Recorder(Protocol):
    """Whoever must have put a release on record before the secret goes out (``mandos_tx.audit``)."""

    def before_release(self, client: Client, address: str) -> Deferred[None]:
        """Fires when the release may happen; fails if it must not."""
        ...


class OpenGrant:
    """See ``mandos_tx.interfaces.Grant``."""

    __slots__ = ("_address", "_gatekeeper", "_name", "_revoked", "secret")

    def __init__(self, gatekeeper: Gatekeeper, client: Client, address: str) -> None:
        self._gatekeeper = gatekeeper
        self._name = client.name
        self._address = address
        self._revoked: Callable[[], None] | None = None
        self.secret = client.settings.secret

    def on_revoked(self, callback: Callable[[], None]) -> None:
        self._revoked = callback
        self._gatekeeper.watch_grant(self._name, self)

    def revoke(self) -> None:
        if self._revoked is not None:
            self._revoked()

    def delivered(self) -> None:
        self._gatekeeper.grant_used(self._name, self, self._address)

    def abandoned(self) -> None:
        self._gatekeeper.grant_ended(self._name, self)


@define(eq=False)
class _Waiting:
    """A petition that waits for an administrator."""

    name: str
    address: str
    answer: Deferred[Grant]


@define(eq=False)
class Gatekeeper:
    """Decides who gets its secret; see ``mandos_tx.interfaces.Gatekeeper``."""

    _registry: Registry
    _recorder: Recorder | None = None
    _numbers: count[int] = field(init=False, factory=count)
    _waiting: dict[int, _Waiting] = field(init=False, factory=dict)
    _grants: dict[str, dict[OpenGrant, None]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._registry.observe(self._observe)

    def petition(self, key_id: KeyID, address: str) -> Grant | Deferred[Grant]:
        client = self._registry.find(key_id)
        if client is None:
            self._registry.report_unknown(key_id, address)
            raise Refused(None)
        match decide(client, self._registry.now()):
            case None:
                return self._release(client, address)
            case Wait():
                return self._wait(client, address)
            case reason:
                return self._refuse(client.name, address, reason)

    # -- grants --------------------------------------------------------------------------------------

    def watch_grant(self, name: str, grant: OpenGrant) -> None:
        self._grants.setdefault(name, {})[grant] = None

    def grant_used(self, name: str, grant: OpenGrant, address: str) -> None:
        self.grant_ended(name, grant)
        with suppress(NoSuchClient):
            self._registry.tell(name, SecretDelivered(address))

    def grant_ended(self, name: str, grant: OpenGrant) -> None:
        grants = self._grants.get(name)
        if grants is not None:
            grants.pop(grant, None)
            if not grants:
                del self._grants[name]

    def _release(self, client: Client, address: str) -> Grant | Deferred[Grant]:
        if self._recorder is None:
            return OpenGrant(self, client, address)
        recorded = self._recorder.before_release(client, address)
        return recorded.addCallbacks(
            self._grant_if_still_due,
            self._not_recorded,
            callbackArgs=(client.name, address),
            errbackArgs=(client.name, address),
        )

    def _grant_if_still_due(self, _: None, name: str, address: str) -> Grant:
        client = self._registry.clients.get(name)
        if client is None or decide(client, self._registry.now()) is Refusal.DISABLED:
            return self._refuse(name, address, Refusal.DISABLED)
        return OpenGrant(self, client, address)

    def _not_recorded(self, failure: Failure, name: str, address: str) -> NoReturn:
        self._refuse(name, address, Refusal.AUDIT)

    def _refuse(self, name: str, address: str, reason: Refusal) -> NoReturn:
        if name in self._registry.clients:
            self._registry.tell(name, PetitionRefused(reason, address))
        raise Refused(reason)

    # -- waiting for approval ------------------------------------------------------------------------

    def _wait(self, client: Client, address: str) -> Deferred[Grant]:
        number = next(self._numbers)
        answer: Deferred[Grant] = Deferred(lambda _: self._withdraw(number))
        self._waiting[number] = _Waiting(client.name, address, answer)
        self._registry.tell(client.name, Petitioned(number))
        return answer

    def _withdraw(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            with suppress(NoSuchClient):
                self._registry.tell(waiting.name, PetitionWithdrawn(number))

    def _observe(self, change: Change) -> None:
        for fact in change.facts:
            if isinstance(fact, PetitionDecided):
                self._decided(fact)
        if change.before is not None and (change.after is None or (change.before.enabled and not change.after.enabled)):
            self._lost_trust(change.before.name, gone=change.after is None)

    def _decided(self, fact: PetitionDecided) -> None:
        waiting = self._waiting.pop(fact.number, None)
        if waiting is None:
            return
        try:
            granted = self._settle(waiting, fact.refusal)
        except Refused as refused:
            waiting.answer.errback(refused)
        else:
            if isinstance(granted, Deferred):
                granted.chainDeferred(waiting.answer)
            else:
                waiting.answer.callback(granted)

    def _settle(self, waiting: _Waiting, refusal: Refusal | None) -> Grant | Deferred[Grant]:
        client = self._registry.clients.get(waiting.name)
        if client is None:
            raise Refused(Refusal.DISABLED)
        if refusal is not None:
            self._refuse(waiting.name, waiting.address, refusal)
        return self._release(client, waiting.address)

    def _lost_trust(self, name: str, *, gone: bool) -> None:
        for grant in list(self._grants.get(name, ())):
            grant.revoke()
        if gone:
            for number in [n for n, waiting in self._waiting.items() if waiting.name == name]:
                self._waiting.pop(number).answer.errback(Refused(Refusal.DISABLED))
