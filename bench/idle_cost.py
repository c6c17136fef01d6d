"""What connections cost that stall: memory each, how long the server lets them live, and what a good client feels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from bench.fleet import Fleet, make_fleet
from bench.load import Delivered, Idled, deliver, idlers
from bench.process import cpu_time, resident_bytes
from bench.report import Promise, Section, mebibytes, table
from bench.servers import ours

_NO_CHECKS = "interval = P1D\ntimeout = P1W"
_SOURCES = 250
_WARM_UP = 50
_GOOD_CLIENTS = 50
_LONGEST = 45
"""Seconds that the load generator holds on; the server's own limits are 10 and 30."""


@frozen
class _Flood:
    """So many connections that stall at one place."""

    stall: str
    total: int


@frozen
class _Plan:
    """How much is measured."""

    floods: Sequence[_Flood]
    until_closed: bool
    """Whether to wait for the server to close them."""
    settle: float
    """Seconds from the end of a flood until it is seen what memory is kept."""


_FULL = _Plan(
    floods=(
        _Flood("nothing", 4000),
        _Flood("half-line", 4000),
        _Flood("line", 4000),
        _Flood("half-record", 4000),
        _Flood("nothing", 5000),
        _Flood("line", 5000),
    ),
    until_closed=True,
    settle=10,
)
_QUICK = _Plan(floods=(_Flood("nothing", 2000), _Flood("line", 2000)), until_closed=False, settle=1)

_KIBIBYTES = {"nothing": 4, "line": 32}


@frozen
class _Result:
    flood: _Flood
    held: Idled
    end: Idled
    good: Delivered
    before: int
    during: int
    after: int
    cpu: float

    @property
    def kibibytes_each(self) -> float:
        return (self.during - self.before) / 1024 / max(1, self.held.open)


def measure(quick: bool, python: str, directory: Path) -> Section:
    """_Flood a fresh server in each of the ways of the plan."""
    plan = _QUICK if quick else _FULL
    fleet = make_fleet(directory, clients=10, keys=10, schedule=_NO_CHECKS)
    results = [_flood(flood, plan, python, fleet) for flood in plan.floods]
    rows = [
        [
            f"{result.flood.stall}, {result.flood.total:,}",
            f"{result.held.open:,}",
            f"**{result.kibibytes_each:.1f}**",
            f"{result.cpu / result.flood.total * 1e6:.0f}",
            f"{result.good.p50_ms:.1f}",
            f"{result.good.max_ms:.1f}",
            str(result.good.failures),
            f"{result.end.shortest_s:.1f}-{result.end.longest_s:.1f}" if result.end.closed else "-",
            str(result.end.open) if plan.until_closed else "-",
            mebibytes(result.after - result.before),
        ]
        for result in results
    ]
    header = ["stall, connections", "held", "KiB each", "CPU each, µs", "good client p50, ms", "max, ms", "failed"]
    header += ["closed after, s", "never closed", "memory kept"]
    body = (
        f"Connections from {_SOURCES} addresses to a fresh server that stall after nothing, half of the line, the line "
        "(it waits for the answer to its ClientHello), or half of a TLS record. Memory is what the server has grown "
        "by, per connection that it held; CPU what one of them cost until then. Meanwhile a good client comes from "
        f"another address, {_GOOD_CLIENTS} times in a row. Of more than the server holds at once (4,096) the oldest "
        f"give way. Memory kept: {plan.settle:.0f} s after the end of the flood.\n\n{table(header, rows)}"
    )
    promises = _promises(results)
    most_kept = max(result.after - result.before for result in results)
    promises.append(Promise(f"memory kept {plan.settle:.0f} s after a flood", "5 MiB", mebibytes(most_kept)))
    if plan.until_closed:
        promises.append(Promise("idle connections never closed", "0", str(sum(result.end.open for result in results))))
    return Section("Idle connections", promises, body)


def _flood(flood: _Flood, plan: _Plan, python: str, fleet: Fleet) -> _Result:
    with ours(python, fleet) as server:
        deliver(server, fleet, total=_WARM_UP)
        before, cpu_before = resident_bytes(server.pid), cpu_time(server.pid)
        with idlers(server, stall=flood.stall, total=flood.total, sources=_SOURCES, seconds=_LONGEST) as held:
            deliver(server, fleet, total=1)  # it stands in the listen queue behind them, so they have been accepted
            cpu = cpu_time(server.pid) - cpu_before
            during, holding = resident_bytes(server.pid), held.look()
            good = deliver(server, fleet, total=_GOOD_CLIENTS)
            end = held.wait() if plan.until_closed else held.let_go()
        time.sleep(plan.settle)
        after = resident_bytes(server.pid)
    return _Result(flood, holding, end, good, before, during, after, cpu.total)


def _promises(results: Sequence[_Result]) -> list[Promise]:
    promises = []
    for stall, most in _KIBIBYTES.items():
        each = max(result.kibibytes_each for result in results if result.flood.stall == stall)
        where = "before its line" if stall == "nothing" else "in its handshake"
        promises.append(Promise(f"memory of a connection {where}", f"{most} KiB", f"{each:.1f} KiB"))
    slowest = max(result.good.max_ms for result in results)
    failed = sum(result.good.failures for result in results)
    most_connections = max(result.flood.total for result in results)
    what = f"a good client beside {most_connections:,} idle connections"
    return [*promises, Promise(what, "1 s", f"{slowest / 1000:.3f} s, {failed} failed")]
