"""Tests of ``mandos_tx.core.approval``."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.approval import Wait, decide, dismiss, eligible, petition, rule, time_out, withdraw
from mandos_tx.core.client import Client, Disabled, Enabled, Petition, Ruling
from mandos_tx.core.happenings import PetitionDecided, Refusal
from mandos_tx.core.lifecycle import newborn
from tests.fakes import START, definition_of

SECOND = timedelta(seconds=1)
NOW = START


def client(*, delay: timedelta = timedelta(0), default: bool = True, ruling: Ruling | None = None) -> Client:
    made = newborn(definition_of(), START, 0.5)
    chosen = evolve(made.settings, approval_delay=delay, approved_by_default=default)
    return evolve(made, settings=chosen, ruling=ruling)


class DecideTests(SynchronousTestCase):
    def test_without_delay_the_default_decides(self) -> None:
        self.assertIsNone(decide(client(), NOW))
        self.assertIs(decide(client(default=False), NOW), Refusal.DENIED)

    def test_with_a_delay_somebody_has_to_be_asked(self) -> None:
        for default in (True, False):
            self.assertEqual(decide(client(delay=SECOND, default=default), NOW), Wait())

    def test_a_ruling_given_beforehand_decides_while_it_lasts(self) -> None:
        for delay in (timedelta(0), SECOND):
            for default in (True, False):
                for approve, verdict in ((True, None), (False, Refusal.DENIED)):
                    ruled = client(delay=delay, default=default, ruling=Ruling(approve, NOW + SECOND))
                    self.assertIs(decide(ruled, NOW), verdict)
                    unruled = evolve(ruled, ruling=None)
                    self.assertEqual(decide(ruled, NOW + SECOND), decide(unruled, NOW + SECOND))

    def test_who_is_disabled_is_refused_whatever_was_ruled(self) -> None:
        disabled = evolve(client(ruling=Ruling(True, NOW + SECOND)), standing=Disabled())
        self.assertIs(decide(disabled, NOW), Refusal.DISABLED)

    def test_who_is_out_of_time_is_refused_although_no_alarm_has_come(self) -> None:
        enabled = client(ruling=Ruling(True, NOW + timedelta(days=1)))
        expires = enabled.expires
        assert expires is not None
        self.assertIsNone(decide(enabled, expires - timedelta(microseconds=1)))
        self.assertIs(decide(enabled, expires), Refusal.DISABLED)


class EligibleTests(SynchronousTestCase):
    def test_time_stands_still_while_a_check_waits(self) -> None:
        enabled = client()
        expires = enabled.expires
        assert expires is not None
        self.assertTrue(eligible(evolve(enabled, check_waiting_since=expires - SECOND), expires + SECOND))
        self.assertFalse(eligible(evolve(enabled, check_waiting_since=expires), expires + SECOND))

    def test_nobody_else_is(self) -> None:
        self.assertFalse(eligible(evolve(client(), standing=Disabled(NOW)), NOW))
        self.assertFalse(eligible(evolve(client(), standing=Enabled(NOW, NOW)), NOW))


class PetitionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.waiting = client(delay=SECOND)
        for number in (1, 2, 3):
            self.waiting, _ = petition(self.waiting, number, NOW + number * SECOND)

    def test_a_petition_waits_for_the_delay(self) -> None:
        self.assertEqual(self.waiting.petitions[0], Petition(1, NOW + 2 * SECOND))
        self.assertEqual(self.waiting.last_approval_request, NOW + 3 * SECOND)

    def test_who_goes_away_is_forgotten(self) -> None:
        after, facts = withdraw(self.waiting, 2)
        self.assertEqual(([p.number for p in after.petitions], facts), ([1, 3], ()))
        self.assertEqual(withdraw(after, 2), (after, ()))

    def test_a_ruling_decides_all_and_lasts(self) -> None:
        for approve, refusal in ((True, None), (False, Refusal.DENIED)):
            after, facts = rule(self.waiting, approve, NOW)
            self.assertEqual(facts, tuple(PetitionDecided(number, refusal) for number in (1, 2, 3)))
            self.assertEqual(after.ruling, Ruling(approve, NOW + after.settings.approval_duration))
            self.assertEqual(after.petitions, ())

    def test_the_default_decides_those_who_have_waited_long_enough(self) -> None:
        self.assertEqual(time_out(self.waiting, NOW + SECOND), (self.waiting, ()))
        for default, refusal in ((True, None), (False, Refusal.TIMED_OUT)):
            chosen = evolve(self.waiting, settings=evolve(self.waiting.settings, approved_by_default=default))
            after, facts = time_out(chosen, NOW + 3 * SECOND)
            self.assertEqual(facts, (PetitionDecided(1, refusal), PetitionDecided(2, refusal)))
            self.assertEqual([p.number for p in after.petitions], [3])

    def test_dismissal_ends_petitions_and_ruling(self) -> None:
        ruled = evolve(self.waiting, ruling=Ruling(True, NOW + SECOND))
        after, facts = dismiss(ruled)
        self.assertEqual((after.petitions, after.ruling), ((), None))
        self.assertEqual(facts, tuple(PetitionDecided(number, Refusal.DISABLED) for number in (1, 2, 3)))
