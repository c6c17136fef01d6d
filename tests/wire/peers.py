"""Peers of the key server on socket pairs: what a Mandos client does, step by step, and a wire to tamper with."""

from __future__ import annotations

import atexit
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import KeyID
from mandos_tx.interfaces import Grant
from mandos_tx.throttle import Throttle
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY, ConnectionEnded, Context, GnuTLSError, Session
from mandos_tx.wire.hall import Hall, Limits
from mandos_tx.wire.protocol import KeyServerFactory
from mandos_tx.wire.transport import Connection
from tests.fakes import Log

LINE = b"1\r\n"


@cache
def pem_pair(number: int = 0) -> tuple[bytes, bytes]:
    """The public and the private key of a client."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return (
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


@cache
def peer_context(number: int = 0) -> Context:
    return Context.with_key(DEFAULT_PRIORITY, *pem_pair(number))


class CountingContext(Context):
    """A context that remembers its sessions."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_PRIORITY)
        self.sessions: list[Session] = []

    def session(self, descriptor: int) -> Session:
        session = super().session(descriptor)
        self.sessions.append(session)
        return session

    @property
    def not_freed(self) -> int:
        return sum(session._pointer is not None for session in self.sessions)


@define(eq=False)
class Permit:
    """A grant that remembers what became of it."""

    secret: bytes = field(repr=False)
    outcomes: list[str] = field(factory=list)
    revoke: Callable[[], None] | None = None

    def on_revoked(self, callback: Callable[[], None]) -> None:
        self.revoke = callback

    def delivered(self) -> None:
        self.outcomes.append("delivered")

    def abandoned(self) -> None:
        self.outcomes.append("abandoned")


@define(eq=False)
class Doorman:
    """A gatekeeper that does as it is told."""

    secret: bytes = field(default=b"the secret", repr=False)
    answer: Callable[[], Grant | Deferred[Grant]] | None = None
    """What to do instead of granting."""
    petitions: list[tuple[KeyID, str]] = field(factory=list)
    permits: list[Permit] = field(factory=list)

    def petition(self, key_id: KeyID, address: str) -> Grant | Deferred[Grant]:
        self.petitions.append((key_id, address))
        return self.permit() if self.answer is None else self.answer()

    def permit(self) -> Permit:
        self.permits.append(Permit(self.secret))
        return self.permits[-1]


def expected_key_id(number: int = 0) -> KeyID:
    """SHA-256 of the SubjectPublicKeyInfo, worked out without GnuTLS."""
    key = load_pem_public_key(pem_pair(number)[0])
    return KeyID(sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest().upper())


@cache
def certificate_files() -> tuple[str, str]:
    """Paths of a self-signed X.509 certificate and its key."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a client")])
    start = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=36500))
    directory = mkdtemp()
    atexit.register(rmtree, directory)
    paths = f"{directory}/certificate.pem", f"{directory}/key.pem"
    Path(paths[0]).write_bytes(builder.sign(key, None).public_bytes(Encoding.PEM))
    Path(paths[1]).write_bytes(pem_pair()[1])
    return paths


@define(eq=False)
class CertifiedPeer:
    """A TLS server as others are: by OpenSSL, with an X.509 certificate."""

    socket: socket.socket
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    heard: bytes = b""
    end: str = ""
    _tls: ssl.SSLSocket = field(init=False)

    def __attrs_post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = self.newest
        context.load_cert_chain(*certificate_files())
        self._tls = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def step(self) -> None:
        if self.end:
            return
        with suppress(ssl.SSLWantReadError):
            try:
                self._tls.do_handshake()
                self.heard += self._tls.recv(1000)
                self.end = "end"
            except (ssl.SSLError, OSError) as error:
                if isinstance(error, ssl.SSLWantReadError):
                    raise
                self.end = str(error)

    def close(self) -> None:
        self._tls.close()


@define(eq=False)
class Peer:
    """A Mandos client, as far as the network sees it."""

    socket: socket.socket
    context: Context = field(factory=peer_context)
    session: Session | None = None
    proven: bool = False
    heard: bytes = b""
    end: str = ""
    """How the server ended it: "close_notify", "reset", or the words of an alert."""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def step(self) -> None:
        """Do whatever can be done now."""
        if self.session is None:
            self.session = self.context.session(self.socket.fileno())
        if self.end:
            return
        try:
            self.proven = self.proven or self.session.handshake()
            while self.proven and (data := self.session.receive()) is not None:
                self.heard += data
                if not data:
                    self.end = "close_notify"
                    return
        except (ConnectionEnded, OSError):
            self.end = "reset"
        except GnuTLSError as error:
            self.end = str(error)

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.socket.close()


class Court:
    """A hall with a fake reactor and a doorman, and connections to it."""

    def __init__(self, case: SynchronousTestCase, limits: Limits | None = None, doorman: Doorman | None = None) -> None:
        self.case = case
        self.reactor = MemoryReactorClock()
        self.log = Log()
        self.log.listen(case)
        self.throttle = Throttle(self.reactor, "refusals")
        self.hall = Hall(self.reactor, limits or Limits(), self.throttle)
        self.context = CountingContext()
        self.doorman = doorman or Doorman()
        self.factory = KeyServerFactory(self.doorman, self.throttle)
        self.hall.start()
        case.addCleanup(self.leave)

    def leave(self) -> None:
        """Whatever happened: nothing is left of it."""
        self.hall.close()
        self.case.assertEqual(0, self.context.not_freed)
        self.case.assertEqual(0, len(self.hall))
        self.throttle.stopService()
        self.case.assertEqual([], self.reactor.getDelayedCalls())
        self.case.assertEqual([], self.reactor.getReaders())

    def connect(self, host: str = "192.0.2.1") -> tuple[Connection, socket.socket]:
        """A connection from ``host`` and the peer's end of it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self.case.addCleanup(theirs.close)
        self.hall.look_at_clock()
        connection = Connection(ours, host, self.hall, self.context)
        self.hall.admit(connection, self.factory.build(connection))
        return connection, theirs

    def peer(self, host: str = "192.0.2.1", *, number: int = 0) -> tuple[Connection, Peer]:
        """A client that has sent its line."""
        connection, theirs = self.connect(host)
        peer = Peer(theirs, peer_context(number))
        self.case.addCleanup(peer.close)
        peer.send(LINE)
        self.turn()
        return connection, peer

    def turn(self, *peers: Peer | CertifiedPeer, times: int = 1) -> None:
        """Let the server, and then each peer, do what they can."""
        for _ in range(times):
            self.hall.doRead()
            for peer in peers:
                peer.step()

    def serve(self, peer: Peer | CertifiedPeer) -> None:
        """Go on until the peer has heard the end."""
        for _ in range(1000):
            if peer.end:
                return
            self.turn(peer)
        raise AssertionError("the conversation does not come to an end")

    def pass_time(self, seconds: float) -> None:
        """As the reactor would: no tick comes late."""
        whole, rest = divmod(seconds, 0.25)
        self.reactor.pump([0.25] * int(whole) + [rest])
