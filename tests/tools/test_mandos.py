"""Tests of ``mandos_tx.tools.mandos``, as far as it does not take a process of its own."""

from __future__ import annotations

import ctypes
import io
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from attrs import define, field
from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import __version__
from mandos_tx.pidfile import PIDFile
from mandos_tx.startup import EX_CONFIG, EX_FAILURE
from mandos_tx.tools.mandos import main, serve


@define
class ReactorThatStops:
    """Runs for no time at all."""

    triggers: list[Callable[[], object]] = field(factory=list)
    ran: int = 0

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[[], object]) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.triggers.append(call)

    def run(self) -> None:
        self.ran += 1
        for call in self.triggers:
            call()


class Told(Service):
    """Is told to stop while it starts."""

    def startService(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class ServeTests(SynchronousTestCase):
    def setUp(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.reactor = ReactorThatStops()
        self.service = Service()
        self.path = Path(self.mktemp())

    def test_the_service_runs_as_long_as_the_reactor(self) -> None:
        serve(self.reactor, self.service)
        self.assertEqual((1, 0), (self.reactor.ran, self.service.running))

    def test_a_second_signal_during_the_stop_kills(self) -> None:
        serve(self.reactor, self.service)
        self.assertEqual([signal.SIG_DFL] * 2, [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)])

    def test_who_is_told_to_stop_while_it_starts_ends_well(self) -> None:
        error = self.assertRaises(SystemExit, serve, self.reactor, Told())
        self.assertEqual((0, 0), (error.code, self.reactor.ran))

    def test_a_pid_file_is_there_meanwhile(self) -> None:
        contents: list[str] = []
        self.reactor.triggers.append(lambda: contents.append(self.path.read_text()))
        serve(self.reactor, self.service, pid_file=PIDFile(self.path))
        self.assertEqual(([f"{os.getpid()}\n"], ""), (contents, self.path.read_text()))

    def test_there_is_one_server_for_a_pid_file(self) -> None:
        other = PIDFile(self.path)
        other.write()
        self.addCleanup(other.clear)
        with redirect_stderr(io.StringIO()) as err:
            error = self.assertRaises(SystemExit, serve, self.reactor, self.service, pid_file=PIDFile(self.path))
        self.assertEqual((EX_FAILURE, 0), (error.code, self.reactor.ran))
        self.assertIn("a server is running already", err.getvalue())

    def test_without_a_place_for_a_pid_file_it_goes_on(self) -> None:
        with redirect_stderr(io.StringIO()) as err:
            serve(self.reactor, self.service, pid_file=PIDFile(self.path / "missing"))
        self.assertIn("No such file or directory; going on without a PID file", err.getvalue())
        self.assertEqual(1, self.reactor.ran)

    def test_a_daemon_leaves_the_terminal_when_it_is_up(self) -> None:
        kept = [os.dup(descriptor) for descriptor in range(3)]
        reading, writing = os.pipe()
        where: list[str] = []
        self.reactor.triggers.append(lambda: where.extend(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
        try:
            serve(self.reactor, self.service, started=writing)
        finally:
            for descriptor, copy in enumerate(kept):
                os.dup2(copy, descriptor)
                os.close(copy)
        self.addCleanup(os.close, reading)
        self.assertEqual((b"1", b""), (os.read(reading, 10), os.read(reading, 10)))
        self.assertEqual(["/dev/null"] * 3, where)


class MainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(ctypes.CDLL(None).prctl, 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which main withdraws
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    def ends(self, *arguments: str) -> tuple[object, str, str]:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            error = self.assertRaises(SystemExit, main, arguments)
        return error.code, out.getvalue(), err.getvalue()

    def test_it_says_its_version(self) -> None:
        self.assertEqual((0, f"mandos {__version__}\n", ""), self.ends("--version"))

    def test_a_reload_that_is_asked_for_too_early_does_not_kill(self) -> None:
        self.ends("--version")
        self.assertIs(signal.SIG_IGN, signal.getsignal(signal.SIGHUP))

    def test_a_usage_error_is_status_2(self) -> None:
        status, _, err = self.ends("--nonsense")
        self.assertEqual(2, status)
        self.assertIn("mandos: error: ", err)

    def test_a_configuration_error_is_status_78(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        (directory / "clients.conf").write_text("nonsense\n")
        status, _, err = self.ends("--configdir", str(directory), "--no-strict-modes")
        self.assertEqual(EX_CONFIG, status)
        self.assertNotIn("Traceback", err)
