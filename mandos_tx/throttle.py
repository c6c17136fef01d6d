"""A limit on how often something that strangers can cause is logged."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

BURST = 20
PERIOD = 60.0


class Throttle(Service):
    """Admits at most ``BURST`` lines about each subject in ``PERIOD`` seconds; then says how many it kept back."""

    _log = Logger()

    def __init__(self, reactor: Any, what: str) -> None:
        self._reactor = reactor
        self._what = what
        """What the lines are about, as in "12 more ... in the last 60 seconds"."""
        self._since = 0.0
        self._period: IDelayedCall | None = None
        self._admitted: Counter[str] = Counter()
        self._kept_back = 0

    def admits(self, subject: str = "") -> bool:
        """Whether one more line may be written; subjects are as many as we allow, not as strangers like."""
        if self._period is None:
            self._since = self._reactor.seconds()
            self._period = self._reactor.callLater(PERIOD, self._end)
        if self._admitted[subject] < BURST:
            self._admitted[subject] += 1
            return True
        self._kept_back += 1
        return False

    def stopService(self) -> None:
        super().stopService()
        if self._period is not None:
            self._period.cancel()
            self._end()

    def _end(self) -> None:
        self._period = None
        if self._kept_back:
            self._log.warn(
                "{count} more {what} in the last {period:.0f} seconds",
                count=self._kept_back,
                what=self._what,
                period=self._reactor.seconds() - self._since,
            )
        self._admitted.clear()
        self._kept_back = 0
