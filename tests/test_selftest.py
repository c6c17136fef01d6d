"""Tests of ``mandos_tx.selftest``."""

from __future__ import annotations

from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import selftest
from mandos_tx.selftest import SelfTest, SelfTestFailed, run, self_tests
from mandos_tx.wire.gnutls import DEFAULT_PRIORITY


def fail() -> None:
    raise SelfTestFailed("it does not work")


def fail_without_words() -> None:
    raise ZeroDivisionError


class SelfTestTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []

    def test_all_is_well_here(self) -> None:
        self.assertTrue(run(self_tests(DEFAULT_PRIORITY), self.lines.append))
        self.assertEqual(4, len(self.lines))
        self.assertTrue(all(line.endswith(": ok") for line in self.lines), self.lines)

    def test_each_failure_is_a_line_and_the_others_are_tried(self) -> None:
        tests = [SelfTest("one", fail), SelfTest("two", fail_without_words), SelfTest("three", lambda: None)]
        self.assertFalse(run(iter(tests), self.lines.append))
        self.assertEqual(["one: FAILED: it does not work", "two: FAILED: ZeroDivisionError", "three: ok"], self.lines)

    def test_a_duration_that_is_read_wrongly_is_found_out(self) -> None:
        for good, bad in (({"PT1S": timedelta(seconds=2)}, ()), ({}, ("PT1S",))):
            with self.assertRaisesRegex(SelfTestFailed, "'PT1S' is "):
                selftest._try_durations(good, bad)

    def test_a_configuration_that_is_read_wrongly_is_found_out(self) -> None:
        client = b"[one]\nkey_id = " + b"a" * 64 + b"\n"
        for content, problem in (
            (b"nonsense\n", "clients.conf:1"),
            (client + b"secret = c2Vj\n", "not read as it is written"),
            (client + b"secfile = /dev/null\n", "there is no secfile"),
        ):
            with self.assertRaisesRegex(SelfTestFailed, problem):
                selftest._try_configuration(content)

    def test_a_priority_string_without_raw_keys_is_found_out(self) -> None:
        for priority in ("NORMAL", "NONSENSE"):
            self.lines.clear()
            self.assertFalse(run(self_tests(priority), self.lines.append))
            self.assertIn("FAILED", self.lines[0])
