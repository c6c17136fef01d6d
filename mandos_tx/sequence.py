"""Services that depend on each other: started in order, stopped in the reverse order, one after the other."""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure


class Sequence(MultiService):
    """A MultiService whose children may rely on those before them.

    MultiService stops all its children at once; here each has stopped before the one that it relies on is told to. A
    child that fails to stop is logged, and the others stop all the same.
    """

    _log = Logger()

    def stopService(self) -> Deferred[None]:
        self.running = 0
        stopped: Deferred[Any] = succeed(None)
        for child in reversed(list(self)):
            stopped.addCallback(self._stop, child)
        return stopped

    def _stop(self, _: object, child: IService) -> Deferred[Any]:
        return maybeDeferred(child.stopService).addErrback(self._failed, child)

    def _failed(self, failure: Failure, child: IService) -> None:
        self._log.failure("{service} did not stop as it should", failure, service=child)
