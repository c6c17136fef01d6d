"""The keeper: saves what becomes of clients, many changes in one commit, and never in the reactor's thread.

Whatever the registry publishes is saved within about a second. What an administrator wants is written ahead, before it
happens. Every commit holds everything that waits to be saved, so what is on disk is always one moment of the whole.
If nothing can be written, everything waits in memory, somebody is told once a minute, and it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TypeAlias

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mandos_tx.background import RunInThread
from mandos_tx.clock import Clock, TimeLine
from mandos_tx.core.client import Client
from mandos_tx.core.happenings import Change, ClientRemoved
from mandos_tx.formats.saved_state import encode, encode_tombstone, set_aside, worth_saving
from mandos_tx.interfaces import Registry, SavedState, StateStore, StateUnwritable

DELAY = 1.0
"""Seconds that changes may wait for others to share a commit."""

FIRST_RETRY = 1.0
LAST_RETRY = 60.0
"""Seconds between attempts while nothing can be written; doubled from the first to the last."""

REMIND = 60.0
"""Seconds between two errors in the log."""

STOP_LIMIT = 1.5
"""Seconds that the last commit may take."""

Unsaved: TypeAlias = Client | str | None
"""A client, the document of one that was removed or is absent, or None: nothing is to be saved of it."""


@define(eq=False)
class Keeper:
    """See ``mandos_tx.interfaces.StateKeeper``."""

    _registry: Registry
    _store: StateStore
    _clock: Clock
    _reactor: IReactorTime
    _run_in_thread: RunInThread
    _log: Logger = field(factory=Logger)
    _removed: dict[str, str] = field(init=False, factory=dict)
    _absent: dict[str, str] = field(init=False, factory=dict)
    """Without limit: one that is forgotten could give a secret away, and one that is kept costs half a kilobyte."""
    _key: bytes = field(init=False, default=b"", repr=False)
    _generation: int = field(init=False, default=0)
    _begun: int = field(init=False, default=0)
    """The generation of the last commit that was begun."""
    _dirty: set[str] = field(init=False, factory=set)
    _ahead: dict[str, Unsaved] = field(init=False, factory=dict)
    _waiting: list[Deferred[None]] = field(init=False, factory=list)
    _in_flight: frozenset[str] | None = field(init=False, default=None)
    """The names in the commit that is under way, until all who waited for it have heard."""
    _urgent: bool = field(init=False, default=False)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _problem: str = field(init=False, default="")
    _retry: float = field(init=False, default=FIRST_RETRY)
    _reminded: float | None = field(init=False, default=None)
    _stop_observing: Callable[[], None] | None = field(init=False, default=None)

    @property
    def generation(self) -> int:
        """That of the last commit that succeeded."""
        return self._generation

    @property
    def writable(self) -> bool:
        return not self._problem

    @property
    def problem(self) -> str:
        """Why nothing can be saved at present, or nothing."""
        return self._problem

    @property
    def removed(self) -> Mapping[str, str]:
        return self._removed

    @property
    def absent(self) -> Mapping[str, str]:
        return self._absent

    def load(self, *, required: bool = False) -> SavedState:
        """Read what is saved. Blocks.

        Raises StateUnusable, and if it is ``required`` that the state be saved, StateUnwritable.
        """
        saved = self._store.load()
        if saved.problem and required:
            raise StateUnwritable(saved.problem)
        self._key = saved.key
        self._generation = self._begun = saved.generation
        return saved

    def start(
        self,
        unsaved: Iterable[str] = (),
        removed: Mapping[str, str] | None = None,
        absent: Mapping[str, str] | None = None,
    ) -> None:
        """Follow the registry, whose clients are as they were loaded, but for the ``unsaved``."""
        self._removed.update(removed or {})
        self._absent.update(absent or {})
        self._dirty.update(unsaved)
        self._stop_observing = self._registry.observe(self.observe)
        # Even if no client has changed: the time line may be new, and whether it can be saved is worth knowing.
        self._schedule(0.0)

    def stop(self) -> Deferred[None]:
        """Save what is left, unless that takes too long, and close the store."""
        if self._stop_observing is not None:
            self._stop_observing()
            self._stop_observing = None
            self._dirty |= self._in_flight or frozenset()
            self._save()
        self._unschedule()
        closed = self._run_in_thread(self._store.close)
        return closed.addTimeout(STOP_LIMIT, self._reactor).addErrback(self._close_failed)

    def observe(self, change: Change) -> None:
        before, after = change.before, change.after
        if after is not None and before is not None:
            if not worth_saving(before, after):
                return
            self.mark(after.name)
            if before.enabled and not after.enabled:
                self._hurry()
        elif after is not None:
            self._removed.pop(after.name, None)
            self._absent.pop(after.name, None)
            self.mark(after.name)
        elif before is not None:
            self._removed.pop(before.name, None)
            if before.definition is not None:
                if ClientRemoved(by_administrator=True) in change.facts:
                    self._removed[before.name] = encode_tombstone(before.definition)
                elif not before.enabled:
                    self._absent[before.name] = set_aside(encode(before, self._key))
            self.mark(before.name)

    def mark(self, name: str) -> None:
        self._dirty.add(name)
        if self._timer is None:
            self._schedule(DELAY)

    def forget(self, name: str) -> None:
        if self._removed.pop(name, None) is not None:
            self.mark(name)

    def write_ahead(self, name: str, client: Client | None) -> Deferred[None]:
        if self._stop_observing is None:
            return fail(StateUnwritable("the server is stopping"))
        ahead: Unsaved = client
        if client is None:
            present = self._registry.clients.get(name)
            if present is not None and present.definition is not None:
                ahead = encode_tombstone(present.definition)
        self._ahead[name] = ahead
        durable: Deferred[None] = Deferred()
        self._waiting.append(durable)
        if self._in_flight is None:
            self._save()
        return durable

    # -- saving --------------------------------------------------------------------------------------

    def _hurry(self) -> None:
        """Save at once: a crash must not make one doubt whether a client was disabled."""
        self._urgent = True
        if not self._problem:
            self._schedule(0.0)

    def _schedule(self, delay: float) -> None:
        self._unschedule()
        if self._in_flight is None:
            self._timer = self._reactor.callLater(delay, self._save)

    def _unschedule(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _present(self, name: str) -> Unsaved:
        client = self._registry.clients.get(name)
        return self._removed.get(name, self._absent.get(name)) if client is None else client

    def _save(self) -> None:
        """Begin a commit of everything."""
        self._unschedule()
        batch: dict[str, Unsaved] = {name: self._present(name) for name in self._dirty}
        batch.update(self._ahead)
        ahead, waiting = frozenset(self._ahead), self._waiting
        self._dirty, self._ahead, self._waiting, self._urgent = set(), {}, [], False
        self._in_flight = frozenset(batch)
        self._begun += 1
        saved = self._run_in_thread(
            _write, self._store, batch, self._key, self._begun, self._clock.line, self._registry.now()
        )
        saved.addCallbacks(
            self._saved,
            self._failed,
            callbackArgs=(self._begun, ahead, waiting),
            errbackArgs=(self._in_flight, waiting),
        )
        saved.addErrback(lambda failure: self._log.failure("The keeper of the state failed", failure))

    def _saved(self, _: None, generation: int, ahead: frozenset[str], waiting: list[Deferred[None]]) -> None:
        self._generation = generation
        if self._problem:
            self._log.info("The state can be saved again")
        self._problem, self._retry, self._reminded = "", FIRST_RETRY, None
        # All who waited make true what was written ahead, before the next commit looks at it.
        for durable in waiting:
            durable.callback(None)
        # It may have come otherwise.
        self._dirty |= ahead
        self._continue(0.0 if self._urgent else DELAY)

    def _failed(self, failure: Failure, names: frozenset[str], waiting: list[Deferred[None]]) -> None:
        self._dirty |= names
        if failure.check(StateUnwritable):
            self._problem = failure.getErrorMessage()
        else:
            self._problem = "internal error"
            self._log.failure("The state cannot be saved", failure)
        self._remind()
        for durable in waiting:
            durable.errback(StateUnwritable(self._problem))
        delay, self._retry = self._retry, min(2 * self._retry, LAST_RETRY)
        self._continue(delay)

    def _continue(self, delay: float) -> None:
        self._in_flight = None
        if self._ahead:
            self._save()
        elif self._stop_observing is not None and (self._dirty or self._problem):
            self._schedule(delay)

    def _remind(self) -> None:
        now = self._reactor.seconds()
        if self._reminded is None or now - self._reminded >= REMIND:
            self._reminded = now
            self._log.error(
                "The state cannot be saved: {problem}. Secrets are still served; {count} clients wait to be saved",
                problem=self._problem,
                count=len(self._dirty),
            )

    def _close_failed(self, failure: Failure) -> None:
        if failure.check(TimeoutError):
            self._log.error("The state could not be saved and closed within {limit} s", limit=STOP_LIMIT)
        else:
            self._log.failure("The state could not be closed", failure)


def _write(
    store: StateStore,
    batch: Mapping[str, Unsaved],
    key: bytes,
    generation: int,
    time_line: TimeLine,
    saved_at: datetime,
) -> None:
    documents = {name: encode(value, key) if isinstance(value, Client) else value for name, value in batch.items()}
    store.save(documents, generation, time_line, saved_at)
