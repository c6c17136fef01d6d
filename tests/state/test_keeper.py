"""Tests of ``mandos_tx.state.keeper``."""

from __future__ import annotations

from attrs import evolve
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.background import RunInThread
from mandos_tx.core.client import Client, Exited
from mandos_tx.core.happenings import (
    CheckFinished,
    CheckStarted,
    ClientAdded,
    ClientRestored,
    Disable,
    Enable,
    SecretDelivered,
    StartCheck,
    Vouched,
)
from mandos_tx.core.lifecycle import apply, newborn
from mandos_tx.formats.saved_state import Absent, Tombstone, decode, encode_tombstone
from mandos_tx.interfaces import StateUnwritable
from mandos_tx.state.keeper import DELAY, LAST_RETRY, STOP_LIMIT, Keeper
from tests.fakes import FaultyStore, Log, Machine, SlowThread, definition_of, lasting, run_at_once, settings_of


class StubbornStore(FaultyStore):
    def close(self) -> None:
        raise OSError(5, "Input/output error")


class KeeperTestCase(SynchronousTestCase):
    thread: RunInThread

    def setUp(self) -> None:
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.store = FaultyStore()
        self.thread = run_at_once
        self.log = Log()

    def make(self) -> Keeper:
        clock = self.machine.clock()
        return Keeper(self.registry, self.store, clock, self.machine.reactor, self.thread, self.log.logger())

    def started(self) -> Keeper:
        keeper = self.make()
        keeper.load()
        keeper.start()
        self.machine.pass_time(0)
        self.store.commits.clear()
        return keeper

    def add(self, number: int = 1) -> str:
        definition = definition_of(number)
        self.registry.introduce(newborn(definition, self.registry.now(), 0.5), (ClientAdded(),))
        return definition.name

    def saved(self, name: str) -> Client | Tombstone | Absent:
        number = int(name.removeprefix("client"))
        return decode(name, self.store.saved.documents[name], definition_of(number), self.store.saved.key)

    def lasting(self, name: str) -> Client:
        return lasting(self.registry.clients[name])


