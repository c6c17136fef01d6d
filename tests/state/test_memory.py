"""Tests of ``mandos_tx.state.memory``."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.interfaces import StateStore
from mandos_tx.state.memory import MemoryStore
from tests.contracts.state_store import make_state_store_tests


@define
class Restarts:
    """Every call is a restart."""

    store: MemoryStore = field(factory=MemoryStore)

    def __call__(self) -> StateStore:
        self.store = MemoryStore(self.store.saved)
        return self.store


def fixture(test: SynchronousTestCase) -> Callable[[], StateStore]:
    return Restarts()


class MemoryStoreTests(make_state_store_tests(fixture)):  # type: ignore[misc]  # a class made at run time
    """A store in memory, handed on."""
