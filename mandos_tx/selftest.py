"""``mandos --check``: whether this installation works, tried out in a moment without touching anything.

A TLS handshake with itself under the configured priority string, durations and configurations of which the result is
known, and a client saved and loaded.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta

from attrs import frozen
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mandos_tx.clock import wall_time
from mandos_tx.core.client import Client, ClientDefinition, ClientSettings, KeyID
from mandos_tx.core.lifecycle import newborn
from mandos_tx.formats.clients_conf import SecretFile, parse_clients_conf
from mandos_tx.formats.ini import Document
from mandos_tx.formats.rfc3339 import DurationError, parse_duration
from mandos_tx.formats.saved_state import decode, encode
from mandos_tx.wire import gnutls

_SECRET = b"what the self-test delivers"

_DURATIONS = {
    "P2W": timedelta(weeks=2),
    "P1Y2M3DT4H5M6S": timedelta(days=423, hours=4, minutes=5, seconds=6),
    "PT0S": timedelta(0),
    "1d 2h": timedelta(hours=26),
    "": timedelta(0),
}
_NO_DURATIONS = ("PT1H30S", "P1D2H", "P", "5", "1 fortnight")

_CLIENTS_CONF = b"""
[DEFAULT]
domain = example.org
timeout = PT10M
[one]
key_id = 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
host = one.%(domain)s
secret = c2Vj
    cmV0
"""


class SelfTestFailed(Exception):
    """Something does not work; the text says what."""


@frozen
class SelfTest:
    """One thing that is tried."""

    name: str
    run: Callable[[], None]


def self_tests(priority: str) -> Iterator[SelfTest]:
    """All of them."""
    yield SelfTest(f"TLS with raw public keys (GnuTLS {gnutls.version()})", lambda: _shake_hands(priority))
    yield SelfTest("durations", lambda: _try_durations(_DURATIONS, _NO_DURATIONS))
    yield SelfTest("configuration", lambda: _try_configuration(_CLIENTS_CONF))
    yield SelfTest("state", _save_and_load)


def run(tests: Iterator[SelfTest], report: Callable[[str], None]) -> bool:
    """Run them all, and report each in a line; whether all is well."""
    good = True
    for test in tests:
        try:
            test.run()
        except Exception as error:
            good = False
            report(f"{test.name}: FAILED: {str(error) or type(error).__name__}")
        else:
            report(f"{test.name}: ok")
    return good


def _shake_hands(priority: str) -> None:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        server = gnutls.Context(priority).session(ours.fileno())
        client = gnutls.Context.with_key(priority, public, private).session(theirs.fileno())
        try:
            _deliver(server, client)
        finally:
            server.close()
            client.close()


def _deliver(server: gnutls.Session, client: gnutls.Session) -> None:
    server_done = client_done = False
    for _ in range(100):
        server_done = server_done or server.handshake()
        client_done = client_done or client.handshake()
        if server_done and client_done:
            break
    else:
        raise SelfTestFailed("the handshake does not come to an end")
    if server.peer_key_id() is None:
        raise SelfTestFailed("the priority string does not lead to raw public keys")
    server.send(_SECRET, 0)
    if client.receive() != _SECRET:
        raise SelfTestFailed("what arrives is not what was sent")


def _try_durations(good: Mapping[str, timedelta], bad: Iterable[str]) -> None:
    for text, duration in good.items():
        if parse_duration(text) != duration:
            raise SelfTestFailed(f"{text!r} is read as {parse_duration(text)}")
    for text in bad:
        try:
            parse_duration(text)
        except DurationError:
            continue
        raise SelfTestFailed(f"{text!r} is taken for a duration")


def _try_configuration(content: bytes) -> None:
    clients = parse_clients_conf([Document.decode("clients.conf", content)], _no_secfile)
    if clients.complaints:
        raise SelfTestFailed(str(clients.complaints[0]))
    (definition,) = clients.definitions
    settings = definition.settings
    if (settings.host, settings.timeout, settings.secret) != ("one.example.org", timedelta(minutes=10), b"secret"):
        raise SelfTestFailed("a client is not read as it is written")


def _no_secfile(path: str, naming_file: str) -> SecretFile:
    raise SelfTestFailed("there is no secfile")


def _save_and_load() -> None:
    definition = ClientDefinition("one", ClientSettings(KeyID("0" * 64), None, _SECRET))
    client = newborn(definition, wall_time(), 0.5)
    loaded = decode("one", encode(client, b""), definition, b"")
    if not isinstance(loaded, Client) or loaded.standing != client.standing or loaded.settings != client.settings:
        raise SelfTestFailed("a client is not loaded as it was saved")
