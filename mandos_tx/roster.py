"""The roster: keeps the registry in step with what the clients' sources define, at start and at a reload.

Saved   Defined  At start, and likewise at a reload
======  =======  =====================================================================================
no      yes      a new client
yes     yes      the client as it was, with what has changed in its definition
yes     no       gone, and forgotten; but a disabled one is absent, and one that exists at run time
                 only lives on, unless its key is now that of a client with a definition
absent  yes      back, disabled, with what has changed in its definition; a new client if its key has
absent  no       absent: no disabling is forgotten because a file was empty for a while
grave   yes      an administrator removed it: stays away until its definition changes
grave   no       forgotten
======  =======  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from random import random

from attrs import define, field, frozen
from twisted.logger import Logger

from mandos_tx.clock import Clock, TimeLine
from mandos_tx.core.client import Client, ClientDefinition, KeyID
from mandos_tx.core.happenings import ClientAdded
from mandos_tx.core.lifecycle import newborn
from mandos_tx.core.restoration import redefine, revive
from mandos_tx.formats.saved_state import Absent, Tombstone, decode, set_aside, worth_saving
from mandos_tx.interfaces import Registrar, SavedState, StateKeeper

SLACK = timedelta(seconds=1)
"""By how much the wall clock may differ from what it was at the last start, before instants are written anew."""


@frozen
class Restored:
    """What the keeper of the state has to know to go on from here."""

    unsaved: frozenset[str]
    """The clients that are not, or no longer, as they are saved."""
    removed: Mapping[str, str]
    """Documents of clients that an administrator removed and that their source still lists."""
    absent: Mapping[str, str]
    """Documents of disabled clients that their source no longer lists."""


@define(eq=False)
class Roster:
    """Lets clients in and out as their sources say."""

    _registry: Registrar
    _keeper: StateKeeper
    _clock: Clock
    _spread: Callable[[], float] = random
    """Where in its interval a client's first check falls, in [0, 1)."""
    _log: Logger = field(factory=Logger)

    def restore(
        self, saved: SavedState, definitions: Iterable[ClientDefinition], *, ignore_saved: bool = False, by: str = ""
    ) -> Restored:
        """Fill the registry, and put its clock on the time line that it was on, if that still goes on.

        ``by`` is put down to what is new or has changed since the state was saved. With ``ignore_saved``, what is
        saved counts for nothing and is to be overwritten. Raises StateDamaged before any client is let in.
        """
        self._clock.line, shift = settle(saved, self._clock)
        fresh = {definition.name: definition for definition in definitions}
        known: dict[str, Client] = {}
        removed: dict[str, str] = {}
        absent: dict[str, str] = {}
        unsaved: set[str] = set()
        for name, document in saved.documents.items():
            was = None if ignore_saved else decode(name, document, fresh.get(name), saved.key, shift)
            if isinstance(was, Client) and (was.definition is None or name in fresh):
                known[name] = was
            elif isinstance(was, Tombstone) and name in fresh and was.covers(fresh[name]):
                removed[name] = document
            else:
                if isinstance(was, Absent) and name in fresh and was.covers(fresh[name]):
                    known[name] = was.client
                elif name not in fresh and (isinstance(was, Absent) or (isinstance(was, Client) and not was.enabled)):
                    absent[name] = set_aside(document, shift)
                if absent.get(name) != document:
                    unsaved.add(name)
        by = by if saved.documents else ""
        for name, definition in fresh.items():
            if name not in removed:
                self._admit(known.pop(name, None), definition, bool(shift), unsaved, by)
        self._admit_rest(sorted(known.values(), key=lambda client: client.created), bool(shift), unsaved)
        return Restored(frozenset(unsaved), removed, absent)

    def reload(self, definitions: Iterable[ClientDefinition], by: str = "") -> None:
        """Apply sources that were read again, all of which are good."""
        fresh = {definition.name: definition for definition in definitions}
        for name, document in list(self._keeper.removed.items()):
            grave = decode(name, document, fresh.get(name), b"")
            if name not in fresh or not (isinstance(grave, Tombstone) and grave.covers(fresh[name])):
                self._keeper.forget(name)
        for name, client in list(self._registry.clients.items()):
            if client.definition is not None and name not in fresh:
                self._registry.remove(name, by_administrator=False, by=by)
        for name, definition in fresh.items():
            present = self._registry.clients.get(name)
            if present is not None:
                if present.definition != definition:
                    self._registry.redefine(name, definition, self._spread(), by)
            elif name not in self._keeper.removed:
                self._admit(self._absent(definition), definition, False, set(), by)
        taken = self._keys_of_defined()
        for client in list(self._registry.clients.values()):
            if client.definition is None and self._gives_way(client, taken):
                self._registry.remove(client.name, by_administrator=False, by=by)

    def _absent(self, definition: ClientDefinition) -> Client | None:
        """The client that was disabled when its source lost it, if this is the same."""
        document = self._keeper.absent.get(definition.name)
        was = None if document is None else decode(definition.name, document, definition, b"")
        return was.client if isinstance(was, Absent) and was.covers(definition) else None

    def _admit(
        self, was: Client | None, definition: ClientDefinition, shifted: bool, unsaved: set[str], by: str
    ) -> None:
        if was is None:
            self._introduce_newborn(definition, by)
            unsaved.add(definition.name)
            return
        now, spread = self._registry.now(), self._spread()
        client, facts = revive(was, now, spread)
        client, more = redefine(client, definition, now, spread)
        changed = worth_saving(was, client)
        self._registry.introduce(client, facts + more, by if client.definition is not was.definition else "")
        # An observer may have told it something already.
        if shifted or changed or self._registry.clients[client.name] is not client:
            unsaved.add(client.name)

    def _admit_rest(self, known: Iterable[Client], shifted: bool, unsaved: set[str]) -> None:
        """Let in the clients that exist at run time only."""
        taken = self._keys_of_defined()
        for was in known:
            if self._gives_way(was, taken):
                unsaved.add(was.name)
                continue
            client, facts = revive(was, self._registry.now(), self._spread())
            self._registry.introduce(client, facts)
            if shifted or worth_saving(was, client) or self._registry.clients[client.name] is not client:
                unsaved.add(client.name)

    def _keys_of_defined(self) -> Mapping[KeyID | None, str]:
        clients = self._registry.clients.values()
        return {c.settings.key_id: c.name for c in clients if c.definition is not None and c.settings.key_id}

    def _gives_way(self, client: Client, taken: Mapping[KeyID | None, str]) -> bool:
        """Whether a client that exists at run time only must go, for no two may have one key."""
        other = taken.get(client.settings.key_id)
        if other is None:
            return False
        self._log.warn(
            "Client {name} was added at run time, but now {other} is defined with its key: {name} is forgotten",
            name=client.name,
            other=other,
        )
        return True

    def _introduce_newborn(self, definition: ClientDefinition, by: str) -> None:
        client = newborn(definition, self._registry.now(), self._spread())
        self._registry.introduce(client, (ClientAdded(),), by)


def settle(saved: SavedState, clock: Clock) -> tuple[TimeLine, timedelta]:
    """Choose the time line to go on with, and by how much what was saved has to be moved to be right on it.

    Within one boot CLOCK_BOOTTIME tells how much time has passed, whatever became of the wall clock. After another
    boot the wall clock has to be believed, unless it is behind the time of saving: then no time has passed. So nobody's
    time is ever prolonged.
    """
    line, shift = clock.line, timedelta(0)
    old = saved.time_line
    if old is not None and old.boot_id and old.boot_id == line.boot_id:
        difference = line.epoch - old.epoch
        if abs(difference) < SLACK:
            line = old
        else:
            shift = difference
    if saved.saved_at is not None:
        now = line.epoch + timedelta(seconds=clock.seconds())
        shift += min(timedelta(0), now - (saved.saved_at + shift))
    return line, shift
