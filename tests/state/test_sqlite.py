"""Tests of ``mandos_tx.state.sqlite``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.interfaces import StateStore
from mandos_tx.state.directory import StateDirectory
from mandos_tx.state.sqlite import SqliteStore
from tests.contracts.state_store import make_state_store_tests


def state_directory(test: SynchronousTestCase) -> Path:
    path = Path(test.mktemp())
    path.mkdir(parents=True)
    return path


def fixture(test: SynchronousTestCase) -> Callable[[], StateStore]:
    path = state_directory(test)
    return lambda: SqliteStore(StateDirectory(path))


class SqliteStoreTests(make_state_store_tests(fixture)):  # type: ignore[misc]  # a class made at run time
    """A store in a file."""
