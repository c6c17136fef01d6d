"""Tests of ``mandos_tx.throttle``."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.throttle import BURST, PERIOD, Throttle
from tests.fakes import Log


class ThrottleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Clock()
        self.log = Log()
        self.log.listen(self)
        self.throttle = Throttle(self.reactor, "refusals")
        self.throttle.startService()

    def admitted(self, attempts: int) -> int:
        return sum(self.throttle.admits() for _ in range(attempts))

    def test_so_many_lines_are_admitted_in_a_period_and_the_rest_is_counted_at_its_end(self) -> None:
        self.assertEqual(BURST, self.admitted(BURST + 12))
        self.reactor.advance(PERIOD)
        self.assertEqual(["12 more refusals in the last 60 seconds"], self.log.texts(LogLevel.warn))
        self.assertEqual(BURST, self.admitted(100))

    def test_a_period_begins_with_the_first_line(self) -> None:
        self.reactor.advance(PERIOD - 1)
        self.admitted(BURST)
        self.reactor.advance(PERIOD - 1)
        self.assertEqual(0, self.admitted(1))

    def test_when_nothing_was_kept_back_nothing_is_said(self) -> None:
        self.admitted(BURST)
        self.reactor.advance(PERIOD)
        self.throttle.stopService()
        self.assertEqual([], self.log.texts(LogLevel.warn))

    def test_the_end_of_the_server_ends_the_period(self) -> None:
        self.admitted(BURST + 1)
        self.reactor.advance(10)
        self.throttle.stopService()
        self.assertEqual(["1 more refusals in the last 10 seconds"], self.log.texts(LogLevel.warn))
        self.assertEqual([], self.reactor.getDelayedCalls())
