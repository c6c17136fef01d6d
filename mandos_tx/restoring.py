"""Bringing the clients back at start, and saving the last of them at stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from mandos_tx.core.client import ClientDefinition
from mandos_tx.formats.saved_state import StateDamaged
from mandos_tx.interfaces import StateUnusable, StateUnwritable
from mandos_tx.registry import Registry
from mandos_tx.roster import Roster
from mandos_tx.state.keeper import Keeper

SOURCE = "configuration"
"""Who is put down in the audit for what has changed in the files since the last start."""


class Restoring(Service):
    """Fills the registry before the services that need it start, and is stopped after them."""

    def __init__(
        self,
        registry: Registry,
        keeper: Keeper,
        roster: Roster,
        definitions: Sequence[ClientDefinition],
        statedir: str,
        give_up: Callable[[str], None],
        *,
        restore: bool,
        required: bool,
    ) -> None:
        self._registry = registry
        self._keeper = keeper
        self._roster = roster
        self._definitions: Sequence[ClientDefinition] = definitions
        self._statedir = statedir
        self._give_up = give_up
        self._restore = restore
        self._required = required

    def startService(self) -> None:
        try:
            saved = self._keeper.load(required=self._required)
            restored = self._roster.restore(saved, self._definitions, ignore_saved=not self._restore, by=SOURCE)
        except StateDamaged as error:
            self._give_up(f"{self._statedir}: {error}")
            return
        except (StateUnusable, StateUnwritable) as error:
            self._give_up(str(error))
            return
        self._definitions = ()
        self._keeper.start(restored.unsaved, restored.removed, restored.absent)
        super().startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._registry.stop()
        return self._keeper.stop()
