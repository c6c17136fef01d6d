"""The wall clock may be stepped, and the server restarted: nobody loses time, and nobody gains any."""

from __future__ import annotations

import glob
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from twisted.internet import task
from twisted.trial.unittest import SkipTest

from mandos_tx.clock import Clock, TimeLine, boot_time, read_boot_id, wall_time
from mandos_tx.core.client import ClientDefinition, ClientSettings, Exited, KeyID
from mandos_tx.core.happenings import CheckFinished, SecretDelivered
from mandos_tx.registry import Registry
from mandos_tx.roster import Roster
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.keeper import Keeper
from mandos_tx.state.sqlite import SqliteStore
from tests.fakes import run_at_once
from tests.integration.harness import ControlledServer, Peer, ServerTestCase

DAY = 86400
LATE = 5.0
"""Seconds that a busy machine may be late by."""


def faketime() -> str:
    """The library, by its path. Skips the test without it."""
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        raise SkipTest("libfaketime is not installed (package libfaketime)")
    return found[0]


class WallClock:
    """The wall clock of the processes that have this environment."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "faketime"
        self.step(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            # what a step of the wall clock leaves alone
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: int) -> None:
        """Be off by so much."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n", "ascii")
        new.chmod(0o644)
        new.rename(self._file)


class Steps(ServerTestCase):
    def setUp(self) -> None:
        self.wall = WallClock(self.directory())
        self.laptop, self.desktop, self.rack = (self.keys(name) for name in ("laptop", "desktop", "rack"))
        self.configuration = self.configdir(
            self.laptop.section(checker=":", interval="P1D", timeout="PT1H", approval_delay="PT3S"),
            self.desktop.section(checker=":", interval="PT1S", timeout="PT4S"),
            self.rack.section(checker="false", interval="PT1S", timeout="PT3S"),
        )

    def ends(self, server: ControlledServer) -> dict[str, float]:
        """When each client expires, on the clock that is not stepped."""
        now = boot_time()
        return {name: now + left for name, left in server.ask(left=None).items()}

    def days(self, server: ControlledServer) -> set[str]:
        return {match[0] for match in server.matches(r"^\d{4}-\d\d-\d\d")}

    def test_steps_of_a_day_change_no_timeout_and_no_approval(self) -> None:
        server = self.controlled_server(configdir=self.configuration, environment=self.wall.environment)
        started = time.monotonic()
        before = self.ends(server)
        with Peer(server.address, self.laptop) as peer:
            peer.prove()
            asked = time.monotonic()
            stepping = threading.Thread(target=self.step_about)
            stepping.start()
            self.assertEqual(peer.read(), self.laptop.secret)
            waited = time.monotonic() - asked
        server.wait_for("Client rack is disabled: expired")
        lived = time.monotonic() - started
        stepping.join()
        self.assertLess(abs(waited - 3), LATE)
        # its first check falls somewhere in the first second
        self.assertTrue(3 - LATE < lived < 4 + LATE, lived)
        clients = server.clients()
        self.assertEqual(
            {name: clients[name]["enabled"] for name in clients}, {"laptop": True, "desktop": True, "rack": False}
        )
        # PT15M instead of PT1H since it has its secret
        self.assertLess(abs(self.ends(server)["laptop"] - (boot_time() + 900)), LATE)
        self.assertGreater(before["laptop"], boot_time() + 3000)
        self.assertGreaterEqual(len(self.days(server)), 3)  # it was stepped indeed
        self.assertEqual(server.stop(), 0)

    def step_about(self) -> None:
        for seconds in (DAY, -DAY, 0, DAY, -DAY):
            time.sleep(0.6)
            self.wall.step(seconds)

    def test_restarts_under_a_stepped_clock_move_no_expiry(self) -> None:
        statedir = self.statedir()
        first = self.controlled_server(
            configdir=self.configuration, statedir=statedir, environment=self.wall.environment
        )
        expected = self.ends(first)["laptop"]
        first.ask(reconfigure=["laptop", {"host": "saved"}])
        first.kill()
        for seconds in (DAY, -DAY, 0):
            self.wall.step(seconds)
            server = self.controlled_server(
                configdir=self.configuration, statedir=statedir, environment=self.wall.environment
            )
            self.assertLess(abs(self.ends(server)["laptop"] - expected), LATE, seconds)
            self.assertEqual(server.stop(), 0)


class Restarts(ServerTestCase):
    """Without the processes: the clients are saved, and brought back by another server, again and again."""

    def test_a_hundred_restarts_move_no_expiry(self) -> None:
        statedir = StateDirectory(self.directory())
        definitions = [
            ClientDefinition(name, ClientSettings(KeyID(f"{number:064X}"), None, b"secret", timeout=timedelta(hours=1)))
            for number, name in enumerate(("new", "checked", "served"))
        ]
        expected: dict[str, float] = {}
        for number in range(101):
            offset = timedelta(days=(0, 1, -1, 400)[number % 4]) if number else timedelta(0)
            clock = Clock(TimeLine(read_boot_id(), wall_time() + offset - timedelta(seconds=boot_time())))
            reactor = task.Clock()
            registry = Registry(reactor, clock)
            keeper = Keeper(registry, SqliteStore(statedir), clock, reactor, run_at_once)
            restored = Roster(registry, keeper, clock).restore(keeper.load(), definitions)
            keeper.start(restored.unsaved, restored.removed, restored.absent)
            if not number:
                registry.tell("checked", CheckFinished(Exited(0), ":"))
                registry.tell("served", SecretDelivered("::1"))
            reactor.advance(1)
            ends = {
                client.name: boot_time() + (client.expires - registry.now()).total_seconds()
                for client in registry.clients.values()
                if client.expires is not None
            }
            expected = expected or ends
            self.assertEqual(set(ends), set(expected))
            for name, end in ends.items():
                self.assertLess(abs(end - expected[name]), 0.01, (name, number))
            self.successResultOf(keeper.stop())
