"""Where log events go: syslog(3), standard error, JSON lines; and from which level on.

Events marked ``audit=True`` (who got its secret, who changed what) are written whatever the level: an administrator
who never touched the log level must still be able to see them.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    PredicateResult,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

LEVELS = {
    "CRITICAL": LogLevel.critical,
    "ERROR": LogLevel.error,
    "WARNING": LogLevel.warn,
    "INFO": LogLevel.info,
    "DEBUG": LogLevel.debug,
}
"""The words of ``--debuglevel``, least talkative first."""

_RANK = {level: rank for rank, level in enumerate(reversed(LEVELS.values()))}
_WORD = {level: word for word, level in LEVELS.items()}
_SEVERITY = {  # syslog(3)
    LogLevel.critical: 2,
    LogLevel.error: 3,
    LogLevel.warn: 4,
    LogLevel.info: 6,
    LogLevel.debug: 7,
}
_FACILITY_DAEMON = 3 << 3
SYSLOG = "/dev/log"

MAX_MESSAGE = 8000
"""Characters of one line of log; the rest is cut."""

_OWN_KEYS = frozenset({"log_level", "log_time", "message", "time", "level", "system", "isError", "audit"})


@implementer(ILogFilterPredicate)
@define(eq=False)
class Threshold:
    """The level from which on events are wanted; may be changed at any time."""

    level: Any = field(default=LogLevel.warn)

    def wants(self, level: Any) -> bool:
        return _RANK[level] >= _RANK[self.level]

    def __call__(self, event: LogEvent) -> Any:
        level = event.get("log_level", LogLevel.info)
        wanted = event.get("audit") or self.wants(level)
        return PredicateResult.maybe if wanted else PredicateResult.no


threshold = Threshold()
"""The one of this process; asked before costly events are made."""


def lines_of(event: LogEvent) -> list[str]:
    """The event as text without control characters: a line, and with a failure the lines of its traceback."""
    text = _printable(formatEvent(event))
    failure = event.get("log_failure")
    if failure is None:
        return [text]
    return [text, *(_printable(line) for line in failure.getTraceback().splitlines())]


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text[:MAX_MESSAGE]


@implementer(ILogObserver)
class SyslogObserver:
    """Writes to /dev/log, in the manner of the original. Never blocks; what cannot be written is lost, and counted."""

    def __init__(self, path: str = SYSLOG) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._lost = 0

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level", LogLevel.info)
        for line in lines_of(event):
            self._write(level, line)

    def _write(self, level: Any, text: str) -> None:
        if self._lost and self._send(LogLevel.warn, f"{self._lost} lines of log were lost"):
            self._lost = 0
        if not self._send(level, text):
            self._lost += 1

    def _send(self, level: Any, text: str) -> bool:
        message = f"<{_FACILITY_DAEMON | _SEVERITY[level]}>Mandos [{os.getpid()}]: {_WORD[level]}: {text}"
        for _ in range(2):  # the daemon may have been restarted since the last line
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                    self._socket.connect(self._path)
                self._socket.send(message.encode("utf-8", "backslashreplace"))
            except BlockingIOError:
                return False
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
            else:
                return True
        return False


def _write_to_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # there is nowhere left to say so


@implementer(ILogObserver)
class ConsoleObserver:
    """Writes lines with time stamps, in local time, as the original does with --debug."""

    def __init__(self, write: Callable[[str], None] = _write_to_stderr) -> None:
        self._write = write

    def __call__(self, event: LogEvent) -> None:
        seconds = event.get("log_time", 0.0)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        level = _WORD[event.get("log_level", LogLevel.info)]
        start = f"{stamp},{int(seconds % 1 * 1000):03d} mandos [{os.getpid()}]: {level}: "
        self._write("".join(f"{start}{line}\n" for line in lines_of(event)))


@implementer(ILogObserver)
class JSONObserver:
    """Writes an object a line: time, level, logger, message, and the event's own named values."""

    def __init__(self, write: Callable[[str], None] = _write_to_stderr) -> None:
        self._write = write

    def __call__(self, event: LogEvent) -> None:
        first, *traceback = lines_of(event)
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds"),
            "level": _WORD[event.get("log_level", LogLevel.info)],
            "logger": event.get("log_namespace", ""),
            "message": first,
        }
        for name, value in event.items():
            if not name.startswith("log_") and name not in _OWN_KEYS:
                document.setdefault(name, value if isinstance(value, str | int | float | bool | None) else str(value))
        if traceback:
            document["traceback"] = traceback
        self._write(json.dumps(document, ensure_ascii=True) + "\n")


@implementer(ILogObserver)
class Discard:
    """Takes the place of twistd's own log file."""

    def __call__(self, event: LogEvent) -> None:
        """Our observers have it already."""


def begin(observers: Iterable[Any]) -> Callable[[], None]:
    """Send what passes the threshold to ``observers``; call the result to end that."""
    filtered = [FilteringLogObserver(observer, [threshold]) for observer in observers]
    for observer in filtered:
        globalLogPublisher.addObserver(observer)

    def end() -> None:
        for observer in filtered:
            globalLogPublisher.removeObserver(observer)

    return end


class Logging(Service):
    """Sends the log where it belongs while the server runs, beginning with what there is to say about its settings."""

    _log = Logger()

    def __init__(self, observers: Iterable[Any], level: str, warnings: Iterable[object]) -> None:
        self._observers = observers
        self._level = LEVELS[level]
        self._warnings = warnings
        self._end: Callable[[], None] | None = None

    def privilegedStartService(self) -> None:
        threshold.level = self._level
        self._end = begin(self._observers)
        for warning in self._warnings:
            self._log.warn("{warning}", warning=str(warning))

    def startService(self) -> None:
        super().startService()
        if self._end is None:
            self.privilegedStartService()

    def stopService(self) -> None:
        super().stopService()
        if self._end is not None:
            self._end()
            self._end = None
