"""Tests of ``mandos_tx.logbook``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import Client, Disabled, Exited, Killed
from mandos_tx.core.happenings import (
    Cause,
    Change,
    CheckerCompleted,
    CheckerStarted,
    CheckUnwanted,
    CheckWanted,
    ClientAdded,
    ClientDisabled,
    ClientEnabled,
    ClientNotFound,
    ClientRemoved,
    ClientRestored,
    DeliveryBrokeOff,
    Fact,
    GotSecret,
    NeedApproval,
    PetitionDecided,
    Refusal,
    Rejected,
)
from mandos_tx.core.lifecycle import newborn
from mandos_tx.logbook import Logbook, describe_outcome
from mandos_tx.throttle import BURST, Throttle
from tests import strategies
from tests.fakes import START, Log, Machine, definition_of, key_id

LEVELS = (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical)


class LogbookTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.log = Log()
        self.machine = Machine()
        self.wanted = True
        throttle = Throttle(self.machine.reactor, "refusals")
        self.logbook = Logbook(self.machine.clock(), throttle, lambda level: self.wanted, self.log.logger())
        self.client = newborn(definition_of(), START, 0.0)

    def observe(self, *facts: Fact, before: Client | None = None, after: Client | None = None, by: str = "") -> None:
        self.logbook.observe(Change(before or self.client, after or self.client, facts, START, by))

    def said(self, *facts: Fact, by: str = "") -> tuple[Any, str, bool]:
        """The level and the text of the one line, and whether it is written at any level."""
        self.log.events.clear()
        self.observe(*facts, by=by)
        [event] = self.log.events
        level = event["log_level"]
        return level, self.log.texts(level)[0], bool(event.get("audit"))

    def test_each_fact_has_its_words(self) -> None:
        expected: dict[Fact, tuple[Any, str, bool]] = {
            GotSecret("192.0.2.1"): (LogLevel.info, "Client client1 at 192.0.2.1 got its secret", True),
            CheckerStarted("fping"): (LogLevel.info, "Client client1: checker started: fping", False),
            CheckerCompleted(Exited(0), "x"): (LogLevel.info, "Client client1: checker succeeded", False),
            Rejected(Refusal.DENIED, "192.0.2.1"): (
                LogLevel.warn,
                "Client client1 at 192.0.2.1 was refused its secret: Denied",
                True,
            ),
            ClientNotFound(key_id(7), "192.0.2.1"): (
                LogLevel.warn,
                f"Refused 192.0.2.1: no client has the key ID {key_id(7)}",
                True,
            ),
            ClientDisabled(Cause.ADMINISTRATOR): (LogLevel.info, "Client client1 disabled by root", True),
            ClientEnabled(): (LogLevel.info, "Client client1 enabled by root", True),
            ClientRemoved(True): (LogLevel.info, "Client client1 removed by root", True),
            ClientRemoved(False): (LogLevel.info, "Client client1 removed: it is no longer configured", True),
            ClientAdded(): (LogLevel.info, "Client client1 added by root", True),
            ClientRestored(False): (LogLevel.debug, "Client client1 is back as it was saved", False),
            ClientRestored(True): (
                LogLevel.warn,
                "Client client1 expired while the server was down; its last check had succeeded, "
                "so it gets one fresh timeout",
                False,
            ),
            NeedApproval(timedelta(seconds=30), True): (
                LogLevel.info,
                "Client client1 needs approval within 0:00:30; otherwise its secret is sent",
                True,
            ),
            NeedApproval(timedelta(seconds=30), False): (
                LogLevel.info,
                "Client client1 needs approval within 0:00:30; otherwise its secret is not sent",
                True,
            ),
        }
        for fact, line in expected.items():
            self.assertEqual(line, self.said(fact, by="root"))

    def test_without_an_author_there_is_none(self) -> None:
        self.assertEqual("Client client1 enabled", self.said(ClientEnabled())[1])
        self.assertEqual((LogLevel.debug, "Client client1 is new", False), self.said(ClientAdded()))

    def test_an_expiry_tells_what_an_administrator_needs_to_know(self) -> None:
        self.assertEqual(
            (
                LogLevel.warn,
                "Client client1 is disabled: expired. Last good check: never; last checker: none has ended yet. "
                "It gets nothing until an administrator enables it",
                False,
            ),
            self.said(ClientDisabled(Cause.EXPIRED)),
        )
        self.client = evolve(self.client, last_checked_ok=START, last_outcome=Exited(2))
        self.machine.wall += timedelta(hours=1)  # stepped since
        self.assertIn(
            "Last good check: 2026-11-20 15:56:06 UTC; last checker: failed with exit status 2. ",
            self.said(ClientDisabled(Cause.EXPIRED))[1],
        )

    def test_what_only_leads_to_other_facts_is_not_worded(self) -> None:
        self.observe(PetitionDecided(1, None), CheckWanted(), CheckUnwanted())
        self.assertEqual([], self.log.events)

    def test_what_happens_at_every_check_is_worded_only_if_it_is_wanted(self) -> None:
        self.wanted = False
        self.observe(CheckerStarted("x"), CheckerCompleted(Exited(0), "x"))
        self.assertEqual([], self.log.events)

    def test_what_strangers_can_cause_is_written_a_few_times(self) -> None:
        for _ in range(BURST + 5):
            self.observe(ClientNotFound(key_id(7), "192.0.2.1"))
        self.assertEqual(BURST, len(self.log.events))

    def test_but_it_does_not_keep_a_clients_own_refusals_out(self) -> None:
        for _ in range(BURST + 5):
            self.observe(ClientNotFound(key_id(7), "192.0.2.1"))
            self.observe(Rejected(Refusal.DISABLED, "192.0.2.1"))
        self.assertEqual(2 * BURST, len(self.log.events))

    def test_a_delivery_that_broke_off_is_told(self) -> None:
        self.assertEqual(
            (
                LogLevel.warn,
                "Client client1 at 192.0.2.1 went away, or was cut off, before it had all of its secret",
                True,
            ),
            self.said(DeliveryBrokeOff("192.0.2.1")),
        )

    def test_changed_settings_are_named_without_their_values(self) -> None:
        after = evolve(self.client, settings=evolve(self.client.settings, secret=b"other", host="h"))
        self.observe(after=after, by="root")
        self.assertEqual(["Client client1: secret, host changed by root"], self.log.texts(LogLevel.info))
        self.observe(before=after, after=evolve(after, settings=evolve(after.settings)))
        self.assertEqual(1, len(self.log.events))

    def test_outcomes_are_sentences_ends(self) -> None:
        self.assertEqual("was killed by signal 9", describe_outcome(Killed(9)))

    @settings(max_examples=30, deadline=None)
    @given(strategies.clients)
    def test_a_secret_is_in_no_line_nor_event(self, client: Client) -> None:
        secret = b"\xa7never to be seen\xa7"
        client = evolve(client, settings=evolve(client.settings, secret=secret), standing=Disabled())
        self.log.events.clear()
        self.client = client
        self.observe(*(ClientDisabled(cause) for cause in Cause), ClientAdded(), GotSecret("a"), ClientEnabled())
        self.observe(before=evolve(client, settings=evolve(client.settings, secret=b"old")))
        text = repr(self.log.events) + "".join(line for level in LEVELS for line in self.log.texts(level))
        self.assertNotIn("never to be seen", text)
        self.assertGreater(len(self.log.events), len(Cause))
