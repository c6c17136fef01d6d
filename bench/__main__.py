"""Builds the C programs, measures, and writes the report; bench/README.md says more."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import check_cost, idle_cost, secret_cost, start_cost
from bench.build import BuildError, build
from bench.machine import ROOT, describe, stolen_ticks
from bench.report import Section, render
from bench.servers import ServerError

_RESULTS = ROOT / "bench/RESULTS.md"

_MEASUREMENTS: dict[str, Callable[[bool, str, Path], Section]] = {
    "secrets": secret_cost.measure,
    "start": start_cost.measure,
    "idle": idle_cost.measure,
    "checks": check_cost.measure,
}


def main(arguments: list[str]) -> int:
    """Measure what the command line says; the exit status tells whether it could be measured, not how fast it was."""
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, about a minute")
    parser.add_argument("--only", action="append", choices=list(_MEASUREMENTS), help="may be given more than once")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the server")
    parser.add_argument("--output", type=Path, help="default: bench/RESULTS.md for a whole run, else none")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    os.umask(0o022)  # the server may become a user that must reach its state
    output = options.output or (None if options.quick or options.only else _RESULTS)
    command = shlex.join(["bench/run", *arguments])
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    try:
        machine = describe(options.python)
    except (OSError, subprocess.CalledProcessError) as problem:
        parser.error(f"--python: {problem}")
    try:
        build()
        stolen, all_time = stolen_ticks()
        sections = [
            _measure(name, options.quick, options.python)
            for name in _MEASUREMENTS
            if options.only is None or name in options.only
        ]
        stolen, all_time = (now - before for now, before in zip(stolen_ticks(), (stolen, all_time), strict=True))
    except (BuildError, ServerError) as problem:
        print(f"bench/run: {problem}", file=sys.stderr)
        return 1
    theft = f"{stolen / max(1, all_time):.1%} of the time"
    report = render(command, when, [*machine, ("Taken by other virtual machines", theft)], sections)
    print(report)
    if output is not None:
        output.write_text(report, encoding="utf-8")
    return 0


def _measure(name: str, quick: bool, python: str) -> Section:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=f"mandos-bench-{name}-") as directory:
        os.chmod(directory, 0o711)
        return _MEASUREMENTS[name](quick, python, Path(directory) / "fleet")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
