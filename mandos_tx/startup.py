"""What a server reads before it runs, and what becomes of a start that cannot succeed.

=====  ===============================================================
Exit   Meaning
=====  ===============================================================
0      stopped as asked
1      internal error, or the port is taken
2      usage
77     permission
78     configuration or state (sysexits.h)
=====  ===============================================================
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from typing import NoReturn

from attrs import frozen

from mandos_tx import logs, selftest
from mandos_tx.audit_file import AuditFile, AuditUnusable
from mandos_tx.configuration import Configuration, describe
from mandos_tx.configuration_files import LocalFiles
from mandos_tx.formats.complaint import Complaint, ConfigurationError
from mandos_tx.privileges import acting_as, is_root, unprivileged_identity
from mandos_tx.settings import Options, ServerSettings, read_everything, read_settings
from mandos_tx.wire.gnutls import Context, PriorityError
from mandos_tx.wire.listener import CannotListen, tcp_socket

EX_FAILURE = 1
EX_NOPERM = 77
EX_CONFIG = 78


@frozen
class Prepared:
    """Everything that was read, and found good."""

    settings: ServerSettings
    configuration: Configuration
    context: Context


def prepare(options: Options) -> Prepared:
    """Read the configuration; ends the process if that is all that was asked for, or if it is wrong."""
    files = LocalFiles()
    if options["check"]:
        _self_test(options)
    try:
        settings, configuration = read_everything(options, files)
        context = _tls_context(settings, options)
        if options["check-config"]:
            _examine_surroundings(settings, configuration, options)
    except ConfigurationError as error:
        if options["check-config"]:
            _say(describe(error))
            raise SystemExit(EX_CONFIG) from None
        give_up(EX_CONFIG, map(str, error.complaints))
    if options["check-config"]:
        _say(describe(configuration))
        raise SystemExit(0)
    return Prepared(settings, configuration, context)


def give_up(status: int, lines: Iterable[str]) -> NoReturn:
    """End a start that cannot succeed: every line on standard error and in the system's log."""
    syslog = logs.SyslogSink()
    for line in lines:
        with suppress(OSError):
            print(f"mandos: {line}", file=sys.stderr, flush=True)
        syslog({"log_level": logs.LEVELS["CRITICAL"]}, [line])
    raise SystemExit(status)


def _examine_surroundings(settings: ServerSettings, configuration: Configuration, options: Options) -> None:
    """Look at what a start would need besides the configuration. Raises ConfigurationError."""
    problems: list[tuple[str, str, str]] = []
    if settings.audit_log is not None:
        server = unprivileged_identity() if is_root() else None
        try:
            with nullcontext() if server is None else acting_as(server):
                AuditFile(settings.audit_log).examine()
        except AuditUnusable as error:
            problem, _, remedy = str(error).partition("; ")
            problems.append(("audit_log", problem, remedy))
        except OSError as error:
            problem = f"it cannot be tried as another user: {error.strerror}"
            problems.append(("audit_log", problem, "let root become another user"))
    if settings.socket is not None:
        try:
            tcp_socket(settings.socket).close()
        except CannotListen as error:
            problems.append(("socket", str(error), "give the number of a TCP socket that is open"))
    if problems:
        complaints = [_complaint(settings, options, *problem) for problem in problems]
        raise ConfigurationError(complaints, configuration.warnings)


def _complaint(settings: ServerSettings, options: Options, name: str, problem: str, remedy: str) -> Complaint:
    """Of an option, where it stands."""
    if name in options.given:
        return Complaint("command line", None, None, f"--{name.replace('_', '-')}", problem, remedy)
    return Complaint(f"{settings.configdir}/mandos.conf", None, "DEFAULT", name, problem, remedy)


def _say(lines: Iterable[str]) -> None:
    """Print, with escapes for what the terminal has no characters for; ends the process if nobody takes it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(text, flush=True)
    except OSError as error:
        # What is still in the buffer must not fail once more at the interpreter's end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        give_up(EX_FAILURE, [f"standard output: {error.strerror}"])


def _self_test(options: Options) -> NoReturn:
    try:
        settings, _ = read_settings(options, LocalFiles())
    except ConfigurationError as error:
        give_up(EX_FAILURE, map(str, error.complaints))
    good = selftest.run(selftest.self_tests(settings.priority), lambda line: _say([line]))
    raise SystemExit(0 if good else EX_FAILURE)


def _tls_context(settings: ServerSettings, options: Options) -> Context:
    try:
        return Context(settings.priority)
    except PriorityError as error:
        complaint = _complaint(settings, options, "priority", str(error), "see gnutls_priority_init(3)")
        raise ConfigurationError([complaint]) from None
