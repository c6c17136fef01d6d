"""An administrator's changes: on disk before they happen, and before they are answered.

What a change makes of a client is worked out and saved; only when that is durable does the registry hear of it. So
nobody is told of a change that a crash could undo. Changes of one client happen one after the other.

Disabling is different: it happens at once, before anything that still waits, and is saved then. If it cannot be saved,
the client is disabled all the same, and the error says what that is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import random
from typing import TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, DeferredLock, fail

from mandos_tx.core.client import Client, ClientDefinition
from mandos_tx.core.happenings import ClientAdded, Disable, Enable, Event, Reconfigured, Ruled, StartCheck, StopCheck
from mandos_tx.core.lifecycle import apply, newborn
from mandos_tx.interfaces import NoSuchClient, Registrar, StateKeeper, StateUnwritable

T = TypeVar("T")


class NotSaved(Exception):
    """The change could not be saved, so nothing has changed."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"nothing was changed, because it could not be saved: {problem}")


class DisabledButNotSaved(NotSaved):
    """The client is disabled, but a restart might enable it again."""

    def __init__(self, name: str, problem: str) -> None:
        Exception.__init__(
            self, f"client {name} is disabled now, but this is not yet saved and would not outlast a restart: {problem}"
        )


class Overtaken(Exception):
    """The client was disabled while the change was being saved; nothing else has changed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"client {name} was disabled in the meantime")


class CannotAdd(Exception):
    """There cannot be such a client; the message says why."""


@define
class _Turns:
    """Those who want to change one client."""

    lock: DeferredLock = field(factory=DeferredLock)
    waiting: int = 0
    disabled: int = 0
    """How often the client was disabled while there were any."""


@define(eq=False)
class Administration:
    """What front ends use. Every Deferred fires with the result when it is durable.

    ``by`` names who wants it, as the audit is to say it.
    """

    _registry: Registrar
    _keeper: StateKeeper
    _spread: Callable[[], float] = random
    _turns: dict[str, _Turns] = field(init=False, factory=dict)

    def change(self, name: str, event: Event, by: str) -> Deferred[Client]:
        """Tell a client something. Fails with NoSuchClient, NotSaved, DisabledButNotSaved or Overtaken."""
        if isinstance(event, Disable):
            return self._disable(name, event, by)
        return self._in_turn(name, lambda still_trusted: self._change(name, event, by, still_trusted))

    def reconfigure(self, name: str, by: str, **settings: object) -> Deferred[Client]:
        """Change some settings of a client at run time. Fails as ``change`` does."""

        async def act(still_trusted: Callable[[], bool]) -> Client:
            changed = evolve(self._get(name).settings, **settings)  # type: ignore[arg-type]  # front ends check types
            return await self._change(name, Reconfigured(changed), by, still_trusted)

        return self._in_turn(name, act)

    def add(self, definition: ClientDefinition, by: str) -> Deferred[Client]:
        """Make a client that exists at run time only, as ``definition`` says. Fails with CannotAdd or NotSaved."""

        async def act(_: Callable[[], bool]) -> Client:
            self._check_new(definition)
            await self._write_ahead(definition.name, self._newborn(definition))
            # A reload may have brought one meanwhile.
            self._check_new(definition)
            client = self._newborn(definition)
            self._registry.introduce(client, (ClientAdded(),), by)
            return client

        return self._in_turn(definition.name, act)

    def remove(self, name: str, by: str) -> Deferred[None]:
        """Make a client stay away although its source may still list it. Fails with NoSuchClient or NotSaved."""

        async def act(_: Callable[[], bool]) -> None:
            self._get(name)
            await self._write_ahead(name, None)
            self._registry.remove(name, by_administrator=True, by=by)

        return self._in_turn(name, act)

    # -- one after the other -------------------------------------------------------------------------

    def _in_turn(
        self, name: str, act: Callable[[Callable[[], bool]], Coroutine[Deferred[object], object, T]]
    ) -> Deferred[T]:
        """Act when all who came before have; ``act`` can ask whether nobody has disabled the client since now."""
        turns = self._turns.setdefault(name, _Turns())
        turns.waiting += 1
        disabled = turns.disabled

        def still_trusted() -> bool:
            return turns.disabled == disabled

        def done(result: T) -> T:
            turns.waiting -= 1
            if not turns.waiting:
                del self._turns[name]
            return result

        answer: Deferred[T] = turns.lock.run(lambda: Deferred.fromCoroutine(act(still_trusted)))
        return answer.addBoth(done)

    async def _change(self, name: str, event: Event, by: str, still_trusted: Callable[[], bool]) -> Client:
        def check_trust() -> None:
            if isinstance(event, Enable | Ruled) and not still_trusted():
                raise Overtaken(name)

        after, _ = apply(self._get(name), event, self._registry.now())
        # Even if nothing changes: that it is so may not be on disk yet.
        if not isinstance(event, StartCheck | StopCheck):
            check_trust()
            await self._write_ahead(name, after)
            check_trust()
        return self._registry.tell(name, event, by)

    def _disable(self, name: str, event: Disable, by: str) -> Deferred[Client]:
        try:
            after = self._registry.tell(name, event, by)
        except NoSuchClient:
            return fail()
        if name in self._turns:
            self._turns[name].disabled += 1

        async def act(_: Callable[[], bool]) -> Client:
            present = self._registry.clients.get(name)
            if present is not None:
                try:
                    await self._write_ahead(name, present)
                except NotSaved as e:
                    raise DisabledButNotSaved(name, str(e.__cause__)) from e
            return after

        return self._in_turn(name, act)

    async def _write_ahead(self, name: str, client: Client | None) -> None:
        try:
            await self._keeper.write_ahead(name, client)
        except StateUnwritable as e:
            raise NotSaved(str(e)) from e

    # -- clients -------------------------------------------------------------------------------------

    def _get(self, name: str) -> Client:
        client = self._registry.clients.get(name)
        if client is None:
            raise NoSuchClient(name)
        return client

    def _newborn(self, definition: ClientDefinition) -> Client:
        return evolve(newborn(definition, self._registry.now(), self._spread()), definition=None)

    def _check_new(self, definition: ClientDefinition) -> None:
        name, key_id = definition.name, definition.settings.key_id
        try:
            name.encode()
        except UnicodeEncodeError:
            raise CannotAdd("the name is not Unicode text") from None
        if name in self._registry.clients:
            raise CannotAdd(f"there is a client {name!r} already")
        if name in self._keeper.removed:
            raise CannotAdd(f"the configuration still lists a client {name!r}, which was removed; change it there")
        holder = None if key_id is None else self._registry.find(key_id)
        if holder is not None:
            raise CannotAdd(f"client {holder.name!r} has that key already")
