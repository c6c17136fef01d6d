"""Builds the floor and the load generator; as a program, ``python -m bench.build``, it does nothing else."""

from __future__ import annotations

import subprocess
import sys

from bench.machine import ROOT

_HERE = ROOT / "bench"
_COMMAND = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]


class BuildError(Exception):
    """A program could not be built; the compiler has said why."""


def build() -> None:
    """Compile what is older than its source."""
    (_HERE / "build").mkdir(exist_ok=True)
    for name in ("floor", "load"):
        program, source = _HERE / "build" / name, _HERE / f"{name}.c"
        newest = max(path.stat().st_mtime for path in (source, _HERE / "system.h"))
        if program.exists() and program.stat().st_mtime > newest:
            continue
        try:
            subprocess.run([*_COMMAND, "-o", str(program), str(source), "-lgnutls"], check=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            raise BuildError(f"{problem}; it needs gcc, libc6-dev and libgnutls28-dev") from problem


if __name__ == "__main__":
    try:
        build()
    except BuildError as problem:
        sys.exit(f"bench.build: {problem}")
