"""Where log events go: syslog(3), standard error, JSON lines; and from which level on.

Events marked ``audit=True`` (who got its secret, who changed what) are written whatever the level: an administrator
who never touched the log level must still be able to see them.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from attrs import define, field
from twisted.application.service import Service
from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

from mandos_tx.clock import boot_time

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

SYSLOG_RETRY = 1.0
"""Seconds between two attempts to find the syslog daemon."""

MAX_MESSAGE = 8000
"""Characters of one line of log; the rest is cut."""

"".encode("unicode_escape")  # loads the codec; later, without root, Python's own files may be out of reach

_OWN_KEYS = frozenset({"log_level", "log_time", "message", "time", "level", "system", "isError", "audit"})


@define(eq=False)
class Threshold:
    """The level from which on events are wanted; may be changed at any time."""

    level: Any = field(default=LogLevel.warn)

    def wants(self, level: Any) -> bool:
        return _RANK[level] >= _RANK[self.level]

    def passes(self, event: LogEvent) -> bool:
        return bool(event.get("audit")) or self.wants(event.get("log_level", LogLevel.info))


threshold = Threshold()
"""The one of this process; asked before costly events are made."""


def lines_of(event: LogEvent) -> list[str]:
    """The event as text without control characters: a line, and with a failure the lines of its traceback."""
    text = _printable(_format(event))
    failure = event.get("log_failure")
    if failure is None:
        return [text]
    return [text, *(_printable(line) for line in failure.getTraceback().splitlines())]


def _format(event: LogEvent) -> str:
    # str.format does for our own formats, and is several times as fast as what Twisted's calls in formats need
    try:
        return str(event["log_format"].format_map(event))
    except Exception:  # of which formatEvent makes words, whatever it is
        return formatEvent(event)


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return text[:MAX_MESSAGE]


class Sink(Protocol):
    """Where lines of log end up."""

    def __call__(self, event: LogEvent, lines: list[str]) -> None: ...


@implementer(ILogObserver)
@define(eq=False)
class Distributor:
    """Words each event once, if anybody wants it, for all sinks."""

    _wanted: Threshold
    _sinks: list[Sink]

    def __call__(self, event: LogEvent) -> None:
        if self._wanted.passes(event):
            lines = lines_of(event)
            for sink in self._sinks:
                sink(event, lines)


class SyslogSink:
    """Writes to /dev/log, in the manner of the original. Never blocks; what cannot be written is lost, and counted."""

    def __init__(self, path: str = SYSLOG, seconds: Callable[[], float] = boot_time) -> None:
        self._path = path
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._not_before = -math.inf
        """When it is worth while to look for the daemon again."""
        self._lost = 0

    def __call__(self, event: LogEvent, lines: list[str]) -> None:
        if self._socket is None and self._connect() is None:
            self._lost += len(lines)
            return
        level = event.get("log_level", LogLevel.info)
        for line in lines:
            self._write(level, line)

    def _write(self, level: Any, text: str) -> None:
        if self._lost and self._send(LogLevel.warn, f"{self._lost} lines of log were lost"):
            self._lost = 0
        if not self._send(level, text):
            self._lost += 1

    def _send(self, level: Any, text: str) -> bool:
        for _ in range(2):  # the daemon may have been restarted since the last line
            sock = self._socket or self._connect()
            if sock is None:
                return False
            message = f"<{_FACILITY_DAEMON | _SEVERITY[level]}>Mandos [{os.getpid()}]: {_WORD[level]}: {text}"
            try:
                sock.send(message.encode("utf-8", "backslashreplace"))
            except BlockingIOError:
                return False
            except OSError:
                sock.close()
                self._socket = None
            else:
                return True
        return False

    def _connect(self) -> socket.socket | None:
        now = self._seconds()
        if now < self._not_before:
            return None
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.connect(self._path)
        except OSError:  # there may be no descriptor left, or no daemon
            if sock is not None:
                sock.close()
            self._not_before = now + SYSLOG_RETRY
            return None
        self._socket = sock
        return sock


def _write_to_stderr(text: str) -> None:
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return  # there is nowhere left to say so


class ConsoleSink:
    """Writes lines with time stamps, in local time, as the original does with --debug."""

    def __init__(self, write: Callable[[str], None] = _write_to_stderr) -> None:
        self._write = write
        self._second = -1
        self._stamp = ""

    def __call__(self, event: LogEvent, lines: list[str]) -> None:
        seconds = event.get("log_time", 0.0)
        if int(seconds) != self._second:
            self._second = int(seconds)
            self._stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        level = _WORD[event.get("log_level", LogLevel.info)]
        start = f"{self._stamp},{int(seconds % 1 * 1000):03d} mandos [{os.getpid()}]: {level}: "
        self._write("".join(f"{start}{line}\n" for line in lines))


class JSONSink:
    """Writes an object a line: time, level, logger, message, and the event's own named values."""

    def __init__(self, write: Callable[[str], None] = _write_to_stderr) -> None:
        self._write = write

    def __call__(self, event: LogEvent, lines: list[str]) -> None:
        first, *traceback = lines
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


def begin(sinks: Iterable[Sink]) -> Callable[[], None]:
    """Send what passes the threshold to ``sinks``; call the result to end that."""
    distributor = Distributor(threshold, list(sinks))
    globalLogPublisher.addObserver(distributor)
    return partial(globalLogPublisher.removeObserver, distributor)


class Logging(Service):
    """Sends the log where it belongs while the server runs, beginning with what there is to say about its settings."""

    _log = Logger()

    def __init__(self, sinks: Iterable[Sink], level: str, warnings: Iterable[object]) -> None:
        self._sinks = sinks
        self._level = LEVELS[level]
        self._warnings = warnings
        self._end: Callable[[], None] | None = None

    def privilegedStartService(self) -> None:
        threshold.level = self._level
        self._end = begin(self._sinks)
        for warning in self._warnings:
            self._log.warn("{complaint}", complaint=str(warning))  # "warning" is Python's own in Twisted's events

    def startService(self) -> None:
        super().startService()
        if self._end is None:
            self.privilegedStartService()

    def stopService(self) -> None:
        super().stopService()
        if self._end is not None:
            self._end()
            self._end = None
