"""A limit on how often something that strangers can cause is logged."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.logger import Logger


@define(eq=False)
class Throttle:
    """Admits at most ``burst`` lines in any ``period`` seconds, and says once per period how many it kept back."""

    _seconds: Callable[[], float]
    _what: str
    """What the lines are about, as in "12 more ... in the last 60 seconds"."""
    _burst: int = 20
    _period: float = 60.0
    _log: Logger = field(factory=Logger)
    _since: float | None = field(init=False, default=None)
    _admitted: int = field(init=False, default=0)
    _kept_back: int = field(init=False, default=0)

    def admits(self) -> bool:
        now = self._seconds()
        if self._since is None or now - self._since >= self._period:
            self.tell_rest()
            self._since = now
            self._admitted = 0
        if self._admitted < self._burst:
            self._admitted += 1
            return True
        self._kept_back += 1
        return False

    def tell_rest(self) -> None:
        """Log how many lines were kept back, if any."""
        if self._kept_back:
            self._log.warn(
                "{count} more {what} in the last {period:.0f} seconds",
                count=self._kept_back,
                what=self._what,
                period=self._seconds() - (self._since or 0.0),
            )
            self._kept_back = 0
