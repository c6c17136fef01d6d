"""Tests of ``mandos_tx.pidfile``."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.pidfile import AlreadyRunning, PIDFile, default_path


class PIDFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_it_holds_our_process_id_while_we_run_and_nothing_afterwards(self) -> None:
        file = PIDFile(self.path)
        file.write()
        self.assertEqual(f"{os.getpid()}\n", self.path.read_text())
        self.assertEqual(0o600, self.path.stat().st_mode & 0o777)
        file.clear()
        self.assertEqual("", self.path.read_text())
        file.clear()

    def test_another_server_that_runs_is_named(self) -> None:
        for content, named in ((None, str(os.getpid())), ("", "unknown")):
            first = PIDFile(self.path)
            first.write()
            if content is not None:
                self.path.write_text(content)
            with self.assertRaisesRegex(AlreadyRunning, f"a server is running already, process ID {named}"):
                PIDFile(self.path).write()
            first.clear()

    def test_whoever_locks_one_that_others_could_open_does_not_hold_us_up(self) -> None:
        self.path.touch()
        self.path.chmod(0o644)
        with self.path.open("rb") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            file = PIDFile(self.path)
            file.write()
            self.addCleanup(file.clear)
            self.assertEqual(f"{os.getpid()}\n", self.path.read_text())
            self.assertEqual(0o600, self.path.stat().st_mode & 0o777)

    def test_a_stale_one_is_taken_over(self) -> None:
        self.path.write_text("4194305 and more\n")
        self.path.chmod(0o600)
        file = PIDFile(self.path)
        file.write()
        self.addCleanup(file.clear)
        self.assertEqual(f"{os.getpid()}\n", self.path.read_text())

    def test_a_symbolic_link_is_not_followed(self) -> None:
        target = Path(self.mktemp())
        self.path.symlink_to(target.absolute())
        with self.assertRaises(OSError):
            PIDFile(self.path).write()
        self.assertFalse(target.exists())

    def test_it_is_where_the_manual_says(self) -> None:
        self.assertEqual("/run/mandos.pid", str(default_path()))
