"""Tests of ``mandos_tx.clock``."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import task
from twisted.internet.base import ReactorBase
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.clock import Clock, TimeLine, boot_time, fresh_time_line, install, read_boot_id, wall_time
from tests.fakes import START, Machine

DAY = timedelta(days=1)


class ClockTests(SynchronousTestCase):
    def test_it_goes_with_the_time_since_boot(self) -> None:
        machine = Machine()
        clock = machine.clock()
        self.assertEqual(clock.now(), START)
        machine.pass_time(90)
        self.assertEqual(clock.now(), START + timedelta(seconds=90))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.timedeltas(-3650 * DAY, 3650 * DAY), max_size=5))
    def test_no_step_of_the_wall_clock_moves_it(self, steps: list[timedelta]) -> None:
        machine = Machine()
        clock = machine.clock()
        for step in steps:
            machine.wall += step
            self.assertEqual(clock.now(), START)

    def test_suspended_time_counts(self) -> None:
        machine = Machine()
        clock = machine.clock()
        machine.suspend(DAY)
        self.assertEqual(clock.now(), START + DAY)

    def test_instants_are_shown_as_the_wall_clock_has_them(self) -> None:
        machine = Machine()
        clock = machine.clock()
        self.assertEqual(clock.shown(START + DAY), START + DAY)
        machine.wall += 3 * DAY
        self.assertEqual(clock.shown(clock.now()), machine.wall)
        self.assertEqual(clock.shown(START - DAY), START + 2 * DAY)

    def test_delayed_calls_follow_it_once_it_is_installed(self) -> None:
        reactor = ReactorBase.__new__(ReactorBase)
        machine = Machine()
        clock = machine.clock()
        install(reactor, clock)
        self.assertEqual(reactor.seconds(), machine.uptime)
        machine.pass_time(5)
        self.assertEqual(reactor.seconds(), machine.uptime + 5)


class ThisMachineTests(SynchronousTestCase):
    def test_the_boot_clock_is_the_kernels(self) -> None:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.assertTrue(before <= boot_time() <= time.clock_gettime(time.CLOCK_BOOTTIME))

    def test_the_wall_clock_is_in_utc(self) -> None:
        shown = wall_time()
        self.assertIs(shown.tzinfo, UTC)
        self.assertLess(abs(shown - datetime.now(UTC)), timedelta(seconds=10))

    def test_a_boot_has_one_identity(self) -> None:
        self.assertEqual(read_boot_id(), read_boot_id())
        self.assertRegex(read_boot_id(), "^([0-9a-f-]{36})?$")

    def test_where_the_kernel_does_not_say_there_is_none(self) -> None:
        self.assertEqual(read_boot_id(Path(self.mktemp())), "")

    def test_a_fresh_time_line_agrees_with_the_wall_clock(self) -> None:
        clock = Clock(fresh_time_line())
        self.assertLess(abs(clock.now() - datetime.now(UTC)), timedelta(seconds=10))
        self.assertEqual(clock.line.boot_id, read_boot_id())


class FakeMachineTests(SynchronousTestCase):
    """What other tests rely on."""

    def test_a_restart_keeps_both_clocks_and_a_reboot_the_wall(self) -> None:
        machine = Machine()
        machine.pass_time(DAY)
        again = machine.restart()
        self.assertEqual((again.wall, again.line), (machine.wall, machine.line))
        other = machine.reboot(DAY)
        self.assertEqual(other.wall, machine.wall + DAY)
        self.assertNotEqual(other.line.boot_id, machine.line.boot_id)
        self.assertIsInstance(other.line, TimeLine)
        self.assertIsInstance(other.reactor, task.Clock)