class SavingTests(KeeperTestCase):
    def test_a_new_client_is_saved_within_the_delay(self) -> None:
        self.started()
        name = self.add()
        self.machine.pass_time(DELAY)
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_many_changes_share_one_commit(self) -> None:
        self.started()
        for number in range(20):
            self.registry.tell(self.add(number), Vouched())
        self.machine.pass_time(DELAY)
        self.assertEqual(len(self.store.commits), 1)
        self.assertEqual(len(self.store.commits[0]), 20)

    def test_what_is_not_saved_anyway_causes_no_commit(self) -> None:
        self.started()
        name = self.add()
        self.machine.pass_time(DELAY)
        self.store.commits.clear()
        self.registry.tell(name, CheckStarted(":"))
        self.registry.tell(name, StartCheck())
        self.registry.report_unknown(definition_of(9).settings.key_id or self.fail("no key"), "::1")
        self.machine.pass_time(10 * DELAY)
        self.assertEqual(self.store.commits, [])

    def test_a_delivered_secret_and_a_good_check_are_saved(self) -> None:
        self.started()
        name = self.add()
        for event in (SecretDelivered("::1"), CheckFinished(Exited(0), ":")):
            self.registry.tell(name, event)
            self.machine.pass_time(DELAY)
            saved = self.saved(name)
            self.assertIsInstance(saved, Client)
            assert isinstance(saved, Client)
            self.assertEqual(saved.standing, self.registry.clients[name].standing)
            self.assertEqual(saved.last_checked_ok, self.registry.clients[name].last_checked_ok)

    def test_a_client_that_is_disabled_is_saved_at_once(self) -> None:
        self.started()
        name = self.add()
        self.machine.pass_time(DELAY)
        self.registry.tell(name, Disable())
        self.machine.pass_time(0)
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_a_client_that_is_disabled_during_a_commit_is_saved_right_after_it(self) -> None:
        thread = self.thread = SlowThread()
        self.make().start()
        self.machine.pass_time(0)
        name = self.add()
        self.registry.tell(name, Disable())
        self.assertEqual(self.machine.reactor.getDelayedCalls()[1:], [])
        thread.step()
        self.machine.pass_time(0)
        thread.step()
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_a_client_that_its_source_lost_is_deleted(self) -> None:
        self.started()
        name = self.add()
        self.machine.pass_time(DELAY)
        self.registry.remove(name, by_administrator=False)
        self.machine.pass_time(DELAY)
        self.assertEqual(self.store.saved.documents, {})

    def test_a_disabled_client_that_its_source_lost_is_set_aside_until_it_comes_back(self) -> None:
        keeper = self.started()
        name = self.add()
        self.registry.tell(name, Disable())
        client = self.registry.clients[name]
        self.registry.remove(name, by_administrator=False)
        self.machine.pass_time(DELAY)
        self.assertEqual(self.saved(name), Absent(lasting(client)))
        self.assertEqual(dict(keeper.absent), self.store.saved.documents)
        self.assertEqual(keeper.removed, {})
        self.add()
        self.machine.pass_time(DELAY)
        self.assertEqual(self.saved(name), self.lasting(name))
        self.assertEqual(keeper.absent, {})

    def test_a_client_that_an_administrator_removed_leaves_a_tombstone(self) -> None:
        keeper = self.started()
        name = self.add()
        self.registry.remove(name, by_administrator=True)
        self.machine.pass_time(DELAY)
        self.assertEqual(self.saved(name), Tombstone(definition_of()))
        self.assertEqual(list(keeper.removed), [name])

    def test_a_client_that_comes_back_leaves_no_tombstone(self) -> None:
        keeper = self.started()
        name = self.add()
        self.registry.remove(name, by_administrator=True)
        self.add()
        self.machine.pass_time(DELAY)
        self.assertEqual(self.saved(name), self.lasting(name))
        self.assertEqual(keeper.removed, {})

    def test_a_run_time_client_that_an_administrator_removed_is_forgotten(self) -> None:
        keeper = self.started()
        client = evolve(newborn(definition_of(), self.registry.now(), 0.5), definition=None)
        self.registry.introduce(client, (ClientAdded(),))
        self.registry.remove(client.name, by_administrator=True)
        self.machine.pass_time(DELAY)
        self.assertEqual(keeper.removed, {})
        self.assertEqual(self.store.saved.documents, {})

    def test_a_forgotten_tombstone_is_deleted(self) -> None:
        keeper = self.make()
        tombstone = encode_tombstone(definition_of())
        self.store.saved = evolve(self.store.saved, documents={"client1": tombstone})
        keeper.load()
        keeper.start(removed={"client1": tombstone})
        keeper.forget("client1")
        keeper.forget("client2")
        self.machine.pass_time(DELAY)
        self.assertEqual(self.store.saved.documents, {})

    def test_the_generation_grows_with_every_commit(self) -> None:
        keeper = self.started()
        self.assertEqual(keeper.generation, 1)
        name = self.add()
        self.machine.pass_time(DELAY)
        self.registry.tell(name, Vouched())
        self.machine.pass_time(DELAY)
        self.assertEqual(keeper.generation, 3)
        self.assertEqual(self.store.saved.generation, 3)

    def test_the_generation_goes_on_after_a_restart(self) -> None:
        self.started()
        self.assertEqual(self.started().generation, 2)

    def test_a_client_that_was_restored_is_not_written_again(self) -> None:
        keeper = self.make()
        keeper.load()
        self.registry.introduce(newborn(definition_of(), self.registry.now(), 0.5), (ClientRestored(grace=False),))
        keeper.start()
        self.machine.pass_time(DELAY)
        self.assertEqual(self.store.commits, [{}])


