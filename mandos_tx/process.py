"""Running a shell command in a session of its own, and ending it with everything that it started.

posix_spawn(3) costs the server a fraction of what fork(2) does, and nothing more when it is large. A pidfd
(pidfd_open(2)) tells when the shell has ended. As a child subreaper (PR_SET_CHILD_SUBREAPER, prctl(2)) we inherit
what a command leaves behind, even by forking twice, so it can be ended and reaped as well: a command is over when its
shell is over.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.process import reapProcessHandlers
from twisted.python.failure import Failure
from zope.interface import implementer

from mandos_tx.core.client import CheckOutcome, Exited, Killed

SHELL = "/bin/sh"
PATIENCE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
SWEEP = 0.1
"""Seconds between two looks at what commands have left behind, while there is something."""
MAX_TAIL = 2000
"""Bytes of a command's output that are kept, if its output is wanted at all."""

_PR_SET_CHILD_SUBREAPER = 36
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
_NOT_FOR_COMMANDS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


class Kernel:
    """The system calls that this takes."""

    def become_subreaper(self) -> None:
        """Inherit the orphans of our descendants."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def keep_descriptors(self) -> None:
        """Let no process that we start have any descriptor of ours, also none that was left open for us."""
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with suppress(OSError):  # the one that lists them is closed again
                    os.set_inheritable(int(name), False)

    def spawn(self, command: str, environment: Mapping[str, str], output: int) -> int:
        """Run a shell command in a session of its own, its output to the descriptor ``output`` (-1: nowhere)."""
        return os.posix_spawn(
            SHELL,
            [SHELL, "-c", command],
            environment,
            file_actions=_redirections(output),
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )

    def watch(self, pid: int) -> int:
        """A descriptor that is readable when the process has ended."""
        return os.pidfd_open(pid)

    def signal(self, pid: int, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)

    def signal_group(self, pgid: int, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pgid, number)

    def group_of(self, pid: int) -> int:
        return os.getpgid(pid)

    def wait(self, pid: int) -> int:
        """Reap a child, when it has ended; the result is as from wait(2)."""
        return os.waitpid(pid, 0)[1]

    def reap(self, pid: int) -> bool:
        """Reap a child that has ended; whether it has."""
        try:
            return os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def children(self) -> set[int]:
        """Our children, those inherited included; empty where the kernel does not list them (proc(5))."""
        children: set[int] = set()
        with suppress(OSError):
            for task in os.listdir("/proc/self/task"):
                with suppress(OSError):
                    children.update(map(int, Path(f"/proc/self/task/{task}/children").read_bytes().split()))
        return children


def environment_for_commands(environment: Mapping[str, str]) -> dict[str, str]:
    """Our environment, less what speaks to us alone (sd_notify(3), sd_listen_fds(3))."""
    return {name: value for name, value in environment.items() if name not in _NOT_FOR_COMMANDS}


@implementer(IReadDescriptor)
class _Watched:
    """A descriptor of ours, and what to do when it is readable."""

    def __init__(self, fd: int, readable: Callable[[], None]) -> None:
        self._fd = fd
        self._readable = readable

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        self._readable()

    def logPrefix(self) -> str:
        return "checker"

    def connectionLost(self, reason: Failure) -> None:
        """The owner closes the descriptor."""

    def close(self, reactor: Any) -> None:
        reactor.removeReader(self)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@define(eq=False)
class RunningCommand:
    """A command under way."""

    pid: int
    """Of the shell; also its session and its process group."""
    ended: Callable[[CheckOutcome, bytes], None]
    """Called once, when the shell has ended, with the tail of its output; not after ``stop``."""
    pidfd: _Watched | None = None
    output: _Watched | None = None
    tail: bytes = b""
    stopped: float | None = None
    """When it was asked to end."""
    gone: Deferred[None] = field(factory=Deferred)


@define(eq=False)
class ProcessGroups:
    """Starts commands, and owns every process that comes of them."""

    _reactor: Any
    _environment: Mapping[str, str]
    _kernel: Kernel = field(factory=Kernel)
    _running: dict[int, RunningCommand] = field(init=False, factory=dict)
    _doomed: dict[int, float] = field(init=False, factory=dict)
    """Processes that were asked to end, and when; left behind by commands that are over."""
    _sweep: IDelayedCall | None = field(init=False, default=None)
    _last_call: float = field(init=False, default=math.inf)
    """From when on nobody is asked any more, only killed."""
    _spared: frozenset[int] = field(init=False, default=frozenset())

    def begin(self) -> None:
        """To be called once, before the first command; our children until then are none of our business."""
        self._kernel.become_subreaper()
        self._kernel.keep_descriptors()
        self._spared = frozenset(self._kernel.children())

    def start(
        self, command: str, ended: Callable[[CheckOutcome, bytes], None], *, want_output: bool = False
    ) -> RunningCommand:
        """Run ``command``. Raises OSError if no process can be made, ValueError if this command never can be run."""
        reading, writing = os.pipe() if want_output else (-1, -1)
        try:
            pid = self._kernel.spawn(command, self._environment, writing)
            running = RunningCommand(pid, ended)
            self._watch(running)
        except (OSError, ValueError) as error:
            if want_output:
                os.close(reading)
            if isinstance(error, OSError) and error.errno == errno.E2BIG:
                raise ValueError("it is too long") from None
            raise
        finally:
            if want_output:
                os.close(writing)
        if want_output:
            os.set_blocking(reading, False)
            running.output = _Watched(reading, lambda: self._read_output(running))
            self._reactor.addReader(running.output)
        self._running[pid] = running
        return running

    def stop(self, running: RunningCommand) -> Deferred[None]:
        """End a command and all that it started; fires when its shell is reaped."""
        if running.stopped is None and running.pid in self._running:
            running.stopped = self._reactor.seconds()
            self._kernel.signal_group(running.pid, signal.SIGTERM)
            kill = self._reactor.callLater(PATIENCE, self._kernel.signal_group, running.pid, signal.SIGKILL)
            running.gone.addBoth(lambda result: _cancel(kill))
        return running.gone

    def stop_all(self) -> Deferred[None]:
        """End everything; fires when no process of ours is left."""
        self._last_call = self._reactor.seconds() + PATIENCE
        for running in list(self._running.values()):
            self.stop(running)
        return self._when_childless()

    def _watch(self, running: RunningCommand) -> None:
        try:
            fd = self._kernel.watch(running.pid)
        except OSError:
            self._kernel.signal_group(running.pid, signal.SIGKILL)
            self._kernel.wait(running.pid)
            raise
        running.pidfd = _Watched(fd, lambda: self._shell_ended(running))
        self._reactor.addReader(running.pidfd)

    def _read_output(self, running: RunningCommand) -> None:
        assert running.output is not None
        try:
            data = os.read(running.output.fileno(), 65536)
        except BlockingIOError:
            return
        if data:
            running.tail = (running.tail + data)[-MAX_TAIL:]
        else:
            self._reactor.removeReader(running.output)

    def _shell_ended(self, running: RunningCommand) -> None:
        # its process ID cannot mean anything else before it is reaped
        self._kernel.signal_group(running.pid, signal.SIGTERM)
        status = self._kernel.wait(running.pid)
        del self._running[running.pid]
        if running.output is not None:
            with suppress(OSError):
                self._read_output(running)
            running.output.close(self._reactor)
        assert running.pidfd is not None
        running.pidfd.close(self._reactor)
        self._end_orphans(running.stopped)
        if running.stopped is None:
            running.ended(_outcome(status), running.tail)
        running.gone.callback(None)

    # -- what commands leave behind ------------------------------------------------------------------

    def _end_orphans(self, asked: float | None = None) -> None:
        """Ask those to end that belong to no command any more; insist after a while; reap.

        Those that turn up now have no more time than those whose children they were, which may be a command that was
        told to end at ``asked``: whatever it takes, all is over soon after ``PATIENCE``.
        """
        now = self._reactor.seconds()
        children = self._kernel.children() - self._running.keys() - self._spared - reapProcessHandlers.keys()
        ended = {pid for pid in children if self._kernel.reap(pid)}
        children -= ended
        since = min([now if asked is None else asked, *(self._doomed.pop(p) for p in self._doomed.keys() - children)])
        for pid in children:
            doomed_since = self._doomed.get(pid)
            if doomed_since is not None:
                if now >= min(doomed_since + PATIENCE, self._last_call):
                    self._kernel.signal(pid, signal.SIGKILL)
            elif self._kernel.group_of(pid) not in self._running:
                self._doomed[pid] = since
                self._kernel.signal(pid, signal.SIGTERM)
        # whoever has ended just now may have left children since we looked
        if self._doomed or ended:
            self._sweep_later()

    def _sweep_later(self) -> None:
        if self._sweep is None or not self._sweep.active():
            self._sweep = self._reactor.callLater(SWEEP, self._end_orphans)

    def _when_childless(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def look() -> None:
            self._end_orphans()
            if self._running or (self._sweep is not None and self._sweep.active()):
                self._reactor.callLater(SWEEP, look)
            else:
                done.callback(None)

        look()
        return done


def _redirections(output: int) -> list[tuple[Any, ...]]:
    null = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0)
    target = 0 if output < 0 else output
    return [null, (os.POSIX_SPAWN_DUP2, target, 1), (os.POSIX_SPAWN_DUP2, target, 2)]


def _outcome(status: int) -> CheckOutcome:
    if os.WIFSIGNALED(status):
        return Killed(os.WTERMSIG(status), os.WCOREDUMP(status))
    return Exited(os.WEXITSTATUS(status))


def _cancel(call: IDelayedCall) -> None:
    if call.active():
        call.cancel()
