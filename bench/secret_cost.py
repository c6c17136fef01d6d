"""CPU per delivered secret, ours beside the floor, in rounds that alternate so that both get the same weather."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from attrs import define, field, frozen

from bench.fleet import make_fleet
from bench.load import Delivered, deliver
from bench.process import cpu_time
from bench.report import Promise, Section, table
from bench.servers import Server, floor, ours

_KEYS = 256
_SOURCES = 250
_WARM_UP = 100
_NO_CHECKS = "interval = P1D\ntimeout = P1W"


@frozen
class _Plan:
    """How much is measured."""

    concurrent: Sequence[int]
    rounds: int
    deliveries: int
    """In each round of each server."""
    burst: int


_FULL = _Plan(concurrent=(1, 16, 64, 256), rounds=5, deliveries=2000, burst=1000)
_QUICK = _Plan(concurrent=(1, 16, 256), rounds=3, deliveries=250, burst=500)


@define
class _Rounds:
    """What the rounds of one server at one concurrency gave."""

    costs: list[float] = field(factory=list)
    """CPU seconds per secret, of the whole process tree."""
    delivered: list[Delivered] = field(factory=list)

    @property
    def microseconds(self) -> float:
        return median(self.costs) * 1e6

    @property
    def latencies(self) -> list[str]:
        return [f"{median(d.p50_ms for d in self.delivered):.1f}", f"{median(d.p99_ms for d in self.delivered):.1f}"]

    @property
    def failures(self) -> int:
        return sum(d.failures for d in self.delivered)


def measure(quick: bool, python: str, directory: Path) -> Section:
    """Deliver the same secrets from both servers, in turn."""
    plan = _QUICK if quick else _FULL
    fleet = make_fleet(directory, clients=_KEYS, keys=_KEYS, schedule=_NO_CHECKS)
    rounds = {concurrent: (_Rounds(), _Rounds()) for concurrent in plan.concurrent}
    with ours(python, fleet) as our_server, floor(fleet) as floor_server:
        both = (our_server, floor_server)

        def run(server: Server, total: int, concurrent: int) -> Delivered:
            return deliver(server, fleet, total=total, concurrent=concurrent, sources=_SOURCES)

        for server in both:
            run(server, _WARM_UP, 1)
        for concurrent, results in rounds.items():
            for _ in range(plan.rounds):
                for server, result in zip(both, results, strict=True):
                    before = cpu_time(server.pid)
                    delivered = run(server, plan.deliveries, concurrent)
                    spent = cpu_time(server.pid) - before
                    result.costs.append(spent.total / max(1, delivered.deliveries))
                    result.delivered.append(delivered)
        bursts = [run(server, plan.burst, plan.burst) for server in both]
    return _section(plan, rounds, bursts)


def _section(plan: _Plan, rounds: dict[int, tuple[_Rounds, _Rounds]], bursts: Sequence[Delivered]) -> Section:
    rows = [
        [
            str(concurrent),
            f"**{_ratio([pair]):.2f}**",
            f"{pair[0].microseconds:.0f}",
            f"{pair[1].microseconds:.0f}",
            f"{1e6 / pair[0].microseconds:.0f}",
            f"{1e6 / pair[1].microseconds:.0f}",
        ]
        for concurrent, pair in rounds.items()
    ]
    latency_rows = [
        [str(concurrent), *pair[0].latencies, *pair[1].latencies, str(pair[0].failures), str(pair[1].failures)]
        for concurrent, pair in rounds.items()
    ]
    latency_rows.append(
        [
            f"burst of {plan.burst:,}",
            *(f"{latency:.1f}" for burst in bursts for latency in (burst.p50_ms, burst.p99_ms)),
            *(str(burst.failures) for burst in bursts),
        ]
    )
    header = ["clients at once", "ours / floor", "ours, µs", "floor, µs", "ours per CPU-second", "floor per CPU-second"]
    latency_header = ["clients at once", "ours p50", "p99", "floor p50", "p99", "ours failed", "floor failed"]
    body = (
        "CPU time of the whole process tree per secret of 1 KiB to an Ed25519 key: medians of "
        f"{plan.rounds} rounds of {plan.deliveries:,} deliveries each, ours and the floor in turn; the ratio is the "
        f"median over the pairs of rounds.\n\n{table(header, rows)}\n\n"
        f"Latency from connect() to close_notify in milliseconds of wall time, {_KEYS} keys from {_SOURCES} addresses:"
        f"\n\n{table(latency_header, latency_rows)}"
    )
    failed = sum(pair[0].failures for pair in rounds.values())
    promises = [
        Promise("CPU per delivered secret, ours / floor", "1.5", f"{_ratio(rounds.values()):.2f}"),
        Promise("failed deliveries, 1 to 256 clients at once", "0", str(failed)),
        Promise(f"failed deliveries in a burst of {plan.burst:,}", "0", str(bursts[0].failures)),
    ]
    return Section("CPU per delivered secret", promises, body)


def _ratio(pairs: Iterable[tuple[_Rounds, _Rounds]]) -> float:
    """The median over all rounds of what ours cost as a multiple of the floor."""
    return median(our / its for ours_, floor_ in pairs for our, its in zip(ours_.costs, floor_.costs, strict=True))
