"""The same server as ``twistd mandos``."""

from __future__ import annotations

import signal

from tests.integration.harness import ServerProcess, ServerTestCase

TWISTD = ("-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile=")


class Twistd(ServerTestCase):
    def test_it_serves_and_leaves_nothing_behind(self) -> None:
        keys = self.keys("laptop")
        directory = self.directory()
        # Writable for the server: if it saved its application here, as twistd can, there would be a file.
        directory.chmod(0o777)
        twistd = (*TWISTD, f"--rundir={directory}", "mandos")
        server = self.started(
            ServerProcess(self.configdir(keys.section(checker=":")), self.statedir(), name="twistd", program=twistd)
        )
        server.wait_until_listening()
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
        # twistd has its own way to end: by the signal that ended it.
        self.assertEqual(server.stop(), -signal.SIGTERM)
        self.assertEqual(list(directory.iterdir()), [])
