"""No secret, whole or in part, in anything that the integration tests left behind."""

from __future__ import annotations

import os

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.integration.harness import artefacts
from tests.leaks.scanner import Scanner


class LeftBehind(SynchronousTestCase):
    """Logs at debug level, state, audit, and the command lines and environments of the servers."""

    def setUp(self) -> None:
        if artefacts.VARIABLE not in os.environ:
            raise SkipTest(f"{artefacts.VARIABLE} does not say where the integration tests left anything")
        self.files = [path for path in sorted(artefacts.left_behind().rglob("*")) if path.is_file()]

    def test_there_is_something_to_search(self) -> None:
        """A search in nothing finds nothing."""
        self.assertGreater(len(list(artefacts.remembered_secrets())), 3)
        self.assertGreater(len([path for path in self.files if path.name == "stderr" and path.stat().st_size]), 3)

    def test_no_secret_is_in_it(self) -> None:
        scanner = Scanner(artefacts.remembered_secrets())
        found = [
            f"{path.relative_to(artefacts.left_behind())}: {name}"
            for path in self.files
            for name in sorted(scanner.find(path.read_bytes()))
        ]
        self.assertEqual(found, [])
