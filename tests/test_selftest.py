"""Tests of ``mandos_tx.selftest``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

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

    def test_a_priority_string_without_raw_keys_is_found_out(self) -> None:
        for priority in ("NORMAL", "NONSENSE"):
            self.lines.clear()
            self.assertFalse(run(self_tests(priority), self.lines.append))
            self.assertIn("FAILED", self.lines[0])
