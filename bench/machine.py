"""The machine: what the figures were measured on, and which core does what."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = _CORES[0]
LOAD_CORE = _CORES[-1]


@contextmanager
def started_on(core: int) -> Iterator[None]:
    """What is started meanwhile runs on this core, and so does everything that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe(python: str) -> list[tuple[str, str]]:
    """Names and values for the head of the report; ``python`` is the interpreter that runs the server."""
    versions = subprocess.run(
        [python, "-c", "import platform, twisted; print(platform.python_version(), twisted.version.short())"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    return [
        ("CPU", f"{_cpu_model()}, {len(_CORES)} cores"),
        ("Kernel", f"{platform.system()} {platform.release()}"),
        ("Python", versions[0]),
        ("Twisted", versions[1]),
        ("GnuTLS", _gnutls_version()),
        ("Compiler of the floor", _first_line("cc", "--version")),
        ("Version", _first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")),
    ]


def stolen_ticks() -> tuple[int, int]:
    """Of all CPU time since boot: what the hypervisor gave to others, and all of it (proc(5), /proc/stat)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gnutls_version() -> str:
    check_version = ctypes.CDLL("libgnutls.so.30").gnutls_check_version
    check_version.restype = ctypes.c_char_p
    return str(check_version(None).decode())


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return output.partition("\n")[0]
