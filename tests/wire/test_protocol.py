"""Tests of ``mandos_tx.wire.protocol``: whole conversations, with a real TLS peer and a doorman who decides."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Collection, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.happenings import Refusal
from mandos_tx.interfaces import Grant, Refused
from mandos_tx.wire.hall import Limits
from tests.wire.peers import LINE, CertifiedPeer, Court, Peer, expected_key_id


def refuse() -> Grant:
    raise Refused(Refusal.DENIED)


class ConversationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.court = Court(self)
        self.doorman = self.court.doorman

    def waiting(self) -> Deferred[Grant]:
        """Have the doorman make peers wait."""
        answer: Deferred[Grant] = Deferred(lambda _: self.withdrawn.append(True))
        self.withdrawn: list[bool] = []
        self.doorman.answer = lambda: answer
        return answer

    def test_a_peer_that_proves_its_key_gets_the_secret_and_a_proper_end(self) -> None:
        _, peer = self.court.peer("::ffff:192.0.2.9")
        self.court.serve(peer)
        self.assertEqual((b"the secret", "close_notify"), (peer.heard, peer.end))
        self.assertEqual([(expected_key_id(), "192.0.2.9")], self.doorman.petitions)
        self.assertEqual(["delivered"], self.doorman.permits[0].outcomes)

    def test_many_at_once_each_get_it(self) -> None:
        peers = [self.court.peer()[1] for _ in range(100)]
        for _ in range(40):
            self.court.turn(*peers)
        self.assertEqual([b"the secret"] * 100, [peer.heard for peer in peers])

    def test_a_refused_peer_sees_the_same_end_and_not_a_byte(self) -> None:
        self.doorman.answer = refuse
        _, peer = self.court.peer()
        self.court.serve(peer)
        self.assertEqual((b"", "close_notify"), (peer.heard, peer.end))

    def test_a_bad_greeting_is_answered_by_nothing_and_logged_once_in_words_that_are_safe(self) -> None:
        connection, peer = self.court.connect()
        peer.sendall(b"2\x1b[31m\r\n")
        self.court.turn()
        self.assertEqual("gone", connection.stage)
        self.assertEqual(b"", peer.recv(100))
        self.assertEqual(
            ["Bad greeting from 192.0.2.1: unknown protocol version '2\\x1b[31m'"],
            self.court.log.texts(LogLevel.info),
        )
        self.assertEqual([], self.court.context.sessions)

    def test_a_line_that_comes_byte_by_byte_is_as_good(self) -> None:
        _, theirs = self.court.connect()
        for byte in LINE:
            theirs.sendall(bytes([byte]))
            self.court.turn()
        peer = Peer(theirs)
        self.addCleanup(peer.close)
        self.court.serve(peer)
        self.assertEqual(b"the secret", peer.heard)

    def test_a_certificate_is_no_key(self) -> None:
        _, theirs = self.court.connect()
        theirs.sendall(LINE)
        self.court.turn()
        peer = CertifiedPeer(theirs)
        self.addCleanup(peer.close)
        self.court.serve(peer)
        self.assertEqual((b"", []), (peer.heard, self.doorman.petitions))
        self.assertEqual(
            ["Refused 192.0.2.1: it showed no raw public key (RFC 7250)"], self.court.log.texts(LogLevel.info)
        )

    def test_a_peer_whose_tls_is_another_one_is_told_so(self) -> None:
        connection, theirs = self.court.connect()
        theirs.sendall(LINE)
        self.court.turn()
        theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.court.turn()
        self.assertEqual("gone", connection.stage)
        [line] = self.court.log.texts(LogLevel.info)
        self.assertIn("TLS handshake with 192.0.2.1 failed: ", line)

    def test_an_alert_is_named(self) -> None:
        connection, theirs = self.court.connect()
        theirs.sendall(LINE)
        self.court.turn()
        peer = CertifiedPeer(theirs, ssl.TLSVersion.TLSv1_2)
        self.addCleanup(peer.close)
        self.court.serve(peer)
        self.court.turn(times=2)
        self.assertEqual("gone", connection.stage)
        [line] = self.court.log.texts(LogLevel.info)
        self.assertIn("alert has been received. Error in protocol version", line)

    def test_who_waits_gets_it_when_that_is_decided(self) -> None:
        answer = self.waiting()
        connection, peer = self.court.peer()
        self.court.turn(peer, times=5)
        self.assertEqual(("proven", b""), (connection.stage, peer.heard))
        permit = self.doorman.permit()
        answer.callback(permit)
        self.court.serve(peer)
        self.assertEqual((b"the secret", ["delivered"]), (peer.heard, permit.outcomes))

    def test_who_waits_is_refused_when_that_is_decided(self) -> None:
        answer = self.waiting()
        _, peer = self.court.peer()
        self.court.turn(peer, times=5)
        answer.errback(Refused(Refusal.TIMED_OUT))
        self.court.serve(peer)
        self.assertEqual((b"", "close_notify"), (peer.heard, peer.end))

    def test_who_goes_away_while_waiting_takes_the_petition_along(self) -> None:
        for how in ("properly", "abruptly"):
            self.waiting()
            connection, peer = self.court.peer()
            self.court.turn(peer, times=5)
            assert peer.session is not None
            if how == "properly":
                peer.session.bye()
            peer.close()
            self.court.turn(times=2)
            self.assertEqual(("gone", [True]), (connection.stage, self.withdrawn), how)
            self.assertEqual([], self.court.log.texts(LogLevel.info))

    def test_who_does_not_stop_talking_while_waiting_is_sent_away(self) -> None:
        self.waiting()
        connection, peer = self.court.peer()
        self.court.turn(peer, times=5)
        assert peer.session is not None
        for _ in range(65):
            self.assertEqual("proven", connection.stage)
            peer.session.send(b"please", 0)
            self.court.turn()
        self.assertEqual(("gone", [True]), (connection.stage, self.withdrawn))

    def test_a_doorman_who_fails_later_costs_the_connection_not_more(self) -> None:
        answer = self.waiting()
        connection, peer = self.court.peer()
        self.court.turn(peer, times=5)
        answer.errback(ZeroDivisionError())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.court.serve(peer)
        self.assertEqual(("gone", b"", "reset"), (connection.stage, peer.heard, peer.end))

    def test_a_doorman_who_fails_at_once_costs_the_connection_not_more(self) -> None:
        def fail() -> Grant:
            raise ZeroDivisionError

        self.doorman.answer = fail
        connection, peer = self.court.peer()
        self.court.serve(peer)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(("gone", b""), (connection.stage, peer.heard))

    def test_a_grant_that_is_revoked_half_way_ends_without_the_rest(self) -> None:
        self.doorman.secret = bytes(1 << 22)
        connection, peer = self.court.peer()
        self.court.turn(peer, times=4)
        [permit] = self.doorman.permits
        self.assertEqual("sending", connection.stage)
        assert permit.revoke is not None
        permit.revoke()
        self.court.serve(peer)
        self.assertLess(len(peer.heard), 1 << 22)
        self.assertEqual(("gone", "reset", ["abandoned"]), (connection.stage, peer.end, permit.outcomes))

    def test_a_peer_that_vanishes_half_way_has_not_got_it(self) -> None:
        self.doorman.secret = bytes(1 << 22)
        _, peer = self.court.peer()
        self.court.turn(peer, times=4)
        peer.close()
        self.court.turn(times=3)
        self.assertEqual(["abandoned"], self.doorman.permits[0].outcomes)

    def test_a_large_secret_arrives_whole_however_slowly_it_is_read(self) -> None:
        self.doorman.secret = bytes(range(256)) * 4096
        _, peer = self.court.peer()
        self.court.serve(peer)
        self.assertEqual(self.doorman.secret, peer.heard)
        self.assertEqual(["delivered"], self.doorman.permits[0].outcomes)

    def test_what_strangers_do_wrong_is_logged_twenty_times_a_minute_at_most(self) -> None:
        for _ in range(50):
            _, theirs = self.court.connect()
            theirs.sendall(b"x\n")
            self.court.turn()
        self.assertEqual(20, len(self.court.log.texts(LogLevel.info)))


class Wire:
    """The way between the server and a peer, on which what the peer says is cut up, changed or ended."""

    def __init__(self, court: Court) -> None:
        self.court = court
        self.connection, self._server_end = court.connect()
        self._peer_end, theirs = socket.socketpair()
        self._peer_end.setblocking(False)
        theirs.setblocking(False)
        self.peer = Peer(theirs)
        self.peer.send(LINE)
        self.passed = 0
        """Bytes that came from the peer."""

    def close(self) -> None:
        self.peer.close()
        self._peer_end.close()
        self._server_end.close()

    def run(self, change: Mapping[int, int], *, end: int = 1 << 30, cuts: Collection[int] = ()) -> None:
        """Let both talk until nothing moves any more.

        Of the peer's bytes, those in ``change`` have these bits flipped, those from ``end`` on never arrive, and those
        in ``cuts`` only after the server has dealt with those before them.
        """
        idle = 0
        while idle < 3:
            self.court.turn(self.peer)
            from_server, from_peer = _received(self._server_end), _received(self._peer_end)
            idle = idle + 1 if not from_server and not from_peer else 0
            with contextlib.suppress(OSError):
                self._peer_end.sendall(from_server)
            arriving = b""
            for value in from_peer:
                if self.passed in cuts:
                    self._arrive(arriving)
                    self.court.turn()
                    arriving = b""
                if self.passed < end:
                    arriving += bytes([value ^ change.get(self.passed, 0)])
                self.passed += 1
            self._arrive(arriving)

    def _arrive(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._server_end.sendall(data)


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except OSError:
        return b""


class TamperingTests(SynchronousTestCase):
    """What comes from the network may be anything."""

    def setUp(self) -> None:
        self.court = Court(self, Limits(handshake=10.0))

    def converse(
        self, change: Mapping[int, int] | None = None, *, end: int = 1 << 30, cuts: Collection[int] = ()
    ) -> Wire:
        """A conversation, to its end. Nothing is released but to who proved the key; nothing is left of it."""
        doorman = self.court.doorman
        doorman.petitions.clear()
        doorman.permits.clear()
        wire = Wire(self.court)
        try:
            wire.run(change or {}, end=end, cuts=cuts)
            released = bool(doorman.permits)
            self.assertLessEqual({key for key, _ in doorman.petitions}, {expected_key_id()})
            self.assertIn(wire.peer.heard, (b"", doorman.secret) if released else (b"",))
            if released:
                self.assertTrue(wire.peer.proven)
        finally:
            wire.close()
        self.court.turn()
        self.court.pass_time(20.0)
        self.assertEqual(("gone", 0, 0), (wire.connection.stage, len(self.court.hall), self.court.context.not_freed))
        self.assertEqual(self.court.doorman.permits != [], released)
        for permit in doorman.permits:
            self.assertEqual(1, len(permit.outcomes))
        self.court.context.sessions.clear()
        return wire

    def test_an_untouched_conversation_delivers(self) -> None:
        wire = self.converse()
        self.assertEqual(self.court.doorman.secret, wire.peer.heard)

    def test_it_may_arrive_in_any_two_pieces(self) -> None:
        whole = self.converse().passed
        self.assertGreater(whole, 400)
        for cut in range(whole):
            self.assertEqual(self.court.doorman.secret, self.converse(cuts={cut}).peer.heard, cut)

    @settings(max_examples=15, deadline=None)
    @given(st.sets(st.integers(0, 600), max_size=60))
    def test_it_may_arrive_in_any_pieces(self, cuts: set[int]) -> None:
        self.assertEqual(self.court.doorman.secret, self.converse(cuts=cuts).peer.heard)

    def test_it_may_arrive_byte_by_byte(self) -> None:
        self.assertEqual(self.court.doorman.secret, self.converse(cuts=range(10_000)).peer.heard)

    def test_it_may_end_anywhere_and_then_nothing_is_released_but_after_the_last_byte(self) -> None:
        for end in range(self.converse().passed):
            self.converse(end=end)
            self.assertEqual([], self.court.doorman.permits, end)

    def test_any_byte_may_be_another_and_then_nothing_is_released(self) -> None:
        unsigned = {1, *range(len(LINE), len(LINE) + 3)}  # what follows "1", and the first record's type and version
        for position in range(self.converse().passed):
            self.converse({position: 0x40})
            if position not in unsigned:
                self.assertEqual([], self.court.doorman.permits, position)

    @settings(max_examples=100, deadline=None)
    @given(st.dictionaries(st.integers(0, 600), st.integers(1, 255), min_size=1, max_size=5), st.integers(0, 700))
    def test_any_change_is_survived(self, change: dict[int, int], end: int) -> None:
        self.converse(change, end=end)
