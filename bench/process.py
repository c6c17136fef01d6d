"""CPU time and memory of a process and of everything that it started, out of /proc (proc(5))."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@frozen
class CPUTime:
    """Seconds of CPU, user and system together; a difference of two is what was spent between them."""

    own: float
    """Of the process itself, all its threads."""
    others: float
    """Of its descendants, those that have ended included."""

    @property
    def total(self) -> float:
        return self.own + self.others

    def __sub__(self, earlier: CPUTime) -> CPUTime:
        return CPUTime(self.own - earlier.own, self.others - earlier.others)


@frozen
class _Stat:
    parent: int
    own: float
    reaped: float


def cpu_time(pid: int) -> CPUTime:
    """What the process and its descendants have used so far."""
    stats = dict(_all_processes())
    root = stats[pid]
    others = root.reaped + sum(stats[child].own + stats[child].reaped for child in _descendants(pid, stats))
    return CPUTime(root.own, others)


def resident_bytes(pid: int) -> int:
    """The resident memory of one process; the exact figure where we may read it, else the kernel's estimate."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        text = Path(f"/proc/{pid}/status").read_text().replace("VmRSS:", "Rss:")
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Rss:"))


def resident_bytes_of_descendants(pid: int) -> int:
    """The resident memory of everything that the process has running, shared pages counted in each."""
    return sum(resident_bytes(child) for child in _descendants(pid, dict(_all_processes())))


def _descendants(pid: int, stats: dict[int, _Stat]) -> list[int]:
    children = defaultdict(list)
    for number, stat in stats.items():
        children[stat.parent].append(number)
    found = list(children[pid])
    for child in found:
        found.extend(children[child])
    return found


def _all_processes() -> Iterator[tuple[int, _Stat]]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text()
        except OSError:  # it has just ended
            continue
        fields = text[text.rindex(")") + 2 :].split()
        user, system, reaped_user, reaped_system = (int(ticks) / _TICKS_PER_SECOND for ticks in fields[11:15])
        yield int(entry.name), _Stat(int(fields[1]), user + system, reaped_user + reaped_system)
