"""Tests of ``mandos_tx.registry``."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.approval import decide
from mandos_tx.core.client import Client, ClientDefinition, Disabled, Exited
from mandos_tx.core.happenings import (
    Cause,
    Change,
    CheckFinished,
    ClientAdded,
    ClientDisabled,
    ClientNotFound,
    ClientRemoved,
    Disable,
    Enable,
    Event,
    PetitionDecided,
    Petitioned,
    Reconfigured,
    Ruled,
    SecretDelivered,
    StopCheck,
    TimePassed,
    Vouched,
)
from mandos_tx.core.lifecycle import apply, deadline, newborn
from mandos_tx.interfaces import NoSuchClient
from mandos_tx.registry import BATCH, LONGEST_SLEEP, Registry
from tests.core.events import client_settings, events
from tests.fakes import Log, Machine, Recorder, definition_of, key_id, settings_of

MINUTE = timedelta(minutes=1)


class RegistryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.log = Log()
        self.registry = Registry(self.machine.reactor, self.machine.clock(), self.log.logger())
        self.addCleanup(self.registry.stop)
        self.heard = Recorder()
        self.registry.observe(self.heard)

    def add(self, number: int = 1, definition: ClientDefinition | None = None) -> Client:
        client = newborn(definition or definition_of(number), self.registry.now(), 0.0)
        self.registry.introduce(client, (ClientAdded(),))
        return client


class ClientsTests(RegistryTestCase):
    def test_clients_are_found_by_name_and_key(self) -> None:
        clients = [self.add(number) for number in (1, 2)]
        self.assertEqual(list(self.registry.clients.values()), clients)
        self.assertIs(self.registry.find(key_id(2)), clients[1])
        self.assertIsNone(self.registry.find(key_id(3)))

    def test_nobody_else_can_change_them(self) -> None:
        self.add()
        with self.assertRaises(TypeError):
            self.registry.clients["client1"] = self.registry.clients["client1"]  # type: ignore[index]  # the point

    def test_two_of_one_name_cannot_be(self) -> None:
        self.add()
        self.assertRaises(ValueError, self.add)

    def test_clients_without_a_key_are_found_by_name_only(self) -> None:
        keyless = evolve(definition_of(), settings=evolve(settings_of(), key_id=None))
        self.add(definition=keyless)
        self.assertIn("client1", self.registry.clients)
        self.registry.remove("client1", by_administrator=True)
        self.assertEqual(dict(self.registry.clients), {})

    def test_who_is_not_there_cannot_be_told_anything(self) -> None:
        self.assertRaises(NoSuchClient, self.registry.tell, "nobody", Vouched())
        self.assertRaises(NoSuchClient, self.registry.redefine, "nobody", definition_of(), 0.0)
        self.assertRaises(NoSuchClient, self.registry.remove, "nobody", by_administrator=True)
        self.assertEqual(self.heard.changes, [])

    def test_a_key_follows_its_client(self) -> None:
        self.add()
        self.registry.tell("client1", Reconfigured(settings_of(2)))
        self.assertIsNone(self.registry.find(key_id(1)))
        self.assertIs(self.registry.find(key_id(2)), self.registry.clients["client1"])
        self.registry.remove("client1", by_administrator=False)
        self.assertIsNone(self.registry.find(key_id(2)))

    def test_keys_can_be_exchanged(self) -> None:
        one, two = definition_of(1), definition_of(2)
        self.add(1)
        self.add(2)
        self.registry.redefine("client1", evolve(one, settings=two.settings), 0.0)
        self.registry.redefine("client2", evolve(two, settings=one.settings), 0.0)
        self.assertIs(self.registry.find(key_id(1)), self.registry.clients["client2"])
        self.assertIs(self.registry.find(key_id(2)), self.registry.clients["client1"])

    def test_a_key_may_be_taken_away(self) -> None:
        self.add()
        self.registry.tell("client1", Reconfigured(evolve(settings_of(), key_id=None)))
        self.assertIsNone(self.registry.find(key_id(1)))


class PublishingTests(RegistryTestCase):
    def test_every_change_says_what_was_and_what_is(self) -> None:
        before = self.add()
        after = self.registry.tell("client1", Disable(), by="uid 0")
        self.assertEqual(
            self.heard.changes,
            [
                Change(None, before, (ClientAdded(),), self.registry.now()),
                Change(before, after, (ClientDisabled(Cause.ADMINISTRATOR),), self.registry.now(), "uid 0"),
            ],
        )

    def test_what_changes_nothing_is_not_published(self) -> None:
        self.add()
        self.heard.changes.clear()
        for event in (Enable(), TimePassed()):
            self.registry.tell("client1", event)
        self.registry.redefine("client1", definition_of(), 0.0)
        self.assertEqual(self.heard.changes, [])

    def test_a_fact_alone_is_published(self) -> None:
        client = self.add()
        self.registry.tell("client1", StopCheck())
        self.assertIs(self.heard.changes[-1].before, client)
        self.assertIs(self.heard.changes[-1].after, client)

    def test_removal_says_by_whom(self) -> None:
        client = self.add()
        self.registry.remove("client1", by_administrator=True, by="uid 0")
        expected = Change(client, None, (ClientRemoved(by_administrator=True),), self.registry.now(), "uid 0")
        self.assertEqual(self.heard.changes[-1], expected)

    def test_a_key_that_nobody_has_is_reported(self) -> None:
        self.registry.report_unknown(key_id(9), "::1")
        expected = Change(None, None, (ClientNotFound(key_id(9), "::1"),), self.registry.now())
        self.assertEqual(self.heard.changes, [expected])

    def test_what_an_observer_tells_is_applied_at_once_and_heard_afterwards(self) -> None:
        order: list[str] = []

        def first(change: Change) -> None:
            order.append(f"first hears {len(change.facts)}")
            if change.before is None:
                after = self.registry.tell("client1", Disable())
                self.assertFalse(after.enabled)
                order.append("told")

        self.registry.observe(first)
        self.registry.observe(lambda change: order.append(f"second hears {len(change.facts)}"))
        self.add()
        self.assertEqual(
            order, ["first hears 1", "told", "second hears 1", "first hears 1", "second hears 1"]
        )
        self.assertEqual([change.after and change.after.enabled for change in self.heard.changes], [True, False])

    def test_an_observer_that_raises_is_logged_and_the_others_still_hear(self) -> None:
        def broken(change: Change) -> None:
            raise ZeroDivisionError

        after = Recorder()
        self.registry.observe(broken)
        self.registry.observe(after)
        self.add()
        self.registry.tell("client1", Disable())
        self.assertEqual(len(after.changes), 2)
        failures = [event["log_failure"] for event in self.log.events]
        self.assertEqual([failure.type for failure in failures], [ZeroDivisionError] * 2)

    def test_who_no_longer_observes_hears_nothing(self) -> None:
        other = Recorder()
        forget = self.registry.observe(other)
        forget()
        forget()
        self.add()
        self.assertEqual(other.changes, [])
        self.assertEqual(len(self.heard.changes), 1)


class DeadlineTests(RegistryTestCase):
    def left(self, name: str = "client1") -> timedelta:
        expires = self.registry.clients[name].expires
        assert expires is not None
        return expires - self.registry.now()

    def test_a_client_is_disabled_when_its_time_is_over_and_not_before(self) -> None:
        self.add()
        self.machine.pass_time(self.left() - timedelta(milliseconds=1))
        self.assertTrue(self.registry.clients["client1"].enabled)
        self.machine.pass_time(0.001)
        self.assertFalse(self.registry.clients["client1"].enabled)
        self.assertEqual(self.heard.facts[-1], ClientDisabled(Cause.EXPIRED))

    def test_a_deadline_that_moved_later_does_not_come_early(self) -> None:
        self.add()
        for _ in range(20):
            self.machine.pass_time(self.left() - timedelta(seconds=1))
            self.registry.tell("client1", CheckFinished(Exited(0), ":"))
        self.assertTrue(self.registry.clients["client1"].enabled)
        self.machine.pass_time(self.left())
        self.assertFalse(self.registry.clients["client1"].enabled)

    def test_a_deadline_that_moved_earlier_comes_early(self) -> None:
        self.add()
        self.registry.tell("client1", Reconfigured(evolve(settings_of(), extended_timeout=timedelta(seconds=3))))
        self.registry.tell("client1", SecretDelivered("::1"))
        self.machine.pass_time(3)
        self.assertFalse(self.registry.clients["client1"].enabled)

    def test_a_step_of_the_wall_clock_disables_and_prolongs_nobody(self) -> None:
        self.add()
        for step in (1, -1, 3650, -3650):
            self.machine.wall += timedelta(days=step)
            self.machine.pass_time(1)
            self.assertTrue(self.registry.clients["client1"].enabled)
        self.machine.pass_time(self.left())
        self.assertFalse(self.registry.clients["client1"].enabled)

    def test_after_a_suspend_nobody_is_granted_what_has_expired_meanwhile(self) -> None:
        client = self.add()
        self.machine.suspend(timedelta(days=1))
        self.assertIsNotNone(decide(client, self.registry.now()))
        self.machine.pass_time(LONGEST_SLEEP)
        self.assertFalse(self.registry.clients["client1"].enabled)

    def test_no_alarm_is_set_further_ahead_than_a_suspend_may_hide(self) -> None:
        self.add()
        for _ in range(5):
            (call,) = self.machine.reactor.getDelayedCalls()
            self.assertLessEqual(call.getTime() - self.machine.reactor.seconds(), LONGEST_SLEEP)
            self.machine.pass_time(LONGEST_SLEEP)

    def test_petitions_get_the_default_on_time(self) -> None:
        self.add(definition=evolve(definition_of(), settings=evolve(settings_of(), approval_delay=MINUTE)))
        self.registry.tell("client1", Petitioned(7))
        self.machine.pass_time(MINUTE)
        self.assertIn(PetitionDecided(7, None), self.heard.facts)

    def test_who_is_gone_or_disabled_has_no_deadline(self) -> None:
        for number in (1, 2):
            self.add(number)
        self.registry.tell("client1", Disable())
        self.registry.remove("client2", by_administrator=False)
        self.heard.changes.clear()
        self.machine.pass_time(timedelta(days=1))
        self.assertEqual(self.heard.changes, [])
        self.assertEqual(self.machine.reactor.getDelayedCalls(), [])

    def test_a_client_that_comes_back_has_its_own_deadline(self) -> None:
        self.add()
        self.registry.remove("client1", by_administrator=False)
        self.machine.pass_time(60)
        self.add()
        self.machine.pass_time(self.left() - timedelta(seconds=1))
        self.assertTrue(self.registry.clients["client1"].enabled)
        self.machine.pass_time(1)
        self.assertFalse(self.registry.clients["client1"].enabled)

    def test_many_deadlines_at_once_leave_room_for_others(self) -> None:
        count = 2 * BATCH + 1
        for number in range(count):
            self.add(number)
        disabled: list[int] = []

        def count_disabled() -> None:
            disabled.append(sum(not client.enabled for client in self.registry.clients.values()))

        def other_work(change: Change) -> None:
            if len(self.machine.reactor.getDelayedCalls()) == 0:
                self.machine.reactor.callLater(0, count_disabled)

        self.registry.observe(other_work)
        self.machine.suspend(timedelta(days=1))
        self.machine.pass_time(0)
        self.assertEqual(disabled, [BATCH, 2 * BATCH, count])

    def test_a_stopped_registry_leaves_nothing_to_come(self) -> None:
        self.add()
        self.registry.stop()
        self.registry.stop()
        self.assertEqual(self.machine.reactor.getDelayedCalls(), [])


class ModelTests(SynchronousTestCase):
    """Against a model without alarms: a dictionary, to which every deadline is applied when it has come."""

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def test_the_registry_is_its_clients_each_living_its_own_life(self, data: st.DataObject) -> None:
        machine = Machine()
        registry = machine.registry()
        heard = Recorder()
        registry.observe(heard)
        model: dict[str, Client] = {}
        names = st.sampled_from(["client1", "client2", "client3"])
        for number in (1, 2, 3):
            chosen = evolve(data.draw(client_settings), key_id=key_id(number))
            definition = evolve(definition_of(number), settings=chosen)
            model[definition.name] = newborn(definition, registry.now(), 0.25)
            registry.introduce(model[definition.name], (ClientAdded(),))
        for _ in range(data.draw(st.integers(0, 20))):
            step = data.draw(st.sampled_from(["tell", "tell", "tell", "time", "remove"]))
            if step == "time":
                machine.pass_time(data.draw(st.sampled_from([0, 1, 2, 5, 11, 60])))
            name = data.draw(names)
            if step == "remove" and name in model and len(model) > 2:
                registry.remove(name, by_administrator=False)
                del model[name]
            elif step == "tell" and name in model:
                event: Event = data.draw(events)
                if isinstance(event, Reconfigured):
                    event = Reconfigured(evolve(event.settings, key_id=model[name].settings.key_id))
                told = registry.tell(name, event)
                model[name], _ = apply(model[name], event, registry.now())
                self.assertEqual(_without_moment(told), _without_moment(model[name]))
            for other, client in model.items():
                while (due := deadline(client)) is not None and due <= registry.now():
                    client, _ = apply(client, TimePassed(), due)
                    model[other] = client
            machine.pass_time(0)
            self.assertEqual(
                {name: _without_moment(client) for name, client in registry.clients.items()},
                {name: _without_moment(client) for name, client in model.items()},
            )
            for client in model.values():
                assert client.settings.key_id is not None
                self.assertIs(registry.find(client.settings.key_id), registry.clients[client.name])
        # What was published, in its order, is what became of every client.
        last: dict[str, Client | None] = {}
        for change in heard.changes:
            present = change.after or change.before
            assert present is not None
            self.assertIs(last.get(present.name), change.before)
            last[present.name] = change.after
        self.assertEqual({n: c for n, c in last.items() if c is not None}, dict(registry.clients))
        registry.stop()


def _without_moment(client: Client) -> Client:
    """An alarm may come a little later than the deadline, which shows in when the client was disabled."""
    return client if client.enabled else evolve(client, standing=Disabled())


class RulingTests(RegistryTestCase):
    def test_a_ruling_ends_with_its_time_and_nobody_has_to_be_woken_for_that(self) -> None:
        self.add()
        self.registry.tell("client1", Ruled(False))
        self.assertIsNotNone(decide(self.registry.clients["client1"], self.registry.now()))
        self.machine.pass_time(1)
        self.assertIsNone(decide(self.registry.clients["client1"], self.registry.now()))
