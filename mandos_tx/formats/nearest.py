"""Which known option somebody may have meant who wrote an unknown one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache


def remedy_for_unknown(name: str, known: Iterable[str]) -> str:
    """What to do about an option of this name: it may be meant to be the nearest of the known ones."""
    return _remedy(name[:64], frozenset(known))


@lru_cache(maxsize=256)
def _remedy(name: str, known: frozenset[str]) -> str:
    nearest = get_close_matches(name, sorted(known), n=1)
    return f'perhaps "{nearest[0]}" is meant' if nearest else "it counts for nothing; remove it"
