"""The state file under a process that is killed at any moment."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.interfaces import SavedState
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.sqlite import SqliteStore

ROOT = Path(__file__).absolute().parents[2]
ROUNDS = 60
CLIENTS = 20

WRITER = f"""
import sys
from datetime import UTC, datetime
from mandos_tx.clock import TimeLine
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.sqlite import SqliteStore

store = SqliteStore(StateDirectory(sys.argv[1]))
number = store.load().generation
print("up", flush=True)
while True:
    number += 1
    document = str(number) * (number % 50 + 1)
    now = datetime.now(UTC)
    store.save({{f"client{{number % {CLIENTS}}}": document}}, number, TimeLine("", now), now)
    print(number, flush=True)
"""
"""Says the number of each commit as soon as it is promised to be durable."""


def expected(generation: int) -> dict[str, str]:
    """All documents after that many commits."""
    last = range(max(1, generation - CLIENTS + 1), generation + 1)
    return {f"client{number % CLIENTS}": str(number) * (number % 50 + 1) for number in last}


class KillTests(SynchronousTestCase):
    def test_what_was_promised_is_there_after_every_kill(self) -> None:
        path = Path(self.mktemp()).absolute()
        path.mkdir(parents=True)
        moments = random.Random(20261120)  # any other would do, but a failure must come again
        for _ in range(ROUNDS):
            promised = self.write_and_kill(path, moments.uniform(0.0, 0.12))
            saved = self.load(path)
            self.assertEqual(saved.problem, "")
            self.assertGreaterEqual(saved.generation, promised)
            # At most the one commit of which nobody had heard yet.
            self.assertLessEqual(saved.generation, promised + 1)
            self.assertEqual(saved.documents, expected(saved.generation))

    def write_and_kill(self, path: Path, moment: float) -> int:
        """Let a process write for some seconds, and return the last commit that it promised."""
        before = self.load(path).generation
        command = [sys.executable, "-c", WRITER, str(path)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            self.assertEqual(writer.stdout.readline(), "up\n")
            time.sleep(moment)
            writer.kill()
            lines = writer.stdout.read().split("\n")
        # What follows the last end of line was not said to the end.
        return int(lines[-2]) if len(lines) > 1 else before

    def load(self, path: Path) -> SavedState:
        store = SqliteStore(StateDirectory(path))
        try:
            return store.load()
        finally:
            store.close()
