"""The sample configuration in conf/ is right, also where it is commented out."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import ClientSettings
from mandos_tx.formats.clients_conf import SecretFile, parse_clients_conf
from mandos_tx.formats.ini import Document
from mandos_tx.formats.mandos_conf import VALUES, parse_mandos_conf
from mandos_tx.settings import ServerSettings

CONF = Path(__file__).parent.parent / "conf"


def sample(name: str, *, uncommented: bool) -> bytes:
    text = (CONF / name).read_text(encoding="utf-8")
    return (text.replace("\n;", "\n") if uncommented else text).encode()


class SampleTests(SynchronousTestCase):
    def test_clients_conf_defines_nobody_as_it_is(self) -> None:
        clients = parse_clients_conf([Document.decode("f", sample("clients.conf", uncommented=False))], self.secfile)
        self.assertEqual(([], [], []), (clients.definitions, clients.complaints, clients.warnings))

    def test_clients_conf_shows_the_defaults_and_two_clients(self) -> None:
        clients = parse_clients_conf([Document.decode("f", sample("clients.conf", uncommented=True))], self.secfile)
        self.assertEqual(([], []), (clients.complaints, clients.warnings))
        foo, bar = clients.definitions
        self.assertEqual(
            ClientSettings(foo.settings.key_id, None, foo.settings.secret, host="foo.example.org"), foo.settings
        )
        self.assertEqual(("bar", b"secret", False), (bar.name, bar.settings.secret, bar.settings.approved_by_default))

    def secfile(self, path: str, naming_file: str) -> SecretFile:
        return SecretFile(b"secret")

    def test_mandos_conf_shows_every_option_with_its_default(self) -> None:
        text = sample("mandos.conf", uncommented=True)
        conf, complaints, warnings = parse_mandos_conf("f", text)
        self.assertEqual(([], []), (complaints, warnings))
        defaults = ServerSettings()
        for name in VALUES:
            self.assertIn(f"\n{name} =", text.decode())
            self.assertIn(getattr(conf, name), (None, getattr(defaults, name)), name)

    def test_mandos_conf_sets_nothing_as_it_is(self) -> None:
        conf, complaints, warnings = parse_mandos_conf("f", sample("mandos.conf", uncommented=False))
        self.assertEqual(([], [], {}), (complaints, warnings, conf.lines))
