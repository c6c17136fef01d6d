"""Telling the service manager how we are (sd_notify(3)): ready, reloading, stopping, alive."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

GC_THRESHOLD = (20_000, 20, 20)
"""Next to nothing that a connection leaves behind is cyclic; looking for it every 700 objects would be in vain."""


class Supervision(Service):
    """Notifies the service manager, if the environment names one; says nothing otherwise.

    READY is sent by ``ready``, not by ``startService``: only the root of all services knows when the others are up.
    """

    def __init__(self, reactor: Any, environment: Mapping[str, str]) -> None:
        self._reactor = reactor
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog = _watchdog_seconds(environment)
        self._loop: LoopingCall | None = None

    def ready(self) -> None:
        self._notify("READY=1")

    def reloading(self) -> None:
        """Say that a reload has begun; ``ready`` ends it."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._notify("STOPPING=1")

    def startService(self) -> None:
        super().startService()
        if self._address and self._watchdog:
            self._loop = LoopingCall(self._notify, "WATCHDOG=1")
            self._loop.clock = self._reactor
            self._loop.start(self._watchdog / 2)

    def stopService(self) -> None:
        super().stopService()
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        self._loop = None

    def _notify(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            try:
                sock.sendto(state.encode("ascii"), address)
            except OSError:
                return  # a manager that does not listen is its own trouble


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", "0"))
        pid = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return 0.0
    return microseconds / 1e6 if pid == os.getpid() else 0.0


class Readiness(Service):
    """The last to start and the first to stop: by then, and until then, the server does all that it should."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision

    def startService(self) -> None:
        super().startService()
        # the clients are here to stay; looking for garbage among them again and again would cost the deliveries
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        self._supervision.ready()

    def stopService(self) -> None:
        super().stopService()
        self._supervision.stopping()
