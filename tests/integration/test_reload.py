"""SIGHUP: the clients are read again, all or nothing, and nobody notices who is not concerned."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from tests.integration.harness import ControlledServer, Keys, ServerTestCase, fetch, need_root, status_field
from tests.integration.harness.server import server_user

DONE = r"Configuration reloaded by SIGHUP: (\d+) clients"
NOT_DONE = "The configuration was not reloaded; everything stays as it was"
BROKEN = "[rack]\ntimeout = soon\n"
LOAD = 4
"""Clients that fetch all the time."""
SETTLE = 2.0
"""Seconds after which the server has released connections that both sides have ended."""
GROWTH = 4 << 20
"""Bytes by which the server may be larger after many reloads."""


class Reload(ServerTestCase):
    def setUp(self) -> None:
        self.laptop, self.desktop = self.keys("laptop"), self.keys("desktop")

    def start(self, *sections: str) -> ControlledServer:
        """A server of files that only root can read, if it was root who started it."""
        server = self.controlled_server(*sections)
        path = server.configdir / "clients.conf"
        self.assertEqual((path.stat().st_mode & 0o777, path.stat().st_uid), (0o600, os.geteuid()))
        if (user := server_user()) is not None:
            self.assertEqual(status_field(server.pid, "Uid"), [str(user.pw_uid)] * 4)
        return server

    def reload(self, server: ControlledServer, *sections: str, expect: str = DONE) -> None:
        self.write_clients(server.configdir, *sections)
        mark = server.mark()
        server.signal(signal.SIGHUP)
        server.wait_for(expect, since=mark)

    def test_added_client_gets_its_secret_and_a_removed_one_no_more(self) -> None:
        server = self.start(self.laptop.section(checker=":"))
        self.assertEqual(fetch(server.address, self.desktop), b"")
        self.reload(server, self.desktop.section(checker=":"))
        self.assertEqual(fetch(server.address, self.desktop), self.desktop.secret)
        self.assertEqual(fetch(server.address, self.laptop), b"")
        server.wait_for("Client laptop removed: it is no longer configured")

    def test_changed_line_wins_over_a_change_at_run_time_and_an_unchanged_one_does_not(self) -> None:
        server = self.start(self.laptop.section(checker=":", timeout="PT1H", host="first"))
        server.ask(reconfigure=["laptop", {"timeout": 77, "host": "at-run-time"}])
        self.reload(server, self.laptop.section(checker=":", timeout="PT1H", host="second"))
        laptop = server.clients()["laptop"]
        self.assertEqual((laptop["timeout"], laptop["host"]), (77, "second"))

    def test_reload_during_the_stop_does_not_kill(self) -> None:
        server = self.server(self.laptop.section(checker="trap '' TERM; sleep 60"))
        self.assertEqual(fetch(server.address, self.laptop), self.laptop.secret)
        server.signal(signal.SIGTERM)
        while server.is_running():
            server.signal(signal.SIGHUP)
            time.sleep(0.001)
        self.assertEqual(server.wait(), 0)

    def test_broken_file_is_reported_line_by_line_and_changes_nothing(self) -> None:
        server = self.start(self.laptop.section(checker=":"))
        before = server.clients()
        self.reload(server, self.desktop.section(), BROKEN, expect=NOT_DONE)
        server.wait_for(r"ERROR: .*/clients\.conf:\d+: \[rack\] timeout: ")
        self.assertEqual(set(server.clients()), set(before))
        self.assertEqual(fetch(server.address, self.laptop), self.laptop.secret)
        self.assertEqual(fetch(server.address, self.desktop), b"")
        self.reload(server, self.desktop.section(checker=":"))
        self.assertEqual(set(server.clients()), {"desktop"})

    def test_server_that_is_told_while_it_starts_obeys_when_it_is_up(self) -> None:
        server = self.controlled_server(self.laptop.section(checker=":"), wait=False)
        server.wait_for("Running as" if os.geteuid() == 0 else "Listening", 20)
        self.reload(server, self.laptop.section(checker=":"), self.desktop.section(checker=":"))
        self.assertEqual(set(server.clients()), {"laptop", "desktop"})

    def test_disabled_client_stays_disabled(self) -> None:
        server = self.start(self.laptop.section(checker=":"))
        server.change("laptop", "Disable")
        self.reload(server, self.laptop.section(checker=":", timeout="PT2H"))
        self.assertFalse(server.clients()["laptop"]["enabled"])

    def test_fifty_reloads_good_and_bad_cost_no_delivery_and_leave_nothing(self) -> None:
        need_root()  # nobody else may count its descriptors
        server = self.start(self.laptop.section(checker=":"))
        good = [
            [self.laptop.section(checker=":")],
            [self.laptop.section(checker=":"), self.desktop.section(checker=":")],
        ]
        self.reload(server, *good[0])
        descriptors = self.descriptors(server)
        load = [_Load(server.address, self.laptop) for _ in range(LOAD)]
        for one in load:
            one.start()
        try:
            for _ in range(3):
                self.reload(server, *good[0])
            memory = self.memory(server)
            for number in range(50):
                if number % 2:
                    self.reload(server, BROKEN, expect=NOT_DONE)
                else:
                    self.reload(server, *good[number // 2 % 2])
        finally:
            for one in load:
                one.stop()
        self.assertEqual([failure for one in load for failure in one.failures], [])
        self.assertGreater(sum(one.served for one in load), 50)
        self.assertLess(self.memory(server) - memory, GROWTH)
        deadline = time.monotonic() + SETTLE
        while self.descriptors(server) > descriptors and time.monotonic() < deadline:
            time.sleep(0.05)
        # a checker that runs at this moment has one or two; a leak would have one for each reload or delivery
        self.assertLessEqual(self.descriptors(server), descriptors + 3)

    def descriptors(self, server: ControlledServer) -> int:
        return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))

    def memory(self, server: ControlledServer) -> int:
        return int(Path(f"/proc/{server.pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


class _Load(threading.Thread):
    """Fetches one client's secret again and again."""

    def __init__(self, address: tuple[str, int], keys: Keys) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._keys = keys
        self._stopping = threading.Event()
        self.served = 0
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                secret = fetch(self._address, self._keys)
            except OSError as error:
                self.failures.append(repr(error))
            else:
                self.served += 1
                if secret != self._keys.secret:
                    self.failures.append(f"{len(secret)} bytes of another secret")

    def stop(self) -> None:
        self._stopping.set()
        self.join()
