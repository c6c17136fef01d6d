"""Tests of ``mandos_tx.logs``."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import tempfile
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx import logs
from mandos_tx.logs import (
    LEVELS,
    MAX_MESSAGE,
    SYSLOG_RETRY,
    ConsoleSink,
    Discard,
    Distributor,
    JSONSink,
    Logging,
    SyslogSink,
    Threshold,
    lines_of,
)


def event(text: str = "it is {state}", level: Any = LogLevel.info, **values: Any) -> LogEvent:
    return {"log_format": text, "log_level": level, "log_time": 1234567890.987, "log_namespace": "n", **values}


def failure() -> Failure:
    try:
        raise ValueError("first\nsecond\x1b[2J")
    except ValueError:
        return Failure()


class LineTests(SynchronousTestCase):
    def test_an_event_is_a_line_in_its_own_words(self) -> None:
        self.assertEqual(["it is good"], lines_of(event(state="good")))
        self.assertEqual(["it takes 1.50 s"], lines_of(event("it takes {time:.2f} s", time=1.5)))

    def test_what_only_twisted_can_format_it_does(self) -> None:
        self.assertEqual(["it is called"], lines_of(event("it is {state()}", state=lambda: "called")))

    def test_what_nobody_can_format_is_said_to_be_so(self) -> None:
        for bad in (event("{missing}"), event("{state:.2f}", state="x"), event("{0}"), event("{state!r}", state=Bad())):
            [line] = lines_of(bad)
            self.assertIn("nable to format", line)

    def test_an_event_without_words_is_an_empty_line(self) -> None:
        self.assertEqual([""], lines_of({"log_level": LogLevel.info}))

    def test_a_traceback_is_lines_of_its_own(self) -> None:
        first, *rest = lines_of(event("failed", log_failure=failure()))
        self.assertEqual("failed", first)
        self.assertTrue(any("ValueError: first" in line for line in rest))

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=100))
    def test_whatever_a_value_is_no_control_character_gets_into_a_line(self, value: str) -> None:
        [line] = lines_of(event("{value}", value=value))
        self.assertTrue(line.isprintable(), line)

    def test_a_long_line_is_cut(self) -> None:
        [line] = lines_of(event("{value}", value="x" * 10 * MAX_MESSAGE))
        self.assertEqual(MAX_MESSAGE, len(line))


class Bad:
    def __repr__(self) -> str:
        raise ZeroDivisionError


class ThresholdTests(SynchronousTestCase):
    def test_what_is_as_bad_as_the_level_or_worse_passes(self) -> None:
        words = list(LEVELS)
        for number, word in enumerate(words):
            threshold = Threshold(LEVELS[word])
            passing = [other for other in words if threshold.passes(event(level=LEVELS[other]))]
            self.assertEqual(words[: number + 1], passing)

    def test_what_is_for_the_audit_always_does(self) -> None:
        self.assertTrue(Threshold(LogLevel.critical).passes(event(level=LogLevel.info, audit=True)))

    def test_an_event_is_worded_once_for_all_and_only_if_it_is_wanted(self) -> None:
        heard: list[tuple[LogEvent, list[str]]] = []
        sinks = [lambda event, lines: heard.append((event, lines)) for _ in range(2)]
        distributor = Distributor(Threshold(LogLevel.warn), sinks)
        distributor(event(state="fine"))
        self.assertEqual([], heard)
        bad = event(level=LogLevel.error, state="bad")
        distributor(bad)
        self.assertEqual([(bad, ["it is bad"])] * 2, heard)
        self.assertIs(heard[0][1], heard[1][1])


class SyslogTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()  # Trial's own may be too deep for a socket (unix(7))
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "log")
        self.now = 100.0
        self.sink = SyslogSink(self.path, lambda: self.now)

    def daemon(self) -> socket.socket:
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.addCleanup(daemon.close)
        daemon.bind(self.path)
        return daemon

    def write(self, *lines: str, level: Any = LogLevel.info) -> None:
        self.sink(event(level=level), list(lines))

    def heard(self, daemon: socket.socket) -> list[str]:
        heard = []
        while True:
            try:
                heard.append(daemon.recv(1 << 16).decode("utf-8"))
            except BlockingIOError:
                return heard

    def test_without_a_descriptor_to_spare_lines_are_lost_and_nothing_else(self) -> None:
        daemon = self.daemon()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            self.write("lost")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        self.now += 2
        self.write("here")
        self.assertEqual(2, len(self.heard(daemon)))

    def test_a_line_looks_like_the_originals_facility_daemon_and_its_level(self) -> None:
        daemon = self.daemon()
        for level, (severity, word) in {
            LogLevel.critical: (2, "CRITICAL"),
            LogLevel.error: (3, "ERROR"),
            LogLevel.warn: (4, "WARNING"),
            LogLevel.info: (6, "INFO"),
            LogLevel.debug: (7, "DEBUG"),
        }.items():
            self.write("hello", level=level)
            self.assertEqual([f"<{24 + severity}>Mandos [{os.getpid()}]: {word}: hello"], self.heard(daemon))

    def test_each_line_is_a_message_of_its_own(self) -> None:
        daemon = self.daemon()
        self.write("one", "two", "ü\udc80")
        self.assertEqual(["one", "two", "ü\\udc80"], [text.rpartition(": ")[2] for text in self.heard(daemon)])

    def test_without_a_daemon_lines_are_lost_and_counted_when_it_is_there(self) -> None:
        self.write("lost")
        self.write("lost", "too")
        daemon = self.daemon()
        self.write("not looked for yet")
        self.now += SYSLOG_RETRY
        self.write("heard", level=LogLevel.error)
        lost, heard = self.heard(daemon)
        self.assertIn("WARNING: 4 lines of log were lost", lost)
        self.assertIn("ERROR: heard", heard)
        self.write("again")
        self.assertEqual(1, len(self.heard(daemon)))

    def test_a_daemon_that_is_restarted_loses_nothing(self) -> None:
        daemon = self.daemon()
        self.write("one")
        daemon.close()
        os.unlink(self.path)
        daemon = self.daemon()
        self.write("two")
        self.assertEqual(1, len(self.heard(daemon)))

    def test_one_that_ended_is_looked_for_now_and_then(self) -> None:
        daemon = self.daemon()
        self.write("one")
        daemon.close()
        os.unlink(self.path)
        self.write("two")
        self.now += SYSLOG_RETRY
        self.write("three")
        daemon = self.daemon()
        self.now += SYSLOG_RETRY
        self.write("four")
        self.assertIn("2 lines of log were lost", self.heard(daemon)[0])

    def test_one_that_does_not_listen_keeps_nobody_waiting(self) -> None:
        daemon = self.daemon()
        for _ in range(5000):
            self.write("x" * 1000)
        read = len(self.heard(daemon))
        self.assertLess(read, 5000)
        self.write("heard")
        self.assertIn(f"{5000 - read} lines of log were lost", self.heard(daemon)[0])


class TerminalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.written: list[str] = []

    def test_the_console_gets_local_time_and_every_line_its_own(self) -> None:
        sink = ConsoleSink(self.written.append)
        sink(event(level=LogLevel.warn), ["one", "two"])
        sink(event(level=LogLevel.info), ["three"])
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1234567890))
        start = f"{stamp},986 mandos [{os.getpid()}]: "
        pattern = re.escape(start).replace("986", "98[67]")
        text = "".join(self.written)
        self.assertRegex(text, rf"\A{pattern}WARNING: one\n{pattern}WARNING: two\n{pattern}INFO: three\n\Z")

    def test_json_is_an_object_a_line_with_the_events_own_values(self) -> None:
        sink = JSONSink(self.written.append)
        sink(event(level=LogLevel.error, client="a", count=3, what=b"x", audit=True), ["said", "Traceback", "more"])
        sink(event(), ["plain"])
        first, second = map(json.loads, self.written)
        self.assertRegex(first.pop("time"), r"\A2009-02-13T23:31:30\.98\d\+00:00\Z")
        self.assertEqual(
            {
                "level": "ERROR",
                "logger": "n",
                "message": "said",
                "client": "a",
                "count": 3,
                "what": "b'x'",
                "traceback": ["Traceback", "more"],
            },
            first,
        )
        self.assertNotIn("traceback", second)
        self.assertTrue(all(text.endswith("\n") and text.count("\n") == 1 for text in self.written))

    def test_an_event_cannot_pass_for_another(self) -> None:
        JSONSink(self.written.append)(event(level=LogLevel.error, logger="x", message="y", level_="z"), ["said"])
        document = json.loads(self.written[0])
        self.assertEqual(("said", "n", "ERROR"), (document["message"], document["logger"], document["level"]))

    def test_standard_error_is_where_they_write_and_its_loss_is_survived(self) -> None:
        reading, writing = os.pipe()
        kept = os.dup(2)
        self.addCleanup(os.close, kept)
        try:
            os.dup2(writing, 2)
            os.close(writing)
            ConsoleSink()(event(), ["to the terminal"])
            self.assertTrue(os.read(reading, 1000).endswith(b"INFO: to the terminal\n"))
            os.close(reading)
            ConsoleSink()(event(), ["to nobody"])
        finally:
            os.dup2(kept, 2)

    def test_what_twistd_would_write_is_discarded(self) -> None:
        Discard()(event())


class LoggingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[str] = []
        self.addCleanup(setattr, logs.threshold, "level", logs.threshold.level)

    def service(self, level: str = "WARNING") -> Logging:
        service = Logging([lambda event, lines: self.lines.extend(lines)], level, ["this", "and that"])
        self.addCleanup(service.stopService)
        return service

    def test_it_begins_with_the_warnings_and_ends_with_the_service(self) -> None:
        log = Logger("tests")
        service = self.service()
        service.privilegedStartService()
        service.startService()
        self.assertEqual(["this", "and that"], self.lines)
        log.warn("heard")
        log.info("not wanted")
        service.stopService()
        log.warn("too late")
        self.assertEqual("heard", self.lines[-1])

    def test_it_need_not_have_been_root(self) -> None:
        self.service("DEBUG").startService()
        self.assertEqual(["this", "and that"], self.lines)
        self.assertTrue(logs.threshold.wants(LogLevel.debug))
