"""The programs that ask a server for a secret: the original's mandos-client, and our mandos-fetch."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence

from twisted.trial.unittest import SkipTest

from tests.integration.harness.keys import Keys
from tests.integration.harness.programs import Program, our_environment


def connect_line(host: str, port: int) -> str:
    return f"--connect={host}:{port}"


class MandosClient(Program):
    """The original's client; it asks again, a second after every refusal, until it has the password."""

    def __init__(self, host: str, port: int, keys: Keys) -> None:
        command = [
            _mandos_client_path(),
            connect_line(host, port),
            "--interface=none",
            "--retry=1",
            "--delay=0",
            *keys.files(),
        ]
        super().__init__(f"mandos-client-{keys.name}", command)

    def password(self, seconds: float = 30.0) -> bytes:
        """What it prints when it has got it; AssertionError if it has not in time."""
        status = self.wait(seconds)
        if status:
            raise AssertionError(f"mandos-client ended with {status}: {self.log}")
        return self.output


def _mandos_client_path() -> str:
    for path in glob.glob("/usr/lib/*/mandos/plugins.d/mandos-client"):
        if os.access(path, os.X_OK):
            return path
    raise SkipTest("mandos-client is not installed, or not for this user (package mandos-client)")


class Fetch(Program):
    """Our own client."""

    def __init__(self, addresses: Sequence[tuple[str, int]], keys: Keys, arguments: Sequence[str] = ()) -> None:
        super().__init__(
            f"mandos-fetch-{keys.name}",
            [
                *(sys.executable, "-m", "mandos_tx.tools.fetch"),
                *(connect_line(*address) for address in addresses),
                *keys.files(),
                *arguments,
            ],
            our_environment(),
        )
