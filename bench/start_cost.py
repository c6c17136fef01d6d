"""What a start costs with many clients: time until the server listens and until it delivers, CPU, resident memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from attrs import frozen

from bench.fleet import Fleet, make_fleet
from bench.load import deliver
from bench.process import cpu_time, resident_bytes, resident_bytes_of_descendants
from bench.report import Promise, Section, mebibytes, table
from bench.servers import ours

_NO_CHECKS = "interval = P1D\ntimeout = P1W"
_SETTLE = 1.0
"""Seconds from the first secret until memory is read."""
_PROMISES = {10_000: ("3 s", "150 MiB"), 100_000: ("30 s", "1 GiB")}


@frozen
class _Plan:
    """How much is measured."""

    clients: Sequence[int]
    repeats: int
    """Of each start but the largest, which happens once."""


_FULL = _Plan(clients=(10, 1_000, 10_000, 100_000), repeats=3)
_QUICK = _Plan(clients=(10, 1_000), repeats=1)


@frozen
class _Start:
    listening: float
    delivering: float
    cpu: float
    """Of the whole process tree until the first secret."""
    resident: int
    helpers: int
    failures: int


def measure(quick: bool, python: str, directory: Path) -> Section:
    """Start the server with each number of clients, on a state that is empty and on the one that it left."""
    plan = _QUICK if quick else _FULL
    rows = []
    promises = []
    for count in plan.clients:
        fleet = make_fleet(directory / str(count), clients=count, keys=1, schedule=_NO_CHECKS)
        repeats = plan.repeats if count < max(plan.clients) else 1
        first = _start(python, fleet)
        again = [_start(python, fleet) for _ in range(repeats)]
        rows.append(_row(f"{count:,}", "first", [first]))
        rows.append(_row(f"{count:,}", "again", again))
        if count in _PROMISES:
            starts = [first, *again]
            seconds, memory = _PROMISES[count]
            listening = max(start.listening for start in starts)
            delivering = max(start.delivering for start in starts)
            resident = max(start.resident for start in starts)
            promises.append(Promise(f"listening with {count:,} clients", seconds, f"{listening:.2f} s"))
            promises.append(Promise(f"first secret with {count:,} clients", "", f"{delivering:.2f} s"))
            promises.append(Promise(f"resident with {count:,} clients", memory, mebibytes(resident)))
    header = ["clients", "start", "CPU, s", "listening, s", "first secret, s", "resident", "helpers", "failed"]
    body = (
        "Clients with a secret of 1 KiB and checks once a day. CPU is that of the whole process tree until the first "
        "secret was delivered. First: the state directory was empty; again: with the state that the start before has "
        f"left, medians of {plan.repeats} (the largest once). Memory is read {_SETTLE:.0f} s after the first "
        f"secret; helpers are the processes that the server has running.\n\n{table(header, rows)}"
    )
    return Section("Start", promises, body)


def _start(python: str, fleet: Fleet) -> _Start:
    began = time.monotonic()
    with ours(python, fleet) as server:
        delivered = deliver(server, fleet, total=1)
        delivering = time.monotonic() - began
        cpu = cpu_time(server.pid).total
        time.sleep(_SETTLE)
        return _Start(
            listening=server.listening_after,
            delivering=delivering,
            cpu=cpu,
            resident=resident_bytes(server.pid),
            helpers=resident_bytes_of_descendants(server.pid),
            failures=delivered.failures,
        )


def _row(clients: str, kind: str, starts: Sequence[_Start]) -> list[str]:
    def of(value: Callable[[_Start], float]) -> float:
        return median(value(start) for start in starts)

    return [
        clients,
        kind,
        f"{of(lambda start: start.cpu):.2f}",
        f"{of(lambda start: start.listening):.2f}",
        f"{of(lambda start: start.delivering):.2f}",
        mebibytes(of(lambda start: start.resident)),
        mebibytes(of(lambda start: start.helpers)),
        str(sum(start.failures for start in starts)),
    ]
