"""The documents: whatever they link to in this project is there."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


class Links(SynchronousTestCase):
    def test_every_link_leads_to_a_file(self) -> None:
        documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/*.md")]
        broken = [
            f"{document.relative_to(ROOT)}: {target}"
            for document in documents
            for target in LINK.findall(document.read_text("utf-8"))
            if not (document.parent / target).exists()
        ]
        self.assertEqual(broken, [])
