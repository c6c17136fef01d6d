"""Tests of ``mandos_tx.gatekeeper``."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from attrs import define, evolve, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import Client, Enabled
from mandos_tx.core.happenings import (
    Change,
    ClientAdded,
    ClientNotFound,
    Disable,
    Enable,
    GotSecret,
    Petitioned,
    PetitionWithdrawn,
    Reconfigured,
    Refusal,
    Rejected,
    Ruled,
)
from mandos_tx.core.lifecycle import newborn
from mandos_tx.gatekeeper import Gatekeeper
from mandos_tx.interfaces import Grant, Refused
from tests.fakes import Machine, Recorder, definition_of, key_id

ADDRESS = "192.0.2.7"
DELAY = timedelta(seconds=30)


@define(eq=False)
class Scribe:
    """A recorder that takes its time."""

    pending: list[Deferred[None]] = field(factory=list)

    def before_release(self, client: Client, address: str) -> Deferred[None]:
        self.pending.append(Deferred())
        return self.pending[-1]


class GatekeeperTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.addCleanup(self.registry.stop)
        self.heard = Recorder()
        self.registry.observe(self.heard)
        self.gatekeeper = Gatekeeper(self.registry)

    def client(self, number: int = 1, **options: Any) -> str:
        definition = definition_of(number)
        definition = evolve(definition, settings=evolve(definition.settings, **options))
        self.registry.introduce(newborn(definition, self.registry.now(), 0.0), (ClientAdded(),))
        return definition.name

    def ask(self, number: int = 1) -> Grant | Deferred[Grant]:
        return self.gatekeeper.petition(key_id(number), ADDRESS)

    def waiting(self, number: int = 1) -> Deferred[Grant]:
        answer = self.ask(number)
        assert isinstance(answer, Deferred)
        self.assertNoResult(answer)
        return answer

    def granted(self, number: int = 1) -> Grant:
        answer = self.ask(number)
        assert not isinstance(answer, Deferred)
        return answer

    def refused(self, reason: Refusal | None, number: int = 1) -> None:
        with self.assertRaises(Refused) as caught:
            self.ask(number)
        self.assertIs(reason, caught.exception.reason)

    def failed(self, reason: Refusal | None, answer: Deferred[Grant]) -> None:
        self.assertIs(reason, self.failureResultOf(answer, Refused).value.reason)

    def last(self) -> object:
        return self.heard.facts[-1]


class DecisionTests(GatekeeperTestCase):
    def test_a_client_in_good_standing_gets_its_own_secret_at_once(self) -> None:
        self.client(1)
        self.client(2)
        self.assertEqual(b"secret 2", self.granted(2).secret)

    def test_an_unknown_key_gets_nothing_and_is_published(self) -> None:
        self.client()
        self.refused(None, 9)
        self.assertEqual(ClientNotFound(key_id(9), ADDRESS), self.last())

    def test_a_disabled_client_gets_nothing(self) -> None:
        self.registry.tell(self.client(), Disable())
        self.refused(Refusal.DISABLED)
        self.assertEqual(Rejected(Refusal.DISABLED, ADDRESS), self.last())

    def test_an_expired_one_gets_nothing_even_before_the_alarm(self) -> None:
        self.client()
        self.machine.suspend(timedelta(minutes=5))
        self.refused(Refusal.DISABLED)

    def test_one_denied_by_default_gets_nothing(self) -> None:
        self.client(approved_by_default=False)
        self.refused(Refusal.DENIED)

    def test_a_removed_one_is_unknown(self) -> None:
        self.registry.remove(self.client(), by_administrator=True)
        self.refused(None)

    def test_delivery_is_published_and_prolongs(self) -> None:
        name = self.client()
        self.granted().delivered()
        self.assertEqual(GotSecret(ADDRESS), self.last())
        self.assertEqual(self.registry.now() + timedelta(minutes=15), self.registry.clients[name].expires)

    def test_delivery_to_a_client_that_is_gone_is_survived(self) -> None:
        name = self.client()
        grant = self.granted()
        self.registry.remove(name, by_administrator=True)
        grant.delivered()

    def test_an_abandoned_grant_prolongs_nothing(self) -> None:
        name = self.client()
        expires = self.registry.clients[name].expires
        self.granted().abandoned()
        self.assertEqual(expires, self.registry.clients[name].expires)


class RevocationTests(GatekeeperTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.revoked: list[int] = []

    def under_way(self, number: int, mark: int) -> Grant:
        grant = self.granted(number)
        grant.on_revoked(lambda: self.revoked.append(mark))
        return grant

    def test_disabling_and_removing_end_the_deliveries_of_that_client(self) -> None:
        one, two = self.client(1), self.client(2)
        self.under_way(1, 10)
        self.under_way(1, 11)
        self.under_way(2, 20)
        self.registry.tell(one, Disable())
        self.assertEqual([10, 11], self.revoked)
        self.registry.remove(two, by_administrator=False)
        self.assertEqual([10, 11, 20], self.revoked)

    def test_so_does_expiry(self) -> None:
        self.client()
        self.under_way(1, 10)
        self.machine.pass_time(timedelta(minutes=6))
        self.assertEqual([10], self.revoked)

    def test_what_is_over_is_not_revoked(self) -> None:
        name = self.client()
        self.under_way(1, 10).delivered()
        self.under_way(1, 11).abandoned()
        self.registry.tell(name, Disable())
        self.assertEqual([], self.revoked)

    def test_nor_is_what_nobody_would_hear(self) -> None:
        name = self.client()
        self.granted()
        self.registry.tell(name, Disable())


class ApprovalTests(GatekeeperTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.name = self.client(approval_delay=DELAY)

    def test_approval_serves_all_who_wait_and_no_other_client(self) -> None:
        self.client(2, approval_delay=DELAY)
        first, second, other = self.waiting(), self.waiting(), self.waiting(2)
        self.registry.tell(self.name, Ruled(True))
        for answer in (first, second):
            self.assertEqual(b"secret 1", self.successResultOf(answer).secret)
        self.assertNoResult(other)
        other.cancel()
        self.failureResultOf(other, CancelledError)

    def test_denial_refuses_all_who_wait(self) -> None:
        first, second = self.waiting(), self.waiting()
        self.registry.tell(self.name, Ruled(False))
        for answer in (first, second):
            self.failed(Refusal.DENIED, answer)

    def test_when_nobody_rules_the_default_does(self) -> None:
        self.client(2, approval_delay=DELAY, approved_by_default=False)
        yes, no = self.waiting(1), self.waiting(2)
        self.machine.pass_time(DELAY)
        self.assertEqual(b"secret 1", self.successResultOf(yes).secret)
        self.failed(Refusal.TIMED_OUT, no)
        self.assertIn(Rejected(Refusal.TIMED_OUT, ADDRESS), self.heard.facts)

    def test_a_ruling_given_beforehand_holds(self) -> None:
        self.registry.tell(self.name, Ruled(True))
        self.granted()
        self.registry.tell(self.name, Ruled(False))
        self.refused(Refusal.DENIED)

    def test_disabling_refuses_those_who_wait(self) -> None:
        answer = self.waiting()
        self.registry.tell(self.name, Disable())
        self.failed(Refusal.DISABLED, answer)

    def test_removal_refuses_those_who_wait_and_says_so_once_for_each(self) -> None:
        first, second = self.waiting(), self.waiting()
        self.registry.remove(self.name, by_administrator=True)
        for answer in (first, second):
            self.failed(Refusal.DISABLED, answer)
        self.assertEqual([ClientNotFound(key_id(1), ADDRESS)] * 2, self.heard.facts[-2:])

    def test_who_goes_away_is_not_waited_for_any_more(self) -> None:
        answer = self.waiting()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual((), self.registry.clients[self.name].petitions)
        self.registry.tell(self.name, Ruled(True))

    def test_too_many_who_wait_are_refused(self) -> None:
        answers = [self.waiting() for _ in range(256)]
        overrun = self.ask()
        assert isinstance(overrun, Deferred)
        self.failed(Refusal.OVERRUN, overrun)
        self.registry.tell(self.name, Ruled(False))
        for answer in answers:
            self.failed(Refusal.DENIED, answer)

    def test_an_approval_that_is_overtaken_by_a_disabling_grants_nothing(self) -> None:
        # an observer that hears of the ruling before the gatekeeper does, and acts on it
        registry = self.machine.registry()
        self.addCleanup(registry.stop)

        def disable(change: Change) -> None:
            if change.after is not None and change.after.ruling is not None and change.after.enabled:
                registry.tell(change.after.name, Disable())

        registry.observe(disable)
        self.registry, self.gatekeeper = registry, Gatekeeper(registry)
        name = self.client(approval_delay=DELAY)
        answer = self.waiting()
        registry.tell(name, Ruled(True))
        self.failed(Refusal.DISABLED, answer)

    def test_somebody_elses_petitions_are_none_of_our_business(self) -> None:
        self.registry.tell(self.name, Petitioned(99))
        self.registry.tell(self.name, Ruled(True))
        self.registry.tell(self.name, PetitionWithdrawn(99))


class RecordTests(GatekeeperTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.scribe = Scribe()
        self.gatekeeper = Gatekeeper(self.registry, self.scribe)

    def test_nothing_goes_out_before_it_is_on_record(self) -> None:
        self.client()
        answer = self.waiting()
        self.scribe.pending[0].callback(None)
        self.assertEqual(b"secret 1", self.successResultOf(answer).secret)

    def test_what_cannot_be_recorded_is_refused(self) -> None:
        self.client()
        answer = self.waiting()
        self.scribe.pending[0].errback(OSError())
        self.failed(Refusal.AUDIT, answer)
        self.assertEqual(Rejected(Refusal.AUDIT, ADDRESS), self.last())

    def test_it_is_decided_once_more_after_that_wait(self) -> None:
        for event, reason in ((Disable(), Refusal.DISABLED), (Ruled(False), Refusal.DENIED)):
            number = len(self.scribe.pending) + 1
            name = self.client(number)
            answer = self.waiting(number)
            self.registry.tell(name, event)
            self.scribe.pending[-1].callback(None)
            self.failed(reason, answer)
            self.assertEqual(Rejected(reason, ADDRESS), self.last())

    def test_a_client_that_is_removed_meanwhile_gets_nothing(self) -> None:
        name = self.client()
        answer = self.waiting()
        self.registry.remove(name, by_administrator=True)
        self.scribe.pending[0].callback(None)
        self.failed(Refusal.DISABLED, answer)
        self.assertEqual(ClientNotFound(key_id(1), ADDRESS), self.last())

    def test_a_client_whose_key_is_another_one_meanwhile_gets_nothing_for_the_old_one(self) -> None:
        name = self.client()
        answer = self.waiting()
        settings = evolve(self.registry.clients[name].settings, key_id=key_id(7))
        self.registry.tell(name, Reconfigured(settings))
        self.scribe.pending[0].callback(None)
        self.failed(Refusal.DISABLED, answer)

    def test_an_approval_that_has_been_spent_need_not_last_that_long(self) -> None:
        for number, default in ((1, True), (2, False)):
            name = self.client(number, approval_delay=DELAY, approved_by_default=default)
            answer = self.waiting(number)
            self.registry.tell(name, Ruled(True))
            self.machine.pass_time(5)
            self.assertNoResult(answer)
            self.scribe.pending[-1].callback(None)
            self.assertEqual(b"secret %d" % number, self.successResultOf(answer).secret)

    def test_an_approval_given_beforehand_need_not_either(self) -> None:
        self.registry.tell(self.client(approved_by_default=False), Ruled(True))
        answer = self.waiting()
        self.machine.pass_time(5)
        self.scribe.pending[-1].callback(None)
        self.assertEqual(b"secret 1", self.successResultOf(answer).secret)

    def test_who_goes_away_meanwhile_gets_no_grant_and_the_recording_goes_on(self) -> None:
        for delay in (timedelta(0), DELAY):
            number = len(self.scribe.pending) + 1
            name = self.client(number, approval_delay=delay)
            answer = self.waiting(number)
            self.registry.tell(name, Ruled(True))
            answer.cancel()
            self.failureResultOf(answer, CancelledError)
            recorded = self.scribe.pending[-1]
            self.assertNoResult(recorded)
            recorded.callback(None)
            self.assertIsNone(self.successResultOf(recorded))


class Court(RuleBasedStateMachine):
    """Petitions of one client, and everything that may happen to it meanwhile, in any order."""

    delay = timedelta(0)
    default = True
    recorded = False

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.heard = Recorder()
        self.registry.observe(self.heard)
        self.scribe = Scribe() if self.recorded else None
        self.gatekeeper = Gatekeeper(self.registry, self.scribe)
        definition = definition_of()
        definition = evolve(
            definition,
            settings=evolve(definition.settings, approval_delay=self.delay, approved_by_default=self.default),
        )
        self.definition = definition
        self.name = definition.name
        self.introduce()
        self.answers: dict[int, Deferred[Grant]] = {}
        self.outcomes: list[str] = []
        self.asked = 0
        self.grants: list[Grant] = []

    def introduce(self) -> None:
        self.registry.introduce(newborn(self.definition, self.registry.now(), 0.0), (ClientAdded(),))

    @property
    def client(self) -> Client | None:
        return self.registry.clients.get(self.name)

    def granted(self, grant: Grant) -> None:
        """At this moment the client may have its secret, or somebody has let it."""
        client, now = self.client, self.registry.now()
        assert client is not None
        assert isinstance(client.standing, Enabled)
        assert now < client.standing.expires
        ruling = client.ruling
        denied = ruling is not None and not ruling.approve and now < ruling.until
        assert not denied
        self.outcomes.append("granted")
        self.grants.append(grant)

    def failed(self, failure: Failure) -> None:
        failure.trap(Refused, CancelledError)
        self.outcomes.append("withdrawn" if failure.check(CancelledError) else "refused")

    @rule()
    def petition(self) -> None:
        self.asked += 1
        number = self.asked
        try:
            answer = self.gatekeeper.petition(key_id(1), ADDRESS)
        except Refused:
            self.outcomes.append("refused")
            return
        if isinstance(answer, Deferred):
            self.answers[number] = answer
            answer.addBoth(self.answered, number)
        else:
            self.granted(answer)

    def answered(self, result: Grant | Failure, number: int) -> None:
        self.answers.pop(number)
        if isinstance(result, Failure):
            self.failed(result)
        else:
            self.granted(result)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def go_away(self, data: st.DataObject) -> None:
        self.answers[data.draw(st.sampled_from(sorted(self.answers)))].cancel()

    @precondition(lambda self: self.scribe is not None and self.scribe.pending)
    @rule(data=st.data(), good=st.booleans())
    def record(self, data: st.DataObject, good: bool) -> None:
        assert self.scribe is not None
        recorded = self.scribe.pending.pop(data.draw(st.integers(0, len(self.scribe.pending) - 1)))
        if good:
            recorded.callback(None)
        else:
            recorded.errback(OSError())
            recorded.addErrback(lambda failure: None)

    @precondition(lambda self: self.grants)
    @rule(delivered=st.booleans())
    def end_a_delivery(self, delivered: bool) -> None:
        grant = self.grants.pop()
        (grant.delivered if delivered else grant.abandoned)()

    @precondition(lambda self: self.client is not None)
    @rule(
        event=st.sampled_from(
            [
                Ruled(True),
                Ruled(False),
                Disable(),
                Enable(0.0),
                Reconfigured(evolve(definition_of().settings, timeout=timedelta(minutes=1))),
            ]
        )
    )
    def happen(self, event: Any) -> None:
        if isinstance(event, Reconfigured):
            client = self.client
            assert client is not None
            event = Reconfigured(evolve(client.settings, timeout=event.settings.timeout))
        self.registry.tell(self.name, event)

    @precondition(lambda self: self.client is not None)
    @rule()
    def remove(self) -> None:
        self.registry.remove(self.name, by_administrator=True)

    @precondition(lambda self: self.client is None)
    @rule()
    def come_back(self) -> None:
        self.introduce()

    @rule(seconds=st.sampled_from([0.4, 1.0, 10.0, 30.0, 200.0]), suspended=st.booleans())
    def time_passes(self, seconds: float, suspended: bool) -> None:
        if suspended:
            self.machine.suspend(timedelta(seconds=seconds))
        else:
            self.machine.pass_time(seconds)

    @invariant()
    def each_petition_has_one_outcome_and_each_refusal_one_line(self) -> None:
        assert len(self.outcomes) + len(self.answers) == self.asked
        told = Counter(type(fact) for fact in self.heard.facts)
        assert told[Rejected] + told[ClientNotFound] == self.outcomes.count("refused")

    @invariant()
    def nobody_waits_but_who_is_waited_for(self) -> None:
        in_registry = len(self.client.petitions) if self.client is not None else 0
        on_record = len(self.scribe.pending) if self.scribe is not None else 0
        assert in_registry <= len(self.answers) <= in_registry + on_record

    def teardown(self) -> None:
        for answer in list(self.answers.values()):
            answer.cancel()
        self.registry.stop()
        assert not self.machine.reactor.getDelayedCalls()


class ModelTests(SynchronousTestCase):
    def test_whatever_happens_each_petition_is_decided_once_and_rightly(self) -> None:
        for delay in (timedelta(0), DELAY):
            for default in (True, False):
                for recorded in (True, False):
                    body = {"delay": delay, "default": default, "recorded": recorded}
                    variant = type("Variant", (Court,), body)
                    run_state_machine_as_test(
                        variant, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
                    )
