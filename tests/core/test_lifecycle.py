"""Tests of ``mandos_tx.core.lifecycle``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from attrs import define, evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.approval import MAX_PETITIONS, decide, eligible
from mandos_tx.core.client import Client, ClientSettings, Disabled, Enabled, Exited, Killed
from mandos_tx.core.happenings import (
    Cause,
    CheckAbandoned,
    CheckDue,
    CheckerCompleted,
    CheckerStarted,
    CheckFinished,
    CheckStarted,
    CheckUnwanted,
    CheckWanted,
    ClientDisabled,
    ClientEnabled,
    Disable,
    Enable,
    Event,
    Fact,
    GotSecret,
    NeedApproval,
    PetitionDecided,
    Petitioned,
    PetitionRefused,
    PetitionWithdrawn,
    Reconfigured,
    Refusal,
    Rejected,
    Ruled,
    SecretDelivered,
    StartCheck,
    StopCheck,
    TimePassed,
    Vouched,
)
from mandos_tx.core.lifecycle import apply, deadline, newborn
from tests.core.events import SECOND, client_settings, durations, histories
from tests.fakes import START, definition_of, settings_of

MINUTE = timedelta(minutes=1)
OK = CheckFinished(Exited(0), "fping")
FAILED = CheckFinished(Exited(1), "fping")
MICROSECOND = timedelta(microseconds=1)


@define
class Step:
    """One event of a history, and what it made of the client."""

    before: Client
    event: Event
    now: datetime
    after: Client
    facts: tuple[Fact, ...]


def live(client: Client, history: list[tuple[timedelta, Event]]) -> Iterator[Step]:
    now = START
    for elapsed, event in history:
        now += elapsed
        after, facts = apply(client, event, now)
        yield Step(client, event, now, after, facts)
        client = after


def client_of(chosen: ClientSettings | None = None, *, enabled: bool = True) -> Client:
    definition = evolve(definition_of(enabled=enabled), settings=chosen or settings_of())
    return newborn(definition, START, 0.5)


@define
class Hourglass:
    """What should become of a client's time, told without any instant: what is left runs out, or stands still."""

    settings: ClientSettings
    enabled: bool = False
    still: bool = False
    left: timedelta = timedelta(0)

    def pass_time(self, time: timedelta) -> None:
        if self.enabled and not self.still:
            self.left -= time
            self._run_out()

    def tell(self, event: Event) -> None:
        match event:
            case Enable(spread) if not self.enabled:
                self.enabled, self.left = True, spread * self.settings.interval + self.settings.timeout
            case Disable() if self.enabled:
                self.enabled = self.still = False
            case Vouched() | CheckFinished(Exited(0)):
                self.left = max(self.left, self.settings.timeout)
            case SecretDelivered():
                self.left = self.settings.extended_timeout
            case Reconfigured(changed):
                longer, self.settings = changed.timeout - self.settings.timeout, changed
                self.left += longer
                if longer:
                    self._run_out()
        if isinstance(event, CheckDue):
            self.still = True
        elif isinstance(event, CheckStarted | CheckFinished | CheckAbandoned):
            self.still = False

    def _run_out(self) -> None:
        if self.enabled and self.left <= timedelta(0):
            self.enabled = self.still = False


