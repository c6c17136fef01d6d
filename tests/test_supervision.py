"""Tests of ``mandos_tx.supervision``."""

from __future__ import annotations

import gc
import os
import socket
import tempfile

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.supervision import Readiness, Supervision


class SupervisionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Clock()
        directory = tempfile.TemporaryDirectory()  # Trial's own may be too deep for a socket (unix(7))
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "notify")
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(self.manager.close)
        self.manager.bind(self.path)

    def said(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self.manager.recv(1000).decode("ascii"))
            except BlockingIOError:
                return said

    def test_the_manager_is_told_how_we_are(self) -> None:
        supervision = Supervision(self.reactor, {"NOTIFY_SOCKET": self.path})
        supervision.startService()
        supervision.ready()
        supervision.reloading()
        supervision.stopping()
        supervision.stopService()
        ready, reloading, stopping = self.said()
        self.assertEqual(("READY=1", "STOPPING=1"), (ready, stopping))
        self.assertRegex(reloading, r"\ARELOADING=1\nMONOTONIC_USEC=\d+\Z")

    def test_an_abstract_socket_will_do(self) -> None:
        name = f"mandos-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
            manager.bind(f"\0{name}")
            Supervision(self.reactor, {"NOTIFY_SOCKET": f"@{name}"}).ready()
            self.assertEqual(b"READY=1", manager.recv(100))

    def test_the_watchdog_is_fed_twice_in_its_time(self) -> None:
        supervision = Supervision(self.reactor, {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": "20000000"})
        supervision.startService()
        self.reactor.pump([10] * 3)
        self.assertEqual(["WATCHDOG=1"] * 4, self.said())
        supervision.stopService()
        self.assertEqual([], self.reactor.getDelayedCalls())

    def test_a_watchdog_that_is_not_ours_or_makes_no_sense_is_left_alone(self) -> None:
        for watchdog in ({"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}, {}):
            supervision = Supervision(self.reactor, {"NOTIFY_SOCKET": self.path, **watchdog})
            supervision.startService()
            self.assertEqual([], self.reactor.getDelayedCalls())
            supervision.stopService()

    def test_without_a_manager_or_one_that_listens_nothing_is_said(self) -> None:
        Supervision(self.reactor, {}).ready()
        Supervision(self.reactor, {"NOTIFY_SOCKET": f"{self.path}.not"}).ready()

    def test_readiness_is_told_with_the_last_start_and_the_first_stop(self) -> None:
        threshold = gc.get_threshold()
        self.addCleanup(gc.set_threshold, *threshold)
        self.addCleanup(gc.unfreeze)
        readiness = Readiness(Supervision(self.reactor, {"NOTIFY_SOCKET": self.path}))
        readiness.startService()
        self.assertEqual(["READY=1"], self.said())
        readiness.stopService()
        self.assertEqual(["STOPPING=1"], self.said())
