"""Tests of ``mandos_tx.core.client`` and ``mandos_tx.core.happenings``."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import ClientSettings, Disabled
from mandos_tx.core.happenings import Change, ClientAdded, Enable
from mandos_tx.core.lifecycle import newborn
from tests.fakes import START, definition_of


class ClientTests(SynchronousTestCase):
    def test_the_secret_is_in_no_repr(self) -> None:
        client = newborn(evolve(definition_of(), settings=ClientSettings(None, None, b"canary")), START, 0.5)
        for shown in (client, client.settings, client.definition, Change(client, client, (ClientAdded(),), START)):
            self.assertNotIn("canary", repr(shown))
            self.assertNotIn("canary", str(shown))

    def test_it_is_enabled_until_it_expires_or_not_at_all(self) -> None:
        client = newborn(definition_of(), START, 0.5)
        self.assertTrue(client.enabled)
        self.assertIsNotNone(client.expires)
        client = evolve(client, standing=Disabled())
        self.assertFalse(client.enabled)
        self.assertIsNone(client.expires)

    def test_first_checks_are_spread_over_the_interval(self) -> None:
        spreads = {Enable().spread for _ in range(100)}
        self.assertGreater(len(spreads), 50)
        self.assertTrue(all(0 <= spread < 1 for spread in spreads))
