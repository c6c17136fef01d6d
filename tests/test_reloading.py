"""Tests of ``mandos_tx.reloading``."""

from __future__ import annotations

import os
import signal
import socket
import tempfile

from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration import Configuration
from mandos_tx.formats.complaint import Complaint, ConfigurationError
from mandos_tx.privileged_reader import PrivilegedReadError
from mandos_tx.registry import Registry
from mandos_tx.reloading import Reloading
from mandos_tx.roster import Roster
from mandos_tx.state.keeper import Keeper
from mandos_tx.supervision import Supervision
from tests.fakes import FaultyStore, Log, Machine, PretendedReactor, SlowThread, definition_of, run_at_once


class ReloadingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log()
        self.log.listen(self)
        self.machine = Machine()
        clock = self.machine.clock()
        self.registry = Registry(self.machine.reactor, clock)
        self.addCleanup(self.registry.stop)
        keeper = Keeper(self.registry, FaultyStore(), clock, self.machine.reactor, run_at_once)
        keeper.load()
        keeper.start()
        roster = Roster(self.registry, keeper, clock)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(self.manager.close)
        directory = tempfile.TemporaryDirectory()  # Trial's own may be too deep for a socket (unix(7))
        self.addCleanup(directory.cleanup)
        path = os.path.join(directory.name, "notify")
        self.manager.bind(path)
        self.thread = SlowThread()
        self.found: Configuration | Exception = Configuration((definition_of(1),), ())
        self.opened = 0
        self.reactor = PretendedReactor()
        self.reloading = Reloading(
            self.reactor,
            self.read,
            self.thread,
            roster,
            Supervision(self.reactor, {"NOTIFY_SOCKET": path}),
            self.open_logs,
        )
        before = signal.getsignal(signal.SIGHUP)
        self.reloading.startService()
        self.addCleanup(signal.signal, signal.SIGHUP, before)

    def open_logs(self) -> None:
        self.opened += 1

    def read(self) -> Configuration:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def told(self) -> list[str]:
        told = []
        while True:
            try:
                told.append(self.manager.recv(1000).decode("ascii").partition("=")[0])
            except BlockingIOError:
                return told

    def test_what_was_read_is_applied_and_the_manager_told(self) -> None:
        warning = Complaint("clients.conf", 3, "a", "b", "odd", "mend it")
        self.found = Configuration((definition_of(1), definition_of(2)), (warning,))
        result = self.reloading.reload("root")
        self.assertEqual((["RELOADING"], {}), (self.told(), dict(self.registry.clients)))
        self.thread.step()
        self.assertIs(self.found, self.successResultOf(result))
        self.assertEqual({"client1", "client2"}, set(self.registry.clients))
        self.assertEqual(["READY"], self.told())
        self.assertIn("Configuration reloaded by root: 2 clients are defined", self.log.texts(LogLevel.info))
        self.assertEqual([str(warning)], self.log.texts(LogLevel.warn))

    def test_an_error_changes_nothing_and_every_one_is_logged(self) -> None:
        complaints = [Complaint("clients.conf", line, "a", "b", "bad", "mend it") for line in (3, 4)]
        for error, lines in (
            (
                ConfigurationError(complaints),
                [*map(str, complaints), "The configuration was not reloaded; everything stays as it was"],
            ),
            (PrivilegedReadError("it is gone"), ["The configuration was not reloaded: it is gone"]),
        ):
            self.log.events.clear()
            self.found = error
            result = self.reloading.reload("root")
            self.thread.step()
            self.failureResultOf(result, type(error))
            self.assertEqual(lines, self.log.texts(LogLevel.error))
            self.assertEqual(["RELOADING", "READY"], self.told())
        self.assertEqual({}, dict(self.registry.clients))

    def test_what_nobody_thought_of_is_logged_with_its_traceback(self) -> None:
        self.found = ZeroDivisionError()
        result = self.reloading.reload("root")
        self.thread.step()
        self.failureResultOf(result, ZeroDivisionError)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_one_at_a_time(self) -> None:
        first, second = self.reloading.reload("a"), self.reloading.reload("b")
        self.assertEqual(1, len(self.thread.calls))
        self.thread.step()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.thread.step()
        self.successResultOf(second)

    def test_many_signals_at_once_lead_to_two_readings_at_most(self) -> None:
        for _ in range(5):
            self.reloading.hang_up()
        self.assertEqual(5, self.opened)
        self.thread.step()
        self.thread.step()
        self.assertEqual([], self.thread.calls)

    def test_a_signal_that_leads_to_an_error_is_survived(self) -> None:
        self.found = PrivilegedReadError("it is gone")
        self.reloading.hang_up()
        self.thread.step()

    def test_the_signal_is_ours_while_the_service_runs(self) -> None:
        self.reloading.stopService()
        before = signal.getsignal(signal.SIGHUP)
        self.reloading.startService()
        handler = signal.getsignal(signal.SIGHUP)
        self.assertIsNot(before, handler)
        assert callable(handler)
        handler(signal.SIGHUP, None)
        self.assertEqual([], self.thread.calls)
        self.reactor.work()
        self.assertEqual(1, len(self.thread.calls))
        self.reloading.stopService()
        self.assertIs(before, signal.getsignal(signal.SIGHUP))

    def test_the_signal_does_not_kill_a_server_that_stops(self) -> None:
        for before, after in ((signal.SIG_DFL, signal.SIG_IGN), (signal.SIG_IGN, signal.SIG_IGN)):
            self.reloading.stopService()
            signal.signal(signal.SIGHUP, before)
            self.reloading.startService()
            self.reloading.stopService()
            self.assertIs(after, signal.getsignal(signal.SIGHUP))
            self.reloading.startService()

    def test_what_is_read_when_the_server_has_stopped_is_not_applied(self) -> None:
        first, second = self.reloading.reload("root"), self.reloading.reload("root")
        self.reloading.stopService()
        for result in (first, second):
            self.failureResultOf(result, CancelledError)
        self.assertEqual(["RELOADING"], self.told())
        self.thread.step()
        self.assertEqual([], self.thread.calls)
        self.assertEqual({}, dict(self.registry.clients))
        self.assertEqual([], self.log.texts(LogLevel.error))
