"""Stand-ins for what tests must not touch: clocks, threads, disks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from attrs import define, evolve, field
from twisted.internet import task
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.clock import Clock, TimeLine
from mandos_tx.core.client import Client, ClientDefinition, ClientSettings, KeyID
from mandos_tx.core.happenings import Change, Fact
from mandos_tx.interfaces import SavedState, StateUnwritable
from mandos_tx.registry import Registry
from mandos_tx.state.memory import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

START = datetime(2026, 11, 20, 14, 56, 6, 739593, tzinfo=UTC)
BOOT_ID = "1b671a64-40d5-491e-99b0-da01ff1f3341"


def key_id(number: int) -> KeyID:
    return KeyID(f"{number:064X}")


def settings_of(number: int = 1) -> ClientSettings:
    """Ordinary settings; different numbers give different keys and secrets."""
    return ClientSettings(key_id(number), None, b"secret %d" % number, host=f"host{number}.example.org")


def definition_of(number: int = 1, *, enabled: bool = True) -> ClientDefinition:
    return ClientDefinition(f"client{number}", settings_of(number), enabled)


@define(eq=False)
class Machine:
    """A machine whose time passes when it is told to; ``restart`` keeps its clocks, ``reboot`` does not."""

    uptime: float = 1000.0
    wall: datetime = START
    boot: int = 1
    reactor: task.Clock = field(init=False, factory=task.Clock)

    def __attrs_post_init__(self) -> None:
        self.reactor.rightNow = self.uptime

    @property
    def line(self) -> TimeLine:
        return TimeLine(f"{BOOT_ID[:-1]}{self.boot}", self.wall - timedelta(seconds=self.reactor.seconds()))

    def clock(self) -> Clock:
        """A clock that was anchored just now."""
        return Clock(self.line, self.reactor.seconds, lambda: self.wall)

    def pass_time(self, time: timedelta | float) -> None:
        """Let time pass for both clocks, and every call come that is due meanwhile."""
        seconds = time.total_seconds() if isinstance(time, timedelta) else time
        self.wall += timedelta(seconds=seconds)
        self.reactor.advance(seconds)

    def suspend(self, time: timedelta) -> None:
        """As ``pass_time``, but no call comes on its time; that is for the next ``pass_time``."""
        self.wall += time
        self.reactor.rightNow += time.total_seconds()

    def restart(self) -> Machine:
        """What a new process on the same machine finds."""
        return Machine(self.reactor.seconds(), self.wall, self.boot)

    def reboot(self, off: timedelta = timedelta(0), *, wall: datetime | None = None) -> Machine:
        return Machine(10.0, self.wall + off if wall is None else wall, self.boot + 1)

    def registry(self) -> Registry:
        return Registry(self.reactor, self.clock())


def lasting(client: Client) -> Client:
    """The client without what ends with the server."""
    return evolve(client, petitions=(), running_check=None, check_waiting_since=None, first_check=None)


@define(eq=False)
class Log:
    """A log to look into."""

    events: list[LogEvent] = field(factory=list)

    def logger(self) -> Logger:
        return Logger("tests", observer=self)  # type: ignore[arg-type]  # zope does not see __call__

    def listen(self, case: SynchronousTestCase) -> None:
        """Hear what is logged by anybody during the test."""
        globalLogPublisher.addObserver(self)  # type: ignore[arg-type]  # zope does not see __call__
        case.addCleanup(globalLogPublisher.removeObserver, self)  # type: ignore[arg-type]  # the same

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)

    def texts(self, level: LogLevel) -> list[str]:
        """Everything of that level, as it reads."""
        return [formatEvent(event) for event in self.events if event["log_level"] is level]


@define(eq=False)
class Recorder:
    """An observer that remembers what it was told."""

    changes: list[Change] = field(factory=list)

    def __call__(self, change: Change) -> None:
        self.changes.append(change)

    @property
    def facts(self) -> list[Fact]:
        return [fact for change in self.changes for fact in change.facts]


class PretendedReactor(MemoryReactorClock):
    """A reactor without a network, to which threads may hand calls."""

    def __init__(self) -> None:
        super().__init__()
        self._handed: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        self._handed.put(lambda: call(*args, **kwargs))

    def work(self, patience: float = 30.0) -> None:
        """Do the oldest of those calls, as soon as there is one."""
        self._handed.get(timeout=patience)()


def run_at_once(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
    """A thread that is so quick that nobody sees it."""
    return maybeDeferred(call, *args, **kwargs)


@define(eq=False)
class SlowThread:
    """A thread in which nothing happens before ``step``."""

    calls: list[Callable[[], None]] = field(factory=list)

    def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        result: Deferred[T] = Deferred()

        def happen() -> None:
            maybeDeferred(call, *args, **kwargs).chainDeferred(result)

        self.calls.append(happen)
        return result

    def step(self) -> None:
        """Let the oldest call happen."""
        self.calls.pop(0)()


@define(eq=False)
class FaultyStore(MemoryStore):
    """A store that cannot be written while there is a ``fault``."""

    fault: str = ""
    commits: list[Mapping[str, str | None]] = field(factory=list)
    closed: bool = False

    def load(self) -> SavedState:
        return evolve(super().load(), problem=self.fault)

    def save(self, changes: Mapping[str, str | None], generation: int, time_line: TimeLine, saved_at: datetime) -> None:
        if self.fault:
            raise StateUnwritable(self.fault)
        self.commits.append(dict(changes))
        super().save(changes, generation, time_line, saved_at)

    def close(self) -> None:
        self.closed = True
