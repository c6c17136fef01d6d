"""SIGHUP: read clients.conf and clients.d again, and apply them, all or nothing.

Reading and parsing take place in a thread; a server that was started by root has them read by the process that stayed
root for that (``mandos_tx.privileged_reader``).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from mandos_tx.background import RunInThread
from mandos_tx.configuration import Configuration
from mandos_tx.formats.complaint import ConfigurationError
from mandos_tx.privileged_reader import PrivilegedReadError
from mandos_tx.roster import Roster
from mandos_tx.supervision import Supervision


class Reloading(Service):
    """Reloads the configuration on SIGHUP, or when ``reload`` is called; one at a time."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], Configuration],
        run_in_thread: RunInThread,
        roster: Roster,
        supervision: Supervision,
        reopen_logs: Callable[[], object],
    ) -> None:
        self._reactor = reactor
        self._read = read
        self._run_in_thread = run_in_thread
        self._roster = roster
        self._supervision = supervision
        self._reopen_logs = reopen_logs
        self._lock = DeferredLock()
        self._previous: Any = None
        self._reading: Deferred[Configuration] | None = None

    def privilegedStartService(self) -> None:
        """From now on SIGHUP is not the end; one that comes while the server starts is obeyed when it is up."""
        self._previous = signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.hang_up))

    def startService(self) -> None:
        super().startService()
        if self._previous is None:
            self.privilegedStartService()

    def stopService(self) -> None:
        super().stopService()
        # What was there before, but for the default: a reload that is asked for now must not kill what is stopping.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if self._previous is signal.SIG_DFL else self._previous)
        self._previous = None
        if self._reading is not None:
            self._reading.cancel()

    def hang_up(self) -> None:
        """What SIGHUP asks for: new log files, and the configuration read again."""
        self._reopen_logs()
        if len(self._lock.waiting) < 1:  # one that has not begun yet will read what is there now
            self.reload("SIGHUP").addErrback(lambda _: None)  # it is logged

    def reload(self, by: str) -> Deferred[Configuration]:
        """Read and apply the configuration, when those under way have ended.

        Fires with what was read; fails with ConfigurationError or PrivilegedReadError, or with CancelledError if the
        server stops, and nothing has changed then.
        """
        return self._lock.run(self._reload, by)

    def _reload(self, by: str) -> Deferred[Configuration]:
        if not self.running:
            raise CancelledError
        self._supervision.reloading()
        read = self._reading = self._run_in_thread(self._read)
        read.addCallback(self._apply, by)
        read.addErrback(self._failed)
        return read.addBoth(self._ended)

    def _apply(self, configuration: Configuration, by: str) -> Configuration:
        for warning in configuration.warnings:
            self._log.warn("{complaint}", complaint=str(warning))
        self._roster.reload(configuration.definitions, by)
        self._log.info(
            "Configuration reloaded by {by}: {count} clients are defined",
            by=by,
            count=len(configuration.definitions),
            audit=True,
        )
        return configuration

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, CancelledError):
            return failure
        if isinstance(error, ConfigurationError):
            for complaint in error.complaints:
                self._log.error("{complaint}", complaint=str(complaint))
            self._log.error("The configuration was not reloaded; everything stays as it was")
        elif isinstance(error, PrivilegedReadError):
            self._log.error("The configuration was not reloaded: {reason}", reason=str(error))
        else:
            self._log.failure("The configuration was not reloaded", failure)
        return failure

    def _ended(self, result: Any) -> Any:
        self._reading = None
        if self.running:
            self._supervision.ready()
        return result