class PromiseTests(SynchronousTestCase):
    """Over any history at all."""

    @settings(max_examples=300, deadline=None)
    @given(client_settings, st.booleans(), histories)
    @example(settings_of(), False, [(SECOND, CheckDue()), (MINUTE, Enable(0.0)), (MINUTE, CheckAbandoned())])
    def test_the_time_left_is_that_of_the_last_vouching(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]]
    ) -> None:
        glass = Hourglass(chosen)
        if enabled:
            glass.tell(Enable(0.5))
        for (elapsed, event), step in zip(history, live(client_of(chosen, enabled=enabled), history), strict=True):
            glass.pass_time(elapsed)
            glass.tell(event)
            self.assertEqual(eligible(step.after, step.now), glass.enabled and glass.left > timedelta(0))
            if isinstance(step.after.standing, Enabled):
                counted_from = step.after.check_waiting_since or step.now
                self.assertEqual(step.after.standing.expires - counted_from, glass.left)

    @settings(max_examples=150, deadline=None)
    @given(client_settings, st.booleans(), histories)
    def test_nothing_but_enable_enables(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]]
    ) -> None:
        for step in live(client_of(chosen, enabled=enabled), history):
            if step.after.enabled and not step.before.enabled:
                self.assertIsInstance(step.event, Enable)
                self.assertIn(ClientEnabled(), step.facts)
            if step.before.enabled and not step.after.enabled:
                self.assertEqual(sum(isinstance(fact, ClientDisabled) for fact in step.facts), 1)

    @settings(max_examples=150, deadline=None)
    @given(client_settings, st.booleans(), histories, durations)
    def test_who_is_disabled_or_out_of_time_is_never_granted_the_secret(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]], later: timedelta
    ) -> None:
        for step in live(client_of(chosen, enabled=enabled), history):
            asked = step.now + later
            expires = step.after.expires
            waits = step.after.check_waiting_since is not None
            if expires is None or (asked >= expires and not waits):
                self.assertIs(decide(step.after, asked), Refusal.DISABLED)
            if not step.after.enabled:
                granted = [fact for fact in step.facts if isinstance(fact, PetitionDecided) and fact.refusal is None]
                self.assertEqual((granted, step.after.petitions), ([], ()))

    @settings(max_examples=150, deadline=None)
    @given(client_settings, histories)
    def test_waiting_for_a_check_disables_nobody(
        self, chosen: ClientSettings, history: list[tuple[timedelta, Event]]
    ) -> None:
        for step in live(client_of(chosen), history):
            if step.after.enabled and step.after.check_waiting_since is not None:
                late, facts = apply(step.after, TimePassed(), step.now + timedelta(days=365))
                self.assertTrue(late.enabled)
                self.assertNotIn(ClientDisabled(Cause.EXPIRED), facts)

    @settings(max_examples=150, deadline=None)
    @given(client_settings, st.booleans(), histories)
    def test_every_petition_is_answered_once_or_withdrawn(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]]
    ) -> None:
        waiting: list[int] = []
        for step in live(client_of(chosen, enabled=enabled), history):
            if isinstance(step.event, Petitioned):
                waiting.append(step.event.number)
            elif isinstance(step.event, PetitionWithdrawn):
                decided = [fact.number for fact in step.facts if isinstance(fact, PetitionDecided)]
                waiting = [n for n in waiting if n != step.event.number or n in decided]
            for fact in step.facts:
                if isinstance(fact, PetitionDecided):
                    waiting.remove(fact.number)
            self.assertEqual([petition.number for petition in step.after.petitions], waiting)

    @settings(max_examples=150, deadline=None)
    @given(client_settings, st.booleans(), histories)
    def test_time_has_an_effect_at_the_deadline_and_not_before(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]]
    ) -> None:
        for step in live(client_of(chosen, enabled=enabled), history):
            due = deadline(step.after)
            if due is None:
                far = step.now + timedelta(days=3650)
                self.assertEqual(apply(step.after, TimePassed(), far), (step.after, ()))
            elif due > step.now:
                self.assertEqual(apply(step.after, TimePassed(), due - MICROSECOND), (step.after, ()))
            if due is not None:
                after, facts = apply(step.after, TimePassed(), max(due, step.now))
                self.assertNotEqual(facts, ())
                self.assertEqual(apply(after, TimePassed(), max(due, step.now)), (after, ()))

    @settings(max_examples=100, deadline=None)
    @given(client_settings, st.booleans(), histories)
    def test_nothing_else_changes(
        self, chosen: ClientSettings, enabled: bool, history: list[tuple[timedelta, Event]]
    ) -> None:
        for step in live(client_of(chosen, enabled=enabled), history):
            self.assertEqual(
                (step.after.name, step.after.created, step.after.definition),
                (step.before.name, step.before.created, step.before.definition),
            )
            if not isinstance(step.event, Reconfigured):
                self.assertIs(step.after.settings, step.before.settings)

    @settings(max_examples=50, deadline=None)
    @given(client_settings, histories)
    def test_no_fact_tells_a_secret(self, chosen: ClientSettings, history: list[tuple[timedelta, Event]]) -> None:
        chosen = evolve(chosen, secret=b"canary")
        for step in live(client_of(chosen), history):
            self.assertNotIn("canary", repr(step))


class NewbornTests(SynchronousTestCase):
    def test_the_first_expiry_is_a_timeout_after_the_first_check(self) -> None:
        client = newborn(definition_of(), START, 0.25)
        self.assertEqual(client.first_check, START + 0.25 * client.settings.interval)
        self.assertEqual(client.expires, client.first_check and client.first_check + client.settings.timeout)
        self.assertEqual((client.created, client.last_enabled), (START, START))

    def test_it_is_disabled_if_its_definition_says_so(self) -> None:
        client = newborn(definition_of(enabled=False), START, 0.25)
        self.assertEqual(client.standing, Disabled())
        self.assertEqual((client.first_check, client.last_enabled, client.expires), (None, None, None))


class EventTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.client = client_of()
        self.now = START + MINUTE

    def tell(self, event: Event, client: Client | None = None) -> tuple[Client, tuple[Fact, ...]]:
        return apply(client or self.client, event, self.now)

    def expires(self, client: Client) -> datetime:
        assert isinstance(client.standing, Enabled)
        return client.standing.expires

    def test_enabling_who_is_enabled_does_nothing(self) -> None:
        self.assertEqual(self.tell(Enable()), (self.client, ()))

    def test_disabling_who_is_disabled_does_nothing(self) -> None:
        client = client_of(enabled=False)
        self.assertEqual(self.tell(Disable(), client), (client, ()))

    def test_enabling_again_begins_afresh(self) -> None:
        disabled, facts = self.tell(Disable())
        self.assertEqual(facts, (ClientDisabled(Cause.ADMINISTRATOR),))
        self.assertEqual(disabled.standing, Disabled(self.now))
        enabled, facts = apply(evolve(disabled, had_grace=True), Enable(0.5), self.now + MINUTE)
        self.assertEqual(facts, (ClientEnabled(),))
        self.assertFalse(enabled.had_grace)
        self.assertEqual(enabled.last_enabled, self.now + MINUTE)

    def test_a_good_check_gives_a_timeout(self) -> None:
        after, facts = self.tell(OK, evolve(self.client, running_check="fping", had_grace=True))
        self.assertEqual(self.expires(after), self.now + after.settings.timeout)
        self.assertEqual((after.last_checked_ok, after.last_outcome), (self.now, Exited(0)))
        self.assertEqual((after.running_check, after.had_grace), (None, False))
        self.assertEqual(facts, (CheckerCompleted(Exited(0), "fping"),))

    def test_a_failed_check_is_remembered_and_nothing_else(self) -> None:
        for outcome in (Exited(1), Killed(15), Killed(11, core_dumped=True)):
            after, _ = self.tell(CheckFinished(outcome, "fping"))
            self.assertEqual(after, evolve(self.client, last_outcome=outcome))

    def test_vouching_is_as_good_as_a_check(self) -> None:
        self.assertEqual(self.tell(Vouched())[0], self.tell(OK)[0])

    def test_a_good_check_never_shortens_the_allowance_after_a_delivery(self) -> None:
        delivered, facts = self.tell(SecretDelivered("::1"))
        self.assertEqual(facts, (GotSecret("::1"),))
        self.assertEqual(self.expires(delivered), self.now + delivered.settings.extended_timeout)
        checked, _ = apply(delivered, OK, self.now + MINUTE)
        self.assertEqual(self.expires(checked), self.expires(delivered))

    def test_a_delivery_may_shorten_what_is_left(self) -> None:
        short = client_of(evolve(settings_of(), extended_timeout=SECOND))
        after, _ = self.tell(SecretDelivered("::1"), short)
        self.assertEqual(self.expires(after), self.now + SECOND)

    def test_disabled_clients_only_remember(self) -> None:
        client = client_of(enabled=False)
        for event in (OK, Vouched(), SecretDelivered("::1"), CheckStarted("fping"), CheckDue(), FAILED):
            client, _ = self.tell(event, client)
            self.assertEqual(client.standing, Disabled())
        self.assertEqual(client.last_checked_ok, self.now)

    def test_expiry_comes_on_time(self) -> None:
        expires = self.expires(self.client)
        after, facts = apply(self.client, TimePassed(), expires)
        self.assertEqual(after.standing, Disabled(expires))
        self.assertEqual(facts, (ClientDisabled(Cause.EXPIRED),))

    def test_nothing_that_arrives_late_prolongs(self) -> None:
        for event in (OK, Vouched(), SecretDelivered("::1")):
            after, facts = apply(self.client, event, self.expires(self.client))
            self.assertFalse(after.enabled)
            self.assertEqual(facts[0], ClientDisabled(Cause.EXPIRED))

    def test_while_a_check_waits_the_time_left_stands_still(self) -> None:
        waiting, _ = self.tell(CheckDue())
        self.assertEqual(apply(waiting, CheckDue(), self.now + MINUTE)[0], waiting)
        later = self.now + timedelta(days=1)
        self.assertTrue(eligible(waiting, later))
        for event, running in ((CheckStarted("fping"), "fping"), (CheckAbandoned(), None), (FAILED, None)):
            after, _ = apply(waiting, event, later)
            self.assertEqual(self.expires(after), self.expires(self.client) + timedelta(days=1))
            self.assertEqual((after.check_waiting_since, after.running_check), (None, running))

    def test_giving_up_a_check_that_there_is_not_does_nothing(self) -> None:
        self.assertEqual(self.tell(CheckAbandoned()), (self.client, ()))
        running = evolve(self.client, running_check="fping")
        self.assertEqual(self.tell(CheckAbandoned(), running)[0], self.client)

    def test_checks_are_wanted_and_unwanted(self) -> None:
        self.assertEqual(self.tell(StartCheck()), (self.client, (CheckWanted(),)))
        self.assertEqual(self.tell(StopCheck()), (self.client, (CheckUnwanted(),)))
        running, facts = self.tell(CheckStarted("fping"))
        self.assertEqual(facts, (CheckerStarted("fping"),))
        self.assertEqual(self.tell(StartCheck(), running), (running, ()))

    def test_a_longer_timeout_moves_the_expiry(self) -> None:
        longer = evolve(settings_of(), timeout=settings_of().timeout + MINUTE)
        after, facts = self.tell(Reconfigured(longer))
        self.assertEqual(self.expires(after), self.expires(self.client) + MINUTE)
        self.assertEqual((after.settings, after.definition, facts), (longer, self.client.definition, ()))

    def test_a_timeout_that_would_have_passed_disables(self) -> None:
        self.now = START + 4 * MINUTE
        after, facts = self.tell(Reconfigured(evolve(settings_of(), timeout=MINUTE)))
        self.assertFalse(after.enabled)
        self.assertEqual(facts, (ClientDisabled(Cause.EXPIRED),))

    def test_a_shorter_timeout_of_a_disabled_client_is_just_taken(self) -> None:
        shorter = evolve(settings_of(), timeout=MINUTE)
        after, facts = self.tell(Reconfigured(shorter), client_of(enabled=False))
        self.assertEqual((after.settings, after.standing, facts), (shorter, Disabled(), ()))

    def test_a_new_definition_takes_the_place_of_the_old(self) -> None:
        definition = definition_of(2)
        after, _ = self.tell(Reconfigured(definition.settings, definition))
        self.assertEqual((after.settings, after.definition), (definition.settings, definition))

    def test_a_refusal_is_told(self) -> None:
        after, facts = self.tell(PetitionRefused(Refusal.DENIED, "::1"))
        self.assertEqual((after, facts), (self.client, (Rejected(Refusal.DENIED, "::1"),)))

    def test_petitions_are_decided_by_ruling_default_withdrawal_or_disabling(self) -> None:
        asking = client_of(evolve(settings_of(), approval_delay=MINUTE, approved_by_default=False))
        first, facts = self.tell(Petitioned(1), asking)
        self.assertEqual(facts, (NeedApproval(MINUTE, False),))
        self.assertEqual(first.last_approval_request, self.now)
        self.assertEqual(deadline(first), self.now + MINUTE)
        self.assertEqual(self.tell(PetitionWithdrawn(1), first)[0].petitions, ())
        for event, decided in (
            (Ruled(True), PetitionDecided(1, None)),
            (Ruled(False), PetitionDecided(1, Refusal.DENIED)),
            (Disable(), PetitionDecided(1, Refusal.DISABLED)),
        ):
            self.assertIn(decided, self.tell(event, first)[1])
        _, facts = apply(first, TimePassed(), self.now + MINUTE)
        self.assertEqual(facts, (PetitionDecided(1, Refusal.TIMED_OUT),))

    def test_disabling_leaves_nothing_to_do(self) -> None:
        busy = client_of(evolve(settings_of(), approval_delay=MINUTE))
        for event in (Ruled(True), Petitioned(1), CheckDue(), CheckStarted("fping"), CheckDue()):
            busy, _ = self.tell(event, busy)
        after, _ = self.tell(Disable(), busy)
        self.assertEqual((after.petitions, after.running_check, after.ruling), ((), None, None))
        self.assertEqual((after.check_waiting_since, after.first_check, deadline(after)), (None, None, None))

    def test_who_is_disabled_when_the_default_is_due_is_not_approved(self) -> None:
        asking, _ = self.tell(Petitioned(1), client_of(evolve(settings_of(), approval_delay=MINUTE)))
        shorter = evolve(asking.settings, timeout=timedelta(0))
        for event in (Disable(), Reconfigured(shorter)):
            after, facts = apply(asking, event, self.now + 2 * MINUTE)
            self.assertFalse(after.enabled)
            self.assertIn(PetitionDecided(1, Refusal.DISABLED), facts)
            self.assertNotIn(PetitionDecided(1, None), facts)
        _, facts = apply(asking, TimePassed(), self.now + 2 * MINUTE)
        self.assertEqual(facts, (PetitionDecided(1, None),))

    def test_who_is_disabled_waits_for_no_approval(self) -> None:
        client = client_of(enabled=False)
        self.assertEqual(self.tell(Petitioned(1), client), (client, (PetitionDecided(1, Refusal.DISABLED),)))

    def test_petitions_are_bounded(self) -> None:
        client = client_of(evolve(settings_of(), approval_delay=MINUTE))
        for number in range(MAX_PETITIONS):
            client, _ = self.tell(Petitioned(number), client)
        after, facts = self.tell(Petitioned(MAX_PETITIONS), client)
        self.assertEqual((after, facts), (client, (PetitionDecided(MAX_PETITIONS, Refusal.OVERRUN),)))
