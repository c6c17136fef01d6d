"""The registry: applies events to clients, keeps their deadlines, and publishes every Change in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from heapq import heappop, heappush
from types import MappingProxyType

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mandos_tx.clock import Clock
from mandos_tx.core.client import Client, ClientDefinition, KeyID
from mandos_tx.core.happenings import Change, ClientNotFound, ClientRemoved, Event, Fact, TimePassed
from mandos_tx.core.lifecycle import apply, deadline
from mandos_tx.core.restoration import redefine
from mandos_tx.interfaces import NoSuchClient, Observer

LONGEST_SLEEP = 10.0
"""Seconds. epoll_wait(2) sleeps on a clock that stands still in suspend, so no alarm is set further ahead."""

BATCH = 200
"""Deadlines handled in one go, before others get the reactor's attention."""


@define(eq=False)
class Registry:
    """All clients by name; see ``mandos_tx.interfaces.Registry`` for what it promises."""

    _reactor: IReactorTime
    _clock: Clock
    _log: Logger = field(factory=Logger)
    _clients: dict[str, Client] = field(init=False, factory=dict)
    _names: dict[KeyID, str] = field(init=False, factory=dict)
    _observers: tuple[Observer, ...] = field(init=False, default=())
    _unpublished: deque[Change] = field(init=False, factory=deque)
    _publishing: bool = field(init=False, default=False)
    _deadlines: list[tuple[datetime, str]] = field(init=False, factory=list)
    _watched: dict[str, datetime] = field(init=False, factory=dict)
    """The earliest entry in ``_deadlines`` for each name; the deadline itself may have moved later since."""
    _alarm: IDelayedCall | None = field(init=False, default=None)

    @property
    def clients(self) -> Mapping[str, Client]:
        return MappingProxyType(self._clients)

    def now(self) -> datetime:
        return self._clock.now()

    def find(self, key_id: KeyID) -> Client | None:
        name = self._names.get(key_id)
        return None if name is None else self._clients[name]

    def tell(self, name: str, event: Event, by: str = "") -> Client:
        before = self._get(name)
        now = self._clock.now()
        after, facts = apply(before, event, now)
        self._settle(before, after, facts, now, by)
        return after

    def introduce(self, client: Client, facts: tuple[Fact, ...], by: str = "") -> None:
        """Take in a client that is new, or back after a restart."""
        if client.name in self._clients:
            raise ValueError(f"there is a client {client.name!r} already")
        self._settle(None, client, facts, self._clock.now(), by)

    def redefine(self, name: str, definition: ClientDefinition, spread: float, by: str = "") -> Client:
        """Apply what the client's source now says of it."""
        before = self._get(name)
        now = self._clock.now()
        after, facts = redefine(before, definition, now, spread)
        self._settle(before, after, facts, now, by)
        return after

    def remove(self, name: str, *, by_administrator: bool, by: str = "") -> None:
        """Forget a client, and everybody who waits on its behalf."""
        before = self._get(name)
        del self._clients[name]
        self._forget_key(before)
        fact = ClientRemoved(by_administrator)
        self._publish(Change(before, None, (fact,), self._clock.now(), by))

    def report_unknown(self, key_id: KeyID, address: str) -> None:
        self._publish(Change(None, None, (ClientNotFound(key_id, address),), self._clock.now()))

    def observe(self, observer: Observer) -> Callable[[], None]:
        self._observers = (*self._observers, observer)

        def forget() -> None:
            self._observers = tuple(o for o in self._observers if o is not observer)

        return forget

    def stop(self) -> None:
        """Let no deadline come any more."""
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None
        self._deadlines.clear()
        self._watched.clear()

    def _get(self, name: str) -> Client:
        try:
            return self._clients[name]
        except KeyError:
            raise NoSuchClient(name) from None

    def _settle(self, before: Client | None, after: Client, facts: tuple[Fact, ...], now: datetime, by: str) -> None:
        if after is before and not facts:
            return
        if before is None or before.settings.key_id != after.settings.key_id:
            if before is not None:
                self._forget_key(before)
            if after.settings.key_id is not None:
                self._names[after.settings.key_id] = after.name
        self._clients[after.name] = after
        self._watch(after)
        self._publish(Change(before, after, facts, now, by))

    def _forget_key(self, client: Client) -> None:
        key_id = client.settings.key_id
        if key_id is not None and self._names.get(key_id) == client.name:
            del self._names[key_id]

    # -- publishing ----------------------------------------------------------------------------------

    def _publish(self, change: Change) -> None:
        self._unpublished.append(change)
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._unpublished:
                current = self._unpublished.popleft()
                for observer in self._observers:
                    try:
                        observer(current)
                    except Exception:
                        self._log.failure("An observer of clients failed")
        finally:
            self._publishing = False

    # -- deadlines -----------------------------------------------------------------------------------

    def _watch(self, client: Client) -> None:
        due = deadline(client)
        if due is None:
            return
        watched = self._watched.get(client.name)
        if watched is not None and watched <= due:
            return
        self._watched[client.name] = due
        heappush(self._deadlines, (due, client.name))
        if self._deadlines[0][0] == due:
            self._arm()

    def _arm(self, at_once: bool = False) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._alarm = None
        if self._deadlines:
            left = (self._deadlines[0][0] - self._clock.now()).total_seconds()
            delay = 0.0 if at_once else min(max(left, 0.0), LONGEST_SLEEP)
            self._alarm = self._reactor.callLater(delay, self._deadlines_due)

    def _deadlines_due(self) -> None:
        now = self._clock.now()
        handled = 0
        while self._deadlines and self._deadlines[0][0] <= now and handled < BATCH:
            due, name = heappop(self._deadlines)
            if self._watched.get(name) != due:
                continue
            del self._watched[name]
            client = self._clients.get(name)
            if client is None:
                continue
            actual = deadline(client)
            if actual is not None and actual <= now:
                handled += 1
                self.tell(name, TimePassed())
            else:
                self._watch(client)
        self._arm(at_once=handled >= BATCH)
