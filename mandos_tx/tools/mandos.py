"""The ``mandos`` command: the command line of mandos(8), and the same service as ``twistd mandos``.

Unlike twistd it writes no log file of its own, ends with status 0 when it is told to stop, and as a daemon it leaves
the terminal only when it is up: a start that fails says so, with the exit status of the failure.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from twisted.application.service import IService

from mandos_tx.pidfile import AlreadyRunning, PIDFile
from mandos_tx.privileges import guard_memory
from mandos_tx.settings import Options
from mandos_tx.startup import EX_FAILURE, Prepared, give_up, prepare

UMASK = 0o077


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; the result is the exit status."""
    # Until the server obeys it; what it asks for is going to be read anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _occupy_standard_descriptors()
    options = Options()
    options.parseOptions(arguments)
    guard_memory()
    prepared = prepare(options)
    os.umask(UMASK)
    if prepared.settings.foreground:
        run(prepared)
    else:
        daemonise(prepared)
    return 0


def run(prepared: Prepared, *, pid_file: PIDFile | None = None, started: int | None = None) -> None:
    """Run until told to stop; says so on the descriptor ``started`` once everything is up."""
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner

    from mandos_tx import logs
    from mandos_tx.tap import make_service

    globalLogBeginner.beginLoggingTo([logs.Discard()], redirectStandardIO=False)
    serve(reactor, make_service(reactor, prepared, os.environ), pid_file=pid_file, started=started)


def serve(reactor: Any, service: IService, *, pid_file: PIDFile | None = None, started: int | None = None) -> None:
    """Run a service until told to stop; see ``run``."""
    if pid_file is not None:
        _write(pid_file)
    with _ending_when_told():
        service.privilegedStartService()
        service.startService()
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
        reactor.addSystemEventTrigger("before", "shutdown", _let_next_signal_kill)
        if started is not None:
            _leave_terminal(started)
        reactor.run()
    if pid_file is not None:
        pid_file.clear()


def daemonise(prepared: Prepared) -> NoReturn:
    """Run in the background; the calling process ends when the server is up, or with the status of its failure."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        if os.read(reading, 1):
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256 or EX_FAILURE)
    os.close(reading)
    os.setsid()
    os.chdir("/")
    run(prepared, pid_file=PIDFile(), started=writing)
    raise SystemExit(0)


def _write(pid_file: PIDFile) -> None:
    try:
        pid_file.write()
    except AlreadyRunning as error:
        give_up(EX_FAILURE, [str(error)])
    except OSError as error:
        print(f"mandos: {pid_file.path}: {error.strerror}; going on without a PID file", file=sys.stderr)


def _occupy_standard_descriptors() -> None:
    """Let nothing of ours be taken for standard input, output or error, should they be closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _leave_terminal(started: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    os.write(started, b"1")
    os.close(started)


@contextmanager
def _ending_when_told() -> Iterator[None]:
    """Whoever tells us to stop while we start is obeyed at once; later, the reactor has its own handlers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _let_next_signal_kill() -> None:
    """Who tells us a second time to stop means at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
