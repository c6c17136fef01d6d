"""Tests of ``mandos_tx.tap``: the server put together, started and stopped, with a pretended reactor."""

from __future__ import annotations

import ctypes
import gc
import io
import resource
import signal
import socket
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import logs, tap
from mandos_tx.clock import Clock, fresh_time_line
from mandos_tx.logs import Logging
from mandos_tx.sequence import Sequence
from mandos_tx.settings import Options
from mandos_tx.startup import EX_CONFIG, EX_FAILURE, EX_NOPERM, Prepared, prepare
from mandos_tx.state.sqlite import DATABASE
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY, Context
from mandos_tx.wire.hall import Hall
from mandos_tx.wire.listener import CannotListen, KeyServer
from tests.fakes import Log, PretendedReactor
from tests.test_privileges import PretendedSystem
from tests.wire.peers import LINE, Peer, expected_key_id

CLIENT = f"[a]\nkey_id = {expected_key_id()}\nsecret = c2VjcmV0\nchecker =\n"


class TapTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (self.directory / "clients.conf").write_text(CLIENT)
        self.reactor: Any = PretendedReactor()
        self.log = Log()
        self.log.listen(self)
        self.addCleanup(setattr, logs.threshold, "level", logs.threshold.level)
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.addCleanup(ctypes.CDLL(None).prctl, 4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    def options(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions(
            [
                *("--configdir", str(self.directory), "--statedir", str(self.directory / "state")),
                *("--no-strict-modes", "--no-zeroconf", "--no-ipv6", "--address", "127.0.0.1", "--port", "0"),
                *arguments,
            ]
        )
        return options

    def prepared(self, *arguments: str) -> Prepared:
        return prepare(self.options(*arguments))

    def assemble(self, *arguments: str, uid: int = 1000, **options: Any) -> Sequence:
        system = PretendedSystem(uid)
        clock = Clock(fresh_time_line())
        server = tap.assemble(
            self.reactor, clock, self.prepared(*arguments), {}, descriptors=1000, system=system, **options
        )
        # also where a start fails half way: no other test shall be logged by this one's server
        self.addCleanup(next(service for service in server if isinstance(service, Logging)).stopService)
        return server

    def start(self, *arguments: str, **options: Any) -> Sequence:
        server = self.assemble(*arguments, **options)
        server.privilegedStartService()
        server.startService()
        return server

    def wait(self, result: Deferred[Any]) -> None:
        done: list[object] = []
        result.addBoth(done.append)
        while not done:
            for call in self.reactor.getDelayedCalls():
                if not self.reactor._handed.qsize():
                    self.reactor.advance(max(0.0, call.getTime() - self.reactor.seconds()))
                break
            if not done:
                self.reactor.work()
        self.assertEqual([None], done)


class ServerTests(TapTestCase):
    def test_a_client_gets_its_secret_and_nothing_is_left_after_the_stop(self) -> None:
        server = self.start("--audit-log", str(self.directory / "audit"))
        readers = self.reactor.getReaders()
        [listener] = [reader for reader in readers if isinstance(reader, KeyServer)]
        [hall] = [reader for reader in readers if isinstance(reader, Hall)]
        peer = Peer(socket.create_connection(("127.0.0.1", listener.port)))
        self.addCleanup(peer.close)
        peer.socket.setblocking(False)
        peer.send(LINE)
        listener.doRead()
        while not peer.end:
            hall.doRead()
            peer.step()
            while self.reactor._handed.qsize():
                self.reactor.work()
        self.assertEqual(b"secret", peer.heard)
        peer.close()
        self.wait(server.stopService())
        self.assertEqual([], self.reactor.getReaders())
        self.assertEqual([], self.reactor.getDelayedCalls())
        self.assertIn('"outcome":"released"', (self.directory / "audit").read_text().replace(" ", ""))
        self.assertIn("Client a at 127.0.0.1 got its secret", self.log.texts(LogLevel.info))

    def test_front_ends_get_what_they_may_use_and_stop_before_it(self) -> None:
        given: list[tap.Parts] = []
        end = Service()

        def front_end(parts: tap.Parts) -> IService:
            given.append(parts)
            return end

        server = self.assemble(front_ends=[front_end])
        self.assertEqual({}, dict(given[0].registry.clients))
        services = list(server)
        kinds = [type(service).__name__ for service in services]
        self.assertLess(services.index(end), kinds.index("Readiness"))
        self.assertLess(kinds.index("PrivilegeShedding"), kinds.index("Restoring"))

    def test_root_prepares_for_whom_it_becomes(self) -> None:
        self.assemble("--audit-log", str(self.directory / "audit"), uid=0)

    def test_a_state_that_cannot_be_used_ends_the_start(self) -> None:
        (self.directory / "state").mkdir(0o700)
        (self.directory / "state" / DATABASE).write_bytes(b"this is no database" * 100)
        with redirect_stderr(io.StringIO()) as err:
            error = self.assertRaises(SystemExit, self.start)
        self.assertEqual(EX_CONFIG, error.code)
        self.assertIn(f"mandos: {self.directory}/state/{DATABASE}: ", err.getvalue())


class PartTests(TapTestCase):
    def test_a_socket_that_cannot_be_had_ends_the_start_with_its_status(self) -> None:
        self.assertEqual(EX_CONFIG, tap._status_of(CannotListen("never")))
        self.assertEqual(EX_NOPERM, tap._status_of(CannotListen("no", PermissionError(13, "no"))))
        self.assertEqual(EX_FAILURE, tap._status_of(CannotListen("no", OSError(98, "taken"))))

    def test_a_port_that_is_taken_ends_the_start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = self.assemble("--port", str(taken.getsockname()[1]))
            with redirect_stderr(io.StringIO()) as err:
                error = self.assertRaises(SystemExit, server.privilegedStartService)
        self.assertEqual(EX_FAILURE, error.code)
        self.assertIn("Address already in use", err.getvalue())

    def test_the_log_goes_where_it_was_asked_to(self) -> None:
        def kinds(*arguments: str) -> list[str]:
            return [type(sink).__name__ for sink in tap._sinks(self.prepared(*arguments).settings)]

        self.assertEqual(["SyslogSink"], kinds())
        self.assertEqual(["SyslogSink", "ConsoleSink"], kinds("--debug"))
        self.assertEqual(["SyslogSink", "JSONSink"], kinds("--debug", "--log-json"))

    def test_the_clock_of_the_reactor_is_the_servers(self) -> None:
        prepared = self.prepared()
        before = self.reactor.seconds
        server = tap.make_service(self.reactor, prepared, {})
        self.assertTrue(IService.providedBy(server))
        self.assertIsNot(before, self.reactor.seconds)

    def test_without_what_this_version_lacks_there_is_a_warning(self) -> None:
        self.assertEqual([], list(tap._not_yet(self.prepared().settings)))
        options = Options()
        options.parseOptions(["--configdir", str(self.directory), "--no-strict-modes"])
        self.assertEqual(2, len(list(tap._not_yet(prepare(options).settings))))

    def test_the_tls_context_is_the_configured_one(self) -> None:
        self.assertIsInstance(self.prepared().context, Context)
        self.assertEqual(DEFAULT_PRIORITY, self.prepared().settings.priority)
