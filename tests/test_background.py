"""Tests of ``mandos_tx.background``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mandos_tx.background import Background


@implementer(IReactorFromThreads)
@define(eq=False)
class MainThread:
    """A reactor that makes one call at a time, when it is told to."""

    calls: SimpleQueue[Callable[[], object]] = field(factory=SimpleQueue)

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        self.calls.put(lambda: callable(*args, **kwargs))

    def turn(self) -> None:
        self.calls.get(timeout=30)()


class BackgroundTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MainThread()
        self.background = Background(self.reactor, "a test")
        self.addCleanup(self.background.stop)

    def test_the_call_runs_elsewhere_and_its_result_comes_here(self) -> None:
        result = self.background(threading.get_ident)
        self.reactor.turn()
        self.assertNotEqual(self.successResultOf(result), threading.get_ident())

    def test_arguments_are_passed_on(self) -> None:
        result = self.background(int, "ff", base=16)
        self.reactor.turn()
        self.assertEqual(self.successResultOf(result), 255)

    def test_an_exception_is_a_failure(self) -> None:
        result = self.background(int, "x")
        self.reactor.turn()
        self.failureResultOf(result, ValueError)

    def test_calls_run_one_after_the_other(self) -> None:
        first_may_end = threading.Event()
        order: list[str] = []

        def wait() -> None:
            first_may_end.wait(30)
            order.append("first")

        first = self.background(wait)
        second = self.background(order.append, "second")
        self.assertEqual(order, [])
        first_may_end.set()
        self.reactor.turn()
        self.reactor.turn()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(order, ["first", "second"])

    def test_the_thread_does_not_keep_the_process_from_ending(self) -> None:
        result = self.background(lambda: (threading.current_thread().daemon, threading.current_thread().name))
        self.reactor.turn()
        self.assertEqual(self.successResultOf(result), (True, "a test"))

    def test_stopping_ends_the_thread_after_what_was_given(self) -> None:
        current = self.background(threading.current_thread)
        last = self.background(lambda: "done")
        self.background.stop()
        self.background.stop()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(self.successResultOf(last), "done")
        thread = self.successResultOf(current)
        thread.join(30)
        self.assertFalse(thread.is_alive())

    def test_without_a_call_there_is_no_thread(self) -> None:
        before = threading.active_count()
        Background(self.reactor, "never used").stop()
        self.assertEqual(threading.active_count(), before)
