"""What the text of an option means: truth values, numbers, TIMEs, hexadecimal identifiers, base64.

Each function raises `Fault` with what is wrong and what would be right, and quotes the text unless it is secret.
"""

from __future__ import annotations

import binascii
import re
from datetime import timedelta

from mandos_tx.formats.complaint import Fault, show
from mandos_tx.formats.rfc3339 import DurationError, format_duration, parse_duration

_BOOLEANS = {
    "1": True,
    "yes": True,
    "true": True,
    "on": True,
    "0": False,
    "no": False,
    "false": False,
    "off": False,
}
_HEXADECIMAL = re.compile(r"[0-9A-F]*")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=]")


def boolean(text: str) -> bool:
    """yes, true, on or 1; no, false, off or 0; in any case of letters."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise Fault(f'"{show(text)}" is neither yes nor no', "write yes or no") from None


def number(text: str, least: int, most: int) -> int:
    """A decimal number in this range, both ends included."""
    remedy = f"write a number from {least} to {most}"
    if not (text.isascii() and text.isdigit()):
        raise Fault(f'"{show(text)}" is not a number', remedy)
    significant = text.lstrip("0")
    if len(significant) > len(str(most)) or not least <= int(significant or "0") <= most:
        raise Fault(f"{show(text)} is out of range", remedy)
    return int(significant or "0")


def duration(text: str) -> timedelta:
    """A TIME as clients.conf has it."""
    try:
        return parse_duration(text)
    except DurationError as error:
        remedy = "write an RFC 3339 duration such as PT5M or P1DT12H, not longer than P36525D"
        raise Fault(f'"{show(text)}" is {error}', remedy) from None


def duration_within(text: str, least: timedelta, most: timedelta) -> timedelta:
    """A TIME in this range, both ends included."""
    found = duration(text)
    if not least <= found <= most:
        limits = f"write a duration from {format_duration(least)} to {format_duration(most)}"
        raise Fault(f'"{show(text)}" is out of range', limits)
    return found


def hexadecimal(text: str, *lengths: int) -> str:
    """Upper-case hexadecimal digits without white space, as many as one of the lengths says; or nothing at all."""
    digits = "".join(text.split()).upper()
    wanted = f"write {' or '.join(map(str, lengths))} hexadecimal digits"
    if not _HEXADECIMAL.fullmatch(digits):
        raise Fault(f'"{show(text)}" is not hexadecimal', wanted)
    if digits and len(digits) not in lengths:
        raise Fault(f"{len(digits)} hexadecimal digits", wanted)
    return digits


def base64(text: str) -> bytes:
    """What the base64 text, which may contain white space, stands for; at least one byte."""
    packed = "".join(text.split())
    if not packed:
        raise Fault("empty", "give the base64 text that mandos-keygen --password prints")
    remedy = "copy the whole of what mandos-keygen --password prints, each line after white space"
    try:
        return binascii.a2b_base64(packed, strict_mode=True)
    except ValueError:
        stranger = _NOT_BASE64.search(packed)
    if stranger:
        line = next(
            number for number, row in enumerate(text.split("\n"), 1) if _NOT_BASE64.search("".join(row.split()))
        )
        raise Fault(f"not base64: a character that is none of its alphabet, in line {line} of the value", remedy)
    if "=" in packed.rstrip("="):
        raise Fault('not base64: there is text after the "=" that ends it', remedy)
    raise Fault("not base64: it is cut short or damaged", remedy)
