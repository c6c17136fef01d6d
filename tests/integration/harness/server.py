"""A running Mandos server: ours, or the original's as a peer to compare with."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.harness import artefacts
from tests.integration.harness.programs import Program, our_environment

LISTENING = r"Listening on .*:(\d+)$"
"""What the server says when it can be reached; ends with the port."""
START_SECONDS = 20.0
MANDOS = ("-m", "mandos_tx.tools.mandos")
"""For the Python interpreter."""
USERS = ("_mandos", "mandos", "nobody")
"""Who a server that is started as root becomes: the first that there is."""


def server_user() -> pwd.struct_passwd | None:
    """Whose the state directory has to be; None for an ordinary user, who stays what they are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in USERS if name in known)


class ServerProcess(Program):
    """``mandos --foreground`` on a loopback address, with its log at debug level on standard error."""

    leaves_state = True
    """Whether its state directory is to be an artefact."""

    def __init__(
        self,
        configdir: Path,
        statedir: Path,
        arguments: Sequence[str] = (),
        host: str = "::1",
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        name: str = "server",
        port: int = 0,
        program: Sequence[str] = MANDOS,
    ) -> None:
        self.host = host
        self.configdir = configdir
        self.statedir = statedir
        super().__init__(
            name,
            [
                *wrapper,
                *(sys.executable, *program),
                *("--foreground", "--debug", "--no-dbus", "--no-zeroconf"),
                *("--address", host, "--port", str(port)),
                *("--configdir", configdir, "--statedir", statedir),
                *arguments,
            ],
            our_environment(**(environment or {})),
            pass_fds,
        )

    def wait_until_listening(self, seconds: float = START_SECONDS) -> None:
        self.wait_for(LISTENING, seconds)

    @property
    def port(self) -> int:
        """Where it listens; the kernel has chosen it."""
        return int(self.wait_for(LISTENING, START_SECONDS)[1])

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def clean_up(self) -> None:
        super().clean_up()
        if self.leaves_state:
            artefacts.keep(self.statedir, self.place)


class OriginalServer(Program):
    """Debian's mandos, for tests of our client. It does not start without a bus, even with --no-dbus."""

    def __init__(self, configdir: Path, statedir: Path, port: int, bus: str, host: str = "::1") -> None:
        program = shutil.which("mandos", path="/usr/sbin")
        if program is None:
            raise SkipTest("the original server is not installed (package mandos)")
        self.address = (host, port)
        super().__init__(
            "original-server",
            [
                *(program, "--foreground", "--no-dbus", "--no-zeroconf", "--debug"),
                *("--address", host, "--port", str(port)),
                *("--configdir", configdir, "--statedir", statedir),
            ],
            {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus},
        )

    def clean_up(self) -> None:
        super().clean_up()
        # At debug level it writes TLS keys into its log: nothing of ours to search.
        shutil.rmtree(self.place)

    def wait_until_listening(self) -> None:
        self.wait_for(re.escape(str(self.address[1])), START_SECONDS)
