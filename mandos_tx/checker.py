"""Checking that clients are up: a CheckerService for each, on its schedule, and a limit on how many run at once.

A check that is due waits in a queue for a free place. The registry knows of the wait, and a client's time stands still
in it, so a busy server never disables anybody. A check that cannot be started at all (no process can be made) is
retried; the client's time runs on then, because nobody knows for how long that lasts.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from attrs import define, field
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mandos_tx.core.client import CheckOutcome, Client
from mandos_tx.core.happenings import (
    Change,
    CheckAbandoned,
    CheckDue,
    CheckFinished,
    CheckStarted,
    CheckUnwanted,
    CheckWanted,
)
from mandos_tx.interfaces import NoSuchClient, Registry

SHORTEST_INTERVAL = 0.1
"""Seconds; a shorter interval is taken for this."""
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a check that could not be started is tried again: doubled each time, up to the second."""


class Commands(Protocol):
    """What runs commands (``mandos_tx.process.ProcessGroups``)."""

    def begin(self) -> None: ...
    def start(self, command: str, ended: Callable[[CheckOutcome, bytes], None], *, want_output: bool) -> Any:
        """Raises OSError if no process can be made at present, ValueError if this command can never be run."""
        ...

    def stop(self, running: Any) -> Deferred[None]: ...
    def stop_all(self) -> Deferred[None]: ...


@define(eq=False)
class Places:
    """The places for checks to run in, and the queue for them: first come, first served."""

    _reactor: Any
    _limit: int
    _taken: int = field(init=False, default=0)
    _queue: deque[CheckerService] = field(init=False, factory=deque)
    _retry: float = field(init=False, default=FIRST_RETRY)
    _pause: IDelayedCall | None = field(init=False, default=None)
    _complained: float | None = field(init=False, default=None)
    _log: Logger = field(factory=Logger)

    def request(self, service: CheckerService) -> None:
        """Start the check of ``service`` now, or when there is a place."""
        if self._taken >= self._limit or self._queue or self._pause is not None:
            self._queue.append(service)
            if self._pause is None:
                service.hold_time()
            return
        self._taken += 1
        service.begin()

    def withdraw(self, service: CheckerService) -> None:
        with contextlib.suppress(ValueError):
            self._queue.remove(service)

    def release(self) -> None:
        """Give back the place of a check that is over."""
        self._taken -= 1
        self._fill()

    def unused(self) -> None:
        """Take back a place from ``begin``, which whoever gave it gives to the next one."""
        self._taken -= 1

    def started(self) -> None:
        self._retry = FIRST_RETRY

    def could_not_start(self, service: CheckerService, reason: str) -> None:
        """Try again later: the machine, not the client, is in trouble. The place is given back."""
        self._taken -= 1
        self._queue.appendleft(service)
        now = self._reactor.seconds()
        if self._complained is None or now - self._complained >= LAST_RETRY:
            self._complained = now
            self._log.error(
                "No checker can be started: {reason}. Clients run into their timeout; retrying in {delay:.0f} s",
                reason=reason,
                delay=self._retry,
            )
        self._pause = self._reactor.callLater(self._retry, self._resume)
        self._retry = min(self._retry * 2, LAST_RETRY)
        for waiting in list(self._queue):
            waiting.let_time_run()

    def stop(self) -> None:
        self._queue.clear()
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
        self._pause = None

    def _resume(self) -> None:
        self._pause = None
        self._fill()
        if self._pause is None:
            for waiting in list(self._queue):
                waiting.hold_time()

    def _fill(self) -> None:
        while self._queue and self._taken < self._limit and self._pause is None:
            self._taken += 1
            self._queue.popleft().begin()


