"""mandos-fetch against the original server and ours, with real keys and the real gpg."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from tests.integration.harness import Fetch, OriginalServer, ServerProcess, ServerTestCase


class Contract:
    """Not a test case itself, so that Trial leaves it alone."""

    class WithAnyServer(ServerTestCase):
        """What mandos-fetch does, whoever answers."""

        def start(self, *sections: str) -> ServerProcess | OriginalServer:
            raise NotImplementedError

        def setUp(self) -> None:
            self.laptop = self.keys("laptop")
            self.running = self.start(self.laptop.section(checker=":"))

        def test_password_is_printed_without_a_newline(self) -> None:
            client = self.fetch([self.running], self.laptop)
            self.assertEqual(client.wait(30), 0, client.log)
            self.assertEqual(client.output, self.laptop.password)
            self.assertEqual(client.log, "")

        def test_no_temporary_key_ring_is_left(self) -> None:
            self.fetch([self.running], self.laptop).wait(30)
            self.assertEqual(list(Path(tempfile.gettempdir()).glob("mandos-fetch-*")), [])

        def test_blob_is_the_secret_as_the_server_has_it(self) -> None:
            client = self.fetch([self.running], self.laptop, ["--blob", "--once"])
            self.assertEqual(client.wait(30), 0, client.log)
            self.assertEqual(client.output, self.laptop.secret)

        def test_unknown_key_is_refused_in_one_line_and_another_names_the_key_id(self) -> None:
            stranger = self.keys("stranger")
            client = self.fetch([self.running], stranger, ["--once"])
            self.assertEqual(client.wait(30), 1)
            self.assertEqual(client.output, b"")
            self.assertEqual(len(client.lines), 2)
            self.assertIn("closed without a secret", client.lines[0])
            self.assertIn(stranger.key_id, client.lines[1])

        def test_second_server_is_asked_when_the_first_is_not_there(self) -> None:
            absent = ("::1", self.free_port())
            client = self.started(Fetch([absent, self.running.address], self.laptop))
            self.assertEqual(client.wait(30), 0, client.log)
            self.assertEqual(client.output, self.laptop.password)
            self.assertIn("Connection refused", client.log)

        def test_secret_for_another_computer_is_not_decrypted(self) -> None:
            other = self.keys("stranger")
            mixed = self.start(self.laptop.section(checker=":", secret=other.options["secret"]))
            client = self.fetch([mixed], self.laptop, ["--once"])
            self.assertEqual(client.wait(30), 65, client.log)
            self.assertIn("No secret key", client.log)

        def test_waits_for_a_server_that_comes_later_until_it_is_told_to_stop(self) -> None:
            client = self.started(Fetch([("::1", self.free_port())], self.laptop, ["--retry=0.05"]))
            client.wait_for("Connection refused")
            self.assertEqual(client.stop(), 128 + signal.SIGTERM)

        def test_gives_up_in_time(self) -> None:
            client = self.started(Fetch([("::1", self.free_port())], self.laptop, ["--retry=0.05", "--timeout=0.5"]))
            self.assertEqual(client.wait(), 1)
            self.assertIn("no secret within 0.5 s", client.log)


class FromTheOriginalServer(Contract.WithAnyServer):
    def start(self, *sections: str) -> OriginalServer:
        return self.original_server(*sections)


class FromOurServer(Contract.WithAnyServer):
    def start(self, *sections: str) -> ServerProcess:
        return self.server(*sections)
