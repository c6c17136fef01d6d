"""Every malformed configuration in tests/corpus is refused with the lines that its file ``expected`` has.

Each directory is a configuration directory, as an administrator may come to have it.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration_files import LocalFiles
from mandos_tx.formats.complaint import ConfigurationError
from mandos_tx.settings import Options, read_everything

CORPUS = Path(__file__).parent / "corpus"


class CorpusTests(SynchronousTestCase):
    def complaints(self, directory: Path) -> list[str]:
        options = Options()
        # Modes are not kept in a repository.
        options.parseOptions(["--configdir", str(directory), "--no-strict-modes"])
        with self.assertRaises(ConfigurationError, msg=directory.name) as caught:
            read_everything(options, LocalFiles())
        return [str(complaint).replace(f"{directory}/", "") for complaint in caught.exception.complaints]

    def test_every_configuration_is_refused_with_the_lines_expected(self) -> None:
        for directory in sorted(CORPUS.iterdir()):
            expected = (directory / "expected").read_text(encoding="utf-8").splitlines()
            self.assertEqual(expected, self.complaints(directory), directory.name)
            self.assertTrue(expected, directory.name)

    def test_it_is_large_and_some_have_many_faults(self) -> None:
        counts = [len(self.complaints(directory)) for directory in CORPUS.iterdir()]
        self.assertGreaterEqual(len(counts), 60)
        self.assertGreaterEqual(sum(count >= 3 for count in counts), 6)
