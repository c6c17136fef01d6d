"""A program that a test runs: what it says is followed line by line, and it does not outlive the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.integration.harness import artefacts

ROOT = Path(__file__).resolve().parents[3]
"""The checkout."""


def our_environment(**variables: str) -> dict[str, str]:
    """In which this checkout's mandos_tx runs, from any directory."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def status_field(pid: int, name: str) -> list[str]:
    """What /proc/PID/status has under a name (proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.split()
    raise AssertionError(f"no {name} in the status of process {pid}")


class Program:
    """A child in a session of its own, with its standard error in ``lines`` and as an artefact.

    Standard output is collected in ``output``. Times are real seconds, limits only: nothing waits longer than needed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.place = artefacts.new_place(name)
        self.lines: list[str] = []
        self.output = b""
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ if environment is None else environment),
            cwd="/",
            start_new_session=True,
            pass_fds=pass_fds,
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_lines, self._read_output)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has said so far on its standard error."""
        with self._news:
            return "\n".join(self.lines)

    def mark(self) -> int:
        """Where the log is now; for ``since``."""
        with self._news:
            return len(self.lines)

    def matches(self, pattern: str, since: int = 0) -> list[re.Match[str]]:
        """Every line so far that has the pattern."""
        with self._news:
            found = [re.search(pattern, line) for line in self.lines[since:]]
        return [match for match in found if match]

    def wait_for(self, pattern: str, seconds: float = 10.0, since: int = 0) -> re.Match[str]:
        """The first line with the pattern, which may yet have to be said; AssertionError after ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._news:
            while True:
                for line in self.lines[since:]:
                    if match := re.search(pattern, line):
                        return match
                since = max(since, len(self.lines))
                if not any(reader.is_alive() for reader in self._readers):
                    raise AssertionError(self._report(f"never said {pattern!r}"))
                if time.monotonic() >= deadline:
                    raise AssertionError(self._report(f"did not say {pattern!r} within {seconds} s"))
                # Waking now and then: a reader that ends says nothing.
                self._news.wait(min(0.2, seconds))

    def wait(self, seconds: float = 10.0) -> int:
        """Wait for its end; the exit status, or minus the signal. AssertionError after ``seconds``."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._report(f"did not end within {seconds} s")) from None
        for reader in self._readers:
            # A grandchild may hold the pipe open.
            reader.join(1.0)
        return status

    def is_running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, seconds: float = 10.0) -> int:
        """Ask it to end, and wait until it has; the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> int:
        """End it as a power cut would, with its process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()
        return self.wait()

    def clean_up(self) -> None:
        """For the end of a test: whether it has ended or not, it does now."""
        if self.is_running():
            for name in ("cmdline", "environ"):
                content = Path("/proc", str(self.pid), name)
                try:
                    (self.place / name).write_bytes(content.read_bytes())
                except OSError:
                    continue  # a process that is not dumpable shows nobody its environment
            self._process.terminate()
            try:
                self._process.wait(5.0)
            except subprocess.TimeoutExpired:
                self.kill()
        self.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_lines(self) -> None:
        assert self._process.stderr is not None
        with (self.place / "stderr").open("wb") as copy:
            for line in self._process.stderr:
                copy.write(line)
                copy.flush()
                with self._news:
                    self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                    self._news.notify_all()

    def _read_output(self) -> None:
        # Not an artefact: a client's output is its password.
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line

    def _report(self, problem: str) -> str:
        state = "still running" if self.is_running() else f"ended with {self._process.returncode}"
        return "\n".join([f"{self.name} {problem} ({state}). Its last lines:", *self.lines[-25:]])
