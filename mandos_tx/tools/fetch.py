"""``mandos-fetch``: asks Mandos servers for this computer's password, as mandos-client does at boot.

The protocol, version 1, from the client's side: connect, send the line ``1``, be the *server* of a TLS handshake that
proves the client's raw public key, and read the secret until the close_notify. A server that closes without a byte
has refused, and tells only its own log why.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field, frozen

from mandos_tx import __version__
from mandos_tx.core.client import KeyID
from mandos_tx.tools.openpgp import DecryptionError, decrypt
from mandos_tx.wire.gnutls import (
    DEFAULT_PRIORITY,
    ConnectionEnded,
    Context,
    GnuTLSError,
    PriorityError,
    Session,
    UnusableKey,
)

EX_FETCHED = 0
EX_NOT_GIVEN = 1
EX_USAGE = 2
EX_NOT_DECRYPTED = 65
EX_NO_PERMISSION = 77
EX_UNUSABLE_KEYS = 78

KEY_DIRECTORY = Path("/etc/keys/mandos")
PROTOCOL_LINE = b"1\r\n"
CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 30.0
MAX_SECRET = 64 * 2**20
"""Bytes; nobody's password is longer, and a false server could send for ever."""

Clock = Callable[[], float]


class NotGiven(Exception):
    """A server did not give the secret; says why, and what to do."""


class OutOfTime(Exception):
    """The time that --timeout allows is over."""


class UnusableKeys(Exception):
    """The files of this computer's keys are of no use; says why, and what to do."""

    def __init__(self, problem: str, status: int = EX_UNUSABLE_KEYS) -> None:
        super().__init__(problem)
        self.status = status


@frozen
class Server:
    """Where a server is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_server(text: str) -> Server:
    """``HOST:PORT``; the last colon splits, and an IPv6 address may have brackets. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"not ADDRESS:PORT: {text!r}")
    return Server(host, int(port))


@frozen
class Limit:
    """An instant on ``clock`` after which something is given up; None is never."""

    clock: Clock
    instant: float | None

    @classmethod
    def after(cls, seconds: float | None, clock: Clock = time.monotonic) -> Limit:
        return cls(clock, None if seconds is None else clock() + seconds)

    def left(self) -> float | None:
        """Seconds until then; raises OutOfTime when there are none."""
        if self.instant is None:
            return None
        left = self.instant - self.clock()
        if left <= 0:
            raise OutOfTime
        return left

    def but_at_most(self, seconds: float) -> Limit:
        ours = self.clock() + seconds
        return Limit(self.clock, ours if self.instant is None else min(self.instant, ours))


