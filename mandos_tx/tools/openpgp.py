"""Decrypts a client's secret with the gpg program, in a key ring that exists only meanwhile."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

Run = Callable[[Sequence[str], bytes], "subprocess.CompletedProcess[bytes]"]

MAX_PASSWORD = 64 * 2**20
"""Bytes: what a small secret may unpack to, as gpg would unpack any amount."""
_PATIENCE = 60.0
"""Seconds for one call of gpg, which starts an agent and reads keys, but never asks anybody."""


class DecryptionError(Exception):
    """The secret was not decrypted; says what gpg says."""


def decrypt(blob: bytes, public_key: Path, secret_key: Path, run: Run | None = None) -> bytes:
    """The password inside ``blob``, for the key pair that mandos-keygen(8) put into these two files.

    As with the original client, a signature is not required: who may answer is the Mandos server's business, what it
    answers was encrypted to a key that only the client has.
    """
    run = run or run_gpg
    # ignore_cleanup_errors: the agent removes its sockets at the same time.
    with tempfile.TemporaryDirectory(prefix="mandos-fetch-", ignore_cleanup_errors=True) as home:
        gpg = ["gpg", "--homedir", home, "--batch", "--no-tty", "--quiet", "--no-options", "--status-fd=2"]
        try:
            imported = run([*gpg, "--import", "--", str(public_key), str(secret_key)], b"")
            if b"[GNUPG:] IMPORT_OK" not in imported.stderr:
                raise DecryptionError(f"gpg cannot import {secret_key}: {_last_words(imported.stderr)}")
            done = run([*gpg, f"--max-output={MAX_PASSWORD}", "--decrypt"], blob)
        finally:
            # gpg has started an agent for this key ring.
            run(["gpgconf", "--homedir", home, "--kill", "all"], b"")
    if b"[GNUPG:] DECRYPTION_OKAY" not in done.stderr:
        raise DecryptionError(f"gpg cannot decrypt with {secret_key}: {_last_words(done.stderr)}")
    return done.stdout


def run_gpg(command: Sequence[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a program of GnuPG's, in its untranslated language; DecryptionError if it cannot be run."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        # A list and no shell; the paths in it are the administrator's own.
        return subprocess.run(  # noqa: S603
            command, input=data, capture_output=True, env=environment, timeout=_PATIENCE
        )
    except OSError as error:
        raise DecryptionError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise DecryptionError(f"{command[0]} did not end within {_PATIENCE:.0f} s") from None


def _last_words(stderr: bytes) -> str:
    """The last thing that gpg said for people; the status lines are for programs."""
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if not line.startswith("[GNUPG:]")]
    said = lines[-1] if lines else "it does not say why"
    return said.removeprefix("gpg: ")
