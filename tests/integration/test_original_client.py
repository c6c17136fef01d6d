"""The main job: the original's client, with keys from the original's mandos-keygen, gets its password from us."""

from __future__ import annotations

from tests.integration.harness import ServerTestCase


class OriginalClient(ServerTestCase):
    def test_it_gets_its_password_from_files_that_the_original_would_take(self) -> None:
        keys = self.keys("laptop")
        server = self.server(keys.section())
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)
        server.wait_for("laptop")
        self.assertEqual(server.stop(), 0)

    def test_other_kinds_of_keys_are_as_good(self) -> None:
        """RSA too, but a key that is long enough takes certtool up to a minute."""
        for tls_type in ("ecdsa", "ed448"):
            keys = self.keys(f"with-{tls_type}", tls_type)
            server = self.server(keys.section(checker=":"))
            self.assertEqual(self.mandos_client(server, keys).password(), keys.password, tls_type)

    def test_three_servers_on_three_ports_serve_at_once(self) -> None:
        clients = [self.keys(name) for name in ("laptop", "desktop", "rack")]
        sections = [keys.section(checker=":") for keys in clients]
        starting = [self.server(*sections, wait=False) for _ in range(3)]
        for server in starting:
            server.wait_until_listening()
        self.assertEqual(len({server.port for server in starting}), 3)
        asking = [(keys, self.mandos_client(server, keys)) for server in starting for keys in clients]
        for keys, client in asking:
            self.assertEqual(client.password(), keys.password)
        for server in starting:
            self.assertEqual(server.stop(), 0)

    def test_it_is_served_over_ipv4_too(self) -> None:
        keys = self.keys("laptop")
        server = self.server(keys.section(checker=":"), host="127.0.0.1", arguments=["--no-ipv6"])
        self.assertEqual(self.mandos_client(server, keys).password(), keys.password)

    def test_stranger_gets_nothing_and_goes_on_asking(self) -> None:
        keys, stranger = self.keys("laptop"), self.keys("stranger")
        server = self.server(keys.section(checker=":"))
        client = self.mandos_client(server, stranger)
        server.wait_for(f"(?i){stranger.key_id}")
        server.wait_for(f"(?i){stranger.key_id}", since=server.mark())
        self.assertTrue(client.is_running())
        self.assertEqual(client.output, b"")
