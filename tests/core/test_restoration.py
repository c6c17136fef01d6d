"""Tests of ``mandos_tx.core.restoration``."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import Client, ClientDefinition, ClientSettings, Disabled, Enabled, Exited, Killed, Ruling
from mandos_tx.core.happenings import Cause, ClientDisabled, ClientEnabled, ClientRestored, Event, Petitioned
from mandos_tx.core.lifecycle import apply, newborn
from mandos_tx.core.restoration import SETTINGS, merge, redefine, revive
from tests.core.events import client_settings, histories
from tests.core.test_lifecycle import OK, live
from tests.fakes import START, definition_of, settings_of

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def checked() -> Client:
    return apply(newborn(definition_of(), START, 0.5), OK, START)[0]


class ReviveTests(SynchronousTestCase):
    def test_an_enabled_client_keeps_its_expiry(self) -> None:
        client = checked()
        after, facts = revive(client, START + MINUTE, 0.5)
        self.assertEqual(after.standing, client.standing)
        self.assertEqual(facts, (ClientRestored(grace=False),))

    def test_what_belonged_to_connections_and_processes_is_over(self) -> None:
        client = evolve(checked(), running_check="fping", check_waiting_since=START)
        client = apply(client, Petitioned(1), START)[0]
        after, _ = revive(client, START + MINUTE, 0.5)
        self.assertEqual((after.petitions, after.running_check, after.check_waiting_since), ((), None, None))

    def test_the_first_check_comes_before_half_of_the_time_left_is_over(self) -> None:
        client = checked()
        expires = client.expires
        assert expires is not None
        for left in (MINUTE, timedelta(minutes=4), timedelta(seconds=1)):
            now = expires - left
            for spread in (0.0, 0.5, 0.999):
                after, _ = revive(client, now, spread)
                self.assertEqual(after.first_check, now + spread * min(client.settings.interval, left / 2))

    def test_a_disabled_client_stays_disabled(self) -> None:
        client = evolve(checked(), standing=Disabled(START))
        self.assertEqual(revive(client, START + DAY, 0.5), (evolve(client, first_check=None), (ClientRestored(False),)))

    def test_after_a_good_check_there_is_one_fresh_timeout(self) -> None:
        now = START + DAY
        after, facts = revive(checked(), now, 0.5)
        self.assertEqual(after.expires, now + after.settings.timeout)
        self.assertTrue(after.had_grace)
        self.assertEqual(facts, (ClientRestored(grace=True),))

    def test_there_is_none_again_without_a_good_check(self) -> None:
        once, _ = revive(checked(), START + DAY, 0.5)
        self.assertEqual(revive(once, START + DAY, 0.5)[0].expires, once.expires)
        twice, facts = revive(once, START + 2 * DAY, 0.5)
        self.assertEqual(twice.standing, Disabled(START + 2 * DAY))
        self.assertEqual(facts, (ClientDisabled(Cause.GRACE_SPENT),))
        good, _ = apply(once, OK, START + DAY)
        self.assertTrue(revive(good, START + 2 * DAY, 0.5)[0].enabled)

    def test_there_is_none_without_a_good_check_at_all_or_after_a_failed_one(self) -> None:
        for outcome, cause in (
            (None, Cause.NEVER_CHECKED),
            (Exited(1), Cause.CHECK_FAILED),
            (Killed(9), Cause.CHECK_FAILED),
        ):
            client = evolve(checked(), last_outcome=outcome, ruling=Ruling(True, START + 2 * DAY))
            after, facts = revive(client, START + DAY, 0.5)
            self.assertEqual((after.standing, after.ruling), (Disabled(START + DAY), None))
            self.assertEqual(facts, (ClientDisabled(cause),))

    @settings(max_examples=100, deadline=None)
    @given(client_settings, st.booleans(), histories, st.lists(st.sampled_from([0 * DAY, MINUTE, DAY]), max_size=5))
    def test_restarts_enable_nobody_and_give_more_time_once_at_most(
        self,
        chosen: ClientSettings,
        enabled: bool,
        history: list[tuple[timedelta, Event]],
        downtimes: list[timedelta],
    ) -> None:
        client = newborn(evolve(definition_of(enabled=enabled), settings=chosen), START, 0.5)
        now = START
        for step in live(client, history):
            client, now = step.after, step.now
        graces = 0
        for downtime in downtimes:
            now += downtime
            after, _ = revive(client, now, 0.5)
            if not client.enabled:
                self.assertFalse(after.enabled)
            if after.enabled and after.expires != client.expires:
                graces += 1
                self.assertEqual(after.expires, now + client.settings.timeout)
            client = after
        self.assertLessEqual(graces, 1)


class RedefineTests(SynchronousTestCase):
    def test_the_same_definition_changes_nothing(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        self.assertEqual(redefine(client, definition_of(), START, 0.5), (client, ()))

    def test_enabled_counts_only_if_it_changed(self) -> None:
        on, off = definition_of(), definition_of(enabled=False)
        after, facts = redefine(newborn(off, START, 0.5), on, START, 0.5)
        self.assertEqual((after.enabled, facts), (True, (ClientEnabled(),)))
        after, facts = redefine(newborn(on, START, 0.5), off, START, 0.5)
        self.assertEqual((after.enabled, facts), (False, (ClientDisabled(Cause.ADMINISTRATOR),)))
        other = evolve(on, settings=evolve(on.settings, host="another"))
        disabled = evolve(newborn(on, START, 0.5), standing=Disabled(START))
        self.assertFalse(redefine(disabled, other, START, 0.5)[0].enabled)

    def test_a_shorter_timeout_counts_at_once(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        shorter = evolve(definition_of(), settings=evolve(settings_of(), timeout=timedelta(0)))
        after, facts = redefine(client, shorter, START + 2 * MINUTE, 0.5)
        self.assertEqual((after.standing, facts), (Disabled(START + 2 * MINUTE), (ClientDisabled(Cause.EXPIRED),)))

    def test_a_client_without_a_definition_takes_it_but_is_not_enabled_by_it(self) -> None:
        for enabled_before in (True, False):
            for enabled in (True, False):
                client = evolve(newborn(definition_of(1, enabled=enabled_before), START, 0.5), definition=None)
                fresh = ClientDefinition(client.name, settings_of(2), enabled)
                after, _ = redefine(client, fresh, START, 0.5)
                self.assertEqual((after.definition, after.settings), (fresh, fresh.settings))
                self.assertEqual(isinstance(after.standing, Enabled), enabled_before and enabled)


class MergeTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(client_settings, client_settings, client_settings)
    def test_a_setting_that_changed_in_the_source_wins_and_one_that_did_not_does_not(
        self, current: ClientSettings, fresh: ClientSettings, remembered: ClientSettings
    ) -> None:
        merged = merge(current, fresh, remembered)
        for name in SETTINGS:
            changed = getattr(fresh, name) != getattr(remembered, name)
            self.assertEqual(getattr(merged, name), getattr(fresh if changed else current, name))

    def test_without_memory_the_source_wins(self) -> None:
        self.assertEqual(merge(settings_of(1), settings_of(2), None), settings_of(2))
