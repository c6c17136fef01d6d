"""What checks cost: CPU for each, cores for a large fleet at the default interval, and how late they run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

from attrs import frozen

from bench.fleet import make_fleet
from bench.process import CPUTime, cpu_time
from bench.report import Promise, Section, table
from bench.servers import ServerError, give_to_server, ours

_DEFAULT_INTERVAL = timedelta(minutes=2)


@frozen
class _Plan:
    """How much is measured."""

    counted_clients: int
    counted_interval: timedelta
    counted_seconds: float
    fleet_clients: int
    fleet_seconds: float
    audited_clients: int
    audited_interval: timedelta
    audited_seconds: float


_FULL = _Plan(
    counted_clients=1_000,
    counted_interval=timedelta(seconds=10),
    counted_seconds=30,
    fleet_clients=10_000,
    fleet_seconds=60,
    audited_clients=10_000,
    audited_interval=_DEFAULT_INTERVAL,
    audited_seconds=260,
)
_QUICK = _Plan(
    counted_clients=200,
    counted_interval=timedelta(seconds=2),
    counted_seconds=4,
    fleet_clients=10_000,
    fleet_seconds=4,
    audited_clients=200,
    audited_interval=timedelta(seconds=2),
    audited_seconds=5,
)


@frozen
class _Spell:
    """What the server spent in a stretch of time."""

    cpu: CPUTime
    seconds: float

    @property
    def cores(self) -> float:
        return self.cpu.total / self.seconds


@frozen
class _Lateness:
    """How late the checks ran, in seconds, of how many checks of how many clients."""

    checks: int
    clients: int
    p50: float
    p99: float
    most: float
    last_first: float
    """When the last client had its first check, after the start of the server."""


def measure(quick: bool, python: str, directory: Path) -> Section:
    """Three servers one after another: one counts, one runs `:` as people would, one keeps the time of each check."""
    plan = _QUICK if quick else _FULL
    counted, checks = _count(plan, python, directory / "counted")
    spell = _run_fleet(plan, python, directory / "fleet")
    lateness = _audit(plan, python, directory / "audited")
    body = "\n\n".join(
        [
            f"{plan.counted_clients:,} clients, a check each in {_text(plan.counted_interval)}; the checker adds a "
            "byte to a file, so that checks are counted and not assumed:",
            _cost_table(counted, checks),
            f"{plan.fleet_clients:,} clients at the default interval ({_text(_DEFAULT_INTERVAL)}), checker `:`, over "
            f"{spell.seconds:.0f} s: the whole process tree uses **{spell.cores:.3f}** of a core, the server itself "
            f"{spell.cpu.own / spell.seconds:.3f}.",
            f"{plan.audited_clients:,} clients, a check each in {_text(plan.audited_interval)}, over "
            f"{plan.audited_seconds:.0f} s, with a checker that writes down when it runs. The check of a client that "
            "was the earliest by its place in the interval is taken to have been on time:",
            _lateness_table(lateness),
        ]
    )
    promises = [
        Promise(f"{plan.fleet_clients:,} clients at the default interval", "0.3 cores", f"{spell.cores:.3f} cores"),
        Promise(f"lateness of checks of {plan.audited_clients:,} clients", "5 s", f"{lateness.most:.2f} s"),
    ]
    return Section("Checks", promises, body)


def _cost_table(counted: _Spell, checks: int) -> str:
    costs = [part / max(1, checks) * 1e6 for part in (counted.cpu.total, counted.cpu.own, counted.cpu.others)]
    return table(
        ["checks", "CPU each, µs", "the server itself, µs", "shells and helpers, µs", "checks/s", "cores"],
        [
            [
                f"{checks:,}",
                *(f"{cost:.0f}" for cost in costs),
                f"{checks / counted.seconds:.0f}",
                f"{counted.cores:.3f}",
            ]
        ],
    )


def _lateness_table(lateness: _Lateness) -> str:
    seconds = [lateness.p50, lateness.p99, lateness.most, lateness.last_first]
    return table(
        ["checks", "clients", "late p50, s", "p99, s", "max, s", "last first check after, s"],
        [[f"{lateness.checks:,}", f"{lateness.clients:,}", *(f"{value:.2f}" for value in seconds)]],
    )


def _text(interval: timedelta) -> str:
    return f"{interval.total_seconds():.0f} s"


def _count(plan: _Plan, python: str, directory: Path) -> tuple[_Spell, int]:
    tally = directory / "tally"
    schedule = _schedule(plan.counted_interval)
    fleet = make_fleet(directory, clients=plan.counted_clients, keys=1, schedule=schedule, checker=f"echo >>{tally}")
    _hand_over(tally)
    with ours(python, fleet) as server:
        time.sleep(plan.counted_interval.total_seconds() + 1)  # every client has had its first check
        checks = tally.stat().st_size
        spell = _spend(server.pid, plan.counted_seconds)
        checks = tally.stat().st_size - checks
    return spell, checks


def _run_fleet(plan: _Plan, python: str, directory: Path) -> _Spell:
    fleet = make_fleet(directory, clients=plan.fleet_clients, keys=1)
    with ours(python, fleet) as server:
        time.sleep(3)
        return _spend(server.pid, plan.fleet_seconds)


def _audit(plan: _Plan, python: str, directory: Path) -> _Lateness:
    """Both the checker and we take the time from /proc/uptime, which the shell can read without another process."""
    audit = directory / "audit"
    checker = f"read up idle </proc/uptime; echo $up %%(name)s >>{audit}"
    fleet = make_fleet(
        directory, clients=plan.audited_clients, keys=1, schedule=_schedule(plan.audited_interval), checker=checker
    )
    _hand_over(audit)
    began = float(Path("/proc/uptime").read_text().split()[0])
    with ours(python, fleet):
        time.sleep(plan.audited_seconds)
    return _judge(audit.read_text().splitlines(), began, plan.audited_interval.total_seconds())


def _judge(lines: Iterable[str], began: float, interval: float) -> _Lateness:
    """How late each check was by its client's own schedule."""
    times = defaultdict(list)
    for line in lines:
        up, name = line.split(maxsplit=1)
        times[name].append(float(up))
    late: list[float] = []
    for own in times.values():
        own.sort()
        phases = [up - number * interval for number, up in enumerate(own)]
        late.extend(phase - min(phases) for phase in phases)
    if not late:
        raise ServerError("not one check has run")
    late.sort()
    return _Lateness(
        checks=len(late),
        clients=len(times),
        p50=late[len(late) // 2],
        p99=late[len(late) * 99 // 100],
        most=late[-1],
        last_first=max(own[0] for own in times.values()) - began,
    )


def _schedule(interval: timedelta) -> str:
    """A timeout so long that no client expires and the first checks are spread over the whole interval."""
    return f"interval = PT{interval.total_seconds():.0f}S\ntimeout = PT1H"


def _hand_over(path: Path) -> None:
    path.touch()
    give_to_server(path)


def _spend(pid: int, seconds: float) -> _Spell:
    before, began = cpu_time(pid), time.monotonic()
    time.sleep(seconds)
    return _Spell(cpu_time(pid) - before, time.monotonic() - began)
