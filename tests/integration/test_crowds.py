"""Many connections at once, slow ones and silent ones: good clients are served, and what the others cost is bounded."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SkipTest

from bench.build import BuildError, build
from bench.fleet import Fleet, make_fleet
from bench.load import Delivered, Idlers, deliver, idlers
from bench.process import resident_bytes
from bench.servers import Server
from tests.integration.harness import Peer, ServerProcess, ServerTestCase, fetch

HOST = "::ffff:127.0.0.1"
"""127.0.0.0/8 has as many addresses as one likes."""
HELD = 4096
"""How many connections that have proven nothing the server holds by default."""
IDLERS = 5000
SOURCES = 250
GREETING, HANDSHAKE = 10.0, 8.0
"""Seconds until the server ends them: the first is its own, the second is what the tests ask for."""
LIMITS = {"nothing": GREETING, "line": HANDSHAKE}
MOST_BYTES = {"nothing": 4 << 10, "line": 32 << 10}
"""Resident memory of one connection, by where it stalls."""
LATE = 0.75
"""Seconds that the server may be late with it."""
QUEUED = 2.0
"""Seconds that a connection of a flood may have waited in the listen queue and that an end may take to be noticed."""
HUGE = 10 << 20
READERS = 10


@frozen
class _Flood:
    """Connections that all stall at one place, and the server that has them."""

    stall: str
    server: ServerProcess
    idlers: Idlers


class CrowdTestCase(ServerTestCase):
    def setUp(self) -> None:
        try:
            build()
        except BuildError as error:
            raise SkipTest(str(error)) from None

    def fleet(self, clients: int) -> Fleet:
        return make_fleet(self.directory() / "fleet", clients=clients, keys=clients, schedule="interval = P1D")

    def serve(self, configdir: Path, arguments: Sequence[str] = (), wait: bool = True) -> ServerProcess:
        return self.server(configdir=configdir, host=HOST, arguments=arguments, wait=wait)

    def as_target(self, server: ServerProcess) -> Server:
        return Server(server.pid, server.port, 0.0)


class Crowds(CrowdTestCase):
    def test_256_at_once_and_a_burst_of_1000_are_all_served(self) -> None:
        fleet = self.fleet(64)
        server = self.serve(fleet.configuration)
        together = deliver(self.as_target(server), fleet, total=1024, concurrent=256, sources=50)
        self.assert_all_served(together, 1024)
        burst = deliver(self.as_target(server), fleet, total=1000, concurrent=1000, sources=100)
        self.assert_all_served(burst, 1000)

    def test_256_connections_of_one_client_are_all_served_with_one_checker_at_most(self) -> None:
        fleet = self.fleet(1)
        server = self.serve(fleet.configuration)
        self.assert_all_served(deliver(self.as_target(server), fleet, total=256, concurrent=256), 256)
        self.assertLessEqual(len(server.matches("checker started")), 1)

    def assert_all_served(self, delivered: Delivered, number: int) -> None:
        self.assertEqual((delivered.deliveries, delivered.failures, delivered.reasons), (number, 0, {}))


class Idle(CrowdTestCase):
    """5,000 connections that never get on, and a good client beside them."""

    def setUp(self) -> None:
        super().setUp()
        self.laptop = self.keys("laptop")
        self.configuration = self.configdir(self.laptop.section(checker=":"))

    def test_those_that_stall_or_trickle_cost_little_disturb_nobody_and_end_in_time(self) -> None:
        arguments = [f"--handshake-timeout=PT{HANDSHAKE:.0f}S"]
        tricklers = self.tricklers(self.serve(self.configuration, arguments))
        servers = {stall: self.serve(self.configuration, arguments, wait=False) for stall in MOST_BYTES}
        floods = [self.flood(stall, server) for stall, server in servers.items()]
        for flood in floods:
            end = flood.idlers.wait()
            self.assertEqual(end.open, 0, flood.stall)
            self.assertLess(end.longest_s, LIMITS[flood.stall] + QUEUED, flood.stall)
            self.assertLess(self.slowest_fetch(flood.server), 1.0, flood.stall)
            # counted, not listed
            self.assertLess(len(flood.server.lines), 100, flood.stall)
            self.assertEqual(flood.server.matches("Traceback"), [])
        for trickler, limit in tricklers.items():
            trickler.join(GREETING + 5)
            self.assertLess(abs(trickler.lived - limit), LATE, trickler.lived)

    def tricklers(self, server: ServerProcess) -> dict[_Trickler, float]:
        """Connections that are never silent, to a server of their own, and their limits."""
        address = ("127.0.0.1", server.port)
        line = _Trickler(address, b"1", b" ")  # never ends
        record = _Trickler(address, b"1\n", b"\x16\x03\x03\x40\x00" + bytes(100))  # nor does this
        for trickler in (line, record):
            trickler.start()
        return {line: GREETING, record: HANDSHAKE}

    def flood(self, stall: str, server: ServerProcess) -> _Flood:
        """Let them all come, and look what they cost."""
        self.slowest_fetch(server)
        before = resident_bytes(server.pid)
        flood = idlers(self.as_target(server), stall=stall, total=IDLERS, sources=SOURCES, seconds=30)
        holding = self.enterContext(flood)
        self.assertLess(self.slowest_fetch(server), 1.0, stall)
        held, memory = holding.look().open, resident_bytes(server.pid)
        self.assertGreater(held, HELD - 100, stall)
        self.assertLess((memory - before) / held, MOST_BYTES[stall], stall)
        return _Flood(stall, server, holding)

    def slowest_fetch(self, server: ServerProcess, times: int = 10) -> float:
        slowest = 0.0
        for _ in range(times):
            started = time.monotonic()
            self.assertEqual(fetch(("127.0.0.1", server.port), self.laptop), self.laptop.secret)
            slowest = max(slowest, time.monotonic() - started)
        return slowest


class SlowReaders(CrowdTestCase):
    def test_huge_secret_for_many_slow_readers_is_held_in_memory_once(self) -> None:
        laptop = self.keys("laptop")
        secret = self.secret_file(HUGE)
        server = self.serve(self.configdir(laptop.section_with_file(secret, checker=":")))
        address = ("127.0.0.1", server.port)
        self.assertEqual(fetch(address, laptop), secret.read_bytes())
        before = resident_bytes(server.pid)
        peers = [Peer(address, laptop, receive_buffer=4096) for _ in range(READERS)]
        for peer in peers:
            self.addCleanup(peer.close)
            peer.prove().read_some()
        self.assertLess(resident_bytes(server.pid) - before, HUGE)
        started = time.monotonic()
        self.assertEqual(fetch(address, laptop), secret.read_bytes())
        self.assertLess(time.monotonic() - started, 1.0)
        self.assertEqual(len(server.matches("got its secret")), 2)


class _Trickler(threading.Thread):
    """Sends a little now and then for as long as it is let; ``lived`` says how long that was."""

    def __init__(self, address: tuple[str, int], first: bytes, more: bytes) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._first = first
        self._more = more
        self.lived = 0.0

    def run(self) -> None:
        started = time.monotonic()
        with Peer(self._address) as peer:
            peer.socket.settimeout(0.2)
            peer.say(self._first)
            for byte in itertools.cycle(self._more):
                try:
                    if not peer.socket.recv(65536):
                        break
                except TimeoutError:
                    pass
                except ConnectionError:
                    break
                peer.say(bytes([byte]))
        self.lived = time.monotonic() - started