class WriteAheadTests(KeeperTestCase):
    def ahead(self, name: str) -> Client:
        return apply(self.registry.clients[name], Disable(), self.registry.now())[0]

    def test_it_fires_only_when_the_commit_is_done(self) -> None:
        thread = self.thread = SlowThread()
        keeper = self.make()
        keeper.start()
        name = self.add()
        durable = keeper.write_ahead(name, self.ahead(name))
        self.assertNoResult(durable)
        thread.step()
        self.successResultOf(durable)
        self.assertEqual(self.saved(name), lasting(self.ahead(name)))

    def test_those_who_come_during_a_commit_share_the_next(self) -> None:
        thread = self.thread = SlowThread()
        keeper = self.make()
        keeper.start()
        names = [self.add(number) for number in range(4)]
        durable = [keeper.write_ahead(name, self.ahead(name)) for name in names]
        thread.step()
        self.successResultOf(durable[0])
        for waiting in durable[1:]:
            self.assertNoResult(waiting)
        thread.step()
        for waiting in durable[1:]:
            self.successResultOf(waiting)
        self.assertEqual(len(self.store.commits), 2)

    def test_a_commit_in_between_does_not_revert_what_was_written_ahead(self) -> None:
        thread = self.thread = SlowThread()
        keeper = self.make()
        keeper.start()
        first, second = self.add(1), self.add(2)
        made_true = []

        def make_true(_: None, name: str) -> None:
            if name == first:
                # Another administrator is quick; what was written ahead for ``second`` is not true yet.
                keeper.write_ahead(first, self.ahead(first))
            self.registry.tell(name, Disable())
            made_true.append(name)

        keeper.write_ahead(first, self.ahead(first))
        keeper.write_ahead(second, self.ahead(second)).addCallback(make_true, second)
        self.registry.tell(second, Vouched())
        thread.step()
        keeper.write_ahead(first, self.ahead(first)).addCallback(make_true, first)
        thread.step()
        while thread.calls:
            thread.step()
            saved = self.saved(second)
            assert isinstance(saved, Client)
            self.assertFalse(saved.enabled)
        self.assertEqual(made_true, [second, first])

    def test_removal_leaves_a_tombstone(self) -> None:
        keeper = self.started()
        name = self.add()
        self.successResultOf(keeper.write_ahead(name, None))
        self.assertEqual(self.saved(name), Tombstone(definition_of()))

    def test_removal_of_a_client_without_a_definition_leaves_nothing(self) -> None:
        keeper = self.started()
        client = evolve(newborn(definition_of(), self.registry.now(), 0.5), definition=None)
        self.registry.introduce(client, (ClientAdded(),))
        self.machine.pass_time(DELAY)
        self.successResultOf(keeper.write_ahead(client.name, None))
        self.assertEqual(self.store.saved.documents, {})

    def test_it_is_refused_when_the_server_stops(self) -> None:
        keeper = self.started()
        name = self.add()
        self.successResultOf(keeper.stop())
        self.failureResultOf(keeper.write_ahead(name, self.ahead(name)), StateUnwritable)


