"""Tests of ``mandos_tx.wire.gnutls``: two ends on a socket pair."""

from __future__ import annotations

import ast
import socket
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.wire import gnutls, gnutls_abi_source
from mandos_tx.wire.gnutls import (
    DEFAULT_PRIORITY,
    MAX_RECORD,
    ConnectionEnded,
    Context,
    GnuTLSError,
    PriorityError,
    Session,
    UnusableKey,
)
from tests.wire.peers import expected_key_id, peer_context, pem_pair


class LibraryTests(SynchronousTestCase):
    def test_it_is_new_enough(self) -> None:
        self.assertGreaterEqual(tuple(map(int, gnutls.version().split("."))), (3, 6, 6))

    def test_without_it_or_with_an_old_one_there_is_a_sentence(self) -> None:
        with self.assertRaisesRegex(OSError, r"\(libnosuch\.so\.9, Debian package libgnutls30\) cannot be loaded: "):
            gnutls.load("libnosuch.so.9")
        with self.assertRaisesRegex(OSError, r"GnuTLS 99\.0\.0 or later is needed for raw public keys, this is 3\."):
            gnutls.load(oldest="99.0.0")

    def test_the_interface_is_the_one_in_the_source(self) -> None:
        path = Path(self.mktemp())
        with redirect_stdout(StringIO()):
            gnutls_abi_source.generate(path)
        generated, kept = (ast.dump(ast.parse(file.read_text())) for file in (path, gnutls_abi_source.TARGET))
        self.assertEqual(generated, kept)


class ContextTests(SynchronousTestCase):
    def test_a_bad_priority_string_is_refused_from_where_it_is_bad(self) -> None:
        with self.assertRaisesRegex(PriorityError, r" at 'NONSENSE'"):
            Context("SECURE128:NONSENSE")
        with self.assertRaises(PriorityError):
            Context("")

    def test_keys_that_are_none_are_refused_without_a_word_of_them(self) -> None:
        public, private = pem_pair()
        for bad in ((b"x", private), (public, b"x"), (public, pem_pair(1)[1][:40])):
            with self.assertRaises(UnusableKey) as caught:
                Context.with_key(DEFAULT_PRIORITY, *bad)
            self.assertNotIn("BEGIN", str(caught.exception))


class SessionTests(SynchronousTestCase):
    def setUp(self) -> None:
        ours, theirs = self.sockets = socket.socketpair()
        for sock in self.sockets:
            sock.setblocking(False)
            self.addCleanup(sock.close)
        self.ours = Context(DEFAULT_PRIORITY).session(ours.fileno())
        self.theirs = peer_context().session(theirs.fileno())
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)

    def shake_hands(self) -> None:
        done = {self.ours: False, self.theirs: False}
        for _ in range(10):
            for session in done:
                done[session] = done[session] or session.handshake()
        self.assertEqual({True}, set(done.values()))

    def test_the_key_id_is_the_digest_of_the_proven_key(self) -> None:
        self.shake_hands()
        self.assertEqual(expected_key_id(), self.ours.peer_key_id())

    def test_before_the_handshake_there_is_no_key(self) -> None:
        self.assertIsNone(self.ours.peer_key_id())

    def test_what_is_sent_arrives_and_so_does_the_end(self) -> None:
        self.shake_hands()
        self.assertIsNone(self.theirs.receive())
        self.assertEqual(5, self.ours.send(b"01234567", 3))
        self.assertEqual(b"34567", self.theirs.receive())
        self.assertTrue(self.ours.bye())
        self.assertEqual(b"", self.theirs.receive())

    def test_a_full_socket_takes_nothing_until_it_has_room(self) -> None:
        self.shake_hands()
        secret = bytes(range(256)) * (1 << 14)
        position, heard = 0, b""
        full = False
        while position < len(secret):
            sent = self.ours.send(secret, position)
            if sent is None:
                full = True
                heard += self.everything()
            else:
                self.assertLessEqual(sent, MAX_RECORD)
                position += sent
        self.assertTrue(full)
        self.assertEqual(secret, heard + self.everything())

    def everything(self) -> bytes:
        heard = b""
        while data := self.theirs.receive():
            heard += data
        return heard

    def test_a_good_bye_that_does_not_fit_is_tried_again(self) -> None:
        self.shake_hands()
        while self.ours.send(bytes(MAX_RECORD), 0) is not None:
            pass
        self.everything()
        while self.ours.send(bytes(MAX_RECORD), 0) is not None:
            pass
        self.assertFalse(self.ours.bye())
        self.everything()
        self.assertTrue(self.ours.bye())

    def test_an_end_without_a_good_bye_is_none(self) -> None:
        self.shake_hands()
        self.sockets[1].close()
        with self.assertRaises(ConnectionEnded):
            self.ours.receive()

    def test_to_who_is_gone_nothing_can_be_sent_nor_said(self) -> None:
        self.shake_hands()
        self.sockets[1].close()
        with self.assertRaises(GnuTLSError):
            self.ours.send(b"secret", 0)
        with self.assertRaises(GnuTLSError):
            self.ours.bye()

    def test_it_is_freed_once(self) -> None:
        self.ours.close()
        self.ours.close()

    def test_it_shows_nothing_of_itself(self) -> None:
        self.assertNotIn("secret", repr(self.ours))
        self.assertIsInstance(self.ours, Session)
