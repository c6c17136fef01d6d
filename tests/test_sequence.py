"""Tests of ``mandos_tx.sequence``."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.sequence import Sequence


class Slow(Service):
    """Says what it does, and ends when it is told to."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.setName(name)
        self.said = said
        self.stopped: Deferred[None] = Deferred()

    def startService(self) -> None:
        super().startService()
        self.said.append(f"{self.name} starts")

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self.said.append(f"{self.name} stops")
        return self.stopped


class SequenceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.said: list[str] = []
        self.sequence = Sequence()
        self.first, self.second = (Slow(name, self.said) for name in ("first", "second"))
        for service in (self.first, self.second):
            service.setServiceParent(self.sequence)

    def test_each_stops_only_when_those_that_rely_on_it_have_stopped(self) -> None:
        self.sequence.startService()
        stopped = self.sequence.stopService()
        self.assertEqual(["first starts", "second starts", "second stops"], self.said)
        self.assertFalse(self.sequence.running)
        self.second.stopped.callback(None)
        self.assertEqual("first stops", self.said[-1])
        self.assertNoResult(stopped)
        self.first.stopped.callback(None)
        self.successResultOf(stopped)

    def test_one_that_fails_to_stop_is_logged_and_the_others_stop(self) -> None:
        self.sequence.startService()
        stopped = self.sequence.stopService()
        self.second.stopped.errback(ZeroDivisionError())
        self.first.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
