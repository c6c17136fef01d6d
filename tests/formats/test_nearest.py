"""Somebody who misspells an option is told which one it may be."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.formats.nearest import remedy_for_unknown

KNOWN = ["timeout", "extended_timeout", "interval"]


class NearestTests(SynchronousTestCase):
    def test_names_the_nearest(self) -> None:
        self.assertEqual('perhaps "timeout" is meant', remedy_for_unknown("timeuot", KNOWN))

    def test_says_so_if_none_is_near(self) -> None:
        self.assertEqual("it counts for nothing; remove it", remedy_for_unknown("x" * 100_000, KNOWN))
