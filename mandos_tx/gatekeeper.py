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
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from mandos_tx.core.approval import Wait, decide
from mandos_tx.core.client import Client, KeyID
from mandos_tx.core.happenings import (
    Change,
    DeliveryAbandoned,
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
        self._gatekeeper.grant_abandoned(self._name, self, self._address)


@define(eq=False)
class _Waiting:
    """A petition that waits for an administrator."""

    name: str
    decided: Deferred[Refusal | None]
    """Fires with what was decided; None grants."""


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
                return self._refuse(client, address, reason)

    # -- grants --------------------------------------------------------------------------------------

    def watch_grant(self, name: str, grant: OpenGrant) -> None:
        self._grants.setdefault(name, {})[grant] = None

    def grant_used(self, name: str, grant: OpenGrant, address: str) -> None:
        self._forget_grant(name, grant)
        with suppress(NoSuchClient):
            self._registry.tell(name, SecretDelivered(address))

    def grant_abandoned(self, name: str, grant: OpenGrant, address: str) -> None:
        self._forget_grant(name, grant)
        with suppress(NoSuchClient):
            self._registry.tell(name, DeliveryAbandoned(address))

    def _forget_grant(self, name: str, grant: OpenGrant) -> None:
        grants = self._grants.get(name)
        if grants is not None:
            grants.pop(grant, None)
            if not grants:
                del self._grants[name]

    def _release(self, client: Client, address: str) -> Grant | Deferred[Grant]:
        if self._recorder is None:
            return OpenGrant(self, client, address)
        recorded: Deferred[None] = Deferred()  # who gives up waiting does not end the recording
        self._recorder.before_release(client, address).chainDeferred(recorded)
        return recorded.addCallbacks(
            self._grant_if_still_due,
            self._not_recorded,
            callbackArgs=(client, address),
            errbackArgs=(client, address),
        )

    def _grant_if_still_due(self, _: None, petitioner: Client, address: str) -> Grant:
        return OpenGrant(self, self._unobjectionable(petitioner, address), address)

    def _not_recorded(self, failure: Failure, petitioner: Client, address: str) -> NoReturn:
        if failure.check(CancelledError) is None:
            self._refuse(petitioner, address, Refusal.AUDIT)
        failure.raiseException()

    def _unobjectionable(self, petitioner: Client, address: str) -> Client:
        """What the petitioner is by now, if it may have what it was granted a while ago. Raises Refused."""
        client = self._registry.clients.get(petitioner.name)
        if client is None or client.settings.key_id != petitioner.settings.key_id:
            self._refuse(petitioner, address, Refusal.DISABLED)
        verdict = decide(client, self._registry.now())
        # to be waited for, or denied by default, is what an approval that has been spent looks like
        if verdict is Refusal.DISABLED or (verdict is Refusal.DENIED and not (client.ruling and client.ruling.approve)):
            self._refuse(client, address, verdict)
        return client

    def _refuse(self, petitioner: Client, address: str, reason: Refusal) -> NoReturn:
        """Publish the refusal, and raise it."""
        if petitioner.name in self._registry.clients:
            self._registry.tell(petitioner.name, PetitionRefused(reason, address))
        elif petitioner.settings.key_id is not None:
            self._registry.report_unknown(petitioner.settings.key_id, address)
        raise Refused(reason)

    # -- waiting for approval ------------------------------------------------------------------------

    def _wait(self, client: Client, address: str) -> Deferred[Grant]:
        number = next(self._numbers)
        decided: Deferred[Refusal | None] = Deferred(lambda _: self._withdraw(number))
        self._waiting[number] = _Waiting(client.name, decided)
        answer = decided.addCallback(self._settle, client, address)
        self._registry.tell(client.name, Petitioned(number))
        return answer  # type: ignore[return-value]  # of what a callback returns, mypy takes one alternative

    def _withdraw(self, number: int) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            with suppress(NoSuchClient):
                self._registry.tell(waiting.name, PetitionWithdrawn(number))

    def _settle(self, refusal: Refusal | None, petitioner: Client, address: str) -> Grant | Deferred[Grant]:
        if refusal is not None:
            self._refuse(petitioner, address, refusal)
        return self._release(self._unobjectionable(petitioner, address), address)

    def _observe(self, change: Change) -> None:
        for fact in change.facts:
            if isinstance(fact, PetitionDecided):
                self._decided(fact.number, fact.refusal)
        if change.before is not None and (change.after is None or (change.before.enabled and not change.after.enabled)):
            self._lost_trust(change.before.name, gone=change.after is None)

    def _decided(self, number: int, refusal: Refusal | None) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.decided.callback(refusal)

    def _lost_trust(self, name: str, *, gone: bool) -> None:
        for grant in list(self._grants.get(name, ())):
            grant.revoke()
        if gone:
            for number in [number for number, waiting in self._waiting.items() if waiting.name == name]:
                self._decided(number, Refusal.DISABLED)
