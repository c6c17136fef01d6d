"""Tests of ``mandos_tx.checker``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred, succeed
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.checker import Checkers
from mandos_tx.core.client import CheckOutcome, Client, Exited
from mandos_tx.core.happenings import (
    Change,
    CheckerCompleted,
    CheckerStarted,
    ClientAdded,
    Disable,
    Enable,
    Reconfigured,
    StartCheck,
    StopCheck,
)
from mandos_tx.core.lifecycle import newborn
from tests.fakes import Log, Machine, Recorder, definition_of

GOOD = Exited(0)
MINUTE = timedelta(minutes=1)


@define(eq=False)
class Run:
    """A command that somebody believes to be running."""

    command: str
    ended: Callable[[CheckOutcome, bytes], None]
    wanted_output: bool
    stopped: Deferred[None] | None = None


@define(eq=False)
class PretendedCommands:
    """Runs nothing."""

    running: list[Run] = field(factory=list)
    started: list[str] = field(factory=list)
    begun: bool = False
    fault: Exception | None = None
    slow_to_stop: bool = False
    attempts: int = 0

    def begin(self) -> None:
        self.begun = True

    def start(self, command: str, ended: Callable[[CheckOutcome, bytes], None], *, want_output: bool) -> Run:
        self.attempts += 1
        if self.fault is not None:
            raise self.fault
        run = Run(command, ended, want_output)
        self.running.append(run)
        self.started.append(command)
        return run

    def end(self, run: Run, outcome: CheckOutcome = GOOD, output: bytes = b"") -> None:
        self.running.remove(run)
        if run.stopped is None:
            run.ended(outcome, output)
        else:
            run.stopped.callback(None)

    def stop(self, run: Run) -> Deferred[None]:
        if run.stopped is None:
            run.stopped = Deferred()
            if not self.slow_to_stop:
                self.end(run)
        return run.stopped

    def stop_all(self) -> Deferred[None]:
        for run in list(self.running):
            self.stop(run)
        return succeed(None)


class CheckerTestCase(SynchronousTestCase):
    places = 2

    def setUp(self) -> None:
        self.log = Log()
        self.log.listen(self)
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.addCleanup(self.registry.stop)
        self.heard = Recorder()
        self.registry.observe(self.heard)
        self.commands = PretendedCommands()
        self.checkers = Checkers(self.machine.reactor, self.registry, self.commands, self.expand, self.places)

    def expand(self, client: Client) -> str:
        return f"check {client.name}"

    def client(self, number: int = 1, *, spread: float = 0.0, enabled: bool = True, **options: Any) -> str:
        definition = definition_of(number, enabled=enabled)
        definition = evolve(definition, settings=evolve(definition.settings, **options))
        self.registry.introduce(newborn(definition, self.registry.now(), spread), (ClientAdded(),))
        return definition.name

    def start(self) -> None:
        self.checkers.startService()
        self.machine.pass_time(0)

    def end_all(self, outcome: CheckOutcome = GOOD) -> None:
        for run in list(self.commands.running):
            self.commands.end(run, outcome)

    def complaints(self, level: Any = LogLevel.error) -> list[str]:
        return self.log.texts(level)


class ScheduleTests(CheckerTestCase):
    def test_the_first_check_comes_when_it_is_due_and_then_one_each_interval(self) -> None:
        self.client(spread=0.5)
        self.start()
        self.assertTrue(self.commands.begun)
        self.machine.pass_time(59)
        self.assertEqual([], self.commands.started)
        self.machine.pass_time(1)
        self.assertEqual(["check client1"], self.commands.started)
        self.end_all()
        for number in range(2, 5):
            self.machine.pass_time(120)
            self.assertEqual(number, len(self.commands.started))
            self.end_all()

    def test_never_two_at_once_for_a_client(self) -> None:
        name = self.client()
        self.start()
        self.machine.pass_time(200)
        self.registry.tell(name, StartCheck())
        self.assertEqual(1, len(self.commands.running))

    def test_an_outcome_is_told_and_the_time_moves_on(self) -> None:
        name = self.client()
        self.start()
        self.machine.pass_time(30)
        self.end_all()
        self.assertEqual(CheckerCompleted(GOOD, "check client1"), self.heard.facts[-1])
        self.assertEqual(self.registry.now() + timedelta(minutes=5), self.registry.clients[name].expires)

    def test_output_is_logged_if_it_is_wanted(self) -> None:
        self.client()
        self.checkers = Checkers(
            self.machine.reactor, self.registry, self.commands, self.expand, 1, want_output=lambda: True
        )
        self.start()
        [run] = self.commands.running
        self.assertTrue(run.wanted_output)
        self.commands.end(run, GOOD, b"well\x1b")
        self.assertEqual(["The checker of client1 said: b'well\\x1b'"], self.complaints(LogLevel.debug))

    def test_a_disabled_client_is_not_checked_on_schedule_but_on_demand(self) -> None:
        name = self.client(enabled=False)
        self.start()
        self.machine.pass_time(600)
        self.assertEqual([], self.commands.started)
        self.registry.tell(name, StartCheck())
        self.assertEqual(1, len(self.commands.running))
        self.registry.tell(name, StopCheck())
        self.assertEqual([], self.commands.running)

    def test_enabling_begins_the_schedule_and_disabling_ends_it_with_the_check(self) -> None:
        name = self.client(enabled=False)
        self.start()
        self.registry.tell(name, Enable(0.5))
        self.machine.pass_time(60)
        self.assertEqual(1, len(self.commands.running))
        self.registry.tell(name, Disable())
        self.assertEqual([], self.commands.running)
        self.machine.pass_time(600)
        self.assertEqual(1, len(self.commands.started))

    def test_expiry_ends_the_running_check(self) -> None:
        self.client()
        self.start()
        self.machine.pass_time(301)
        self.assertEqual([], self.commands.running)

    def test_another_interval_counts_from_now_with_a_check_at_once(self) -> None:
        name = self.client()
        self.start()
        self.end_all()
        self.machine.pass_time(10)
        self.registry.tell(name, Reconfigured(evolve(self.registry.clients[name].settings, interval=MINUTE)))
        self.machine.pass_time(0)
        self.assertEqual(2, len(self.commands.started))
        self.end_all()
        self.machine.pass_time(60)
        self.assertEqual(3, len(self.commands.started))

    def test_another_host_leaves_the_schedule_alone(self) -> None:
        name = self.client()
        self.start()
        self.end_all()
        self.registry.tell(name, Reconfigured(evolve(self.registry.clients[name].settings, host="h")))
        self.machine.pass_time(119)
        self.assertEqual(1, len(self.commands.started))

    def test_an_interval_of_nothing_does_not_keep_the_server_busy(self) -> None:
        self.client(interval=timedelta(0))
        self.start()
        self.end_all()
        self.assertEqual(1, len(self.commands.started))
        self.machine.pass_time(0.1)
        self.assertEqual(2, len(self.commands.started))

    def test_clients_that_come_and_go_are_followed(self) -> None:
        self.start()
        name = self.client()
        self.machine.pass_time(0)
        self.assertEqual(1, len(self.commands.running))
        self.registry.remove(name, by_administrator=True)
        self.assertEqual([], self.commands.running)
        self.machine.pass_time(600)
        self.assertEqual(1, len(self.commands.started))

    def test_before_the_start_nothing_is_followed(self) -> None:
        self.registry.remove(self.client(), by_administrator=True)
        name = self.client(2)
        self.registry.tell(name, StartCheck())
        self.machine.pass_time(10)
        self.assertEqual([], self.commands.started)

    def test_a_check_that_is_wanted_while_the_last_one_still_dies_waits_for_that(self) -> None:
        name = self.client()
        self.start()
        self.commands.slow_to_stop = True
        self.registry.tell(name, StopCheck())
        self.registry.tell(name, StartCheck())
        [run] = self.commands.running
        self.assertEqual(1, len(self.commands.started))
        self.commands.end(run)
        self.assertEqual(2, len(self.commands.started))
        [run] = self.commands.running
        self.registry.tell(name, StopCheck())
        self.registry.tell(name, StartCheck())
        self.registry.tell(name, StopCheck())
        self.commands.end(run)
        self.assertEqual([], self.commands.running)

    def test_a_client_that_comes_back_waits_for_its_last_check_to_die(self) -> None:
        name = self.client()
        self.start()
        self.commands.slow_to_stop = True
        self.registry.remove(name, by_administrator=True)
        self.client()
        self.machine.pass_time(1)
        [run] = self.commands.running
        self.assertEqual(1, len(self.commands.started))
        self.commands.end(run)
        self.assertEqual(2, len(self.commands.started))

    def test_a_check_that_is_stopped_says_nothing(self) -> None:
        name = self.client()
        self.start()
        before = self.registry.clients[name]
        self.registry.tell(name, StopCheck())
        after = self.registry.clients[name]
        self.assertEqual((before.expires, None), (after.expires, after.running_check))
        self.assertNotIn(CheckerCompleted, {type(fact) for fact in self.heard.facts})


class PlaceTests(CheckerTestCase):
    def test_never_more_than_there_are_places_and_first_come_first_served(self) -> None:
        for number in range(1, 6):
            self.client(number)
        self.start()
        order = []
        while self.commands.running:
            self.assertLessEqual(len(self.commands.running), 2)
            run = self.commands.running[0]
            order.append(run.command)
            self.commands.end(run)
        self.assertEqual([f"check client{number}" for number in range(1, 6)], order)

    def test_waiting_disables_nobody(self) -> None:
        for number in (1, 2):
            self.client(number, timeout=timedelta(days=1))
        name = self.client(3)
        self.start()
        self.machine.pass_time(10_000)
        self.assertTrue(self.registry.clients[name].enabled)
        self.commands.end(self.commands.running[0])
        self.assertEqual("check client3", self.commands.started[-1])
        self.machine.pass_time(299)
        self.assertTrue(self.registry.clients[name].enabled)
        self.machine.pass_time(2)
        self.assertFalse(self.registry.clients[name].enabled)

    def test_one_that_waits_and_is_not_wanted_any_more_leaves_the_queue(self) -> None:
        names = [self.client(number) for number in range(1, 5)]
        self.start()
        self.registry.tell(names[2], Disable())
        self.assertIsNone(self.registry.clients[names[2]].check_waiting_since)
        self.end_all()
        self.assertEqual(["check client1", "check client2", "check client4"], self.commands.started)

    def test_a_long_wait_is_complained_of(self) -> None:
        for number in range(1, 4):
            self.client(number)
        self.start()
        self.machine.pass_time(61)
        self.end_all()
        self.assertEqual(
            ["The check of client3 had to wait 61 seconds for a free place: raise max_checkers, or the intervals"],
            self.complaints(LogLevel.warn),
        )

    def test_a_place_is_free_again_when_what_was_stopped_is_gone(self) -> None:
        names = [self.client(number) for number in range(1, 4)]
        self.start()
        self.commands.slow_to_stop = True
        self.registry.tell(names[0], StopCheck())
        self.assertEqual(2, len(self.commands.started))
        self.commands.end(self.commands.running[0])
        self.assertEqual(3, len(self.commands.started))


class TroubleTests(CheckerTestCase):
    def test_while_no_process_can_be_made_clients_run_into_their_timeout(self) -> None:
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        names = [self.client(number) for number in range(1, 5)]
        self.start()
        self.machine.reactor.pump([1] * 301)
        self.assertEqual([False] * 4, [self.registry.clients[name].enabled for name in names])

    def test_those_that_waited_for_a_place_before_do_so_as_well(self) -> None:
        names = [self.client(number) for number in range(1, 6)]
        self.start()
        self.machine.pass_time(60)
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        self.end_all()
        self.assertEqual([None] * 5, [self.registry.clients[name].check_waiting_since for name in names])
        self.machine.pass_time(600)
        self.assertEqual([False] * 5, [self.registry.clients[name].enabled for name in names])

    def test_when_processes_can_be_made_again_who_waits_has_its_time_held(self) -> None:
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        names = [self.client(number) for number in range(1, 5)]
        self.start()
        self.commands.fault = None
        self.machine.pass_time(1)
        self.assertEqual(["check client1", "check client2"], self.commands.started)
        waiting = [self.registry.clients[name].check_waiting_since for name in names]
        self.assertEqual([None, None, self.registry.now(), self.registry.now()], waiting)

    def test_it_is_tried_again_ever_more_rarely_and_complained_of_once_a_minute(self) -> None:
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        self.client(timeout=timedelta(days=1))
        self.start()
        tries = [0]
        for second in range(1, 401):
            before = self.commands.attempts
            self.machine.pass_time(1)
            if self.commands.attempts > before:
                tries.append(second)
        gaps = [after - before for before, after in pairwise(tries)]
        self.assertEqual([1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], gaps)
        self.assertLessEqual(len(self.complaints()), 7)
        self.assertEqual(
            "No checker can be started: Resource temporarily unavailable. Clients run into their timeout; "
            "retrying in 1 s",
            self.complaints()[0],
        )

    def test_a_client_that_is_disabled_by_that_is_not_checked_afterwards(self) -> None:
        # its time ran out while it waited, so the wait that comes to nothing disables it
        first, second = self.client(1), self.client(2, timeout=timedelta(seconds=30))
        self.checkers = Checkers(self.machine.reactor, self.registry, self.commands, self.expand, 1)
        self.start()
        self.machine.pass_time(20)
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        self.end_all()
        self.machine.pass_time(0.5)
        self.registry.tell(second, Disable())
        self.commands.fault = None
        self.machine.pass_time(600)
        self.assertNotIn("check client2", self.commands.started)
        self.assertIn(first, self.registry.clients)

    def test_a_command_that_can_never_run_is_its_clients_trouble_alone(self) -> None:
        self.checkers = Checkers(self.machine.reactor, self.registry, self.commands, self.expand_badly, 1)
        names = [self.client(number) for number in range(1, 4)]
        self.start()
        self.assertEqual(["check client2"], self.commands.started)
        self.end_all()
        self.assertEqual(["check client2", "check client3"], self.commands.started)
        self.assertEqual(["The checker of client1 cannot be run: it is too long"], self.complaints())
        self.assertIsNone(self.registry.clients[names[0]].check_waiting_since)
        self.end_all()
        self.machine.pass_time(120)
        self.assertEqual(2, len(self.complaints()))

    def expand_badly(self, client: Client) -> str:
        if client.name == "client1":
            raise ValueError("it is too long")
        return f"check {client.name}"

    def test_a_schedule_that_fails_is_logged(self) -> None:
        def fail(client: Client) -> str:
            raise ZeroDivisionError

        self.checkers = Checkers(self.machine.reactor, self.registry, self.commands, fail, 1)
        self.client()
        self.start()
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class StopTests(CheckerTestCase):
    def test_nothing_is_left_when_it_has_stopped(self) -> None:
        for number in range(1, 6):
            self.client(number, spread=0.0 if number < 4 else 0.5)
        self.start()
        self.successResultOf(self.checkers.stopService())
        self.registry.stop()
        self.assertEqual([], self.commands.running)
        self.assertEqual([], self.machine.reactor.getDelayedCalls())
        self.assertEqual(2, len(self.commands.started))

    def test_nor_when_that_happens_while_no_process_can_be_made(self) -> None:
        self.commands.fault = OSError(11, "Resource temporarily unavailable")
        self.client()
        self.start()
        self.successResultOf(self.checkers.stopService())
        self.registry.stop()
        self.assertEqual([], self.machine.reactor.getDelayedCalls())

    def test_what_happens_to_clients_afterwards_starts_nothing(self) -> None:
        name = self.client()
        self.start()
        self.successResultOf(self.checkers.stopService())
        self.registry.tell(name, StartCheck())
        self.client(2)
        self.assertEqual(1, len(self.commands.started))

    def test_a_check_of_a_client_that_goes_with_its_end_is_survived(self) -> None:
        def remove(change: Change) -> None:
            if any(isinstance(fact, CheckerStarted) for fact in change.facts):
                self.registry.remove("client1", by_administrator=True)

        self.registry.observe(remove)
        self.client()
        self.start()
        self.assertEqual([], self.commands.running)


class Fleet(RuleBasedStateMachine):
    """A few clients, two places, and a machine in trouble now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.commands = PretendedCommands()
        self.checkers = Checkers(self.machine.reactor, self.registry, self.commands, lambda client: client.name, 2)
        self.names = [f"client{number}" for number in range(1, 5)]
        for number in range(1, 4):
            self.add(number)
        self.checkers.startService()

    def add(self, number: int) -> None:
        client = newborn(definition_of(number), self.registry.now(), number / 5)
        self.registry.introduce(client, (ClientAdded(),))

    @rule(name=st.sampled_from(range(1, 5)), event=st.sampled_from([Enable(0.0), Disable(), StartCheck(), StopCheck()]))
    def happen(self, name: int, event: Any) -> None:
        if f"client{name}" in self.registry.clients:
            self.registry.tell(f"client{name}", event)

    @rule(number=st.sampled_from(range(1, 5)))
    def come_or_go(self, number: int) -> None:
        if f"client{number}" in self.registry.clients:
            self.registry.remove(f"client{number}", by_administrator=True)
        else:
            self.add(number)

    @rule(number=st.sampled_from(range(1, 5)), minutes=st.integers(0, 3))
    def change_interval(self, number: int, minutes: int) -> None:
        client = self.registry.clients.get(f"client{number}")
        if client is not None:
            self.registry.tell(
                client.name, Reconfigured(evolve(client.settings, interval=timedelta(minutes=minutes, seconds=1)))
            )

    @precondition(lambda self: self.commands.running)
    @rule(data=st.data(), outcome=st.sampled_from([GOOD, Exited(1)]))
    def end(self, data: st.DataObject, outcome: CheckOutcome) -> None:
        self.commands.end(data.draw(st.sampled_from(self.commands.running)), outcome)

    @rule(slow=st.booleans(), fault=st.sampled_from([None, None, OSError(11, "no"), ValueError("no")]))
    def trouble(self, slow: bool, fault: Exception | None) -> None:
        self.commands.slow_to_stop = slow
        self.commands.fault = fault

    @rule(seconds=st.sampled_from([0.0, 1.0, 60.0, 120.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.machine.pass_time(seconds)

    @invariant()
    def the_limits_hold(self) -> None:
        names = [run.command for run in self.commands.running]
        assert len(names) <= 2
        assert len(set(names)) == len(names)

    @invariant()
    def who_waits_has_its_time_held_and_nobody_else(self) -> None:
        for client in self.registry.clients.values():
            if client.check_waiting_since is not None:
                assert client.name not in [run.command for run in self.commands.running if run.stopped is None]
                assert len(self.commands.running) == 2, "nobody waits while there is a place"

    @invariant()
    def what_the_registry_believes_to_run_runs(self) -> None:
        running = {run.command for run in self.commands.running if run.stopped is None}
        assert running == {client.name for client in self.registry.clients.values() if client.running_check is not None}

    def teardown(self) -> None:
        self.commands.slow_to_stop = False
        for run in [run for run in self.commands.running if run.stopped is not None]:
            self.commands.end(run)
        self.checkers.stopService()
        self.registry.stop()
        assert not self.commands.running
        assert not self.machine.reactor.getDelayedCalls()


class ModelTests(SynchronousTestCase):
    def test_whatever_happens_the_limits_hold_and_nothing_is_left(self) -> None:
        run_state_machine_as_test(Fleet, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
