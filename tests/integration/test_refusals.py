"""Whoever is refused gets not one byte and cannot tell why; the log tells."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess

from tests.integration.harness import ControlledServer, Keys, Peer, ServerTestCase, fetch
from tests.integration.harness.wiretap import Wiretap

NO_CHECKS = {"checker": ":", "interval": "P1D", "timeout": "P1W"}


class Refusals(ServerTestCase):
    def start(self, *clients: Keys, **options: str) -> ControlledServer:
        return self.controlled_server(*(keys.section(**{**NO_CHECKS, **options}) for keys in clients))

    def test_disabled_expired_denied_removed_and_unknown_look_the_same_on_the_wire(self) -> None:
        names = ("disabled", "expired", "denied", "removed")
        disabled, expired, denied, removed = (self.keys(name) for name in names)
        stranger = self.keys("stranger")
        server = self.controlled_server(
            disabled.section(**NO_CHECKS, enabled="False"),
            expired.section(checker="false", interval="PT1S", timeout="PT1S"),
            denied.section(**NO_CHECKS, approved_by_default="False"),
            removed.section(**NO_CHECKS),
        )
        server.ask(remove="removed")
        server.wait_for("WARNING: Client expired is disabled: expired. Last good check: never; last checker: ")
        tap = Wiretap(server.address)
        self.addCleanup(tap.close)
        reasons = [
            (disabled, "Client disabled at ::1 was refused its secret: Disabled"),
            (expired, "Client expired at ::1 was refused its secret: Disabled"),
            (denied, "Client denied at ::1 was refused its secret: Denied"),
            (removed, f"Refused ::1: no client has the key ID {removed.key_id}"),
            (stranger, f"Refused ::1: no client has the key ID {stranger.key_id}"),
        ]
        for keys, reason in reasons:
            self.assertEqual(fetch(tap.address, keys), b"")
            server.wait_for(f"WARNING: {reason}")
        seen = [tap.records(number) for number in range(len(reasons))]
        self.assertGreater(len(seen[0]), 3)  # hello, finished, close_notify at least
        self.assertEqual(seen, [seen[0]] * len(seen))
        self.assertEqual(server.matches("got its secret"), [])

    def test_each_is_refused_again_after_a_restart(self) -> None:
        laptop, desktop = self.keys("laptop"), self.keys("desktop")
        first = self.start(laptop, desktop)
        first.change("laptop", "Disable")
        first.ask(remove="desktop")
        first.kill()
        second = self.server(configdir=first.configdir, statedir=first.statedir)
        for keys in (laptop, desktop):
            self.assertEqual(fetch(second.address, keys), b"")
        second.wait_for("Client laptop at ::1 was refused its secret: Disabled")
        second.wait_for(f"no client has the key ID {desktop.key_id}")

    def test_certificate_instead_of_a_raw_key_is_refused_even_with_a_known_key(self) -> None:
        laptop = self.keys("laptop")
        server = self.start(laptop)
        with socket.create_connection(server.address) as connection:
            connection.sendall(b"1\r\n")
            with self.with_certificate(laptop).wrap_socket(connection, server_side=True) as tls:
                self.assertEqual(tls.recv(1), b"")
        server.wait_for(r"Refused ::1: it showed no raw public key \(RFC 7250\)")
        self.assertEqual(fetch(server.address, laptop), laptop.secret)

    def with_certificate(self, keys: Keys) -> ssl.SSLContext:
        """A TLS server with an X.509 certificate for the client's own key."""
        private, certificate = str(keys.directory / "tls-privkey.pem"), str(self.directory() / "certificate.pem")
        command = ["openssl", "req", "-x509", "-new", "-subj", "/CN=laptop", "-key", private, "-out", certificate]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, private)
        return context

    def test_older_tls_is_refused(self) -> None:
        laptop = self.keys("laptop")
        server = self.start(laptop)
        context = self.with_certificate(laptop)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection(server.address) as connection:
            connection.sendall(b"1\r\n")
            self.assertRaises((ssl.SSLError, ConnectionError), context.wrap_socket, connection, server_side=True)
        server.wait_for("INFO: TLS handshake with ::1 failed: ")

    def test_whatever_is_not_the_line_ends_the_connection_without_a_byte(self) -> None:
        server = self.start(self.keys("laptop"))
        lines = {
            b"0\r\n": r"unknown protocol version '0'",
            b"2\r\n": r"unknown protocol version '2'",
            b"01\n": r"unknown protocol version '01'",
            b"\r\n": r"unknown protocol version ''",
            b"\x00\xff1\n": r"unknown protocol version '\x00\xff1'",
            b"GET / HTTP/1.1\r\n\r\n": r"unknown protocol version 'GET'",
            "\u0661\r\n".encode(): r"unknown protocol version '\xd9\xa1'",
            b"\x1b]0;owned\x07\n": r"unknown protocol version '\x1b]0;owned\x07'",
            b"1" * 300: r"no end of line within 256 bytes",
            b"1\r\n\x16\x03\x01": r"more bytes than the line",
        }
        for line, reason in lines.items():
            with Peer(server.address) as peer:
                peer.say(line)
                self.assertEqual(peer.read_without_tls(), b"", line)
            server.wait_for(re.escape(f"INFO: Bad greeting from ::1: {reason}"))

    def test_line_may_come_byte_by_byte_end_in_lf_and_say_more(self) -> None:
        laptop = self.keys("laptop")
        server = self.start(laptop)
        for line in (b"1\n", b"  1 and more\r\n"):
            with Peer(server.address, laptop) as peer:
                for byte in line[:-1]:
                    peer.say(bytes([byte]))
                self.assertEqual(peer.prove(line[-1:]).read(), laptop.secret)
