"""Tests of ``mandos_tx.wire.hall``: time limits, who gives way, and that nothing is left of anybody."""

from __future__ import annotations

import socket

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.interfaces import Grant, Refused
from mandos_tx.wire.hall import CLOSING, CROWD, GREETING, SENDING, STALLED, TICK, Hall, Limits
from mandos_tx.wire.transport import Connection
from tests.wire.peers import LINE, Court


class TimeLimitTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.court = Court(self, Limits(handshake=30.0))

    def ended_after(self, connection: Connection, limit: float) -> None:
        """It is there shortly before ``limit`` seconds from now, and gone shortly after them."""
        self.court.pass_time(limit - TICK)
        self.assertNotEqual("gone", connection.stage)
        self.court.pass_time(2 * TICK)
        self.assertEqual("gone", connection.stage)

    def test_a_line_has_ten_seconds_whatever_trickles_in(self) -> None:
        connection, theirs = self.court.connect()
        for _ in range(9):
            self.court.pass_time(1)
            theirs.sendall(b"1")
            self.court.turn()
        self.ended_after(connection, GREETING - 9)

    def test_a_handshake_has_thirty_seconds_from_accept_on(self) -> None:
        connection, theirs = self.court.connect()
        self.court.pass_time(9)
        theirs.sendall(LINE)
        self.court.turn()
        self.ended_after(connection, 30 - 9)

    def test_nobody_who_was_quicker_with_the_line_delays_that(self) -> None:
        slow, slow_end = self.court.connect()
        self.court.pass_time(8)
        _, quick_end = self.court.connect()
        quick_end.sendall(LINE)
        self.court.pass_time(1)
        self.court.turn()
        slow_end.sendall(LINE)
        self.court.turn()
        self.ended_after(slow, 30 - 9)

    def test_a_handshake_may_not_be_prolonged_by_single_bytes(self) -> None:
        connection, theirs = self.court.connect()
        theirs.sendall(LINE)
        self.court.turn()
        theirs.sendall(b"\x16\x03\x03\x3f\x00\x02")  # the beginning of a long record
        for _ in range(29):
            self.court.pass_time(1)
            theirs.sendall(b"\0")
            self.court.turn()
        self.ended_after(connection, 1)

    def test_a_delivery_ends_when_the_peer_has_taken_nothing_for_half_a_minute(self) -> None:
        self.court.doorman.secret = bytes(1 << 22)
        connection, peer = self.court.peer()
        self.court.turn(peer, times=4)
        self.assertEqual("sending", connection.stage)
        self.court.pass_time(STALLED - 5)
        self.court.turn(peer, times=2)
        self.ended_after(connection, STALLED)
        self.assertEqual(["abandoned"], self.court.doorman.permits[0].outcomes)

    def test_a_delivery_ends_after_ten_minutes_whatever_gets_on(self) -> None:
        self.court.doorman.secret = bytes(1 << 25)
        connection, peer = self.court.peer()
        self.court.turn(peer, times=3)
        for _ in range(59):
            self.court.pass_time(10)
            self.court.turn(peer)
        self.assertEqual("sending", connection.stage)
        self.ended_after(connection, SENDING - 590)

    def test_a_peer_that_does_not_close_is_left_after_five_seconds(self) -> None:
        connection, peer = self.court.peer()
        self.court.serve(peer)
        self.assertEqual("closing", connection.stage)
        self.ended_after(connection, CLOSING)
        self.assertEqual(["delivered"], self.court.doorman.permits[0].outcomes)

    def test_one_that_closes_is_noticed_at_the_next_tick(self) -> None:
        connection, peer = self.court.peer()
        self.court.serve(peer)
        peer.close()
        self.court.pass_time(TICK)
        self.assertEqual("gone", connection.stage)

    def test_who_waits_for_approval_has_no_limit_here(self) -> None:
        self.court.doorman.answer = Deferred[Grant]
        connection, peer = self.court.peer()
        self.court.turn(peer, times=4)
        self.court.pass_time(1000)
        self.assertEqual("proven", connection.stage)

    def test_without_connections_the_clock_is_left_alone(self) -> None:
        _, theirs = self.court.connect()
        theirs.close()
        self.court.turn()
        self.court.pass_time(TICK)
        self.assertEqual([], self.court.reactor.getDelayedCalls())


