"""A state store that forgets everything with the process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

from attrs import define, evolve, field

from mandos_tx.clock import TimeLine
from mandos_tx.formats.saved_state import KEY_BYTES
from mandos_tx.interfaces import SavedState


def _nothing() -> SavedState:
    return SavedState({}, os.urandom(KEY_BYTES))


@define(eq=False)
class MemoryStore:
    """For tests and self-tests; hand one's ``saved`` to the next to restart."""

    saved: SavedState = field(factory=_nothing, repr=False)

    def load(self) -> SavedState:
        return evolve(self.saved, documents=dict(self.saved.documents))

    def save(self, changes: Mapping[str, str | None], generation: int, time_line: TimeLine, saved_at: datetime) -> None:
        documents = {**self.saved.documents, **changes}
        self.saved = SavedState(
            documents={name: document for name, document in documents.items() if document is not None},
            key=self.saved.key,
            generation=generation,
            time_line=time_line,
            saved_at=saved_at,
        )

    def close(self) -> None:
        """Nothing is held open."""
