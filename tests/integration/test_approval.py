"""Clients that an administrator has to approve: who decides, in time or beforehand, and what the client gets."""

from __future__ import annotations

import time

from tests.integration.harness import ControlledServer, Peer, ServerTestCase

CROWD = 50


class Approval(ServerTestCase):
    def setUp(self) -> None:
        self.laptop = self.keys("laptop")

    def start(self, wait: bool = True, **options: str) -> ControlledServer:
        """A server whose one client has to be approved within ten minutes, unless ``options`` say otherwise."""
        return self.controlled_server(
            self.laptop.section(**{"checker": ":", "approval_delay": "PT10M", **options}), wait=wait
        )

    def assert_waiting(self, server: ControlledServer, number: int) -> None:
        deadline = time.monotonic() + 1
        while (waiting := server.clients()["laptop"]["waiting"]) != number:
            self.assertLess(time.monotonic(), deadline, f"{waiting} wait, not {number}")

    def test_three_servers_at_once_grant_deny_and_time_out(self) -> None:
        granting, denying = self.start(wait=False), self.start(wait=False)
        forgetful = self.start(wait=False, approval_delay="PT1S", approved_by_default="False")
        servers = (granting, denying, forgetful)
        clients = [self.mandos_client(server, self.laptop) for server in servers]
        for server in servers:
            server.wait_for("Client laptop needs approval")
        granting.change("laptop", "Ruled", True)
        denying.change("laptop", "Ruled", False)
        self.assertEqual(clients[0].password(), self.laptop.password)
        granting.wait_for("Client laptop at ::1 got its secret")
        denying.wait_for("WARNING: Client laptop at ::1 was refused its secret: Denied")
        forgetful.wait_for("WARNING: Client laptop at ::1 was refused its secret: Approval timed out")
        for refused, server in zip(clients[1:], servers[1:], strict=True):
            self.assertEqual((refused.is_running(), refused.output), (True, b""))
            self.assertEqual(server.matches("got its secret"), [])

    def test_silence_is_consent_if_the_client_is_approved_by_default(self) -> None:
        server = self.start(approval_delay="PT1S", approved_by_default="True")
        started = time.monotonic()
        self.assertEqual(self.mandos_client(server, self.laptop).password(), self.laptop.password)
        self.assertGreater(time.monotonic() - started, 1)
        server.wait_for("needs approval within 0:00:01; otherwise its secret is sent")

    def test_approved_beforehand(self) -> None:
        server = self.start(approval_duration="PT1M", approved_by_default="False")
        server.change("laptop", "Ruled", True)
        self.assertEqual(self.mandos_client(server, self.laptop).password(), self.laptop.password)
        self.assertEqual(server.matches("needs approval"), [])

    def test_denied_beforehand(self) -> None:
        server = self.start(approval_duration="PT1M", approved_by_default="True")
        server.change("laptop", "Ruled", False)
        client = self.mandos_client(server, self.laptop)
        server.wait_for("was refused its secret: Denied")
        server.wait_for("was refused its secret: Denied", since=server.mark())
        self.assertEqual((client.is_running(), client.output), (True, b""))

    def test_ruling_ends_with_its_duration(self) -> None:
        server = self.start(approval_duration="PT1S")
        server.change("laptop", "Ruled", True)
        time.sleep(1.05)
        with Peer(server.address, self.laptop) as peer:
            peer.prove()
            server.wait_for("needs approval")
            self.assert_waiting(server, 1)

    def test_denial_by_default_needs_no_delay(self) -> None:
        server = self.start(approval_delay="PT0S", approved_by_default="False", approval_duration="PT1M")
        server.wait_for("WARNING: .*approved_by_default")
        with Peer(server.address, self.laptop) as peer:
            self.assertEqual(peer.prove().read(), b"")
        server.wait_for("was refused its secret: Denied")
        server.change("laptop", "Ruled", True)
        with Peer(server.address, self.laptop) as peer:
            self.assertEqual(peer.prove().read(), self.laptop.secret)

    def test_connection_that_goes_away_no_longer_waits_and_gets_nothing(self) -> None:
        server = self.start()
        with Peer(server.address, self.laptop) as gone, Peer(server.address, self.laptop) as living:
            gone.prove()
            living.prove()
            self.assert_waiting(server, 2)
            gone.close()
            self.assert_waiting(server, 1)
            server.change("laptop", "Ruled", True)
            self.assertEqual(living.read(), self.laptop.secret)
        server.wait_for("got its secret")
        self.assert_waiting(server, 0)
        self.assertEqual(len(server.matches("got its secret")), 1)

    def test_one_approval_serves_everybody_who_waits(self) -> None:
        server = self.start()
        peers = [Peer(server.address, self.laptop) for _ in range(CROWD)]
        for peer in peers:
            self.addCleanup(peer.close)
            peer.prove()
        self.assert_waiting(server, CROWD)
        server.change("laptop", "Ruled", True)
        self.assertEqual({peer.read() for peer in peers}, {self.laptop.secret})
        self.assert_waiting(server, 0)
        self.assertEqual(len(server.matches("got its secret")), CROWD)

    def test_whoever_waits_when_the_client_is_disabled_or_removed_is_refused(self) -> None:
        servers = [self.start(wait=False) for _ in range(2)]
        requests: list[dict[str, object]] = [{"change": ["laptop", "Disable"]}, {"remove": "laptop"}]
        for server, request in zip(servers, requests, strict=True):
            with Peer(server.address, self.laptop) as peer:
                peer.prove()
                self.assert_waiting(server, 1)
                server.ask(**request)
                self.assertEqual(peer.read(), b"")
            self.assertEqual(server.matches("got its secret"), [])
        servers[0].wait_for("was refused its secret: Disabled")
        servers[1].wait_for("Client laptop removed by a test")
