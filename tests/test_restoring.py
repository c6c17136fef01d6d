"""Tests of ``mandos_tx.restoring``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.saved_state import StateDamaged
from mandos_tx.interfaces import SavedState, StateUnusable
from mandos_tx.registry import Registry
from mandos_tx.restoring import Restoring
from mandos_tx.roster import Roster
from mandos_tx.state.keeper import Keeper
from tests.fakes import FaultyStore, Machine, definition_of, run_at_once


class DamagedStore(FaultyStore):
    error: Exception = StateUnusable("it is damaged")

    def load(self) -> SavedState:
        raise self.error


class RestoringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.given_up: list[str] = []

    def restoring(self, store: FaultyStore, *, restore: bool = True, required: bool = False) -> Restoring:
        clock = self.machine.clock()
        self.registry = Registry(self.machine.reactor, clock)
        self.addCleanup(self.registry.stop)
        keeper = Keeper(self.registry, store, clock, self.machine.reactor, run_at_once)
        return Restoring(
            self.registry,
            keeper,
            Roster(self.registry, keeper, clock),
            [definition_of(1)],
            "/var/lib/mandos",
            self.given_up.append,
            restore=restore,
            required=required,
        )

    def test_the_clients_are_there_when_it_has_started_and_saved_when_it_has_stopped(self) -> None:
        store = FaultyStore()
        restoring = self.restoring(store)
        restoring.startService()
        self.assertEqual({"client1"}, set(self.registry.clients))
        self.successResultOf(restoring.stopService())
        self.assertEqual({"client1"}, set(store.load().documents))
        self.assertTrue(store.closed)
        self.assertEqual([], self.machine.reactor.getDelayedCalls())

    def test_a_state_that_cannot_be_used_is_no_start(self) -> None:
        for error, sentence in (
            (StateUnusable("it is damaged"), "it is damaged"),
            (StateDamaged("client1", "no JSON"), "/var/lib/mandos: what was saved of client 'client1' is damaged"),
        ):
            store = DamagedStore()
            store.error = error
            restoring = self.restoring(store)
            restoring.startService()
            self.assertFalse(restoring.running)
            self.assertTrue(self.given_up.pop().startswith(sentence))

    def test_nor_is_one_that_cannot_be_written_if_it_has_to_be(self) -> None:
        self.restoring(FaultyStore(fault="the disk is full"), required=True).startService()
        self.assertEqual(1, len(self.given_up))
        restoring = self.restoring(FaultyStore(fault="the disk is full"))
        restoring.startService()
        self.assertTrue(restoring.running)
        self.flushLoggedErrors()
        restoring.stopService()
