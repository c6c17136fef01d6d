"""The Mandos network protocol, version 1, from the server's side (mandos(8)).

    peer  -> us    a line whose first field is "1"                    (greeting.py)
    peer <-> us    TLS handshake; the peer is the TLS server and proves a raw public key (RFC 7250)
    us    -> peer  the secret, if the gatekeeper grants it; then close_notify

A peer that is refused, for whatever reason, sees close_notify at once: it cannot tell one reason from another.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from mandos_tx.core.client import KeyID
from mandos_tx.interfaces import Gatekeeper, Grant, Refused
from mandos_tx.throttle import Throttle
from mandos_tx.wire.greeting import BadGreeting, read_greeting
from mandos_tx.wire.transport import Connection


class KeyServerProtocol:
    """One conversation with one peer."""

    __slots__ = ("_connection", "_factory", "_grant", "_line", "_petition")

    def __init__(self, factory: KeyServerFactory, connection: Connection) -> None:
        self._factory = factory
        self._connection = connection
        self._line = b""
        self._petition: Deferred[Grant] | None = None
        self._grant: Grant | None = None

    def received(self, data: bytes) -> None:
        self._line += data
        try:
            complete = read_greeting(self._line)
        except BadGreeting as error:
            self._factory.peer_failed("Bad greeting from {address}: {reason}", self._connection.address, str(error))
            self._connection.abort()
            return
        if complete:
            self._line = b""
            self._connection.start_tls()

    def handshake_failed(self, reason: str) -> None:
        self._factory.peer_failed("TLS handshake with {address} failed: {reason}", self._connection.address, reason)

    def key_proven(self, key_id: KeyID | None) -> None:
        if key_id is None:
            self._factory.peer_failed(
                "Refused {address}: {reason}", self._connection.address, "it showed no raw public key (RFC 7250)"
            )
            self._connection.refuse()
            return
        try:
            answer = self._factory.gatekeeper.petition(key_id, self._connection.address)
        except Refused:
            self._connection.refuse()
            return
        if isinstance(answer, Deferred):
            self._petition = answer
            answer.addCallbacks(self._granted, self._refused)
            answer.addErrback(self._decision_failed)
        else:
            self._granted(answer)

    def _granted(self, grant: Grant) -> None:
        self._petition = None
        self._grant = grant
        self._connection.send(grant.secret)
        if self._grant is not None:  # it takes longer
            grant.on_revoked(self._connection.abort)

    def _refused(self, failure: Failure) -> None:
        self._petition = None
        if failure.check(Refused) is None:
            failure.trap(CancelledError)
            return
        self._connection.refuse()

    def _decision_failed(self, failure: Failure) -> None:
        self._factory.log.failure(
            "No decision could be reached about {address}", failure, address=self._connection.address
        )
        self._connection.abort()

    def delivered(self) -> None:
        if self._grant is not None:
            grant, self._grant = self._grant, None
            grant.delivered()

    def lost(self) -> None:
        if self._petition is not None:
            petition, self._petition = self._petition, None
            petition.cancel()
        if self._grant is not None:
            grant, self._grant = self._grant, None
            grant.abandoned()


class KeyServerFactory(Factory):
    """Makes the protocol of each connection, and words what goes wrong before anybody is known."""

    noisy = False

    def __init__(self, gatekeeper: Gatekeeper, throttle: Throttle) -> None:
        self.gatekeeper = gatekeeper
        self.log = Logger()
        self._throttle = throttle

    def build(self, connection: Connection) -> KeyServerProtocol:
        return KeyServerProtocol(self, connection)

    def peer_failed(self, message: str, address: str, reason: str) -> None:
        """Log what an unknown peer did wrong, unless too many such lines were written lately."""
        if self._throttle.admits():
            self.log.info(message, address=address, reason=reason)
