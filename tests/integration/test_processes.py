"""Checkers for real: whatever a command does, nothing of it outlives it for long, and nothing of ours gets into it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from mandos_tx.core.client import CheckOutcome, Exited, Killed
from mandos_tx.process import Kernel, ProcessGroups, environment_for_commands


class ProcessTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.groups = ProcessGroups(reactor, environment_for_commands(os.environ))
        self.groups.begin()
        self.marker = f"{os.getpid()}-{id(self)}"
        """In the environment of everything that we start."""
        self.groups._environment = {**os.environ, "MARKER": self.marker}
        self.addCleanup(self.groups.stop_all)

    def ours(self) -> list[int]:
        """All processes that come of our commands, zombies excepted."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if f"MARKER={self.marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def left(self) -> list[int]:
        """What there is of our commands, zombies included."""
        return [*self.ours(), *(Kernel().children() - self.groups._spared)]

    def run_command(self, command: str, *, want_output: bool = False) -> Deferred[tuple[CheckOutcome, bytes]]:
        result: Deferred[tuple[CheckOutcome, bytes]] = Deferred()
        self.running = self.groups.start(command, lambda *end: result.callback(end), want_output=want_output)
        return result

    def pause(self, seconds: float) -> Deferred[None]:
        return deferLater(self.reactor, seconds)

    async def all_gone(self, within: float) -> None:
        end = time.monotonic() + within
        while (left := self.left()) and time.monotonic() < end:
            await self.pause(0.05)
        self.assertEqual([], left)

    async def test_outcomes_are_what_wait_says(self) -> None:
        for command, outcome in {
            "": Exited(0),
            "exit 3": Exited(3),
            "kill -TERM $$": Killed(15),
            "/nonexistent": Exited(127),
        }.items():
            ended, _ = await self.run_command(command)
            self.assertEqual(outcome, ended)

    async def test_a_command_gets_our_environment_no_descriptor_and_a_session_of_its_own(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        directory = self.mktemp()
        os.mkdir(directory)
        out = os.path.abspath(directory)
        await self.run_command(
            f"ls -l /proc/self/fd > {out}/fds; ps -o sid= -p $$ > {out}/sid; echo $$ > {out}/pid; env > {out}/env;"
            f" cat > {out}/stdin; grep -E 'Sig(Blk|Ign)' /proc/self/status > {out}/signals"
        )
        fds = Path(out, "fds").read_text()
        self.assertNotIn("socket:", fds)
        self.assertEqual({"0", "1", "2", "3"}, {line.split()[-3] for line in fds.splitlines() if "->" in line})
        self.assertEqual(Path(out, "pid").read_text().strip(), Path(out, "sid").read_text().strip())
        self.assertIn(f"MARKER={self.marker}", Path(out, "env").read_text())
        self.assertEqual("", Path(out, "stdin").read_text())
        for line in Path(out, "signals").read_text().splitlines():
            self.assertEqual(0, int(line.split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGTERM - 1), line)

    async def test_what_a_command_leaves_behind_is_gone_within_three_seconds(self) -> None:
        for command in (
            "sleep 100 & exit 0",
            "setsid sleep 100 & exit 0",
            "(setsid sh -c 'sleep 100 & sleep 100' &) ; exit 0",
            "setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & exit 0",
            "(trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 100; sleep 100' &)); sleep 0.1",
        ):
            await self.run_command(command)
            await self.all_gone(within=3)

    async def test_a_command_that_is_stopped_is_gone_within_three_seconds(self) -> None:
        for command in (
            "sleep 100",
            "sleep 100 & sleep 100 & wait",
            "trap '' TERM; while :; do sleep 0.1; done",
            "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & while :; do sleep 0.1; done",
            "setsid sh -c 'setsid sleep 100 & sleep 100' & wait",
        ):
            outcomes: list[object] = []
            self.run_command(command).addCallback(outcomes.append)
            await self.pause(0.2)
            self.assertNotEqual([], self.ours(), command)
            await self.groups.stop(self.running)
            await self.all_gone(within=1)
            self.assertEqual([], outcomes)

    async def test_a_stop_of_everything_leaves_nothing(self) -> None:
        for command in ("sleep 100", "trap '' TERM; while :; do sleep 0.1; done", "setsid sleep 100 & sleep 100"):
            self.run_command(command)
        await self.pause(0.2)
        begun = time.monotonic()
        await self.groups.stop_all()
        self.assertLess(time.monotonic() - begun, 3)
        await self.all_gone(within=0)

    async def test_a_gigabyte_of_output_costs_nothing(self) -> None:
        before = _resident()
        await self.run_command("head -c 1000000000 /dev/zero")
        outcome, tail = await self.run_command("head -c 100000000 /dev/zero; echo the end", want_output=True)
        self.assertEqual((Exited(0), b"the end\n"), (outcome, tail[-8:]))
        self.assertLessEqual(len(tail), 2000)
        self.assertLess(_resident() - before, 8 << 20)

    async def test_after_five_hundred_checks_there_is_neither_a_zombie_nor_a_descriptor_too_many(self) -> None:
        await self.run_command(":")
        descriptors = _descriptors()
        for _ in range(20):
            batch = [self.run_command("exit 1" if n % 2 else ":", want_output=bool(n % 3)) for n in range(25)]
            for result in batch:
                await result
        self.assertEqual(set(), Kernel().children() - self.groups._spared)
        self.assertEqual(descriptors, _descriptors())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> list[str]:
    """What our descriptors are, but for the one that lists them."""
    return sorted(os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if os.path.lexists(entry))
