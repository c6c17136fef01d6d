"""What a test run leaves behind, and the secrets that must not be found in it.

``$MANDOS_TX_ARTEFACTS`` names the directory; without it there is a temporary one, removed at the end.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

VARIABLE = "MANDOS_TX_ARTEFACTS"


@cache
def directory() -> Path:
    if VARIABLE in os.environ:
        path = Path(os.environ[VARIABLE])
        path.mkdir(parents=True, exist_ok=True)
        return path
    path = Path(tempfile.mkdtemp(prefix="mandos-artefacts-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def left_behind() -> Path:
    """The directory that is searched for leaks."""
    path = directory() / "left-behind"
    path.mkdir(exist_ok=True)
    return path


def new_place(name: str) -> Path:
    """An empty directory for what one program leaves behind."""
    number = 1
    while True:
        place = left_behind() / f"{name}-{number}"
        try:
            place.mkdir()
        except FileExistsError:
            number += 1
        else:
            return place


def keep(path: Path, place: Path) -> None:
    """Copy a file or a directory, if it is there; sockets and pipes are left out."""
    if path.is_dir():
        for entry in path.iterdir():
            (place / path.name).mkdir(exist_ok=True)
            keep(entry, place / path.name)
    elif path.is_file():
        shutil.copyfile(path, place / path.name)


def remember_secret(name: str, secret: bytes) -> None:
    """What no artefact may contain; ``name`` is for the message of the test that finds it."""
    line = json.dumps({"name": name, "secret": base64.b64encode(secret).decode("ascii")})
    with _secrets().open("a", encoding="ascii") as file:
        file.write(line + "\n")


def remembered_secrets() -> Iterator[tuple[str, bytes]]:
    path = _secrets()
    if path.exists():
        for line in path.read_text("ascii").splitlines():
            entry = json.loads(line)
            yield entry["name"], base64.b64decode(entry["secret"])


def _secrets() -> Path:
    return directory() / "secrets.jsonl"