def wait_readable(connection: socket.socket, seconds: float | None) -> None:
    """Wait until something can be read, or the time is over. Signals are heard meanwhile."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    poll.poll(None if seconds is None else seconds * 1000)


def connect(server: Server, seconds: float) -> socket.socket:
    """A connection, with keep-alive: somebody may have to approve us first, and that can take hours."""
    connection = socket.create_connection((server.host, server.port), timeout=seconds)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


@define
class Petitioner:
    """Asks one server at a time, with one key."""

    context: Context
    connect: Callable[[Server, float], socket.socket] = connect
    wait: Callable[[socket.socket, float | None], None] = wait_readable
    max_secret: int = MAX_SECRET

    def ask(self, server: Server, limit: Limit) -> bytes:
        """The secret from ``server``. Raises NotGiven; OutOfTime only when ``limit`` is reached."""
        try:
            connection = self.connect(server, min(CONNECT_SECONDS, limit.left() or CONNECT_SECONDS))
        except OSError as error:
            raise NotGiven(f"no connection: {error.strerror or error}; is the server running there?") from None
        with connection:
            try:
                connection.sendall(PROTOCOL_LINE)
                connection.setblocking(False)
                with closing(self.context.session(connection.fileno())) as session:
                    self._shake_hands(session, connection, limit)
                    return self._read(session, connection, limit)
            except (ConnectionEnded, OSError):
                raise NotGiven("connection lost; is this a Mandos server, and is its network in order?") from None

    def _shake_hands(self, session: Session, connection: socket.socket, limit: Limit) -> None:
        ours = limit.but_at_most(HANDSHAKE_SECONDS)
        try:
            while not session.handshake():
                self.wait(connection, ours.left())
        except GnuTLSError as error:
            raise NotGiven(f"TLS handshake failed: {error}; do the priority strings of both sides agree?") from None
        except OutOfTime:
            limit.left()
            raise NotGiven("no TLS handshake within 30 s; is this a Mandos server?") from None

    def _read(self, session: Session, connection: socket.socket, limit: Limit) -> bytes:
        secret = bytearray()
        try:
            while True:
                record = session.receive()
                if record == b"":
                    break
                if record is None:
                    self.wait(connection, limit.left())
                    continue
                secret += record
                if len(secret) > self.max_secret:
                    raise NotGiven(f"more than {self.max_secret} bytes; this cannot be a password")
        except (ConnectionEnded, GnuTLSError) as error:
            if secret:
                why = str(error) or "connection lost"
                raise NotGiven(f"the secret broke off after {len(secret)} bytes: {why}") from None
        if not secret:
            raise NotGiven(
                "closed without a secret: it does not know this key, or has this client disabled or denied;"
                " its log says which"
            )
        return bytes(secret)


def read_keys(public: Path, private: Path, priority: str) -> tuple[Context, KeyID]:
    """The TLS key pair, ready for use, and its key ID. Raises UnusableKeys."""
    public_pem = _read_file(public)
    try:
        context = Context.with_key(priority, public_pem, _read_file(private))
    except PriorityError as error:
        raise UnusableKeys(f"--priority: {error}; see gnutls_priority_init(3)") from None
    except UnusableKey as error:
        raise UnusableKeys(f"{public}, {private}: {error}; mandos-keygen makes such a pair") from None
    return context, key_id(public_pem)


def key_id(public_pem: bytes) -> KeyID:
    """SHA-256 of the SubjectPublicKeyInfo in a PEM file. Raises UnusableKeys."""
    lines = public_pem.split(b"-----BEGIN PUBLIC KEY-----")[-1].split(b"-----END PUBLIC KEY-----")[0]
    try:
        return KeyID(hashlib.sha256(base64.b64decode(lines)).hexdigest().upper())
    except binascii.Error as error:
        raise UnusableKeys(f"the TLS public key is not base64: {error}") from None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        raise UnusableKeys(f"{path}: permission denied; run it as root", EX_NO_PERMISSION) from None
    except OSError as error:
        raise UnusableKeys(f"{path}: {error.strerror}; mandos-keygen makes it") from None


@define
class Round:
    """Goes through the servers until one gives the secret."""

    servers: Sequence[Server]
    ask: Callable[[Server, Limit], bytes]
    unseal: Callable[[bytes], bytes]
    """What to make of the secret; may raise DecryptionError."""
    say: Callable[[str], object]
    any_undecrypted: bool = False
    _said: dict[Server, str] = field(factory=dict)

    def once(self, limit: Limit) -> bytes | None:
        """Ask every server once; the first result, or None."""
        for server in self.servers:
            try:
                return self.unseal(self.ask(server, limit))
            except NotGiven as error:
                self._complain(server, str(error))
            except DecryptionError as error:
                self.any_undecrypted = True
                self._complain(server, f"{error}; is the secret in its clients.conf this computer's?")
        return None

    def for_ever(self, limit: Limit, pause: float, sleep: Callable[[float], object]) -> bytes:
        """Ask every server again and again, ``pause`` seconds after each round."""
        while (result := self.once(limit)) is None:
            left = limit.left()
            sleep(pause if left is None else min(pause, left))
        return result

    def _complain(self, server: Server, problem: str) -> None:
        """One line for each new trouble, not for each attempt."""
        if self._said.get(server) != problem:
            self._said[server] = problem
            self.say(f"{server}: {problem}")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 10**9:
        raise ValueError(text)
    return seconds


_seconds.__name__ = "number of seconds"  # argparse says "invalid ... value"
parse_server.__name__ = "ADDRESS:PORT"


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mandos-fetch",
        description="Ask Mandos servers for this computer's password and write it to standard output.",
        epilog="Exit status: 0 written, 1 no server gave it, 2 usage, 65 given but not decrypted, 77 keys not"
        " readable, 78 keys or programs unusable.",
    )
    add = parser.add_argument
    add("-c", "--connect", metavar="ADDRESS:PORT", type=parse_server, action="append", required=True,
        help="a server; may be given many times, they are asked in this order")  # fmt: skip
    for short, long, default, what in (
        ("-T", "--tls-pubkey", "tls-pubkey.pem", "TLS raw public key"),
        ("-t", "--tls-privkey", "tls-privkey.pem", "TLS private key"),
        ("-p", "--pubkey", "pubkey.txt", "OpenPGP public key"),
        ("-s", "--seckey", "seckey.txt", "OpenPGP secret key"),
    ):
        add(short, long, metavar="FILE", type=Path, default=KEY_DIRECTORY / default, help=f"{what} (%(default)s)")
    add("--priority", metavar="STRING", default=DEFAULT_PRIORITY, help="GnuTLS priority string (as mandos-client)")
    add("--blob", action="store_true", help="write the secret as the server has it, without decrypting")
    add("--once", action="store_true", help="ask every server once, instead of until one gives the secret")
    add("--retry", metavar="SECONDS", type=_seconds, default=10.0, help="pause before asking again (10)")
    add("--timeout", metavar="SECONDS", type=_seconds, help="give up after so long in all (never)")
    add("-V", "--version", action="version", version=f"mandos-fetch {__version__}")
    return parser


def fetch(
    arguments: argparse.Namespace,
    say: Callable[[str], object],
    petitioner: Callable[[Context], Petitioner] = Petitioner,
) -> bytes | int:
    """The result for standard output, or the exit status of a failure that ``say`` has been told."""
    try:
        context, ours = read_keys(arguments.tls_pubkey, arguments.tls_privkey, arguments.priority)
        if not arguments.blob:
            for path in (arguments.pubkey, arguments.seckey):
                _read_file(path)
            if shutil.which("gpg") is None:
                raise UnusableKeys("the gpg program is missing; install gnupg, or use --blob")
    except UnusableKeys as error:
        say(str(error))
        return error.status

    def unseal(blob: bytes) -> bytes:
        return blob if arguments.blob else decrypt(blob, arguments.pubkey, arguments.seckey)

    limit = Limit.after(arguments.timeout)
    rounds = Round(arguments.connect, petitioner(context).ask, unseal, say)
    result: bytes | None = None
    try:
        result = rounds.once(limit) if arguments.once else rounds.for_ever(limit, arguments.retry, time.sleep)
    except OutOfTime:
        say(f"no secret within {arguments.timeout:g} s; --timeout gives it longer")
    if result is not None:
        return result
    say(f"this computer's key ID is {ours}; clients.conf must have it as key_id")
    return EX_NOT_DECRYPTED if rounds.any_undecrypted else EX_NOT_GIVEN


def _exit_on(number: int, frame: Any) -> NoReturn:
    """End by way of SystemExit, so that temporary keys are removed."""
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None, petitioner: Callable[[Context], Petitioner] = Petitioner) -> int:
    """The console script; returns the exit status."""
    arguments = options().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on)
    result = fetch(arguments, lambda line: print(f"mandos-fetch: {line}", file=sys.stderr), petitioner)
    if isinstance(result, int):
        return result
    try:
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
    except OSError as error:
        print(f"mandos-fetch: standard output: {error.strerror}", file=sys.stderr)
        return EX_NOT_GIVEN
    return EX_FETCHED


if __name__ == "__main__":
    raise SystemExit(main())
