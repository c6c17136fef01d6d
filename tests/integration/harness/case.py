"""The test case that gives a test its servers, clients and keys, and takes them away again."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.harness import artefacts
from tests.integration.harness.bus import PrivateBus
from tests.integration.harness.control import ControlledServer
from tests.integration.harness.keys import Keys
from tests.integration.harness.peers import Fetch, MandosClient
from tests.integration.harness.programs import Program, our_environment
from tests.integration.harness.server import MANDOS, OriginalServer, ServerProcess, server_user

P = TypeVar("P", bound=Program)


class ServerTestCase(SynchronousTestCase):
    """Blocking calls throughout: what the tests wait for happens in other processes."""

    def keys(self, name: str, tls_type: str = "ed25519") -> Keys:
        """Keys for a client of this name."""
        return Keys.generate(name, tls_type)

    def directory(self) -> Path:
        """An empty directory, which the user that a server becomes can reach but not write."""
        path = Path(tempfile.mkdtemp(prefix="mandos-test-"))
        self.addCleanup(shutil.rmtree, path, ignore_errors=True)
        path.chmod(0o711)
        return path

    def configdir(self, *sections: str, mandos_conf: str = "") -> Path:
        """A configuration directory as the original would take it; each section is one of clients.conf."""
        path = self.directory() / "mandos"
        path.mkdir(0o755)
        self.write_clients(path, *sections)
        if mandos_conf:
            (path / "mandos.conf").write_text(mandos_conf, "utf-8")
        return path

    def write_clients(self, configdir: Path, *sections: str) -> None:
        """Write or replace clients.conf."""
        path = configdir / "clients.conf"
        path.write_text("\n".join(sections), "utf-8")
        path.chmod(0o600)

    def secret_file(self, size: int) -> Path:
        """A secfile of so many bytes, which are remembered as a secret."""
        path = self.directory() / "secret"
        path.write_bytes(os.urandom(size))
        path.chmod(0o600)
        artefacts.remember_secret(f"{size} bytes in a file", path.read_bytes())
        return path

    def statedir(self) -> Path:
        """An empty state directory that the server may write."""
        path = self.directory() / "state"
        path.mkdir(0o700)
        user = server_user()
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid)
        return path

    def server(
        self,
        *sections: str,
        configdir: Path | None = None,
        statedir: Path | None = None,
        arguments: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        host: str = "::1",
        wait: bool = True,
    ) -> ServerProcess:
        """A server of ours, by default already listening; new directories unless some are given."""
        server = self.started(
            ServerProcess(
                configdir or self.configdir(*sections),
                statedir or self.statedir(),
                arguments,
                host,
                wrapper,
                environment,
            )
        )
        if wait:
            server.wait_until_listening()
        return server

    def controlled_server(
        self,
        *sections: str,
        configdir: Path | None = None,
        statedir: Path | None = None,
        arguments: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
    ) -> ControlledServer:
        """As ``server``, but one that the test can administer."""
        server = self.started(
            ControlledServer(
                configdir or self.configdir(*sections),
                statedir or self.statedir(),
                arguments,
                wrapper=wrapper,
                environment=environment,
            )
        )
        if wait:
            server.wait_until_listening()
        return server

    def mandos(
        self,
        *arguments: str | Path,
        wrapper: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Program:
        """The ``mandos`` command with these arguments and no others."""
        command = [*wrapper, sys.executable, *MANDOS, *arguments]
        return self.started(Program("mandos", command, our_environment(**(environment or {})), pass_fds))

    def original_server(self, *sections: str) -> OriginalServer:
        """The original, listening."""
        bus = self.bus()
        server = self.started(OriginalServer(self.configdir(*sections), self.statedir(), self.free_port(), bus.address))
        server.wait_until_listening()
        return server

    def bus(self) -> PrivateBus:
        """A system bus of this test's own."""
        bus = self.started(PrivateBus(self.directory()))
        bus.wait_until_listening()
        return bus

    def mandos_client(self, server: ServerProcess | OriginalServer, keys: Keys) -> MandosClient:
        """The original's client, asking ``server``."""
        return self.started(MandosClient(*server.address, keys))

    def fetch(
        self, servers: Sequence[ServerProcess | OriginalServer], keys: Keys, arguments: Sequence[str] = ()
    ) -> Fetch:
        """Our client, asking ``servers``."""
        return self.started(Fetch([server.address for server in servers], keys, arguments))

    def started(self, program: P) -> P:
        """See to it that a program ends with the test."""
        self.addCleanup(program.clean_up)
        return program

    def free_port(self) -> int:
        """A port of ::1 that nobody listens on, for programs that cannot say which one they got."""
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port: int = probe.getsockname()[1]
            return port
