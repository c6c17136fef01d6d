"""Tests of ``mandos_tx.audit_file``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.audit_file import TAIL_BYTES, AuditFile, AuditUnusable


class AuditFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def opened(self) -> AuditFile:
        file = AuditFile(self.path)
        self.addCleanup(file.close)
        file.open()
        return file

    def refused(self) -> str:
        return str(self.assertRaises(AuditUnusable, AuditFile(self.path).open))

    def test_nobody_else_may_read_it_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.opened()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_it_appends(self) -> None:
        self.opened().write(b"one\n")
        self.opened().write(b"two\n")
        self.assertEqual(self.path.read_bytes(), b"one\ntwo\n")

    def test_the_first_write_opens_what_is_not_open(self) -> None:
        file = AuditFile(self.path)
        self.addCleanup(file.close)
        file.write(b"one\n")
        self.assertEqual(self.path.read_bytes(), b"one\n")

    def test_a_line_that_was_torn_stays_alone(self) -> None:
        file = self.opened()
        file.write(b"half a li")
        file.write(b"whole\n")
        self.assertEqual(self.path.read_bytes(), b"half a li\nwhole\n")

    def test_who_only_examines_it_makes_nothing_and_disturbs_nobody(self) -> None:
        file = AuditFile(self.path)
        file.examine()
        self.assertFalse(self.path.exists())
        os.mkfifo(self.path)
        file.examine()
        for wrong in (self.path / "below", self.path.with_suffix(".none") / "below"):
            self.assertIn(str(wrong), str(self.assertRaises(AuditUnusable, AuditFile(wrong).examine)))
        self.path.unlink()
        self.path.touch(0o622)
        self.path.chmod(0o622)
        self.assertRaises(AuditUnusable, file.examine)

    def test_a_disk_that_is_full_is_an_error(self) -> None:
        file = AuditFile("/dev/full")
        self.addCleanup(file.close)
        self.assertRaises(OSError, file.write, b"one\n")

    def test_a_disk_that_does_not_answer_for_what_it_has_is_an_error(self) -> None:
        file = self.opened()
        descriptor = os.open("/", os.O_RDONLY | os.O_PATH)
        self.addCleanup(os.close, descriptor)
        os.dup2(descriptor, file._descriptor or self.fail("not open"))
        self.assertRaises(OSError, file.write, b"")

    def test_what_cannot_be_synchronised_is_written_all_the_same(self) -> None:
        file = AuditFile("/dev/null")
        self.addCleanup(file.close)
        file.write(b"one\n")

    def test_a_pipe_that_nobody_reads_is_refused_at_once(self) -> None:
        os.mkfifo(self.path)
        self.assertIn(str(self.path), self.refused())

    def test_a_pipe_is_written_to(self) -> None:
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.opened().write(b"one\n")
        self.assertEqual(os.read(reader, 100), b"one\n")

    def test_a_symbolic_link_is_refused(self) -> None:
        target = self.path.with_suffix(".target")
        target.touch()
        self.path.symlink_to(target)
        self.refused()

    def test_a_file_with_another_name_is_refused(self) -> None:
        target = self.path.with_suffix(".target")
        target.touch(0o600)
        self.path.hardlink_to(target)
        self.assertIn("other names", self.refused())

    def test_a_file_that_others_may_write_is_refused(self) -> None:
        for mode in (0o620, 0o602):
            self.path.touch()
            self.path.chmod(mode)
            self.assertIn(f"{mode:04o}", self.refused())

    def test_what_others_may_only_read_is_the_administrators_business(self) -> None:
        self.path.touch()
        self.path.chmod(0o640)
        self.opened()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o640)

    def test_a_directory_that_is_not_there_is_an_error_that_names_the_file(self) -> None:
        self.path = self.path / "audit.log"
        said = self.refused()
        self.assertIn(f"{self.path}: No such file or directory; ", said)
        self.assertIn(f"user ID {os.geteuid()}", said)


class LastGenerationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def last(self, content: bytes) -> int | None:
        self.path.write_bytes(content)
        return AuditFile(self.path).last_generation()

    def test_it_is_that_of_the_last_whole_line(self) -> None:
        self.assertEqual(self.last(b'{"generation": 1}\n{"generation": 2}\n{"generation": 3'), 2)

    def test_lines_without_one_are_passed_over(self) -> None:
        for odd in (b"", b"[]", b"3", b"null", b'{"generation": "9"}', b'{"generation": true}', b"\xff", b"[" * 9999):
            self.assertEqual(self.last(b'{"generation": 1}\n' + odd + b"\n"), 1)

    def test_there_may_be_none(self) -> None:
        self.assertIsNone(self.last(b""))
        self.assertIsNone(AuditFile(self.mktemp()).last_generation())

    def test_only_the_end_is_searched(self) -> None:
        self.assertIsNone(self.last(b'{"generation": 1}\n' + b"x" * TAIL_BYTES))

    def test_devices_are_not_read(self) -> None:
        self.assertIsNone(AuditFile("/dev/zero").last_generation())