class RoomTests(SynchronousTestCase):
    def test_never_more_than_the_limit_have_proven_nothing_and_the_oldest_goes(self) -> None:
        court = Court(self, Limits(unauthenticated=5))
        connections = [court.connect("192.0.2.1")[0] for _ in range(20)]
        self.assertEqual(["gone"] * 15 + ["greeting"] * 5, [connection.stage for connection in connections])

    def test_an_ended_delivery_does_not_count_for_that(self) -> None:
        court = Court(self, Limits(unauthenticated=5))
        for _ in range(5):
            _, peer = court.peer()
            court.serve(peer)
            peer.close()
            for _ in range(3):
                court.connect()
        self.assertLessEqual(sum(c.stage == "greeting" for c in court.hall._connections.values()), 5)

    def test_it_counts_those_in_their_handshake(self) -> None:
        court = Court(self, Limits(unauthenticated=3))
        greeted = [court.peer()[0] for _ in range(2)]
        court.pass_time(TICK)
        silent = [court.connect()[0] for _ in range(5)]
        self.assertEqual(["handshake"] * 2, [connection.stage for connection in greeted])
        self.assertEqual(["gone"] * 4 + ["greeting"], [connection.stage for connection in silent])

    def test_a_source_above_its_limit_loses_its_silent_ones_after_a_second(self) -> None:
        court = Court(self, Limits(per_source=2))
        flood = [court.connect("192.0.2.1")[0] for _ in range(5)]
        good, _ = court.connect("192.0.2.2")
        court.pass_time(0.75)
        self.assertEqual({"greeting"}, {connection.stage for connection in flood})
        court.pass_time(0.5)
        self.assertEqual(["gone"] * 3 + ["greeting"] * 2, [connection.stage for connection in flood])
        self.assertEqual("greeting", good.stage)

    def test_who_has_something_to_say_that_we_have_not_read_is_not_silent(self) -> None:
        court = Court(self, Limits(per_source=1))
        busy, theirs = court.connect()
        court.pass_time(0.75)
        idle, _ = court.connect()
        theirs.sendall(LINE)
        court.pass_time(1.25)
        self.assertEqual(("greeting", "gone"), (busy.stage, idle.stage))

    def test_who_gave_way_is_told_to_the_log_a_few_times(self) -> None:
        court = Court(self, Limits(unauthenticated=1))
        for _ in range(50):
            court.connect()
        lines = court.log.texts(LogLevel.warn)
        self.assertEqual(20, len(lines))
        self.assertEqual("Too many connections without a key (2): dropped the oldest from 192.0.2.1", lines[0])

    def test_room_for_a_descriptor_is_first_made_by_who_has_ended(self) -> None:
        court = Court(self)
        waiting, _ = court.connect()
        delivered, peer = court.peer()
        court.serve(peer)
        peer.close()
        self.assertTrue(court.hall.make_room())
        self.assertEqual(("greeting", "gone"), (waiting.stage, delivered.stage))
        self.assertTrue(court.hall.make_room())
        self.assertEqual("gone", waiting.stage)
        self.assertFalse(court.hall.make_room())

    def test_not_many_wait_for_the_end_of_their_peers_unlooked_at(self) -> None:
        court = Court(self, Limits(closing=8))
        court.doorman.answer = refuse
        ended = []
        for _ in range(9):
            connection, peer = court.peer()
            court.serve(peer)
            peer.close()
            ended.append(connection)
        self.assertEqual({"gone"}, {connection.stage for connection in ended[:-1]})

    def test_who_never_ends_is_left_when_too_many_do_so(self) -> None:
        court = Court(self, Limits(closing=8))
        court.doorman.answer = refuse
        refused = []
        for _ in range(9):
            connection, peer = court.peer()
            court.serve(peer)
            refused.append(connection)
        self.assertEqual(["gone"] * 5 + ["closing"] * 4, [connection.stage for connection in refused])

    def test_who_only_lacks_its_peers_end_makes_room_first(self) -> None:
        court = Court(self)
        court.doorman.answer = refuse
        connection, peer = court.peer()
        court.serve(peer)
        waiting, _ = court.connect()
        self.assertTrue(court.hall.make_room())
        self.assertEqual(("greeting", "gone"), (waiting.stage, connection.stage))

    def test_when_a_crowd_has_gone_its_memory_is_not_kept(self) -> None:
        court = Court(self, Limits(per_source=CROWD))
        crowd = [court.connect()[0] for _ in range(CROWD)]
        court.pass_time(TICK)
        for connection in crowd[1:]:
            connection.abort()
        court.pass_time(TICK)
        self.assertEqual(1, len(court.hall))


