"""What every state store promises."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.clock import TimeLine
from mandos_tx.formats.saved_state import KEY_BYTES
from mandos_tx.interfaces import StateStore

LINE = TimeLine("1b671a64-40d5-491e-99b0-da01ff1f3341", datetime(2026, 11, 1, 7, 30, 0, 250, tzinfo=UTC))
NOW = datetime(2026, 11, 20, 14, 56, 6, 739593, tzinfo=UTC)

# A lone surrogate is no character: no source of clients gives one.
texts = st.text(st.characters(exclude_categories=["Cs"]))
changes = st.dictionaries(texts, st.none() | texts, max_size=8)


def make_state_store_tests(
    fixture: Callable[[SynchronousTestCase], Callable[[], StateStore]],
) -> type[SynchronousTestCase]:
    """Make tests of stores; ``fixture`` gives a function whose stores all find what the one before saved."""

    class StateStoreTests(SynchronousTestCase):
        def setUp(self) -> None:
            self.open = fixture(self)

        def test_nothing_is_saved_at_first(self) -> None:
            store = self.open()
            self.addCleanup(store.close)
            saved = store.load()
            self.assertEqual(saved.documents, {})
            self.assertEqual((saved.generation, saved.time_line, saved.saved_at), (0, None, None))
            self.assertEqual(saved.problem, "")
            self.assertEqual(len(saved.key), KEY_BYTES)

        def test_what_was_saved_is_loaded(self) -> None:
            store = self.open()
            store.load()
            store.save({"a": "1", "b": "2", "c": "3"}, 1, LINE, NOW)
            store.save({"a": None, "b": "4"}, 2, LINE, NOW + timedelta(seconds=1))
            store.close()
            store = self.open()
            self.addCleanup(store.close)
            saved = store.load()
            self.assertEqual(saved.documents, {"b": "4", "c": "3"})
            self.assertEqual(saved.generation, 2)
            self.assertEqual(saved.time_line, LINE)
            self.assertEqual(saved.saved_at, NOW + timedelta(seconds=1))

        def test_the_key_stays_the_same(self) -> None:
            store = self.open()
            key = store.load().key
            store.close()
            store = self.open()
            self.addCleanup(store.close)
            self.assertEqual(store.load().key, key)

        def test_the_key_is_not_shown(self) -> None:
            store = self.open()
            self.addCleanup(store.close)
            saved = store.load()
            self.assertNotIn(repr(saved.key), repr(saved))
            self.assertNotIn(repr(saved.key), repr(store))

        def test_deleting_what_is_not_there_is_no_error(self) -> None:
            store = self.open()
            self.addCleanup(store.close)
            store.load()
            store.save({"a": None}, 1, LINE, NOW)

        def test_what_was_loaded_is_the_callers_own(self) -> None:
            store = self.open()
            store.load()
            store.save({"a": "1"}, 1, LINE, NOW)
            store.close()
            store = self.open()
            store.load().documents.clear()
            store.close()
            store = self.open()
            self.addCleanup(store.close)
            self.assertEqual(store.load().documents, {"a": "1"})

        @settings(max_examples=15, deadline=None)
        @given(st.lists(changes, min_size=1, max_size=5))
        def test_any_changes_add_up(self, commits: list[dict[str, str | None]]) -> None:
            store = self.open()
            before = store.load()
            expected = dict(before.documents)
            for number, commit in enumerate(commits, before.generation + 1):
                store.save(commit, number, LINE, NOW)
                expected |= {name: document for name, document in commit.items() if document is not None}
                expected = {name: document for name, document in expected.items() if commit.get(name, "") is not None}
            store.close()
            store = self.open()
            saved = store.load()
            store.close()
            self.assertEqual(saved.documents, expected)
            self.assertEqual(saved.generation, before.generation + len(commits))

    return StateStoreTests
