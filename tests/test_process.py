"""Tests of ``mandos_tx.process``, on processes that are only pretended; real ones are in ``tests.integration``."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from itertools import count

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import CheckOutcome, Exited, Killed
from mandos_tx.process import (
    MAX_TAIL,
    PATIENCE,
    SWEEP,
    Kernel,
    ProcessGroups,
    RunningCommand,
    environment_for_commands,
)

US = 1


@define(eq=False)
class Process:
    pid: int
    parent: int
    group: int
    stubborn: bool = False
    """Whether it ignores SIGTERM."""
    status: int | None = None
    """Of a zombie."""


@define(eq=False)
class PretendedKernel(Kernel):
    """Processes as wait(2), kill(2) and a child subreaper know them."""

    processes: dict[int, Process] = field(factory=dict)
    pids: count[int] = field(factory=lambda: count(100))
    fault: Exception | None = None
    watch_fault: OSError | None = None
    outputs: dict[int, int] = field(factory=dict)
    subreaper: bool = False

    def become_subreaper(self) -> None:
        self.subreaper = True

    def add(self, parent: int, *, group: int | None = None, stubborn: bool = False) -> Process:
        """A process comes to be; without ``group``, in one of its own."""
        pid = next(self.pids)
        self.processes[pid] = Process(pid, parent, pid if group is None else group, stubborn)
        return self.processes[pid]

    def end(self, pid: int, status: int) -> None:
        self.processes[pid].status = status
        for child in self.processes.values():
            if child.parent == pid:
                child.parent = US

    def spawn(self, command: str, environment: Mapping[str, str], output: int) -> int:
        if self.fault is not None:
            raise self.fault
        process = self.add(US, stubborn="stubborn" in command)
        if output >= 0:
            self.outputs[process.pid] = os.dup(output)
        return process.pid

    def watch(self, pid: int) -> int:
        if self.watch_fault is not None:
            raise self.watch_fault
        return os.open("/dev/null", os.O_RDONLY)

    def signal(self, pid: int, number: int) -> None:
        process = self.processes.get(pid)
        if process is not None and process.status is None and (number == signal.SIGKILL or not process.stubborn):
            self.end(pid, number)

    def signal_group(self, pgid: int, number: int) -> None:
        for process in list(self.processes.values()):
            if process.group == pgid:
                self.signal(process.pid, number)

    def group_of(self, pid: int) -> int:
        return self.processes[pid].group

    def wait(self, pid: int) -> int:
        status = self.processes.pop(pid).status
        assert status is not None, "it would block"
        return status

    def reap(self, pid: int) -> bool:
        if self.processes[pid].status is None:
            return False
        del self.processes[pid]
        return True

    def children(self) -> set[int]:
        return {process.pid for process in self.processes.values() if process.parent == US}


class ProcessTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.kernel = PretendedKernel()
        self.groups = ProcessGroups(self.reactor, {}, self.kernel)
        self.ends: list[tuple[CheckOutcome, bytes]] = []

    def start(self, command: str = "true", *, want_output: bool = False) -> RunningCommand:
        return self.groups.start(command, lambda *end: self.ends.append(end), want_output=want_output)

    def notice(self) -> None:
        """What the reactor does when pidfds are readable."""
        for running in list(self.groups._running.values()):
            process = self.kernel.processes.get(running.pid)
            if process is not None and process.status is not None and running.pidfd is not None:
                running.pidfd.doRead()

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.reactor.advance(0.05)
            self.notice()

    def nothing_left(self) -> None:
        self.assertEqual({}, self.kernel.processes)
        self.assertEqual([], self.reactor.getReaders())
        self.assertEqual([], self.reactor.getDelayedCalls())


class CommandTests(ProcessTestCase):
    def test_how_a_command_ended_is_told_once(self) -> None:
        outcomes = {0: Exited(0), 3 << 8: Exited(3), 15: Killed(15), 11 | 0x80: Killed(11, core_dumped=True)}
        for status, outcome in outcomes.items():
            running = self.start()
            self.kernel.end(running.pid, status)
            self.notice()
            self.assertEqual((outcome, b""), self.ends.pop())
            self.successResultOf(running.gone)
        self.assertEqual([], self.ends)
        self.nothing_left()

    def test_the_tail_of_its_output_is_kept_if_it_is_wanted(self) -> None:
        running = self.start(want_output=True)
        written = self.kernel.outputs[running.pid]
        assert running.output is not None
        running.output.doRead()  # nothing has come
        for _ in range(3):
            os.write(written, b"x" * 5000)
            running.output.doRead()
        os.write(written, b"the last words")
        os.close(written)
        self.kernel.end(running.pid, 0)
        self.notice()
        [(_, tail)] = self.ends
        self.assertEqual(MAX_TAIL, len(tail))
        self.assertTrue(tail.endswith(b"the last words"))
        self.nothing_left()

    def test_the_end_of_the_output_is_not_the_end_of_the_command(self) -> None:
        running = self.start(want_output=True)
        os.close(self.kernel.outputs[running.pid])
        assert running.output is not None
        running.output.doRead()
        self.assertEqual(1, len(self.reactor.getReaders()))
        self.kernel.end(running.pid, 0)
        self.notice()
        self.nothing_left()

    def test_output_that_nobody_ends_does_not_keep_a_command(self) -> None:
        running = self.start(want_output=True)
        self.addCleanup(os.close, self.kernel.outputs[running.pid])
        self.kernel.end(running.pid, 0)
        self.notice()
        self.assertEqual([(Exited(0), b"")], self.ends)

    def test_without_a_process_nothing_is_left_behind(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for fault in (OSError(errno.EAGAIN, "no"), ValueError("embedded null byte")):
            self.kernel.fault = fault
            for want_output in (False, True):
                with self.assertRaises(type(fault)):
                    self.start(want_output=want_output)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.nothing_left()

    def test_a_command_that_is_too_long_can_never_run(self) -> None:
        self.kernel.fault = OSError(errno.E2BIG, "Argument list too long")
        with self.assertRaisesRegex(ValueError, "it is too long"):
            self.start()

    def test_a_process_that_cannot_be_watched_is_ended_at_once(self) -> None:
        self.kernel.watch_fault = OSError(errno.EMFILE, "no")
        with self.assertRaises(OSError):
            self.start()
        self.nothing_left()

    def test_what_speaks_to_the_server_alone_is_not_for_commands(self) -> None:
        environment = {"PATH": "/bin", "LANG": "C", "NOTIFY_SOCKET": "/n", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1"}
        self.assertEqual({"PATH": "/bin", "LANG": "C"}, environment_for_commands(environment))

    def test_the_reactor_may_ask_a_watched_descriptor_what_it_asks_readers(self) -> None:
        running = self.start()
        assert running.pidfd is not None
        self.assertEqual("checker", running.pidfd.logPrefix())
        running.pidfd.connectionLost(Failure(ZeroDivisionError()))
        self.kernel.end(running.pid, 0)
        self.notice()
        self.assertEqual(-1, running.pidfd.fileno())
        running.pidfd.close(self.reactor)


class EndingTests(ProcessTestCase):
    def test_a_stopped_command_has_no_outcome(self) -> None:
        running = self.start()
        gone = self.groups.stop(running)
        self.assertNoResult(gone)
        self.notice()
        self.successResultOf(gone)
        self.assertEqual([], self.ends)
        self.nothing_left()

    def test_stopping_twice_is_stopping_once(self) -> None:
        running = self.start("stubborn")
        self.groups.stop(running)
        self.pass_time(1)
        gone = self.groups.stop(running)
        self.pass_time(1.1)
        self.successResultOf(gone)
        self.nothing_left()

    def test_who_does_not_listen_is_killed_after_two_seconds_with_all_its_group(self) -> None:
        running = self.start("stubborn")
        self.kernel.add(running.pid, group=running.pid, stubborn=True)
        gone = self.groups.stop(running)
        self.pass_time(PATIENCE - 0.1)
        self.assertNoResult(gone)
        self.pass_time(0.3)
        self.successResultOf(gone)
        self.nothing_left()

    def test_what_a_command_leaves_behind_in_its_group_is_ended(self) -> None:
        running = self.start()
        self.kernel.add(running.pid, group=running.pid)
        self.kernel.add(running.pid, group=running.pid, stubborn=True)
        self.kernel.end(running.pid, 0)
        self.pass_time(PATIENCE + 5 * SWEEP)
        self.nothing_left()

    def test_so_is_what_has_left_the_group_and_its_parents(self) -> None:
        running = self.start()
        between = self.kernel.add(running.pid)
        self.kernel.add(between.pid)
        self.kernel.end(between.pid, 0)
        self.kernel.end(running.pid, 0)
        self.pass_time(3 * SWEEP)
        self.nothing_left()

    def test_children_of_a_command_that_runs_are_left_in_peace(self) -> None:
        running, other = self.start(), self.start()
        between = self.kernel.add(running.pid, group=running.pid)
        background = self.kernel.add(between.pid, group=running.pid)
        self.kernel.end(between.pid, 0)
        self.kernel.end(other.pid, 0)
        self.pass_time(1)
        self.assertIsNone(background.status)
        self.kernel.end(running.pid, 0)
        self.pass_time(1)
        self.nothing_left()

    def test_children_from_before_the_first_command_are_not_ours_to_end(self) -> None:
        old = self.kernel.add(US)
        self.groups.begin()
        self.assertTrue(self.kernel.subreaper)
        self.kernel.end(self.start().pid, 0)
        self.pass_time(5)
        self.successResultOf(self.groups.stop_all())
        self.assertEqual({old.pid: old}, self.kernel.processes)

    def test_without_processes_everything_is_ended_at_once(self) -> None:
        self.successResultOf(self.groups.stop_all())
        self.nothing_left()

    def test_ending_everything_while_a_sweep_is_due_leaves_no_call(self) -> None:
        running = self.start()
        self.kernel.add(running.pid)
        self.kernel.end(running.pid, 0)
        self.notice()
        self.assertEqual(1, len(self.reactor.getDelayedCalls()))
        done = self.groups.stop_all()
        self.pass_time(1)
        self.successResultOf(done)
        self.nothing_left()

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_tree_of_processes_is_gone_three_seconds_after_it_was_told_to_stop(self, data: st.DataObject) -> None:
        self.setUp()
        family = []
        for stubborn in data.draw(st.lists(st.booleans(), min_size=1, max_size=3), "commands"):
            family.append(self.kernel.processes[self.start("stubborn" if stubborn else "").pid])
        for _ in range(data.draw(st.integers(0, 8), "descendants")):
            parent = data.draw(st.sampled_from(family))
            own_group, stubborn = data.draw(st.booleans()), data.draw(st.booleans())
            family.append(self.kernel.add(parent.pid, group=None if own_group else parent.group, stubborn=stubborn))
        for process in data.draw(st.lists(st.sampled_from(family), unique=True, max_size=3), "ended before"):
            if process.status is None:
                self.kernel.end(process.pid, 0)
        if data.draw(st.booleans(), "noticed before"):
            self.notice()
        everything = data.draw(st.booleans(), "stop_all")
        if everything:
            done = self.groups.stop_all()
        else:
            for running in list(self.groups._running.values()):
                self.groups.stop(running)
        self.pass_time(3.0)
        self.assertEqual({}, self.kernel.processes)
        self.pass_time(2 * SWEEP)
        self.nothing_left()
        if everything:
            self.successResultOf(done)


class KernelTests(SynchronousTestCase):
    """As far as it can be called without making a process."""

    def test_signals_to_who_is_gone_go_nowhere(self) -> None:
        # beyond any limit of the kernel (proc(5), pid_max)
        Kernel().signal(1 << 23, signal.SIGTERM)
        Kernel().signal_group(1 << 23, signal.SIGTERM)

    def test_who_is_not_there_has_been_reaped(self) -> None:
        self.assertTrue(Kernel().reap(1 << 23))
        with self.assertRaises(ChildProcessError):
            Kernel().wait(1 << 23)

    def test_it_knows_of_this_process(self) -> None:
        self.assertEqual(os.getpgrp(), Kernel().group_of(os.getpid()))
        descriptor = Kernel().watch(os.getpid())
        self.assertFalse(os.get_inheritable(descriptor))
        os.close(descriptor)
        self.assertNotIn(os.getpid(), Kernel().children())

    def test_descriptors_are_kept(self) -> None:
        descriptor = os.open("/dev/null", os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        os.set_inheritable(descriptor, True)
        Kernel().keep_descriptors()
        self.assertFalse(os.get_inheritable(descriptor))
        self.assertTrue(os.get_inheritable(2))

    def test_what_cannot_be_run_is_not(self) -> None:
        with self.assertRaises(ValueError):
            Kernel().spawn("\0", {}, -1)
        with self.assertRaises(OSError) as caught:
            Kernel().spawn("x" * (1 << 18), {}, 1)
        self.assertEqual(errno.E2BIG, caught.exception.errno)
