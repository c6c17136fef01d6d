"""kill -9 while administrators change things: what was answered is there afterwards, and nothing else has happened."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from attrs import define, evolve, field, frozen

from tests.integration.harness import ControlledServer, Gone, ServerTestCase

CRASHES = 100
SERVERS = 4
"""So many at a time, each crashing its share."""
LONGEST_STREAM = 0.5
"""Seconds from the first change to the crash, at most."""
CONFIGURED = [f"configured-{number}" for number in range(12)]
ADDED = [f"added-{number}" for number in range(4)]
WEEK = 7 * 86400
SECRET = "c2VjcmV0"


@frozen
class State:
    """What a change may change."""

    enabled: bool = True
    timeout: int = WEEK
    host: str = ""


Change = tuple[dict[str, object], State | None]
"""A request, and what it makes of a client; None: there is none any more."""


@define
class Journal:
    """What was answered, and what was asked but not answered: the latter may or may not have happened."""

    dice: random.Random
    certain: dict[str, State | None] = field(factory=lambda: {name: State() for name in CONFIGURED})
    asked: dict[int, tuple[str, State | None]] = field(factory=dict)
    answered: int = 0

    def next_change(self) -> tuple[str, Change] | None:
        """A change of a client of which no other is under way; None if there is no such client."""
        busy = {name for name, _ in self.asked.values()}
        names = [name for name in CONFIGURED + ADDED if name not in busy and self.possible(name)]
        if not names:
            return None
        name = self.dice.choice(names)
        return name, self.dice.choice(self.possible(name))(name)

    def possible(self, name: str) -> list[Callable[[str], Change]]:
        if self.certain.get(name) is None:
            # one that the configuration still lists stays away
            return [self.add] if name in ADDED else []
        rarely = [self.remove] if name in ADDED or self.dice.random() < 0.02 else []
        return [self.enable, self.disable, self.disable, self.set_timeout, self.set_host, *rarely]

    def add(self, name: str) -> Change:
        return {"add": [name, {"host": "new", "secret": SECRET, "timeout": WEEK}]}, State(host="new")

    def remove(self, name: str) -> Change:
        return {"remove": name}, None

    def enable(self, name: str) -> Change:
        return {"change": [name, "Enable"]}, evolve(self.present(name), enabled=True)

    def disable(self, name: str) -> Change:
        return {"change": [name, "Disable"]}, evolve(self.present(name), enabled=False)

    def set_timeout(self, name: str) -> Change:
        seconds = self.dice.randint(WEEK, 2 * WEEK)
        return {"reconfigure": [name, {"timeout": seconds}]}, evolve(self.present(name), timeout=seconds)

    def set_host(self, name: str) -> Change:
        host = f"host-{self.dice.getrandbits(32):x}"
        return {"reconfigure": [name, {"host": host}]}, evolve(self.present(name), host=host)

    def present(self, name: str) -> State:
        state = self.certain[name]
        assert state is not None
        return state

    def answer(self, number: int) -> None:
        name, state = self.asked.pop(number)
        self.certain[name] = state
        self.answered += 1

    def compare(self, found: dict[str, State]) -> list[str]:
        """What is not as it may be; afterwards what was found is certain."""
        wrong = []
        for name in CONFIGURED + ADDED:
            may_be = [self.certain.get(name), *(state for asked, state in self.asked.values() if asked == name)]
            if found.get(name) not in may_be:
                wrong.append(f"{name} is {found.get(name)}, not one of {may_be}")
            self.certain[name] = found.get(name)
        self.asked.clear()
        return wrong


class Crash(ServerTestCase):
    def test_every_answered_change_survives_100_crashes(self) -> None:
        seed = random.randrange(2**32)
        with ThreadPoolExecutor(SERVERS) as pool:
            lives = [pool.submit(self.crash_again_and_again, seed + number) for number in range(SERVERS)]
        answered = [life.result() for life in lives]
        self.assertGreater(min(answered), CRASHES // SERVERS, f"seed {seed}")

    def crash_again_and_again(self, seed: int) -> int:
        """How many changes were answered in all."""
        sections = [
            f"[{name}]\nkey_id = {number:064x}\nhost =\nsecret = {SECRET}\ninterval = P1D\ntimeout = P1W\nchecker = :\n"
            for number, name in enumerate(CONFIGURED, 1)
        ]
        configdir, statedir = self.configdir(*sections), self.statedir()
        journal = Journal(random.Random(seed))
        for crash in range(CRASHES // SERVERS):
            with closing(_Life(ControlledServer(configdir, statedir))) as life:
                self.assertEqual(journal.compare(life.clients()), [], f"seed {seed}, crash {crash}")
                life.change_until_it_crashes(journal)
            self.assert_sound(statedir, f"seed {seed}, crash {crash}")
        with closing(_Life(ControlledServer(configdir, statedir))) as life:
            self.assertEqual(journal.compare(life.clients()), [], f"seed {seed}, at the end")
            self.assertEqual(life.server.stop(), 0)
        return journal.answered

    def assert_sound(self, statedir: Path, message: str) -> None:
        """SQLite finds nothing wrong, in a copy: looking would repair it."""
        copy = self.directory()
        for path in statedir.glob("mandos.sqlite*"):
            shutil.copyfile(path, copy / path.name)
        with closing(sqlite3.connect(copy / "mandos.sqlite")) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchall(), [("ok",)], message)
        shutil.rmtree(copy)


@define
class _Life:
    """A server from its start to its crash."""

    server: ControlledServer

    def clients(self) -> dict[str, State]:
        self.server.wait_until_listening()
        return {
            name: State(client["enabled"], int(client["timeout"]), client["host"])
            for name, client in self.server.clients().items()
        }

    def change_until_it_crashes(self, journal: Journal) -> None:
        """Ask for as many changes at a time as may be, and note the answers."""
        # Its successor has it; a hundred copies would be a lot to search for secrets.
        self.server.leaves_state = False
        timer = threading.Timer(journal.dice.uniform(0, LONGEST_STREAM), self.server.kill)
        timer.start()
        try:
            while True:
                while (change := journal.next_change()) and len(journal.asked) < 4:
                    name, (request, state) = change
                    journal.asked[self.server.send(**request)] = name, state
                number, error, _ = self.server.receive()
                if error is not None:
                    raise error
                journal.answer(number)
        except Gone:
            timer.join()

    def close(self) -> None:
        self.server.clean_up()