class UnwritableTests(KeeperTestCase):
    def test_it_is_an_error_once_a_minute(self) -> None:
        self.store.fault = "no space left on device"
        self.started()
        self.add()
        self.machine.reactor.pump([1.0] * 179)
        errors = self.log.texts(LogLevel.error)
        self.assertEqual(len(errors), 3)
        for error in errors:
            self.assertIn("no space left on device", error)

    def test_it_is_tried_again_at_least_once_a_minute(self) -> None:
        keeper = self.started()
        self.store.fault = "read-only file system"
        name = self.add()
        self.machine.reactor.pump([1.0] * 1000)
        self.assertFalse(keeper.writable)
        self.store.fault = ""
        self.machine.pass_time(LAST_RETRY)
        self.assertTrue(keeper.writable)
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_nothing_is_lost_meanwhile(self) -> None:
        self.started()
        self.store.fault = "input/output error"
        names = [self.add(number) for number in range(3)]
        self.machine.pass_time(DELAY)
        for name in names:
            self.registry.tell(name, Disable())
        self.machine.reactor.pump([1.0] * 20)
        self.store.fault = ""
        self.machine.pass_time(LAST_RETRY)
        for name in names:
            self.assertEqual(self.saved(name), self.lasting(name))

    def test_writing_ahead_tries_at_once_and_fails(self) -> None:
        keeper = self.started()
        name = self.add()
        self.machine.pass_time(DELAY)
        self.store.fault = "no space left on device"
        client = self.registry.clients[name]
        failure = self.failureResultOf(keeper.write_ahead(name, client), StateUnwritable)
        self.assertIn("no space left on device", failure.getErrorMessage())
        self.store.fault = ""
        self.successResultOf(keeper.write_ahead(name, client))
        self.assertTrue(keeper.writable)

    def test_what_could_not_be_written_ahead_is_written_as_it_is(self) -> None:
        """The commit that failed may be on disk all the same."""
        keeper = self.started()
        name = self.add()
        self.registry.tell(name, Disable())
        self.machine.pass_time(DELAY)
        self.store.fault = "input/output error"
        enabled = apply(self.registry.clients[name], Enable(0.5), self.registry.now())[0]
        self.failureResultOf(keeper.write_ahead(name, enabled), StateUnwritable)
        self.store.fault = ""
        self.machine.pass_time(LAST_RETRY)
        self.assertEqual(self.store.commits[-1].keys(), {name})
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_an_unforeseen_error_is_logged_and_the_keeper_goes_on(self) -> None:
        keeper = self.started()
        name = self.add()
        self.registry.tell(name, Disable())
        impossible = evolve(self.registry.clients[name], settings=None)  # type: ignore[arg-type]  # what nobody foresaw
        self.failureResultOf(keeper.write_ahead(name, impossible), StateUnwritable)
        self.assertEqual(len(self.log.texts(LogLevel.critical)), 1)
        self.machine.pass_time(LAST_RETRY)
        self.assertTrue(keeper.writable)

    def test_the_start_can_insist_on_a_state(self) -> None:
        self.store.fault = "permission denied"
        self.assertRaises(StateUnwritable, self.make().load, required=True)
        self.make().load()


class StopTests(KeeperTestCase):
    def test_what_is_left_is_saved(self) -> None:
        keeper = self.started()
        name = self.add()
        self.successResultOf(keeper.stop())
        self.assertEqual(self.saved(name), self.lasting(name))
        self.assertTrue(self.store.closed)
        self.registry.stop()
        self.assertEqual(self.machine.reactor.getDelayedCalls(), [])

    def test_what_was_being_saved_is_saved_again(self) -> None:
        """The commit under way may fail."""
        thread = self.thread = SlowThread()
        keeper = self.make()
        keeper.start()
        name = self.add()
        self.machine.pass_time(DELAY)
        stopped = keeper.stop()
        self.store.fault = "no space left on device"
        thread.step()
        self.store.fault = ""
        thread.step()
        thread.step()
        self.successResultOf(stopped)
        self.assertEqual(self.saved(name), self.lasting(name))

    def test_a_disk_that_hangs_does_not_hold_up_the_end(self) -> None:
        self.thread = SlowThread()
        keeper = self.make()
        keeper.start()
        stopped = keeper.stop()
        self.machine.pass_time(STOP_LIMIT)
        self.successResultOf(stopped)
        self.assertEqual(len(self.log.texts(LogLevel.error)), 1)

    def test_a_store_that_cannot_be_closed_is_an_error(self) -> None:
        self.store = StubbornStore()
        keeper = self.started()
        self.successResultOf(keeper.stop())
        self.assertEqual(len(self.log.texts(LogLevel.critical)), 1)

    def test_why_nothing_can_be_saved_is_known(self) -> None:
        self.store.fault = "no space left on device"
        self.assertEqual(self.started().problem, "no space left on device")

    def test_a_keeper_that_never_started_saves_nothing(self) -> None:
        keeper = self.make()
        keeper.load()
        self.successResultOf(keeper.stop())
        self.assertEqual(self.store.commits, [])
        self.assertTrue(self.store.closed)


class SecrecyTests(KeeperTestCase):
    def test_the_key_is_not_shown(self) -> None:
        keeper = self.started()
        self.assertNotIn(repr(self.store.saved.key), repr(keeper))

    def test_no_secret_is_saved(self) -> None:
        self.started()
        self.add()
        self.machine.pass_time(DELAY)
        self.assertNotIn(settings_of().secret.decode(), repr(self.store.commits))