class CheckerService(Service):
    """Checks one client, while it is enabled, every interval; never twice at the same time."""

    def __init__(
        self,
        client_name: str,
        reactor: Any,
        registry: Registry,
        places: Places,
        commands: Commands,
        expand: Callable[[Client], str],
        want_output: Callable[[], bool],
    ) -> None:
        self._name = client_name
        self._reactor = reactor
        self._registry = registry
        self._places = places
        self._commands = commands
        self._expand = expand
        self._want_output = want_output
        self._log = Logger()
        self._first: IDelayedCall | None = None
        self._loop: LoopingCall | None = None
        self._waiting = False
        self._waiting_since = 0.0
        self._running: Any = None
        self._stopping = False
        """Whether what was stopped is still there."""
        self._again = False
        """Whether a check is wanted when it has gone."""
        self._command = ""

    @property
    def stopping(self) -> bool:
        return self._stopping

    def startService(self) -> None:
        super().startService()
        client = self._registry.clients[self._name]
        if client.enabled:
            self.schedule(client)

    def stopService(self) -> None:
        super().stopService()
        self.unschedule()
        self.stop_check()

    def schedule(self, client: Client, *, at_once: bool = False) -> None:
        """Check from ``client.first_check`` on, every interval."""
        self.unschedule()
        delay = 0.0
        if client.first_check is not None and not at_once:
            delay = max(0.0, (client.first_check - self._registry.now()).total_seconds())
        self._first = self._reactor.callLater(delay, self._start_loop)

    def unschedule(self) -> None:
        if self._first is not None and self._first.active():
            self._first.cancel()
        self._first = None
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        self._loop = None

    def check(self) -> None:
        """Start a check, now or as soon as there is a place, unless there is one already."""
        if self._running is not None or self._waiting:
            return
        if self._stopping:
            self._again = True
            return
        self._waiting = True
        self._waiting_since = self._reactor.seconds()
        self._places.request(self)

    def stop_check(self) -> None:
        """End the running check without an outcome, and forget the one that waits."""
        self._again = False
        if self._waiting:
            self._waiting = False
            self._places.withdraw(self)
            self.let_time_run()
        if self._running is not None:
            running, self._running = self._running, None
            self._stopping = True
            self._commands.stop(running).addBoth(self._stopped)
            self.let_time_run()

    def hold_time(self) -> None:
        """For want of a place we wait: the client's time stands still."""
        if self._waiting:
            with contextlib.suppress(NoSuchClient):
                self._registry.tell(self._name, CheckDue())

    def let_time_run(self) -> None:
        """The client's time runs on: nothing is checked, and not for want of a place."""
        with contextlib.suppress(NoSuchClient):
            self._registry.tell(self._name, CheckAbandoned())

    def begin(self) -> None:
        """Use the place that we got."""
        client = self._registry.clients[self._name]
        waited = self._reactor.seconds() - self._waiting_since
        if waited > client.settings.interval.total_seconds() / 2:
            self._log.warn(
                "The check of {client} had to wait {waited:.0f} seconds for a free place: "
                "raise max_checkers, or the intervals",
                client=self._name,
                waited=waited,
            )
        try:
            command = self._expand(client)
            self._running = self._commands.start(command, self._ended, want_output=self._want_output())
        except OSError as error:
            self._waiting_since = self._reactor.seconds()
            self._places.could_not_start(self, error.strerror or str(error))
            return
        except ValueError as error:
            self._log.error("The checker of {client} cannot be run: {reason}", client=self._name, reason=str(error))
            self._waiting = False
            self._places.unused()
            self.let_time_run()
            return
        self._waiting = False
        self._places.started()
        self._command = command
        self._registry.tell(self._name, CheckStarted(command))

    def _ended(self, outcome: CheckOutcome, output: bytes) -> None:
        self._running = None
        if output:
            self._log.debug("The checker of {client} said: {output!r}", client=self._name, output=output)
        try:
            self._registry.tell(self._name, CheckFinished(outcome, self._command))
        finally:
            self._places.release()

    def _start_loop(self) -> None:
        self._first = None
        interval = self._registry.clients[self._name].settings.interval.total_seconds()
        self._loop = LoopingCall(self.check)
        self._loop.clock = self._reactor
        self._loop.start(max(interval, SHORTEST_INTERVAL), now=True).addErrback(self._loop_failed)

    def _loop_failed(self, failure: Any) -> None:
        self._log.failure("Checks of {client} ended", failure, client=self._name)

    def _stopped(self, _: object) -> None:
        self._stopping = False
        self._places.release()
        if self._again:
            self._again = False
            self.check()


class Checkers(MultiService):
    """A CheckerService for every client of the registry, coming and going with them."""

    def __init__(
        self,
        reactor: Any,
        registry: Registry,
        commands: Commands,
        expand: Callable[[Client], str],
        max_checkers: int,
        want_output: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._registry = registry
        self._commands = commands
        self._places = Places(reactor, max_checkers)
        self._make = lambda name: CheckerService(name, reactor, registry, self._places, commands, expand, want_output)
        self._checkers: dict[str, CheckerService] = {}
        self._leaving: dict[str, CheckerService] = {}
        """Those whose client is gone, but whose check is not yet: a client that comes back must not have two."""
        self._forget: Callable[[], None] = registry.observe(self._observe)

    def startService(self) -> None:
        self._commands.begin()
        for name in self._registry.clients:
            self._add(name)
        super().startService()

    def stopService(self) -> Deferred[None]:
        self._forget()
        self._places.stop()
        for checker in self._checkers.values():
            checker.unschedule()
        stopped = self._commands.stop_all()
        super().stopService()
        return stopped

    def _add(self, name: str) -> None:
        if name not in self._checkers:
            checker = self._leaving.pop(name) if name in self._leaving else self._make(name)
            self._checkers[name] = checker
            checker.setServiceParent(self)

    def _observe(self, change: Change) -> None:
        before, after = change.before, change.after
        if before is not None and after is not None:
            if _concerns_checker(before, after, change):
                checker = self._checkers.get(after.name)
                if checker is not None and checker.running:
                    _follow(checker, before, after, change)
        elif not self.running:
            return
        elif after is not None:
            self._add(after.name)
        elif before is not None:
            checker = self._checkers.pop(before.name, None)
            if checker is not None:
                checker.disownServiceParent()
                self._leaving[before.name] = checker
                self._leaving = {name: left for name, left in self._leaving.items() if left.stopping}


def _concerns_checker(before: Client, after: Client, change: Change) -> bool:
    # asked at every delivery and every check
    return (
        type(before.standing) is not type(after.standing)
        or before.settings is not after.settings
        or any(isinstance(fact, CheckWanted | CheckUnwanted) for fact in change.facts)
    )


def _follow(checker: CheckerService, before: Client, after: Client, change: Change) -> None:
    if before.enabled != after.enabled:
        if after.enabled:
            checker.schedule(after)
        else:
            checker.unschedule()
            checker.stop_check()
    elif after.enabled and before.settings.interval != after.settings.interval:
        checker.schedule(after, at_once=True)
    for fact in change.facts:
        if isinstance(fact, CheckWanted):
            checker.check()
        elif isinstance(fact, CheckUnwanted):
            checker.stop_check()
