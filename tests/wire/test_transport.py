"""Tests of ``mandos_tx.wire.transport``: what a real peer hardly ever makes happen. See also ``test_protocol``."""

from __future__ import annotations

import socket
from typing import Any

from attrs import define, field
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import KeyID
from mandos_tx.interfaces import Refused
from mandos_tx.wire.gnutls import GnuTLSError
from mandos_tx.wire.transport import MAX_UNASKED, SLICE, Connection
from tests.wire.peers import LINE, Court, Permit


@define(eq=False)
class ScriptedSession:
    """TLS that goes as it is told."""

    sendable: list[int | None] = field(factory=list)
    """What the next calls to send take; everything when there is none."""
    byes: list[bool] = field(factory=list)
    closed: int = 0
    alerts: list[GnuTLSError] = field(factory=list)
    fault: Exception | None = None

    def handshake(self) -> bool:
        if self.fault is not None:
            raise self.fault
        return True

    def peer_key_id(self) -> KeyID:
        return KeyID("A" * 64)

    def send(self, data: bytes, start: int) -> int | None:
        return self.sendable.pop(0) if self.sendable else min(len(data) - start, 16384)

    def bye(self) -> bool:
        return self.byes.pop(0) if self.byes else True

    def receive(self) -> bytes | None:
        return None

    def send_alert(self, error: GnuTLSError) -> None:
        self.alerts.append(error)

    def close(self) -> None:
        self.closed += 1


@define(eq=False)
class ScriptedContext:
    script: ScriptedSession
    fault: Exception | None = None

    def session(self, descriptor: int) -> ScriptedSession:
        if self.fault is not None:
            raise self.fault
        return self.script


class TransportTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.court = Court(self)
        self.session = ScriptedSession()
        self.context: Any = ScriptedContext(self.session)

    def connect(self) -> tuple[Connection, socket.socket]:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = Connection(ours, "192.0.2.1", self.court.hall, self.context)
        self.court.hall.admit(connection, self.court.factory.build(connection))
        return connection, theirs

    def greeted(self) -> tuple[Connection, socket.socket]:
        """One that has said its line; by the script, all else follows at once."""
        connection, theirs = self.connect()
        theirs.sendall(LINE)
        self.court.turn()
        return connection, theirs

    def permit(self) -> Permit:
        return self.court.doorman.permits[-1]

    def test_without_a_session_there_is_no_conversation(self) -> None:
        self.context.fault = GnuTLSError(-25, "Internal error in memory allocation.")
        connection, _ = self.greeted()
        self.assertEqual("gone", connection.stage)

    def test_a_handshake_that_fails_is_told_to_the_peer_and_to_the_log(self) -> None:
        self.session.fault = GnuTLSError(-43, "Error in the certificate.")
        connection, _ = self.greeted()
        self.assertEqual(
            ("gone", [self.session.fault], 1), (connection.stage, self.session.alerts, self.session.closed)
        )
        self.assertEqual(
            ["TLS handshake with 192.0.2.1 failed: Error in the certificate."], self.court.log.texts(LogLevel.info)
        )

    def test_a_socket_that_fails_ends_it_and_one_that_was_not_ready_does_not(self) -> None:
        for fault, stage in (
            (ConnectionResetError(104, "Connection reset by peer"), "gone"),
            (OSError("no number"), "gone"),
            (InterruptedError(4, "Interrupted system call"), "handshake"),
        ):
            self.session.fault = fault
            self.assertEqual(stage, self.greeted()[0].stage)

    def test_woken_for_nothing_it_waits_on(self) -> None:
        connection, _ = self.connect()
        connection.ready()
        self.assertEqual("greeting", connection.stage)

    def test_a_secret_goes_on_where_the_network_took_no_more(self) -> None:
        self.court.doorman.secret = bytes(100)
        self.session.sendable = [40, None, 30]
        connection, theirs = self.greeted()
        self.assertEqual(("sending", []), (connection.stage, self.permit().outcomes))
        self.court.turn()
        self.assertEqual(["delivered"], self.permit().outcomes)
        theirs.close()

    def test_a_large_one_lets_others_have_their_turn(self) -> None:
        self.court.doorman.secret = bytes(3 * SLICE)
        connection, _ = self.greeted()
        turns = 0
        while connection.stage == "sending":
            self.court.turn()
            turns += 1
        self.assertEqual(3, turns)

    def test_a_secret_is_delivered_only_with_the_good_bye(self) -> None:
        self.session.byes = [False, False, True]
        connection, _ = self.greeted()
        self.court.turn()
        self.assertEqual(("sending", []), (connection.stage, self.permit().outcomes))
        self.court.turn()
        self.assertEqual(("closing", ["delivered"]), (connection.stage, self.permit().outcomes))

    def test_a_refusal_whose_good_bye_does_not_fit_is_sent_later_and_is_no_delivery(self) -> None:
        def refuse() -> Any:
            raise Refused(None)

        self.court.doorman.answer = refuse
        self.session.byes = [False]
        connection, _ = self.greeted()
        self.assertEqual("sending", connection.stage)
        self.court.turn()
        self.assertEqual("closing", connection.stage)

    def test_a_peer_that_talks_on_instead_of_closing_is_left(self) -> None:
        self.session.byes = [False]
        connection, theirs = self.greeted()
        sent = 0
        while sent <= MAX_UNASKED * 4096 and connection.stage != "gone":
            try:
                sent += theirs.send(bytes(4096))
            except BlockingIOError:
                self.court.turn()
                connection.ready()
            except BrokenPipeError:
                break
        self.court.turn()
        connection.ready()
        self.assertEqual("gone", connection.stage)
        self.assertEqual(["delivered"], self.permit().outcomes)

    def test_it_ends_once(self) -> None:
        connection, _ = self.greeted()
        connection.abort()
        connection.abort()
        connection.ready()
        self.assertEqual(("gone", 1), (connection.stage, self.session.closed))

    def test_a_conversation_that_ends_it_at_the_delivery_is_obeyed(self) -> None:
        class Rude(Permit):
            def delivered(self) -> None:
                connection.abort()

        connection, theirs = self.connect()
        self.court.doorman.answer = lambda: Rude(b"secret")
        theirs.sendall(LINE)
        self.court.turn()
        self.assertEqual("gone", connection.stage)
