"""Giving memory back to the system: glibc keeps what a crowd of connections has freed, until it is asked."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return what is free (malloc_trim(3)); does nothing where the C library has no such function."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
