"""mandos-fetch, with Mandos servers at the other end of socket pairs and a clock that only the tests move."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import signal
import socket
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from attrs import define, field
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import KeyID
from mandos_tx.tools import fetch
from mandos_tx.tools.fetch import (
    Limit,
    NotGiven,
    OutOfTime,
    Petitioner,
    Round,
    Server,
    UnusableKeys,
    key_id,
    parse_server,
    read_keys,
)
from mandos_tx.tools.openpgp import DecryptionError
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY, Context, Session

HOME = Server("::1", 4711)


def new_pair() -> tuple[bytes, bytes]:
    """A TLS key pair in PEM: public, private."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return public, private


PUBLIC_PEM, PRIVATE_PEM = new_pair()
OUR_KEY_ID = hashlib.sha256(base64.b64decode(b"".join(PUBLIC_PEM.splitlines()[1:-1]))).hexdigest().upper()


@define
class Time:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@define
class MandosServer:
    """The other end of one connection; goes one step on whenever the client waits."""

    after_handshake: Callable[[MandosServer], object]
    """What to do once the client has proven its key."""
    priority: str = DEFAULT_PRIORITY
    line: bytes = b""
    peer: KeyID | None = None
    ours: socket.socket = field(init=False)
    theirs: socket.socket = field(init=False)
    session: Session | None = None
    waits: list[float | None] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    def connect(self, server: Server, seconds: float) -> socket.socket:
        return self.theirs

    def wait(self, connection: socket.socket, seconds: float | None) -> None:
        self.waits.append(seconds)
        if self.session is None:
            self.line = self.ours.recv(3)
            self.session = Context(self.priority).session(self.ours.fileno())
        if self.peer is None:
            if self.session.handshake():
                self.peer = self.session.peer_key_id()
        else:
            self.after_handshake(self)

    def give(self, secret: bytes) -> None:
        assert self.session is not None
        assert self.session.send(secret, 0) == len(secret)

    def end(self) -> None:
        assert self.session is not None
        assert self.session.bye()
        self.drop()

    def drop(self) -> None:
        self.ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.ours.close()
        self.theirs.close()


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.context = Context.with_key(DEFAULT_PRIORITY, PUBLIC_PEM, PRIVATE_PEM)
        self.time = Time()

    def server(self, after_handshake: Callable[[MandosServer], object]) -> MandosServer:
        server = MandosServer(after_handshake)
        self.addCleanup(server.close)
        return server

    def ask(self, server: MandosServer, seconds: float | None = None) -> bytes:
        petitioner = Petitioner(self.context, server.connect, server.wait)
        return petitioner.ask(HOME, Limit.after(seconds, self.time))

    def refused(self, server: MandosServer, seconds: float | None = None) -> str:
        return str(self.assertRaises(NotGiven, self.ask, server, seconds))

    def test_the_secret_is_what_comes_before_the_close(self) -> None:
        def deliver(server: MandosServer) -> None:
            server.give(b"blob of ")
            server.give(b"two records")
            server.end()

        server = self.server(deliver)
        self.assertEqual(self.ask(server), b"blob of two records")
        self.assertEqual(server.line, b"1\r\n")
        self.assertEqual(server.peer, OUR_KEY_ID)

    def test_a_close_without_a_byte_is_a_refusal(self) -> None:
        self.assertIn("closed without a secret", self.refused(self.server(MandosServer.end)))

    def test_a_broken_connection_without_a_byte_is_a_refusal_too(self) -> None:
        self.assertIn("closed without a secret", self.refused(self.server(MandosServer.drop)))

    def test_part_of_a_secret_is_none(self) -> None:
        def break_off(server: MandosServer) -> None:
            server.give(b"half")
            server.drop()

        self.assertIn("broke off after 4 bytes", self.refused(self.server(break_off)))

    def test_more_than_a_password_can_be_is_refused(self) -> None:
        server = self.server(lambda server: server.give(b"*" * 11))
        petitioner = Petitioner(self.context, server.connect, server.wait, max_secret=10)
        error = self.assertRaises(NotGiven, petitioner.ask, HOME, Limit.after(None, self.time))
        self.assertIn("more than 10 bytes", str(error))

    def test_priorities_that_do_not_agree_are_named(self) -> None:
        server = self.server(MandosServer.end)
        server.priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2"
        self.assertIn("priority strings", self.refused(server))

    def test_no_handshake_in_time_is_given_up(self) -> None:
        server = self.server(MandosServer.end)
        petitioner = Petitioner(self.context, server.connect, lambda connection, seconds: self.time.sleep(seconds or 0))
        error = self.assertRaises(NotGiven, petitioner.ask, HOME, Limit.after(None, self.time))
        self.assertIn("no TLS handshake within 30 s", str(error))

    def test_approval_may_take_hours(self) -> None:
        def approve_late(server: MandosServer) -> None:
            self.time.sleep(7200)
            if self.time.now > 20000:
                server.give(b"blob")
                server.end()

        server = self.server(approve_late)
        self.assertEqual(self.ask(server), b"blob")
        self.assertEqual(server.waits[-1], None)

    def test_total_time_counts_while_approval_is_waited_for(self) -> None:
        self.assertRaises(OutOfTime, self.ask, self.server(lambda server: self.time.sleep(60)), 100)

    def test_total_time_counts_during_the_handshake(self) -> None:
        server = self.server(MandosServer.end)
        petitioner = Petitioner(self.context, server.connect, lambda connection, seconds: self.time.sleep(seconds or 0))
        self.assertRaises(OutOfTime, petitioner.ask, HOME, Limit.after(5, self.time))

    def test_a_lost_connection_is_said_to_be_lost(self) -> None:
        server = self.server(MandosServer.end)
        server.ours.close()
        self.assertIn("connection lost", self.refused(server))

    def test_a_server_that_is_not_there_is_said_not_to_be(self) -> None:
        def connect(server: Server, seconds: float) -> socket.socket:
            self.assertEqual(seconds, 3)
            raise ConnectionRefusedError(111, "Connection refused")

        petitioner = Petitioner(self.context, connect)
        error = self.assertRaises(NotGiven, petitioner.ask, HOME, Limit.after(3, self.time))
        self.assertIn("Connection refused", str(error))

    def test_waiting_ends_when_something_can_be_read(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        theirs.send(b"!")
        fetch.wait_readable(ours, None)
        fetch.wait_readable(theirs, 0.0)


class Addresses(SynchronousTestCase):
    def test_the_last_colon_splits(self) -> None:
        self.assertEqual(parse_server("::1:80"), Server("::1", 80))
        self.assertEqual(parse_server("[fe80::1%eth0]:80"), Server("fe80::1%eth0", 80))
        self.assertEqual(parse_server("keys.example:80"), Server("keys.example", 80))

    def test_anything_else_is_no_address(self) -> None:
        for text in ("", "host", "host:", ":80", "[]:80", "host:0", "host:65536", "host:-1", "host:http", "host:²"):
            self.assertRaises(ValueError, parse_server, text)

    @given(st.ip_addresses().map(str) | st.from_regex(r"[a-z]+(\.[a-z]+)?", fullmatch=True), st.integers(1, 65535))
    def test_an_address_reads_back_as_it_is_shown(self, host: str, port: int) -> None:
        self.assertEqual(parse_server(str(Server(host, port))), Server(host, port))


class Rounds(SynchronousTestCase):
    def setUp(self) -> None:
        self.time = Time()
        self.said: list[str] = []
        self.asked: list[int] = []

    def rounds(self, *answers: bytes | Exception) -> Round:
        """Servers at ports 1, 2, …, and what each of them answers every time."""

        def ask(server: Server, limit: Limit) -> bytes:
            limit.left()
            self.asked.append(server.port)
            answer = answers[server.port - 1]
            if isinstance(answer, Exception):
                raise answer
            return answer

        def unseal(blob: bytes) -> bytes:
            if blob == b"for somebody else":
                raise DecryptionError("no secret key")
            return blob.upper()

        servers = [Server("h", number + 1) for number in range(len(answers))]
        return Round(servers, ask, unseal, self.said.append)

    def test_the_first_that_gives_is_the_last_that_is_asked(self) -> None:
        rounds = self.rounds(NotGiven("no"), b"yes", b"late")
        self.assertEqual(rounds.once(Limit.after(None, self.time)), b"YES")
        self.assertEqual(self.asked, [1, 2])
        self.assertEqual(self.said, ["h:1: no"])

    def test_a_secret_that_cannot_be_decrypted_leaves_the_next_server(self) -> None:
        rounds = self.rounds(b"for somebody else", b"yes")
        self.assertEqual(rounds.once(Limit.after(None, self.time)), b"YES")
        self.assertTrue(rounds.any_undecrypted)

    def test_nobody_gives_nothing(self) -> None:
        rounds = self.rounds(NotGiven("no"), NotGiven("never"))
        self.assertIs(rounds.once(Limit.after(None, self.time)), None)
        self.assertEqual(self.said, ["h:1: no", "h:2: never"])

    def test_asks_until_the_time_is_over_and_complains_once(self) -> None:
        rounds = self.rounds(NotGiven("no"))
        limit = Limit.after(25, self.time)
        self.assertRaises(OutOfTime, rounds.for_ever, limit, 10, self.time.sleep)
        self.assertEqual(self.asked, [1, 1, 1])
        self.assertEqual(self.said, ["h:1: no"])

    def test_without_a_limit_asks_until_somebody_gives(self) -> None:
        rounds = self.rounds(NotGiven("no"))

        def sleep(seconds: float) -> None:
            self.assertEqual(seconds, 10)
            if len(self.asked) == 5:
                rounds.ask = lambda server, limit: b"at last"

        self.assertEqual(rounds.for_ever(Limit.after(None, self.time), 10, sleep), b"AT LAST")


class KeyFiles(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.public, self.private = directory / "tls-pubkey.pem", directory / "tls-privkey.pem"
        self.public.write_bytes(PUBLIC_PEM)
        self.private.write_bytes(PRIVATE_PEM)

    def problem(self, priority: str = DEFAULT_PRIORITY) -> str:
        return str(self.assertRaises(UnusableKeys, read_keys, self.public, self.private, priority))

    def test_key_id_is_the_one_of_the_public_key(self) -> None:
        self.assertEqual(read_keys(self.public, self.private, DEFAULT_PRIORITY)[1], OUR_KEY_ID)

    def test_a_missing_file_is_named_with_who_makes_it(self) -> None:
        self.private.unlink()
        self.assertIn(f"{self.private}: No such file or directory; mandos-keygen", self.problem())

    def test_a_file_that_is_no_key_is_named(self) -> None:
        self.private.write_bytes(b"hello")
        self.assertIn(str(self.private), self.problem())

    def test_a_wrong_priority_string_is_shown(self) -> None:
        self.assertIn("--priority", self.problem("SECURE128:+NOPE"))

    def test_a_public_key_that_is_not_base64_has_no_key_id(self) -> None:
        self.assertRaises(UnusableKeys, key_id, b"-----BEGIN PUBLIC KEY-----\nA\n-----END PUBLIC KEY-----\n")

    def test_no_permission_has_a_status_of_its_own(self) -> None:
        class Locked(type(self.public)):  # type: ignore[misc] # the concrete class differs with the Python version
            def read_bytes(self) -> bytes:
                raise PermissionError(13, "Permission denied")

        error = self.assertRaises(UnusableKeys, read_keys, Locked("/keys/public"), self.private, DEFAULT_PRIORITY)
        self.assertEqual((error.status, str(error)), (77, "/keys/public: permission denied; run it as root"))


class CommandLine(SynchronousTestCase):
    def test_the_originals_names_are_taken(self) -> None:
        arguments = fetch.options().parse_args(
            ["-c", "::1:80", "--connect=h:81", "-T", "/a", "-t", "/b", "-p", "/c", "-s", "/d", "--retry", "2"]
        )
        self.assertEqual(arguments.connect, [Server("::1", 80), Server("h", 81)])
        self.assertEqual(arguments.tls_pubkey, Path("/a"))
        self.assertEqual(arguments.seckey, Path("/d"))
        self.assertEqual(arguments.retry, 2.0)

    def test_wrong_usage_exits_2_and_says_why(self) -> None:
        for argv, why in (
            ([], "--connect"),
            (["-c", "nonsense"], "invalid ADDRESS:PORT value: 'nonsense'"),
            (["-c", "h:1", "--timeout", "0"], "invalid number of seconds value: '0'"),
            (["-c", "h:1", "--retry", "nan"], "invalid number of seconds value: 'nan'"),
            (["-c", "h:1", "surplus"], "surplus"),
        ):
            stderr = io.StringIO()
            with redirect_stderr(stderr):
                error = self.assertRaises(SystemExit, fetch.main, argv)
            self.assertEqual(error.code, 2)
            self.assertIn(why, stderr.getvalue())

    def test_a_signal_ends_it_in_an_orderly_way(self) -> None:
        self.assertEqual(self.assertRaises(SystemExit, fetch._exit_on, 15, None).code, 143)


class Output(io.RawIOBase):
    """A standard output that keeps what it gets, or has no room for it."""

    def __init__(self, full: bool = False) -> None:
        super().__init__()
        self.full = full
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.written += bytes(data)
        return len(data)


class Programme(SynchronousTestCase):
    """All of it but the network."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "tls-pubkey.pem").write_bytes(PUBLIC_PEM)
        (directory / "tls-privkey.pem").write_bytes(PRIVATE_PEM)
        self.argv = ["-c", "::1:80"]
        for option, name in (("-T", "tls-pubkey.pem"), ("-t", "tls-privkey.pem"), ("-p", "absent"), ("-s", "absent")):
            self.argv += [option, str(directory / name)]
        self.said: list[str] = []

    def fetch(self, *argv: str) -> bytes | int:
        def connect(server: Server, seconds: float) -> socket.socket:
            raise ConnectionRefusedError(111, "Connection refused")

        arguments = fetch.options().parse_args([*self.argv, *argv])
        return fetch.fetch(arguments, self.said.append, lambda context: Petitioner(context, connect))

    def main(self, stdout: Output) -> int:
        """The whole of ``mandos-fetch --blob``, asking a server that gives it."""

        def deliver(server: MandosServer) -> None:
            server.give(b"blob")
            server.end()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        server = MandosServer(deliver)
        self.addCleanup(server.close)
        with redirect_stdout(io.TextIOWrapper(stdout, write_through=True)):  # type: ignore[type-var] # it only writes
            return fetch.main([*self.argv, "--blob"], lambda context: Petitioner(context, server.connect, server.wait))

    def test_the_secret_goes_to_standard_output_as_it_is(self) -> None:
        stdout = Output()
        self.assertEqual(self.main(stdout), 0)
        self.assertEqual(stdout.written, b"blob")

    def test_standard_output_that_takes_nothing_is_a_failure(self) -> None:
        stderr = io.StringIO()
        with redirect_stderr(stderr):
            self.assertEqual(self.main(Output(full=True)), 1)
        self.assertEqual(stderr.getvalue(), "mandos-fetch: standard output: No space left on device\n")

    def test_a_missing_gpg_is_noticed_before_any_server_is_asked(self) -> None:
        self.patch(os, "environ", {**os.environ, "PATH": "/nonexistent"})
        private = self.argv[self.argv.index("-t") + 1]
        self.assertEqual(self.fetch("-p", private, "-s", private), 78)
        self.assertEqual(self.said, ["the gpg program is missing; install gnupg, or use --blob"])

    def test_keys_that_are_missing_are_noticed_before_any_server_is_asked(self) -> None:
        self.assertEqual(self.fetch(), 78)
        self.assertEqual(len(self.said), 1)
        self.assertIn("absent: No such file", self.said[0])

    def test_a_failure_tells_the_key_id(self) -> None:
        self.assertEqual(self.fetch("--blob", "--once"), 1)
        self.assertIn(OUR_KEY_ID, self.said[-1])

    def test_the_end_of_time_is_said(self) -> None:
        self.assertEqual(self.fetch("--blob", "--timeout=0.001", "--retry=0.001"), 1)
        self.assertIn("no secret within 0.001 s; --timeout gives it longer", self.said)

    def test_a_failure_is_the_exit_status_of_the_script(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        stderr = io.StringIO()
        with redirect_stderr(stderr):
            self.assertEqual(fetch.main(self.argv), 78)
        self.assertTrue(stderr.getvalue().startswith("mandos-fetch: "))
