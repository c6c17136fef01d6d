"""What is in the state's file: its tables, and how to read, verify and write them.

=========  ============================================================================================
clients    name, document (``mandos_tx.formats.saved_state``), digest of both
server     one row: generation, the time line, when it was saved, the sum of all digests, and a digest
           of that row. A page that was lost, torn or brought back from an older time cannot pass: the
           sum would not be right.
=========  ============================================================================================
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b

from attrs import define

from mandos_tx.clock import TimeLine

APPLICATION_ID = 0x4D4E4458
"""Marks our files, in the header at offset 68 (SQLite's file format, 1.3.14)."""

_DIGEST_BYTES = 16
_MODULUS = 1 << 8 * _DIGEST_BYTES


class Damaged(Exception):
    """The content is not what was written."""


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE clients (name TEXT PRIMARY KEY NOT NULL, document TEXT NOT NULL, digest BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE server (only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL,"
        " boot_id TEXT NOT NULL, epoch TEXT, saved_at TEXT, total BLOB NOT NULL, digest BLOB NOT NULL)"
    )
    write_server(connection, Server())


Step = Callable[[sqlite3.Connection], None]
STEPS: tuple[Step, ...] = (_create,)
"""The n-th brings a file of version n to version n + 1; never change one that was released."""


@define
class Server:
    """The row that speaks for all the others."""

    generation: int = 0
    time_line: TimeLine | None = None
    saved_at: datetime | None = None
    total: int = 0

    def columns(self) -> tuple[int, str, str | None, str | None, bytes]:
        line = self.time_line
        return (
            self.generation,
            line.boot_id if line else "",
            line.epoch.isoformat() if line else None,
            self.saved_at.isoformat() if self.saved_at else None,
            self.total.to_bytes(_DIGEST_BYTES, "big"),
        )


def take_step(connection: sqlite3.Connection, number: int, step: Step) -> None:
    connection.execute("BEGIN IMMEDIATE")
    step(connection)
    connection.execute(f"PRAGMA user_version = {number + 1}")
    connection.execute("COMMIT")


def read_all(connection: sqlite3.Connection) -> tuple[dict[str, str], Server]:
    verdicts = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if verdicts != ["ok"]:
        raise Damaged("; ".join(map(str, verdicts)))
    server = read_server(connection)
    documents: dict[str, str] = {}
    total = 0
    for name, document, digest in connection.execute("SELECT name, document, digest FROM clients"):
        if not isinstance(name, str) or not isinstance(document, str) or _digest(name, document) != digest:
            raise Damaged(f"what is saved of {name!r} is not what was written")
        documents[name] = document
        total += int.from_bytes(digest, "big")
    if total % _MODULUS != server.total:
        raise Damaged("some clients are missing or out of date")
    return documents, server


def read_server(connection: sqlite3.Connection) -> Server:
    rows = connection.execute("SELECT generation, boot_id, epoch, saved_at, total, digest FROM server").fetchall()
    if len(rows) != 1 or _digest_of_server(rows[0][:-1]) != rows[0][-1]:
        raise Damaged("its head is not what was written")
    generation, boot_id, epoch, saved_at, total, _ = rows[0]
    return Server(
        generation,
        None if epoch is None else TimeLine(boot_id, _instant(epoch)),
        None if saved_at is None else _instant(saved_at),
        int.from_bytes(total, "big"),
    )


def write_server(connection: sqlite3.Connection, server: Server) -> None:
    columns = server.columns()
    connection.execute(
        "REPLACE INTO server (only, generation, boot_id, epoch, saved_at, total, digest) VALUES (1, ?, ?, ?, ?, ?, ?)",
        (*columns, _digest_of_server(columns)),
    )


def put(connection: sqlite3.Connection, changes: Mapping[str, str | None], total: int) -> int:
    """Write documents, or delete them, and return what becomes of the ``total`` of all digests."""
    difference = 0
    for name, document in changes.items():
        old = connection.execute("SELECT digest FROM clients WHERE name = ?", (name,)).fetchone()
        if old is not None:
            difference -= int.from_bytes(old[0], "big")
        if document is None:
            connection.execute("DELETE FROM clients WHERE name = ?", (name,))
            continue
        digest = _digest(name, document)
        difference += int.from_bytes(digest, "big")
        connection.execute(
            "INSERT INTO clients (name, document, digest) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET document = excluded.document, digest = excluded.digest",
            (name, document, digest),
        )
    return (total + difference) % _MODULUS


def _digest(name: str, document: str) -> bytes:
    hashed = blake2b(document.encode(), digest_size=_DIGEST_BYTES)
    hashed.update(b"\0" + name.encode())
    return hashed.digest()


def _digest_of_server(columns: tuple[object, ...]) -> bytes:
    return blake2b(repr(columns).encode(), digest_size=_DIGEST_BYTES).digest()


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
