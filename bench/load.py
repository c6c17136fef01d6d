"""Drives the load generator, on the core for load."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from attrs import frozen

from bench.fleet import Fleet
from bench.machine import LOAD_CORE, ROOT, started_on
from bench.servers import ADDRESS, Server

_PROGRAM = str(ROOT / "bench/build/load")


@frozen
class Delivered:
    """What ``load deliver`` says. Latencies in milliseconds, from connect() to close_notify."""

    deliveries: int
    failures: int
    reasons: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    wall_s: float


@frozen
class Idled:
    """What ``load idle`` says: when it holds the connections, when it is asked, and at its end."""

    event: str
    opened: int
    refused: int
    answered: int
    closed: int
    open: int
    shortest_s: float
    longest_s: float
    wall_s: float


def deliver(server: Server, fleet: Fleet, *, total: int, concurrent: int = 1, sources: int = 0) -> Delivered:
    """Fetch ``total`` secrets, from ``sources`` addresses in turn (0: from the usual one)."""
    command = [_PROGRAM, "deliver", ADDRESS, str(server.port), str(fleet.keys)]
    command += ["--total", str(total), "--concurrent", str(concurrent)]
    if sources:
        command += ["--sources", str(sources)]
    with started_on(LOAD_CORE):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate()
    return Delivered(**json.loads(output))


class Idlers:
    """Stalled connections that are held until ``let_go`` or until the server has closed them all."""

    def __init__(self, output: IO[str], process: subprocess.Popen[str]) -> None:
        self._output = output
        self._process = process

    def look(self) -> Idled:
        """How it is now."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.wait()

    def wait(self) -> Idled:
        """The next thing that it says: that it is over, when the server has closed them all or its time has come."""
        return Idled(**json.loads(self._output.readline()))

    def let_go(self) -> Idled:
        """Close them now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.wait()


@contextmanager
def idlers(server: Server, *, stall: str, total: int, sources: int, seconds: int) -> Iterator[Idlers]:
    """``total`` connections that stall where ``stall`` says, for so many seconds at most."""
    command = [_PROGRAM, "idle", ADDRESS, str(server.port), "--stall", stall]
    command += ["--total", str(total), "--sources", str(sources), "--timeout", str(seconds)]
    with started_on(LOAD_CORE):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            held = Idlers(process.stdout, process)
            held.wait()
            yield held
        finally:
            process.terminate()
