"""The first line of a conversation: the protocol version, in at most 256 bytes (mandos(8), "NETWORK PROTOCOL").

    line = *WSP "1" *( WSP field ) ( LF / CR LF )

What follows the first field on the line is ignored. Nothing may follow the line: it is then our turn to speak.
"""

from __future__ import annotations

MAX_LINE = 256
"""Bytes, the end of the line included."""

VERSION = b"1"


class BadGreeting(Exception):
    """The line is not one that we answer; the text says why, and is safe to log."""


def read_greeting(received: bytes) -> bool:
    """Judge what has come so far: True if the line is complete and good, False if more is needed.

    The result does not depend on how the bytes were cut up in transit. Raises BadGreeting.
    """
    end = received.find(b"\n", 0, MAX_LINE)
    if end < 0:
        if len(received) >= MAX_LINE:
            raise BadGreeting(f"no end of line within {MAX_LINE} bytes")
        return False
    fields = received[:end].split(maxsplit=1)
    if not fields or fields[0] != VERSION:
        raise BadGreeting(f"unknown protocol version {_excerpt(fields[0] if fields else b'')}")
    if end + 1 != len(received):
        raise BadGreeting("more bytes than the line")
    return True


def _excerpt(field: bytes) -> str:
    """At most 20 bytes, escaped, quoted."""
    return repr(field[:20])[1:] + ("..." if len(field) > 20 else "")
