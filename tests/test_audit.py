"""Tests of ``mandos_tx.audit``."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

from attrs import define, evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.audit import (
    PATIENCE,
    PERIOD,
    QUEUE_BYTES,
    REFUSALS_OF_A_CLIENT,
    REFUSALS_OF_STRANGERS,
    STOP_LIMIT,
    Audit,
    NotRecorded,
)
from mandos_tx.audit_file import AuditFile
from mandos_tx.background import RunInThread
from mandos_tx.core.client import Client, Exited
from mandos_tx.core.happenings import (
    CheckFinished,
    CheckStarted,
    ClientAdded,
    ClientRestored,
    Disable,
    Enable,
    Event,
    Petitioned,
    PetitionRefused,
    Reconfigured,
    Refusal,
    Ruled,
    SecretDelivered,
    StartCheck,
    StopCheck,
    Vouched,
)
from mandos_tx.core.lifecycle import newborn
from tests.fakes import START, Log, Machine, SlowThread, definition_of, key_id, run_at_once, settings_of

Line = dict[str, object]


@define(eq=False)
class FaultyFile(AuditFile):
    """A file that cannot be written while there is a ``fault``."""

    fault: OSError | None = None
    closed: bool = False

    def write(self, lines: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        super().write(lines)

    def close(self) -> None:
        self.closed = True
        super().close()


class AuditTestCase(SynchronousTestCase):
    thread: RunInThread
    required = False

    def setUp(self) -> None:
        self.machine = Machine()
        self.registry = self.machine.registry()
        self.addCleanup(self.registry.stop)
        self.file = FaultyFile(self.mktemp())
        self.addCleanup(self.file.close)
        self.thread = run_at_once
        self.generation = 7
        self.log = Log()

    def make(self, *, required: bool = False) -> Audit:
        audit = Audit(
            self.file,
            self.machine.clock(),
            self.machine.reactor,
            self.thread,
            lambda: self.generation,
            required,
            self.log.logger(),
        )
        self.registry.observe(audit.observe)
        return audit

    def client(self, number: int = 1) -> Client:
        client = newborn(definition_of(number), self.registry.now(), 0.5)
        self.registry.introduce(client, (ClientAdded(),))
        return client

    def lines(self) -> list[Line]:
        try:
            text = Path(self.file.path).read_text("ascii")
        except FileNotFoundError:
            return []
        self.assertTrue(text.endswith("\n"))
        return [cast(Line, json.loads(line)) for line in text.splitlines()]


class ReleaseTests(AuditTestCase):
    def test_the_release_is_on_record_before_the_secret_goes_out(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        may = audit.before_release(client, "::1")
        self.assertNoResult(may)
        thread.step()
        self.successResultOf(may)
        self.assertEqual(
            self.lines(),
            [
                {
                    "time": START.isoformat(),
                    "event": "secret",
                    "outcome": "released",
                    "client": "client1",
                    "key_id": client.settings.key_id,
                    "address": "::1",
                    "generation": 7,
                }
            ],
        )

    def test_releases_that_come_while_the_disk_is_busy_share_the_next_write(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        first = audit.before_release(client, "::1")
        rest = [audit.before_release(client, f"::{n}") for n in range(2, 10)]
        thread.step()
        self.successResultOf(first)
        self.assertEqual(len(thread.calls), 1)
        thread.step()
        for may in rest:
            self.successResultOf(may)
        self.assertEqual(len(self.lines()), 9)

    def test_a_full_disk_does_not_stop_deliveries(self) -> None:
        audit = self.make()
        self.file.fault = OSError(28, "No space left on device")
        self.successResultOf(audit.before_release(self.client(), "::1"))
        self.assertIn("No space left on device", self.log.texts(LogLevel.error)[0])

    def test_a_full_disk_stops_deliveries_if_the_audit_is_required(self) -> None:
        audit = self.make(required=True)
        self.file.fault = OSError(28, "No space left on device")
        self.failureResultOf(audit.before_release(self.client(), "::1"), NotRecorded)
        self.file.fault = None
        self.successResultOf(audit.before_release(self.client(2), "::1"))

    def test_a_disk_that_hangs_is_waited_for_only_so_long(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        under_way, queued = audit.before_release(client, "::1"), audit.before_release(client, "::2")
        self.machine.pass_time(PATIENCE)
        self.successResultOf(under_way)
        self.successResultOf(queued)
        # And then no longer at all.
        self.successResultOf(audit.before_release(client, "::3"))
        while thread.calls:
            thread.step()
        self.assertEqual([line["address"] for line in self.lines()], ["::1", "::2", "::3"])
        self.assertNoResult(audit.before_release(client, "::4"))

    def test_a_disk_that_hangs_stops_deliveries_if_the_audit_is_required(self) -> None:
        self.thread = SlowThread()
        audit = self.make(required=True)
        client = self.client()
        may = audit.before_release(client, "::1")
        self.machine.pass_time(PATIENCE)
        self.failureResultOf(may, NotRecorded)
        self.failureResultOf(audit.before_release(client, "::2"), NotRecorded)

    def test_a_peer_that_goes_away_meanwhile_does_no_harm(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        gone, here = audit.before_release(client, "::1"), audit.before_release(client, "::2")
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        thread.step()
        thread.step()
        self.successResultOf(here)


class RefusalTests(AuditTestCase):
    def refuse(self, client: Client, count: int = 1, reason: Refusal = Refusal.DENIED) -> None:
        for _ in range(count):
            self.registry.tell(client.name, PetitionRefused(reason, "::1"))

    def test_a_refusal_says_whom_and_why(self) -> None:
        self.make()
        client = self.client()
        self.refuse(client)
        (line,) = self.lines()
        self.assertEqual(
            (line["event"], line["outcome"], line["reason"], line["client"], line["key_id"], line["address"]),
            ("secret", "refused", "Denied", "client1", client.settings.key_id, "::1"),
        )

    def test_an_unknown_key_is_recorded(self) -> None:
        self.make()
        self.registry.report_unknown(key_id(99), "fe80::1")
        (line,) = self.lines()
        self.assertEqual((line["key_id"], line["reason"], line["address"]), (key_id(99), "unknown key", "fe80::1"))
        self.assertNotIn("client", line)

    def test_strangers_cannot_fill_the_disk_but_are_counted(self) -> None:
        self.make()
        for n in range(1000):
            self.registry.report_unknown(key_id(n), "::1")
        self.assertEqual(len(self.lines()), REFUSALS_OF_STRANGERS)
        self.machine.pass_time(PERIOD)
        self.assertEqual(len(self.lines()), REFUSALS_OF_STRANGERS + 1)
        self.assertEqual(self.lines()[-1]["count"], 1000 - REFUSALS_OF_STRANGERS)
        self.registry.report_unknown(key_id(5000), "::1")
        self.assertEqual(self.lines()[-1]["key_id"], key_id(5000))

    def test_a_stolen_client_cannot_fill_the_disk_and_hides_no_other(self) -> None:
        self.make()
        thief, other = self.client(1), self.client(2)
        self.refuse(thief, 1000, Refusal.DISABLED)
        self.refuse(other)
        self.assertEqual(len(self.lines()), REFUSALS_OF_A_CLIENT + 1)
        self.machine.pass_time(PERIOD)
        last = self.lines()[-1]
        self.assertEqual(
            (last["client"], last["reason"], last["count"]), ("client1", "Disabled", 1000 - REFUSALS_OF_A_CLIENT)
        )

    def test_what_was_not_yet_counted_is_recorded_at_the_end(self) -> None:
        audit = self.make()
        self.refuse(self.client(), 100)
        self.successResultOf(audit.stop())
        self.assertEqual(self.lines()[-1]["count"], 100 - REFUSALS_OF_A_CLIENT)


class ChangeTests(AuditTestCase):
    def told(self, *events: Event) -> Line:
        client = self.client()
        for event in events[:-1]:
            self.registry.tell(client.name, event)
        self.registry.tell(client.name, events[-1], by="uid 1000")
        (line,) = self.lines()
        self.assertEqual((line["event"], line["client"], line["by"]), ("change", "client1", "uid 1000"))
        return line

    def test_each_change_of_an_administrator_says_what_became_of_the_client(self) -> None:
        longer = evolve(settings_of(), timeout=timedelta(hours=1), secret=b"quite another")
        shorter = evolve(settings_of(), timeout=timedelta(0), interval=timedelta(0))
        expected: list[tuple[tuple[Event, ...], str]] = [
            ((Disable(),), "disabled"),
            ((Disable(), Enable()), "enabled"),
            ((Ruled(True),), "approved"),
            ((Ruled(False),), "denied"),
            ((Vouched(),), "vouched for"),
            ((StartCheck(),), "check started"),
            ((StopCheck(),), "check stopped"),
            ((Reconfigured(longer),), "reconfigured"),
            ((SecretDelivered("::1"), Reconfigured(evolve(shorter, extended_timeout=timedelta(0)))), "reconfigured"),
        ]
        for events, outcome in expected:
            self.setUp()
            self.make()
            self.assertEqual(self.told(*events)["outcome"], outcome)

    def test_changed_settings_are_named_and_not_shown(self) -> None:
        self.make()
        changed = evolve(settings_of(), timeout=timedelta(hours=1), secret=b"quite another")
        self.assertEqual(self.told(Reconfigured(changed))["settings"], ["secret", "timeout"])
        self.assertNotIn("another", repr(self.lines()))

    def test_coming_and_going_are_changes(self) -> None:
        self.make()
        client = newborn(definition_of(), self.registry.now(), 0.5)
        self.registry.introduce(client, (ClientAdded(),), by="clients.conf")
        self.registry.remove(client.name, by_administrator=False, by="clients.conf")
        self.assertEqual([line["outcome"] for line in self.lines()], ["added", "removed"])

    def test_coming_back_changed_is_a_change(self) -> None:
        self.make()
        client = newborn(definition_of(), self.registry.now(), 0.5)
        self.registry.introduce(client, (ClientRestored(grace=False),), by="clients.conf")
        self.assertEqual([line["outcome"] for line in self.lines()], ["restored"])

    def test_expiry_when_an_administrator_comes_late_is_told_as_well(self) -> None:
        self.make()
        self.client()
        self.machine.suspend(timedelta(hours=1))
        self.registry.tell("client1", StopCheck(), by="uid 0")
        (line,) = self.lines()
        self.assertEqual((line["outcome"], line["reason"]), ("disabled, check stopped", "expired"))

    def test_a_peer_that_waited_is_no_change_of_its_own(self) -> None:
        self.make()
        self.registry.tell(self.client().name, Petitioned(1))
        self.registry.tell("client1", Ruled(True), by="uid 0")
        self.assertEqual([line["outcome"] for line in self.lines()], ["approved"])

    def test_what_the_server_does_by_itself_is_not_recorded(self) -> None:
        self.make()
        client = self.client()
        for event in (CheckStarted(":"), CheckFinished(Exited(0), ":"), SecretDelivered("::1"), Vouched()):
            self.registry.tell(client.name, event)
        self.assertEqual(self.lines(), [])

    def test_that_a_client_expired_is_recorded(self) -> None:
        self.make()
        self.client()
        self.machine.pass_time(timedelta(hours=1))
        (line,) = self.lines()
        self.assertEqual((line["outcome"], line["reason"]), ("disabled", "expired"))
        self.assertNotIn("by", line)

    @settings(max_examples=30, deadline=None)
    @given(st.text(), st.text(), st.text(min_size=1))
    def test_whatever_is_in_a_name_it_stays_one_line_of_ascii(self, name: str, address: str, by: str) -> None:
        self.setUp()
        audit = self.make()
        client = evolve(newborn(definition_of(), self.registry.now(), 0.5), name=name)
        self.registry.introduce(client, (ClientAdded(),), by=by)
        self.successResultOf(audit.before_release(client, address))
        added, released = self.lines()
        self.assertEqual(added["by"], by)
        self.assertEqual((released.get("client", ""), released.get("address", "")), (name, address))


class QueueTests(AuditTestCase):
    def test_what_waits_is_bounded_and_what_is_lost_is_counted(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        for number in range(20_000):
            self.registry.tell(client.name, Vouched(), by=f"uid {number}")
        self.failureResultOf(audit.append(event="secret"), NotRecorded)
        while thread.calls:
            thread.step()
        *written, lost = self.lines()
        self.assertLessEqual(sum(len(json.dumps(line)) + 1 for line in written), QUEUE_BYTES)
        self.assertEqual((lost["event"], lost["count"]), ("lost", 20_001 - len(written)))
        audit.append(event="test")
        thread.step()
        self.assertEqual([line["event"] for line in self.lines()[-2:]], ["lost", "test"])

    def test_an_error_is_logged_once_a_minute(self) -> None:
        audit = self.make()
        self.file.fault = OSError(5, "Input/output error")
        for _ in range(119):
            self.failureResultOf(audit.append(event="test"), NotRecorded)
            self.machine.pass_time(1)
        self.assertEqual(len(self.log.texts(LogLevel.error)), 2)

    def test_what_could_not_be_written_is_counted_when_it_can_be_again(self) -> None:
        audit = self.make()
        self.file.fault = OSError(28, "No space left on device")
        for _ in range(3):
            self.failureResultOf(audit.append(event="test"), NotRecorded)
        self.file.fault = None
        self.successResultOf(audit.append(event="test"))
        self.assertEqual([(line["event"], line.get("count")) for line in self.lines()], [("test", None), ("lost", 3)])

    def test_times_are_those_of_the_wall_clock(self) -> None:
        audit = self.make()
        clock = self.machine.clock()
        self.machine.wall += timedelta(days=1)
        self.successResultOf(audit.append(event="test"))
        time = datetime.fromisoformat(str(self.lines()[0]["time"]))
        self.assertEqual(time, self.machine.wall)
        self.assertNotEqual(time, clock.now())


class StartAndStopTests(AuditTestCase):
    def test_the_start_is_on_record_with_the_generation(self) -> None:
        self.make().start(7)
        (line,) = self.lines()
        self.assertEqual((line["event"], line["outcome"], line["generation"]), ("start", "started", 7))
        self.assertEqual(self.log.texts(LogLevel.warn), [])

    def test_a_state_that_is_older_than_the_audit_is_a_warning(self) -> None:
        self.make().start(8)
        (warning,) = self.log.texts(LogLevel.warn)
        self.assertIn("older", warning)

    def test_an_audit_that_begins_knows_of_no_generation(self) -> None:
        self.make().start(None)
        self.assertEqual(self.log.texts(LogLevel.warn), [])

    def test_stopping_writes_what_is_left_and_closes(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        client = self.client()
        for number in range(5):
            self.registry.tell(client.name, Vouched(), by=f"uid {number}")
        stopped = audit.stop()
        while thread.calls:
            thread.step()
        self.successResultOf(stopped)
        self.assertEqual(len(self.lines()), 5)
        self.assertTrue(self.file.closed)
        self.registry.stop()
        self.assertEqual(self.machine.reactor.getDelayedCalls(), [])

    def test_stopping_with_nothing_left_closes(self) -> None:
        self.successResultOf(self.make().stop())
        self.assertTrue(self.file.closed)

    def test_a_disk_that_hangs_does_not_hold_up_the_end(self) -> None:
        self.thread = SlowThread()
        audit = self.make()
        self.registry.tell(self.client().name, Vouched(), by="uid 0")
        stopped = audit.stop()
        self.machine.pass_time(STOP_LIMIT)
        self.successResultOf(stopped)
        self.assertIn("too long", self.log.texts(LogLevel.error)[0])

    def test_last_records_that_cannot_be_written_are_an_error(self) -> None:
        thread = self.thread = SlowThread()
        audit = self.make()
        self.registry.tell(self.client().name, Vouched(), by="uid 0")
        self.registry.tell(self.client(2).name, Vouched(), by="uid 0")
        stopped = audit.stop()
        self.file.fault = OSError(28, "No space left on device")
        thread.calls[-1]()
        self.successResultOf(stopped)
        self.assertIn("No space left", self.log.texts(LogLevel.error)[0])

    def test_after_a_rotation_it_goes_on_in_the_new_file(self) -> None:
        audit = self.make()
        self.successResultOf(audit.append(event="old"))
        rotated = self.file.path.rename(self.file.path.with_suffix(".1"))
        self.successResultOf(audit.reopen())
        self.successResultOf(audit.append(event="new"))
        self.assertEqual([line["event"] for line in self.lines()], ["new"])
        self.assertIn("old", rotated.read_text())

    def test_if_there_is_no_new_file_to_be_had_it_goes_on_in_the_old_one(self) -> None:
        audit = self.make()
        self.successResultOf(audit.append(event="old"))
        rotated = self.file.path.rename(self.file.path.with_suffix(".1"))
        self.file.path.mkdir()
        self.successResultOf(audit.reopen())
        self.successResultOf(audit.append(event="new"))
        self.assertIn("new", rotated.read_text())
        self.assertIn("old file", self.log.texts(LogLevel.error)[0])
