"""The audit's place in the server's life: opened while we are root, begun when the state is known, closed last."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from mandos_tx.audit import Audit
from mandos_tx.audit_file import AuditFile, AuditUnusable
from mandos_tx.privileges import Identity


class Auditing(Service):
    """Starts and stops the audit."""

    def __init__(self, audit: Audit, file: AuditFile, owner: Identity | None, give_up: Callable[[str], None]) -> None:
        self._audit = audit
        self._file = file
        self._owner = owner
        self._give_up = give_up

    def privilegedStartService(self) -> None:
        try:
            self._file.open(None if self._owner is None else (self._owner.uid, self._owner.gid))
        except AuditUnusable as error:
            self._give_up(str(error))

    def startService(self) -> None:
        super().startService()
        self._audit.start(self._file.last_generation())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._audit.stop()
