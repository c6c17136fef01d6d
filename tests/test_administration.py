"""Tests of ``mandos_tx.administration``."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.administration import Administration, CannotAdd, DisabledButNotSaved, NotSaved, Overtaken
from mandos_tx.background import RunInThread
from mandos_tx.core.client import Client, ClientSettings, Disabled, Enabled
from mandos_tx.core.happenings import (
    ClientAdded,
    ClientRemoved,
    Disable,
    Enable,
    Event,
    Reconfigured,
    Ruled,
    StartCheck,
    StopCheck,
    Vouched,
)
from mandos_tx.core.lifecycle import newborn
from mandos_tx.formats.saved_state import Absent, Tombstone, decode, encode_tombstone
from mandos_tx.interfaces import NoSuchClient
from mandos_tx.state.keeper import Keeper
from tests.fakes import FaultyStore, Machine, Recorder, SlowThread, definition_of, lasting, run_at_once

HOUR = timedelta(hours=1)


class AdministrationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.store = FaultyStore()
        self.heard = Recorder()
        self.make(run_at_once)

    def make(self, thread: RunInThread) -> None:
        self.keeper = Keeper(self.registry, self.store, self.machine.clock(), self.machine.reactor, thread)
        self.keeper.load()
        self.keeper.start()
        self.admin = Administration(self.registry, self.keeper, lambda: 0.5)

    def slow(self) -> SlowThread:
        """Have a disk that answers when it is told to."""
        self.successResultOf(self.keeper.stop())
        thread = SlowThread()
        self.make(thread)
        return thread

    def client(self, number: int = 1) -> str:
        client = newborn(definition_of(number), self.registry.now(), 0.5)
        self.registry.introduce(client, (ClientAdded(),))
        self.registry.observe(self.heard)
        return client.name

    def present(self, name: str = "client1") -> Client:
        return self.registry.clients[name]

    def saved(self, name: str = "client1") -> Client | Tombstone | Absent:
        number = int(name.removeprefix("client"))
        return decode(name, self.store.saved.documents[name], definition_of(number), self.store.saved.key)


class ChangeTests(AdministrationTestCase):
    def test_a_change_is_on_disk_before_it_happens(self) -> None:
        thread = self.slow()
        name = self.client()
        self.registry.tell(name, Disable())
        before = self.present()
        answer = self.admin.change(name, Enable(0.5), "uid 0")
        self.assertNoResult(answer)
        self.assertIs(self.present(), before)
        while not self.store.commits or name not in self.store.commits[-1]:
            self.assertIs(self.present(), before)
            thread.step()
        after = self.successResultOf(answer)
        self.assertIs(self.present(), after)
        self.assertEqual(self.saved(), lasting(after))
        self.assertTrue(after.enabled)

    def test_the_change_is_put_down_to_who_wanted_it(self) -> None:
        name = self.client()
        self.successResultOf(self.admin.change(name, Vouched(), "uid 1000"))
        self.assertEqual([change.by for change in self.heard.changes], ["uid 1000"])

    def test_a_check_by_hand_needs_no_disk(self) -> None:
        self.store.fault = "no space left on device"
        name = self.client()
        for event in (StartCheck(), StopCheck()):
            self.successResultOf(self.admin.change(name, event, "uid 0"))

    def test_what_is_so_already_may_still_have_to_be_saved(self) -> None:
        name = self.client()
        self.successResultOf(self.admin.change(name, Enable(0.5), "uid 0"))
        self.assertEqual(self.saved(), lasting(self.present()))

    def test_if_it_cannot_be_saved_nothing_changes(self) -> None:
        name = self.client()
        self.store.fault = "no space left on device"
        events: list[Event] = [Vouched(), Ruled(True), Reconfigured(evolve(self.present().settings, timeout=HOUR))]
        before = self.present()
        for event in events:
            failure = self.failureResultOf(self.admin.change(name, event, "uid 0"), NotSaved)
            self.assertIn("no space left on device", failure.getErrorMessage())
            self.assertIn("nothing was changed", failure.getErrorMessage())
        self.assertIs(self.present(), before)
        self.assertEqual(self.heard.changes, [])

    def test_what_could_not_be_saved_can_be_tried_again(self) -> None:
        name = self.client()
        self.store.fault = "no space left on device"
        self.failureResultOf(self.admin.change(name, Vouched(), "uid 0"), NotSaved)
        self.store.fault = ""
        self.successResultOf(self.admin.change(name, Vouched(), "uid 0"))

    def test_changes_of_one_client_happen_one_after_the_other(self) -> None:
        thread = self.slow()
        name = self.client()
        first = self.admin.reconfigure(name, "uid 0", timeout=HOUR)
        second = self.admin.reconfigure(name, "uid 1", host="192.0.2.1")
        while thread.calls:
            thread.step()
        self.successResultOf(first)
        settings = self.successResultOf(second).settings
        self.assertEqual((settings.timeout, settings.host), (HOUR, "192.0.2.1"))

    def test_changes_of_different_clients_share_a_commit(self) -> None:
        thread = self.slow()
        names = [self.client(number) for number in range(10)]
        answers = [self.admin.change(name, Ruled(True), "uid 0") for name in names]
        while thread.calls:
            thread.step()
        for answer in answers:
            self.successResultOf(answer)
        self.assertLessEqual(len(self.store.commits), 3)

    def test_no_client_no_change(self) -> None:
        for event in (Enable(), Disable(), Vouched()):
            self.failureResultOf(self.admin.change("nobody", event, "uid 0"), NoSuchClient)
        self.failureResultOf(self.admin.reconfigure("nobody", "uid 0", timeout=HOUR), NoSuchClient)
        self.failureResultOf(self.admin.remove("nobody", "uid 0"), NoSuchClient)

    def test_a_client_that_goes_while_its_change_is_saved_leaves_nothing_behind(self) -> None:
        thread = self.slow()
        name = self.client()
        answer = self.admin.change(name, Vouched(), "uid 0")
        self.registry.remove(name, by_administrator=False)
        while thread.calls:
            thread.step()
        self.failureResultOf(answer, NoSuchClient)
        self.machine.pass_time(1)
        thread.step()
        self.assertEqual(self.store.saved.documents, {})

    def test_a_setting_that_does_not_exist_is_refused(self) -> None:
        self.failureResultOf(self.admin.reconfigure(self.client(), "uid 0", tiemout=HOUR), TypeError)

    def test_a_secret_that_was_set_at_run_time_is_saved_sealed(self) -> None:
        name = self.client()
        self.successResultOf(self.admin.reconfigure(name, "uid 0", secret=b"of run time"))
        saved = self.saved()
        assert isinstance(saved, Client)
        self.assertEqual(saved.settings.secret, b"of run time")
        self.assertNotIn("of run time", self.store.saved.documents[name])

    def test_nothing_is_kept_of_those_who_had_their_turn(self) -> None:
        name = self.client()
        self.successResultOf(self.admin.change(name, Vouched(), "uid 0"))
        self.failureResultOf(self.admin.change("nobody", Vouched(), "uid 0"), NoSuchClient)
        self.successResultOf(self.admin.remove(name, "uid 0"))
        self.assertNotIn("client1", repr(self.admin._turns))


class DisableTests(AdministrationTestCase):
    def test_it_takes_effect_at_once_and_is_answered_when_it_is_on_disk(self) -> None:
        thread = self.slow()
        name = self.client()
        answer = self.admin.change(name, Disable(), "uid 0")
        self.assertFalse(self.present().enabled)
        self.assertNoResult(answer)
        while thread.calls:
            thread.step()
        self.successResultOf(answer)
        self.assertEqual(self.saved(), lasting(self.present()))

    def test_if_it_cannot_be_saved_it_has_happened_and_the_error_says_so(self) -> None:
        name = self.client()
        self.store.fault = "no space left on device"
        failure = self.failureResultOf(self.admin.change(name, Disable(), "uid 0"), DisabledButNotSaved)
        self.assertFalse(self.present().enabled)
        self.assertIn("is disabled now", failure.getErrorMessage())
        self.assertIn("no space left on device", failure.getErrorMessage())
        self.assertNotIn("nothing was changed", failure.getErrorMessage())

    def test_asking_again_tells_whether_it_is_saved_meanwhile(self) -> None:
        name = self.client()
        self.store.fault = "no space left on device"
        self.failureResultOf(self.admin.change(name, Disable(), "uid 0"), DisabledButNotSaved)
        self.failureResultOf(self.admin.change(name, Disable(), "uid 0"), DisabledButNotSaved)
        self.store.fault = ""
        self.successResultOf(self.admin.change(name, Disable(), "uid 0"))
        self.assertEqual(self.saved(), lasting(self.present()))

    def test_it_overtakes_an_enabling_and_an_approval_that_are_being_saved(self) -> None:
        for event in (Enable(0.5), Ruled(True)):
            self.setUp()
            thread = self.slow()
            name = self.client()
            if isinstance(event, Enable):
                self.registry.tell(name, Disable())
            late = self.admin.change(name, event, "uid 0")
            disabled = self.admin.change(name, Disable(), "uid 1")
            while thread.calls:
                thread.step()
            self.failureResultOf(late, Overtaken)
            self.successResultOf(disabled)
            self.assertFalse(self.present().enabled)
            self.assertIsNone(self.present().ruling)
            saved = self.saved()
            assert isinstance(saved, Client)
            self.assertFalse(saved.enabled)

    def test_it_overtakes_an_enabling_whose_turn_has_not_come(self) -> None:
        thread = self.slow()
        name = self.client()
        first = self.admin.change(name, Disable(), "uid 0")
        enabled = self.admin.change(name, Enable(0.5), "uid 1")
        last = self.admin.change(name, Disable(), "uid 2")
        while thread.calls:
            thread.step()
        self.successResultOf(first)
        self.failureResultOf(enabled, Overtaken)
        self.successResultOf(last)
        self.assertFalse(self.present().enabled)

    def test_it_does_not_undo_a_new_setting_that_is_being_saved(self) -> None:
        thread = self.slow()
        name = self.client()
        late = self.admin.reconfigure(name, "uid 0", timeout=HOUR)
        disabled = self.admin.change(name, Disable(), "uid 1")
        while thread.calls:
            thread.step()
        self.successResultOf(late)
        self.successResultOf(disabled)
        self.assertFalse(self.present().enabled)
        self.assertEqual(self.present().settings.timeout, HOUR)

    def test_a_client_that_goes_meanwhile_is_remembered_as_disabled(self) -> None:
        thread = self.slow()
        name = self.client()
        first = self.admin.change(name, Vouched(), "uid 0")
        disabled = self.admin.change(name, Disable(), "uid 1")
        self.registry.remove(name, by_administrator=False)
        while thread.calls:
            thread.step()
        self.failureResultOf(first, NoSuchClient)
        self.successResultOf(disabled)
        self.machine.pass_time(1)
        while thread.calls:
            thread.step()
        self.assertIsInstance(self.saved(name), Absent)


class AddTests(AdministrationTestCase):
    def test_a_client_is_added_and_saved(self) -> None:
        thread = self.slow()
        self.registry.observe(self.heard)
        answer = self.admin.add(definition_of(1), "uid 0")
        self.assertEqual(dict(self.registry.clients), {})
        while thread.calls:
            thread.step()
        client = self.successResultOf(answer)
        self.assertIs(self.present(), client)
        self.assertIsNone(client.definition)
        self.assertEqual(client.settings, definition_of(1).settings)
        self.assertEqual(self.saved(), lasting(client))
        self.assertEqual([(change.facts, change.by) for change in self.heard.changes], [((ClientAdded(),), "uid 0")])

    def test_it_may_begin_disabled(self) -> None:
        client = self.successResultOf(self.admin.add(definition_of(1, enabled=False), "uid 0"))
        self.assertEqual(client.standing, Disabled())

    def test_if_it_cannot_be_saved_there_is_none(self) -> None:
        self.store.fault = "no space left on device"
        self.failureResultOf(self.admin.add(definition_of(1), "uid 0"), NotSaved)
        self.assertEqual(dict(self.registry.clients), {})

    def test_a_name_or_key_that_is_taken_is_refused(self) -> None:
        self.client(1)
        same_key = evolve(definition_of(2), settings=definition_of(1).settings)
        for definition in (definition_of(1), same_key):
            failure = self.failureResultOf(self.admin.add(definition, "uid 0"), CannotAdd)
            self.assertIn("client1", failure.getErrorMessage())

    def test_a_name_that_cannot_be_written_is_refused(self) -> None:
        self.failureResultOf(self.admin.add(evolve(definition_of(1), name="\ud800"), "uid 0"), CannotAdd)

    def test_the_name_of_a_client_that_was_removed_but_is_still_defined_is_refused(self) -> None:
        name = self.client(1)
        self.successResultOf(self.admin.remove(name, "uid 0"))
        self.failureResultOf(self.admin.add(definition_of(1), "uid 0"), CannotAdd)

    def test_clients_without_a_key_can_be_added(self) -> None:
        for number in (1, 2):
            keyless = ClientSettings(None, None, b"secret")
            self.successResultOf(self.admin.add(evolve(definition_of(number), settings=keyless), "uid 0"))

    def test_two_who_add_the_same_at_once_get_one(self) -> None:
        thread = self.slow()
        first = self.admin.add(definition_of(1), "uid 0")
        second = self.admin.add(definition_of(1), "uid 1")
        while thread.calls:
            thread.step()
        self.successResultOf(first)
        self.failureResultOf(second, CannotAdd)

    def test_a_reload_that_brings_the_client_meanwhile_wins(self) -> None:
        thread = self.slow()
        answer = self.admin.add(definition_of(1), "uid 0")
        self.client(1)
        while thread.calls:
            thread.step()
        self.failureResultOf(answer, CannotAdd)
        self.assertEqual(self.present().definition, definition_of(1))


class RemoveTests(AdministrationTestCase):
    def test_removal_is_on_disk_before_it_happens(self) -> None:
        thread = self.slow()
        name = self.client()
        answer = self.admin.remove(name, "uid 0")
        self.assertIn(name, self.registry.clients)
        while thread.calls:
            thread.step()
        self.successResultOf(answer)
        self.assertNotIn(name, self.registry.clients)
        self.assertEqual(self.store.saved.documents, {name: encode_tombstone(definition_of(1))})
        self.assertEqual(self.heard.changes[-1].facts, (ClientRemoved(by_administrator=True),))
        self.assertEqual(self.heard.changes[-1].by, "uid 0")

    def test_if_it_cannot_be_saved_the_client_stays(self) -> None:
        name = self.client()
        self.store.fault = "no space left on device"
        self.failureResultOf(self.admin.remove(name, "uid 0"), NotSaved)
        self.assertIn(name, self.registry.clients)


class CrashTests(AdministrationTestCase):
    """Whenever the power fails: what was acknowledged is saved, and nobody is enabled who was acknowledged disabled."""

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_no_acknowledged_change_is_lost(self, data: st.DataObject) -> None:
        self.setUp()
        thread = self.slow()
        names = [self.client(number) for number in (1, 2)]
        acknowledged: dict[str, Event | None] = dict.fromkeys(names)
        wanted: list[tuple[str, Event, Deferred[Client]]] = []
        events: st.SearchStrategy[Event] = st.sampled_from([Enable(0.5), Disable()])
        for _ in range(data.draw(st.integers(1, 25))):
            step = data.draw(st.sampled_from(["change", "change", "disk", "disk", "time", "fault", "vouch"]))
            if step == "change":
                name, event = data.draw(st.sampled_from(names)), data.draw(events)
                # What an administrator wants next, nobody can promise about what was before.
                acknowledged[name] = None
                answer = self.admin.change(name, event, "uid 0")
                wanted.append((name, event, answer))
            elif step == "disk" and thread.calls:
                thread.step()
            elif step == "time":
                self.machine.pass_time(1)
            elif step == "vouch":
                self.registry.tell(data.draw(st.sampled_from(names)), Vouched())
            elif step == "fault":
                self.store.fault = "" if self.store.fault else "no space left on device"
            for name, event, answer in list(wanted):
                if not answer.called:
                    continue
                wanted.remove((name, event, answer))
                answer.addCallbacks(
                    lambda _, name=name, event=event: acknowledged.update({name: event}), lambda _: None
                )
                if any(other == name for other, _, _ in wanted):
                    acknowledged[name] = None
            for name, event in ((name, event) for name, event in acknowledged.items() if event is not None):
                saved = self.saved(name)
                assert isinstance(saved, Client)
                self.assertIsInstance(saved.standing, Enabled if isinstance(event, Enable) else Disabled)
                self.assertEqual(saved.enabled, self.present(name).enabled)
        self.store.fault = ""
        while thread.calls:
            thread.step()
        for _, _, answer in wanted:
            answer.addErrback(lambda _: None)
