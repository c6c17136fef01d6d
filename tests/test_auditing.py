"""Tests of ``mandos_tx.auditing``."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.audit import Audit
from mandos_tx.audit_file import AuditFile
from mandos_tx.auditing import Auditing
from mandos_tx.privileges import Identity
from tests.fakes import Machine, run_at_once


class AuditingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.machine = Machine()
        self.path = Path(self.mktemp()).absolute()
        self.given_up: list[str] = []

    def auditing(self, owner: Identity | None = None) -> Auditing:
        file = AuditFile(str(self.path))
        audit = Audit(file, self.machine.clock(), self.machine.reactor, run_at_once, lambda: 7, False)
        return Auditing(audit, file, owner, self.given_up.append)

    def test_the_file_is_there_from_the_privileged_start_to_the_stop(self) -> None:
        for owner in (None, Identity("us", os.geteuid(), os.getegid())):
            auditing = self.auditing(owner)
            auditing.privilegedStartService()
            self.assertEqual(0o600, self.path.stat().st_mode & 0o777)
            auditing.startService()
            self.successResultOf(auditing.stopService())
            self.assertEqual([], self.machine.reactor.getDelayedCalls())
        self.assertEqual([], self.given_up)

    def test_one_that_cannot_be_opened_is_no_start(self) -> None:
        self.path = self.path / "missing" / "audit"
        self.auditing().privilegedStartService()
        self.assertEqual(1, len(self.given_up))
