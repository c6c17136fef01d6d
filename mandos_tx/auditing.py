"""The audit's place in the server's life: begun when root is shed and the state is known, closed last."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from mandos_tx.audit import Audit
from mandos_tx.audit_file import AuditFile, AuditUnusable


class Auditing(Service):
    """Starts and stops the audit.

    The file is opened by the user that the server becomes, who must open it again after a rotation; root would need
    more capabilities than it has to give a file to that user.
    """

    def __init__(self, audit: Audit, file: AuditFile, give_up: Callable[[str], None]) -> None:
        self._audit = audit
        self._file = file
        self._give_up = give_up

    def startService(self) -> None:
        super().startService()
        try:
            self._file.open()
        except AuditUnusable as error:
            self._give_up(str(error))
        self._audit.start(self._file.last_generation())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._audit.stop()
