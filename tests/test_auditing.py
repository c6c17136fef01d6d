"""Tests of ``mandos_tx.auditing``."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.audit import Audit
from mandos_tx.audit_file import AuditFile
from mandos_tx.auditing import Auditing
from tests.fakes import Machine, run_at_once


class AuditingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.path = Path(self.mktemp()).absolute()
        self.given_up: list[str] = []

    def auditing(self) -> Auditing:
        file = AuditFile(str(self.path))
        audit = Audit(file, self.machine.clock(), self.machine.reactor, run_at_once, lambda: 7, False)
        return Auditing(audit, file, self.given_up.append)

    def test_the_file_is_there_from_the_start_to_the_stop(self) -> None:
        auditing = self.auditing()
        auditing.startService()
        self.assertEqual(0o600, self.path.stat().st_mode & 0o777)
        self.successResultOf(auditing.stopService())
        self.assertEqual([], self.machine.reactor.getDelayedCalls())
        self.assertEqual([], self.given_up)

    def test_it_is_not_made_while_we_are_root(self) -> None:
        self.auditing().privilegedStartService()
        self.assertFalse(self.path.exists())

    def test_one_that_cannot_be_opened_is_no_start(self) -> None:
        self.path = self.path / "missing" / "audit"
        auditing = self.auditing()
        auditing.startService()
        self.assertEqual(1, len(self.given_up))
        self.successResultOf(auditing.stopService())
