"""Tests of ``mandos_tx.memory``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.memory import give_back


class MemoryTests(SynchronousTestCase):
    def test_it_can_be_given_back_at_any_time(self) -> None:
        give_back()
        give_back()