def refuse() -> Grant:
    raise Refused(None)


class EndTests(SynchronousTestCase):
    def test_closing_ends_every_connection_at_any_stage(self) -> None:
        court = Court(self)
        court.connect()
        court.peer()
        court.doorman.answer = Deferred[Grant]
        _, waiting = court.peer()
        court.turn(waiting, times=4)
        court.doorman.answer = None
        court.doorman.secret = bytes(1 << 22)
        _, slow = court.peer()
        court.turn(slow, times=4)
        _, done = court.peer()
        court.serve(done)
        self.assertEqual(5, len(court.hall))
        court.hall.close()
        self.assertEqual(0, len(court.hall))
        self.assertEqual(-1, court.hall.fileno())
        court.hall.close()

    def test_the_idle_may_be_dismissed_and_deliveries_go_on(self) -> None:
        court = Court(self)
        court.doorman.secret = bytes(1 << 22)
        idle, _ = court.connect()
        delivering, peer = court.peer()
        court.turn(peer, times=4)
        court.hall.dismiss_idle()
        self.assertEqual(("gone", "sending"), (idle.stage, delivering.stage))
        court.serve(peer)
        self.assertEqual(["delivered"], court.doorman.permits[0].outcomes)

    def test_it_tells_when_nobody_is_left(self) -> None:
        court = Court(self)
        told: list[str] = []
        court.hall.when_empty(lambda: told.append("at once"))
        _, theirs = court.connect()
        court.hall.when_empty(lambda: told.append("later"))
        court.pass_time(TICK)
        self.assertEqual(["at once"], told)
        theirs.close()
        court.turn()
        court.pass_time(TICK)
        self.assertEqual(["at once", "later"], told)

    def test_a_connection_that_fails_takes_no_other_along(self) -> None:
        class Faulty:
            def received(self, data: bytes) -> None:
                raise ZeroDivisionError

            def lost(self) -> None: ...

        court = Court(self)
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ours.setblocking(False)
        faulty = Connection(ours, "192.0.2.1", court.hall, court.context)
        court.hall.admit(faulty, Faulty())  # type: ignore[arg-type]  # as much of it as is asked for
        theirs.sendall(LINE)
        _, peer = court.peer()
        court.serve(peer)
        self.assertEqual(b"the secret", peer.heard)
        self.assertEqual("gone", faulty.stage)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_the_reactor_may_ask_it_what_it_asks_readers(self) -> None:
        court = Court(self)
        self.assertIn(court.hall, court.reactor.getReaders())
        self.assertGreater(court.hall.fileno(), 2)
        self.assertEqual("key server", court.hall.logPrefix())
        court.hall.connectionLost(Failure(ZeroDivisionError()))

    def test_one_that_never_started_may_be_closed(self) -> None:
        court = Court(self)
        hall = Hall(court.reactor, Limits(), court.throttle)
        hall.close()
        self.assertEqual(-1, hall.fileno())
