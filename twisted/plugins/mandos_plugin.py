"""``twistd mandos``: tells twistd where the server is, without importing any of it."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

mandos = ServiceMaker(
    "Mandos",
    "mandos_tx.tap",
    "A Mandos server: gives computers the password to their encrypted root file system.",
    "mandos",
)
