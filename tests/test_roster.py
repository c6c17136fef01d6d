"""Tests of ``mandos_tx.roster``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import product

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.clock import Clock, TimeLine
from mandos_tx.core.client import Client, ClientDefinition, Exited, Killed
from mandos_tx.core.happenings import (
    Change,
    CheckFinished,
    ClientAdded,
    ClientDisabled,
    ClientRemoved,
    ClientRestored,
    Disable,
    Enable,
    Event,
    Reconfigured,
    Ruled,
    SecretDelivered,
    Vouched,
)
from mandos_tx.core.lifecycle import newborn
from mandos_tx.formats.saved_state import StateDamaged, encode, encode_tombstone
from mandos_tx.interfaces import SavedState
from mandos_tx.registry import Registry
from mandos_tx.roster import SLACK, Restored, Roster, settle
from mandos_tx.state.keeper import Keeper
from mandos_tx.state.memory import MemoryStore
from tests.fakes import BOOT_ID, START, FaultyStore, Log, Machine, Recorder, definition_of, lasting, run_at_once

OK = CheckFinished(Exited(0), ":")
FAILED = CheckFinished(Exited(1), ":")
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


class Server:
    """Registry, keeper and roster of one run of the server."""

    def __init__(
        self, machine: Machine, definitions: list[ClientDefinition], store: MemoryStore, *, restore: bool = True
    ) -> None:
        self.machine = machine
        self.clock = machine.clock()
        self.log = Log()
        self.heard = Recorder()
        self.registry = Registry(machine.reactor, self.clock)
        self.registry.observe(self.heard)
        self.store = FaultyStore(store.saved)
        self.keeper = Keeper(self.registry, self.store, self.clock, machine.reactor, run_at_once)
        self.roster = Roster(self.registry, self.keeper, self.clock, lambda: 0.5, self.log.logger())
        self.restored: Restored = self.roster.restore(
            self.keeper.load(), definitions, ignore_saved=not restore, by="clients.conf"
        )
        self.keeper.start(self.restored.unsaved, self.restored.removed, self.restored.absent)
        machine.pass_time(0)

    def __getitem__(self, number: int) -> Client:
        return self.registry.clients[f"client{number}"]

    @property
    def names(self) -> list[str]:
        return list(self.registry.clients)

    def left(self, number: int) -> timedelta:
        """Until the client expires."""
        expires = self[number].expires
        assert expires is not None
        return expires - self.registry.now()

    def stop(self) -> MemoryStore:
        self.keeper.stop()
        self.registry.stop()
        return self.store

    def crash(self) -> MemoryStore:
        """What is left when the power fails."""
        return self.store


def first_start(*definitions: ClientDefinition) -> Server:
    return Server(Machine(), list(definitions), MemoryStore())


def again(
    server: Server, *definitions: ClientDefinition, off: timedelta = timedelta(0), restore: bool = True
) -> Server:
    """Stop and start again, on the same boot."""
    store = server.stop()
    server.machine.pass_time(off)
    return Server(server.machine.restart(), list(definitions), store, restore=restore)


def after_boot(
    server: Server, *definitions: ClientDefinition, off: timedelta = timedelta(0), wall: datetime | None = None
) -> Server:
    """Stop, and start again after another boot."""
    store = server.stop()
    return Server(server.machine.reboot(off, wall=wall), list(definitions), store)


class FirstStartTests(SynchronousTestCase):
    def test_every_definition_is_a_new_client_in_order(self) -> None:
        server = first_start(definition_of(3), definition_of(1, enabled=False), definition_of(2))
        self.assertEqual(server.names, ["client3", "client1", "client2"])
        self.assertEqual([client.enabled for client in server.registry.clients.values()], [True, False, True])
        self.assertEqual(server.heard.facts, [ClientAdded()] * 3)

    def test_new_clients_are_saved(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        self.assertEqual(set(server.store.saved.documents), {"client1", "client2"})

    def test_what_is_there_from_the_start_is_nobodys_change(self) -> None:
        server = first_start(definition_of(1))
        self.assertEqual([change.by for change in server.heard.changes], [""])


class RestartTests(SynchronousTestCase):
    def test_clients_come_back_as_they_were(self) -> None:
        server = first_start(definition_of(1), definition_of(2), definition_of(3, enabled=False))
        for event in (OK, SecretDelivered("::1"), Ruled(True)):
            server.machine.pass_time(MINUTE)
            server.registry.tell("client1", event)
        server.registry.tell("client2", FAILED)
        before = {name: lasting(client) for name, client in server.registry.clients.items()}
        server = again(server, definition_of(1), definition_of(2), definition_of(3, enabled=False))
        self.assertEqual({name: lasting(client) for name, client in server.registry.clients.items()}, before)
        self.assertEqual(server.heard.facts, [ClientRestored(grace=False)] * 3)

    def test_what_has_not_changed_is_not_written_again(self) -> None:
        definitions = [definition_of(number) for number in range(5)]
        server = first_start(*definitions)
        server = again(server, *definitions)
        self.assertEqual(server.restored.unsaved, frozenset())
        self.assertEqual(server.store.commits, [{}])

    def test_clients_come_back_in_the_order_of_their_definitions(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        self.assertEqual(again(server, definition_of(2), definition_of(1)).names, ["client2", "client1"])

    def test_a_disabled_client_stays_disabled(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", Disable())
        for start in (again, after_boot):
            server = start(server, definition_of(1), off=MINUTE)
            self.assertFalse(server[1].enabled)

    def test_a_hundred_restarts_move_no_expiry(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", OK)
        expected = server[1].expires
        for number in range(100):
            server.machine.wall += timedelta(seconds=number % 3 * 0.3 - 0.3)
            server = again(server, definition_of(1))
            self.assertEqual(server[1].expires, expected)

    def test_a_hundred_restarts_with_a_wall_clock_that_jumps_move_no_expiry(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", OK)
        expected = server.left(1)
        for number in range(100):
            server.machine.wall += DAY * (-1 if number % 3 else 3)
            server = again(server, definition_of(1))
            self.assertLess(abs(server.left(1) - expected), timedelta(milliseconds=1))

    def test_time_that_the_server_was_down_counts(self) -> None:
        for start in (again, after_boot):
            server = first_start(definition_of(1))
            server.registry.tell("client1", OK)
            expected = server.left(1) - 2 * MINUTE
            server = start(server, definition_of(1), off=2 * MINUTE)
            self.assertEqual(server.left(1), expected)

    def test_one_that_expired_meanwhile_gets_one_fresh_timeout_after_a_good_check(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", OK)
        server = after_boot(server, definition_of(1), off=DAY)
        self.assertEqual(server.left(1), definition_of(1).settings.timeout)
        self.assertEqual(server.heard.facts, [ClientRestored(grace=True)])
        server = after_boot(server, definition_of(1), off=DAY)
        self.assertFalse(server[1].enabled)

    def test_grace_is_remembered_even_if_the_power_fails_at_once(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", OK)
        server = after_boot(server, definition_of(1), off=DAY)
        store = server.crash()
        server = Server(server.machine.reboot(DAY), [definition_of(1)], store)
        self.assertFalse(server[1].enabled)

    def test_one_that_expired_meanwhile_is_disabled_without_a_good_check(self) -> None:
        for outcome in (None, FAILED, CheckFinished(Killed(9), ":")):
            server = first_start(definition_of(1))
            if outcome is not None:
                server.registry.tell("client1", outcome)
            server = after_boot(server, definition_of(1), off=DAY)
            self.assertFalse(server[1].enabled)
            self.assertIsInstance(server.heard.facts[0], ClientDisabled)

    def test_a_changed_setting_wins_and_an_unchanged_one_does_not(self) -> None:
        definition = definition_of(1)
        server = first_start(definition)
        at_run_time = evolve(server[1].settings, timeout=timedelta(hours=1), host="192.0.2.7", secret=b"run time")
        server.registry.tell("client1", Reconfigured(at_run_time))
        changed = evolve(definition, settings=evolve(definition.settings, timeout=timedelta(hours=2)))
        server = again(server, changed)
        self.assertEqual(server[1].settings, evolve(at_run_time, timeout=timedelta(hours=2)))
        self.assertEqual([change.by for change in server.heard.changes], ["clients.conf"])

    def test_a_changed_secret_wins_over_one_set_at_run_time(self) -> None:
        definition = definition_of(1)
        server = first_start(definition)
        server.registry.tell("client1", Reconfigured(evolve(definition.settings, secret=b"run time")))
        changed = evolve(definition, settings=evolve(definition.settings, secret=b"new in the file"))
        server = again(server, changed)
        self.assertEqual(server[1].settings.secret, b"new in the file")

    def test_a_changed_enabled_wins(self) -> None:
        server = first_start(definition_of(1, enabled=False), definition_of(2))
        server = again(server, definition_of(1), definition_of(2, enabled=False))
        self.assertEqual([client.enabled for client in server.registry.clients.values()], [True, False])
        self.assertEqual(server.restored.unsaved, {"client1", "client2"})

    def test_a_client_that_is_no_longer_defined_is_forgotten(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        server.registry.tell("client1", OK)
        server = again(server, definition_of(2))
        self.assertEqual(server.names, ["client2"])
        self.assertEqual(set(server.store.saved.documents), {"client2"})
        server = again(server, definition_of(1), definition_of(2))
        self.assertIsNone(server[1].last_checked_ok)
        self.assertIn(ClientAdded(), server.heard.facts)

    def test_a_client_of_run_time_lives_on(self) -> None:
        server = first_start(definition_of(1))
        client = evolve(newborn(definition_of(2), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        server = again(server, definition_of(1))
        self.assertEqual(server.names, ["client1", "client2"])
        self.assertEqual(lasting(server[2]), lasting(client))
        self.assertEqual(server.store.commits, [{}])
        server = after_boot(server, definition_of(1), off=DAY)
        self.assertFalse(server[2].enabled)
        self.assertIn("client2", server.restored.unsaved)

    def test_a_client_of_run_time_whose_key_is_now_defined_for_another_gives_way(self) -> None:
        server = first_start()
        client = evolve(newborn(definition_of(1), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        other = evolve(definition_of(2), settings=definition_of(1).settings)
        server = again(server, other)
        self.assertEqual(server.names, ["client2"])
        self.assertEqual(set(server.store.saved.documents), {"client2"})
        self.assertIn("client1", server.log.texts(LogLevel.warn)[0])

    def test_clients_of_run_time_without_a_key_do_not_collide(self) -> None:
        server = first_start()
        for number in (1, 2):
            client = newborn(definition_of(number), server.registry.now(), 0.5)
            client = evolve(client, definition=None, settings=evolve(client.settings, key_id=None))
            server.registry.introduce(client, (ClientAdded(),))
            server.machine.pass_time(1)
        self.assertEqual(again(server).names, ["client1", "client2"])

    def test_without_restore_everybody_is_new_and_what_was_saved_is_overwritten(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        server.registry.tell("client1", Disable())
        server.registry.remove("client2", by_administrator=True)
        server = again(server, definition_of(1), definition_of(3), restore=False)
        self.assertEqual(server.names, ["client1", "client3"])
        self.assertTrue(server[1].enabled)
        self.assertEqual(set(server.store.saved.documents), {"client1", "client3"})
        server = again(server, definition_of(1), definition_of(3))
        self.assertTrue(server[1].enabled)

    def test_damage_stops_the_start_before_anybody_is_let_in(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        store = server.stop()
        store.saved.documents["client2"] = "{}"
        machine = server.machine.restart()
        registry = machine.registry()
        clock = machine.clock()
        keeper = Keeper(registry, store, clock, machine.reactor, run_at_once)
        roster = Roster(registry, keeper, clock)
        definitions = [definition_of(1), definition_of(2)]
        self.assertRaises(StateDamaged, roster.restore, store.load(), definitions)
        self.assertEqual(dict(registry.clients), {})

    def test_what_an_observer_tells_a_client_that_comes_back_is_saved(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        client = evolve(newborn(definition_of(3), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        store, machine = server.stop(), server.machine.restart()
        clock = machine.clock()
        registry = Registry(machine.reactor, clock)

        def vouch(change: Change) -> None:
            if change.before is None and change.after is not None and change.after.name != "client2":
                registry.tell(change.after.name, Vouched())

        registry.observe(vouch)
        keeper = Keeper(registry, store, clock, machine.reactor, run_at_once)
        restored = Roster(registry, keeper, clock).restore(keeper.load(), [definition_of(1), definition_of(2)])
        self.addCleanup(registry.stop)
        self.assertEqual(restored.unsaved, {"client1", "client3"})


class RemovedByAnAdministratorTests(SynchronousTestCase):
    def test_it_stays_away_as_long_as_its_definition_stands(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        server.registry.remove("client1", by_administrator=True)
        for start in (again, after_boot, again):
            server = start(server, definition_of(1), definition_of(2))
            self.assertEqual(server.names, ["client2"])
        server.roster.reload([definition_of(1), definition_of(2)])
        self.assertEqual(server.names, ["client2"])

    def test_it_is_a_new_client_when_its_definition_changes(self) -> None:
        for change in ({"secret": b"another"}, {"timeout": DAY}, {"host": "192.0.2.1"}):
            definition = definition_of(1)
            changed = evolve(definition, settings=evolve(definition.settings, **change))
            server = first_start(definition)
            server.registry.remove("client1", by_administrator=True)
            server = again(server, changed)
            self.assertEqual(server.names, ["client1"])
            self.assertIn(ClientAdded(), server.heard.facts)
            server.registry.remove("client1", by_administrator=True)
            server.roster.reload([definition])
            self.assertEqual(server.names, ["client1"])

    def test_it_is_forgotten_when_its_definition_goes(self) -> None:
        server = first_start(definition_of(1))
        server.registry.remove("client1", by_administrator=True)
        server = again(server)
        self.assertEqual(server.store.saved.documents, {})
        self.assertEqual(again(server, definition_of(1)).names, ["client1"])

    def test_it_is_forgotten_when_its_definition_goes_at_a_reload(self) -> None:
        server = first_start(definition_of(1))
        server.registry.remove("client1", by_administrator=True)
        server.roster.reload([])
        server.stop()
        self.assertEqual(server.store.saved.documents, {})
        self.assertEqual(again(server, definition_of(1)).names, ["client1"])


def reloaded(server: Server, *definitions: ClientDefinition) -> Server:
    server.roster.reload(definitions)
    return server


def with_settings(definition: ClientDefinition, **changes: object) -> ClientDefinition:
    return evolve(definition, settings=evolve(definition.settings, **changes))  # type: ignore[arg-type]


class DisabledAndNoLongerListedTests(SynchronousTestCase):
    """What happens to a disabled client whose section goes and comes back, at whatever time."""

    WAYS: tuple[tuple[Callable[..., Server], ...], ...] = tuple(product((reloaded, again, after_boot), repeat=2))

    def gone(self, way: Callable[..., Server]) -> Server:
        server = first_start(definition_of(1), definition_of(2))
        server.registry.tell("client1", Reconfigured(evolve(server[1].settings, host="h", secret=b"run time")))
        server.registry.tell("client1", OK)
        server.registry.tell("client1", Disable())
        self.before = lasting(server[1])
        server = way(server, definition_of(2))
        self.assertEqual(server.names, ["client2"])
        return server

    def test_it_comes_back_as_it_was(self) -> None:
        for go, come in self.WAYS:
            server = come(self.gone(go), definition_of(1), definition_of(2))
            self.assertFalse(server[1].enabled)
            self.assertEqual(lasting(server[1]), self.before)
            self.assertEqual(server.keeper.absent, {})
            server = again(server, definition_of(1), definition_of(2))
            self.assertEqual(lasting(server[1]), self.before)
            self.assertEqual(server.store.commits, [{}])

    def test_however_often_the_server_starts_without_it(self) -> None:
        server = self.gone(again)
        for _ in range(3):
            server = again(server, definition_of(2))
            self.assertEqual(server.store.commits, [{}])
        server = reloaded(server, definition_of(2))
        self.assertEqual(lasting(reloaded(server, definition_of(1))[1]), self.before)

    def test_if_the_wall_clock_was_set_its_past_moves_too(self) -> None:
        server = self.gone(reloaded)
        server.registry.introduce(newborn(definition_of(1), server.registry.now(), 0.5), (ClientAdded(),))
        for event in (OK, SecretDelivered("::1"), Ruled(True), Disable(), Ruled(True)):
            server.registry.tell("client1", event)
        ago = server.registry.now() - server[1].created
        server = reloaded(server)
        server.machine.wall += DAY
        server = again(server)
        self.assertEqual(list(server.store.commits[0]), ["client1"])
        server = again(server, definition_of(1))
        self.assertEqual(server.registry.now() - server[1].created, ago)

    def test_what_changed_in_its_definition_wins(self) -> None:
        for go, come in self.WAYS:
            server = come(self.gone(go), with_settings(definition_of(1), timeout=DAY, secret=b"new"))
            self.assertFalse(server[1].enabled)
            self.assertEqual(server[1].settings.timeout, DAY)
            self.assertEqual(server[1].settings.host, "h")
            self.assertEqual(server[1].settings.secret, b"new")

    def test_so_does_enabled_if_that_is_what_changed(self) -> None:
        for go, come in self.WAYS:
            server = go(first_start(definition_of(1, enabled=False)))
            self.assertTrue(come(server, definition_of(1))[1].enabled)

    def test_with_another_key_it_is_a_new_client(self) -> None:
        for go, come in self.WAYS:
            key_id = definition_of(3).settings.key_id
            server = come(self.gone(go), with_settings(definition_of(1), key_id=key_id))
            self.assertTrue(server[1].enabled)
            self.assertIn(ClientAdded(), server.heard.facts)
            self.assertEqual(server.keeper.absent, {})

    def test_who_is_added_at_run_time_by_that_name_takes_its_place(self) -> None:
        server = self.gone(reloaded)
        client = evolve(newborn(definition_of(1), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        self.assertEqual(server.keeper.absent, {})
        self.assertEqual(lasting(again(server)[1]), lasting(client))

    def test_without_restore_it_is_forgotten(self) -> None:
        server = again(self.gone(again), definition_of(1), restore=False)
        self.assertTrue(server[1].enabled)
        self.assertEqual(again(self.gone(again), restore=False).store.saved.documents, {})


class ReloadTests(SynchronousTestCase):
    def test_clients_are_added_changed_and_removed(self) -> None:
        server = first_start(definition_of(1), definition_of(2))
        server.heard.changes.clear()
        changed = evolve(definition_of(1), settings=evolve(definition_of(1).settings, timeout=DAY))
        server.roster.reload([changed, definition_of(3)], by="clients.conf")
        self.assertEqual(server.names, ["client1", "client3"])
        self.assertEqual(server[1].settings.timeout, DAY)
        self.assertEqual(server.heard.facts, [ClientRemoved(by_administrator=False), ClientAdded()])
        self.assertEqual({change.by for change in server.heard.changes}, {"clients.conf"})

    def test_what_has_not_changed_is_left_alone(self) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", Reconfigured(evolve(server[1].settings, timeout=DAY)))
        server.registry.tell("client1", Disable())
        before = server[1]
        server.heard.changes.clear()
        server.roster.reload([definition_of(1)])
        self.assertIs(server[1], before)
        self.assertEqual(server.heard.changes, [])

    def test_a_key_may_go_from_one_client_to_another(self) -> None:
        one, two = definition_of(1), definition_of(2)
        server = first_start(one, two)
        server.roster.reload([evolve(one, settings=two.settings), evolve(two, settings=one.settings)])
        for key, name in ((one.settings.key_id, "client2"), (two.settings.key_id, "client1")):
            assert key is not None
            found = server.registry.find(key)
            assert found is not None
            self.assertEqual(found.name, name)
        renamed = evolve(one, name="client3")
        server.roster.reload([renamed])
        assert one.settings.key_id is not None
        self.assertEqual(server.registry.find(one.settings.key_id), server[3])

    def test_a_client_of_run_time_lives_on(self) -> None:
        server = first_start()
        client = evolve(newborn(definition_of(1), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        server.roster.reload([])
        self.assertIs(server[1], client)

    def test_a_client_of_run_time_whose_key_is_now_defined_for_another_gives_way(self) -> None:
        key_id = definition_of(1).settings.key_id
        assert key_id is not None
        for before in ([], [definition_of(2)]):
            server = first_start(*before)
            for number in (1, 3):
                client = evolve(newborn(definition_of(number), server.registry.now(), 0.5), definition=None)
                server.registry.introduce(client, (ClientAdded(),))
            server.roster.reload([with_settings(definition_of(2), key_id=key_id)], by="SIGHUP")
            self.assertEqual(sorted(server.names), ["client2", "client3"])
            self.assertIs(server.registry.find(key_id), server[2])
            self.assertIn("client1", server.log.texts(LogLevel.warn)[0])
            server.stop()
            self.assertEqual(set(server.store.saved.documents), {"client2", "client3"})

    def test_a_client_of_run_time_is_taken_over_by_a_definition_but_not_enabled(self) -> None:
        server = first_start()
        client = evolve(newborn(definition_of(1), server.registry.now(), 0.5), definition=None)
        server.registry.introduce(client, (ClientAdded(),))
        server.registry.tell("client1", Disable())
        server.roster.reload([definition_of(1)])
        self.assertEqual(server[1].definition, definition_of(1))
        self.assertFalse(server[1].enabled)

    @settings(max_examples=40, deadline=None)
    @given(st.data())
    def test_it_makes_no_difference_whether_sources_change_while_the_server_runs_or_is_down(
        self, data: st.DataObject
    ) -> None:
        def definitions() -> list[ClientDefinition]:
            numbers = data.draw(st.lists(st.integers(1, 4), unique=True))
            return [
                evolve(
                    definition_of(number, enabled=data.draw(st.booleans())),
                    settings=evolve(
                        definition_of(number).settings,
                        timeout=data.draw(st.sampled_from([MINUTE, DAY])),
                        secret=data.draw(st.sampled_from([b"one", b"two"])),
                    ),
                )
                for number in numbers
            ]

        old, new = definitions(), definitions()
        events: st.SearchStrategy[Event | str] = st.sampled_from(
            [Enable(0.5), Disable(), OK, FAILED, SecretDelivered("::1"), "remove", "secret"]
        )
        steps = data.draw(st.lists(st.tuples(st.integers(1, 4), events), max_size=6))
        results = []
        for reload in (True, False):
            server = first_start(*old)
            for number, event in steps:
                name = f"client{number}"
                if name not in server.registry.clients:
                    continue
                if not isinstance(event, str):
                    server.registry.tell(name, event)
                elif event == "remove":
                    server.registry.remove(name, by_administrator=True)
                else:
                    changed = evolve(server[number].settings, secret=b"run time")
                    server.registry.tell(name, Reconfigured(changed))
            if reload:
                server.roster.reload(new)
            server = again(server, *new)
            server.stop()
            results.append({name: lasting(client) for name, client in server.registry.clients.items()})
        self.assertEqual(*results)


class TimeLineTests(SynchronousTestCase):
    LINE = TimeLine(BOOT_ID, START)

    def settle(
        self, saved: TimeLine | None, fresh: TimeLine, *, saved_at: datetime | None = None, uptime: float = 1000.0
    ) -> tuple[TimeLine, timedelta]:
        state = SavedState({}, b"", time_line=saved, saved_at=saved_at)
        return settle(state, Clock(fresh, lambda: uptime))

    def test_a_first_start_has_its_own(self) -> None:
        self.assertEqual(self.settle(None, self.LINE), (self.LINE, timedelta(0)))

    def test_within_one_boot_the_old_one_goes_on(self) -> None:
        fresh = evolve(self.LINE, epoch=START + SLACK - timedelta(microseconds=1))
        self.assertEqual(self.settle(self.LINE, fresh), (self.LINE, timedelta(0)))

    def test_if_the_wall_clock_was_set_the_past_moves_with_it(self) -> None:
        for step in (SLACK, -SLACK, DAY, -3650 * DAY):
            fresh = evolve(self.LINE, epoch=START + step)
            saved_at = START + timedelta(seconds=999)
            self.assertEqual(self.settle(self.LINE, fresh, saved_at=saved_at), (fresh, step))

    def test_after_another_boot_the_wall_clock_is_believed(self) -> None:
        fresh = TimeLine("another", START + DAY)
        self.assertEqual(self.settle(self.LINE, fresh, saved_at=START + MINUTE), (fresh, timedelta(0)))

    def test_boots_that_cannot_be_told_apart_are_different_ones(self) -> None:
        saved, fresh = TimeLine("", START), TimeLine("", START + DAY)
        self.assertEqual(self.settle(saved, fresh, saved_at=START), (fresh, timedelta(0)))

    def test_if_the_clock_is_behind_no_time_has_passed(self) -> None:
        fresh = TimeLine("another", datetime(1970, 1, 1, tzinfo=START.tzinfo))
        line, shift = self.settle(self.LINE, fresh, saved_at=START, uptime=10.0)
        self.assertEqual(line, fresh)
        self.assertEqual(START + shift, fresh.epoch + timedelta(seconds=10))

    @settings(max_examples=60, deadline=None)
    @given(
        same_boot=st.booleans(),
        step=st.timedeltas(-3650 * DAY, 3650 * DAY) | st.timedeltas(-2 * SLACK, 2 * SLACK),
        off=st.timedeltas(timedelta(0), DAY),
    )
    def test_nobodys_time_is_ever_prolonged(self, same_boot: bool, step: timedelta, off: timedelta) -> None:
        server = first_start(definition_of(1))
        server.registry.tell("client1", OK)
        expected = server.left(1)
        store = server.stop()
        machine = server.machine
        machine.pass_time(off)
        machine.wall += step
        machine = machine.restart() if same_boot else machine.reboot()
        server = Server(machine, [definition_of(1)], store)
        if server[1].had_grace:
            self.assertEqual(server.left(1), definition_of(1).settings.timeout)
        elif same_boot:
            self.assertLess(abs(server.left(1) - (expected - off)), timedelta(milliseconds=1))
        else:
            self.assertLessEqual(server.left(1), expected)

    def test_when_the_past_moves_everything_is_written_anew(self) -> None:
        definitions = [definition_of(number) for number in range(3)]
        server = first_start(*definitions)
        store = server.stop()
        server.machine.wall += DAY
        server = Server(server.machine.restart(), definitions, store)
        self.assertEqual(len(server.store.commits[0]), 3)
        self.assertEqual(server.store.saved.time_line, server.clock.line)
        server = again(server, *definitions)
        self.assertEqual(server.store.commits, [{}])


class SavedButUnreadableTests(SynchronousTestCase):
    def test_a_tombstone_is_not_taken_for_a_client_nor_a_client_for_one(self) -> None:
        definition = definition_of(1)
        server = first_start(definition)
        alive = encode(server[1], b"k" * 32)
        dead = encode_tombstone(definition)
        self.assertNotEqual(alive, dead)
        store = MemoryStore(SavedState({"client1": dead}, b"k" * 32, 1))
        self.assertEqual(Server(Machine(), [definition], store).names, [])
