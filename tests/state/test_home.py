"""Tests of ``mandos_tx.state.home``."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.privileges import Identity
from mandos_tx.state.home import StateHome
from tests.fakes import Log

US = Identity("us", os.geteuid(), os.getegid())
"""To whom a directory can be given by anybody."""


class StateHomeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.log = Log()
        self.log.listen(self)

    def make(self, owner: Identity | None) -> None:
        StateHome(str(self.path), owner).privilegedStartService()

    def test_one_that_is_missing_is_made_for_its_owner_alone(self) -> None:
        for owner in (None, US):
            self.make(owner)
            status = self.path.stat()
            self.assertEqual((0o700, US.uid), (status.st_mode & 0o777, status.st_uid))
            self.path.rmdir()

    def test_one_that_is_empty_is_given_away(self) -> None:
        self.path.mkdir()
        self.make(US)
        self.assertEqual([f"Giving the empty directory {self.path} to us"], self.log.texts(LogLevel.info))

    def test_what_holds_files_or_is_for_everybody_or_no_directory_is_never_touched(self) -> None:
        for kind in ("full", "sticky", "file", "link"):
            self.path = Path(self.mktemp())
            if kind == "file":
                self.path.touch()
            elif kind == "link":
                self.path.symlink_to("/nonexistent")
            else:
                self.path.mkdir()
            if kind == "full":
                (self.path / "x").touch()
            if kind == "sticky":
                self.path.chmod(0o1777)
            before = self.path.lstat()
            self.make(US)
            self.assertEqual(before, self.path.lstat(), kind)
        self.assertEqual([], self.log.texts(LogLevel.info))

    def test_one_that_is_there_will_do_if_we_stay_who_we_are(self) -> None:
        self.path.mkdir()
        self.make(None)
        self.assertEqual([], self.log.texts(LogLevel.error))

    def test_what_cannot_be_made_is_complained_of_and_no_more(self) -> None:
        self.path = self.path / "missing" / "state"
        for owner in (None, US):
            self.make(owner)
        self.assertEqual(
            [f"The state directory {self.path} cannot be made: No such file or directory"] * 2,
            self.log.texts(LogLevel.error),
        )
