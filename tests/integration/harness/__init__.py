"""Real programs as fixtures: servers, clients and keys, on loopback and in directories of their own.

A test derives from ``ServerTestCase`` and asks it for what it needs; everything started ends with the test::

    class Delivery(ServerTestCase):
        def test_the_client_gets_its_password(self) -> None:
            keys = self.keys("laptop")
            server = self.server(keys.section(checker=":"))
            self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
            server.wait_for("laptop.*secret")

Whatever the programs write (logs, state) is kept as artefacts, and every secret is remembered; after the run
``tests.leaks`` searches the ones for the others.
"""

from tests.integration.harness.bus import PrivateBus
from tests.integration.harness.case import ServerTestCase
from tests.integration.harness.control import ControlledServer, Gone, Refused
from tests.integration.harness.keys import Keys
from tests.integration.harness.namespaces import apart, need_root
from tests.integration.harness.peer import Peer, fetch
from tests.integration.harness.peers import Fetch, MandosClient
from tests.integration.harness.programs import ROOT, Program, our_environment, status_field
from tests.integration.harness.server import OriginalServer, ServerProcess

__all__ = [
    "ROOT",
    "ControlledServer",
    "Fetch",
    "Gone",
    "Keys",
    "MandosClient",
    "OriginalServer",
    "Peer",
    "PrivateBus",
    "Program",
    "Refused",
    "ServerProcess",
    "ServerTestCase",
    "apart",
    "fetch",
    "need_root",
    "our_environment",
    "status_field",
]
