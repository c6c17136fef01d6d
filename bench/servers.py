"""Starts and stops the servers that are measured, ours and the floor, each on the core for servers."""

from __future__ import annotations

import os
import pwd
import random
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench.fleet import Fleet
from bench.machine import ROOT, SERVER_CORE, started_on

ADDRESS = "127.0.0.1"
"""Where the clients connect: IPv4, since 127.0.0.0/8 gives them as many addresses of their own as they like."""
_LISTENING_ADDRESS = f"::ffff:{ADDRESS}"
_USERS = ("_mandos", "mandos", "nobody")
_PATIENCE = 120.0


class ServerError(Exception):
    """The server did not start, or ended by itself."""


@frozen
class Server:
    """A server that listens, and how long it took."""

    pid: int
    port: int
    listening_after: float
    """Seconds from its start until connect() succeeded."""


@contextmanager
def floor(fleet: Fleet) -> Iterator[Server]:
    """The floor with the fleet's table."""
    port = _free_port()
    command = [str(ROOT / "bench/build/floor"), _LISTENING_ADDRESS, str(port), str(fleet.table)]
    with _running(command, port, fleet.directory / "floor.log") as server:
        yield server


@contextmanager
def ours(python: str, fleet: Fleet) -> Iterator[Server]:
    """Our server with the fleet's configuration and the state that earlier runs with this fleet have left."""
    port = _free_port()
    command = [python, "-m", "mandos_tx.tools.mandos", "--foreground", "--no-dbus", "--no-zeroconf"]
    command += ["--port", str(port), "--address", _LISTENING_ADDRESS]
    command += ["--configdir", str(fleet.configuration), "--statedir", str(state_directory(fleet))]
    with _running(command, port, fleet.directory / "server.log") as server:
        yield server


def state_directory(fleet: Fleet) -> Path:
    """A directory that the server may write to even when it has become another user; made if it is not there."""
    directory = fleet.directory / "state"
    if not directory.exists():
        directory.mkdir(mode=0o700)
        give_to_server(directory)
    return directory


def give_to_server(path: Path) -> None:
    """Let the user own it that a server which is started as root becomes."""
    if os.geteuid() != 0:
        return
    for name in _USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(path, user.pw_uid, user.pw_gid)
        return


@contextmanager
def _running(command: list[str], port: int, log_path: Path) -> Iterator[Server]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with log_path.open("w") as log, started_on(SERVER_CORE):
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise ServerError(f"{shlex.join(command)}: exit status {process.returncode}\n{_tail(log_path)}")
            if time.monotonic() - began > _PATIENCE:
                raise ServerError(f"{shlex.join(command)}: does not listen after {_PATIENCE:.0f} s\n{_tail(log_path)}")
            time.sleep(0.005)
        yield Server(process.pid, port, time.monotonic() - began)
        if process.poll() is not None:
            raise ServerError(f"the server ended by itself with status {process.returncode}\n{_tail(log_path)}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


def _free_port() -> int:
    """Below the kernel's range for outgoing connections: a probe from that range can connect to itself."""
    for port in random.sample(range(20000, 30000), 100):
        with socket.socket() as probe:
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    raise ServerError("no free port")


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:])
