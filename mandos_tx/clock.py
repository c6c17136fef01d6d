"""The one door for time: a clock that a step of the wall clock can neither lengthen nor shorten.

Deadlines are kept on CLOCK_BOOTTIME (clock_gettime(2)), which counts suspends and never jumps. It is anchored to the
wall clock once, at start: that gives the *time line*, on which every instant inside the server is an aware UTC
``datetime``. Wall time appears only in what is shown, by way of ``Clock.shown``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@frozen
class TimeLine:
    """How instants relate to CLOCK_BOOTTIME: ``epoch`` is the instant at which that clock of that boot read zero."""

    boot_id: str
    epoch: datetime


boot_time: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds since boot, suspends included. The reactor asks several times in each of its turns."""


def wall_time() -> datetime:
    return _UNIX_EPOCH + timedelta(seconds=time.time())


def read_boot_id(file: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """What tells one boot of this machine from the next; empty if the kernel does not say (random(4))."""
    try:
        return file.read_text("ascii").strip()
    except OSError:
        return ""


@define
class Clock:
    """Instants on one time line, and the seconds that a Twisted reactor wants."""

    line: TimeLine
    seconds: Callable[[], float] = boot_time
    _wall: Callable[[], datetime] = field(default=wall_time)

    def now(self) -> datetime:
        return self.line.epoch + timedelta(seconds=self.seconds())

    def shown(self, instant: datetime) -> datetime:
        """``instant`` as the wall clock shows it at present."""
        return instant + (self._wall() - self.now())


def fresh_time_line() -> TimeLine:
    """Anchor this boot's clock to the wall clock as it stands now."""
    return TimeLine(read_boot_id(), wall_time() - timedelta(seconds=boot_time()))


class _HasSeconds(Protocol):
    seconds: Callable[[], float]


def install(reactor: _HasSeconds, clock: Clock) -> None:
    """Let every delayed call of ``reactor`` run on ``clock`` (by default Twisted's follow the wall clock)."""
    reactor.seconds = clock.seconds
