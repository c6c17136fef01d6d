"""Client keys as the original's mandos-keygen makes them."""

from __future__ import annotations

import atexit
import base64
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from attrs import evolve, field, frozen
from twisted.trial.unittest import SkipTest

from mandos_tx.wire.gnutls import Context
from tests.integration.harness import artefacts

KEYGEN = "mandos-keygen"


@frozen
class Keys:
    """One client's keys, its password, and what belongs into clients.conf."""

    name: str
    directory: Path
    password: bytes = field(repr=False)
    options: dict[str, str] = field(repr=False)
    """The options of its section, as keygen prints them."""

    @classmethod
    def generate(cls, name: str, tls_type: str = "ed25519") -> Keys:
        """Keys for a client of this name; the same ones for the whole run. Skips the test without mandos-keygen."""
        return _generate(name, tls_type)

    @property
    def key_id(self) -> str:
        """As the server shows it: 64 upper-case digits."""
        return self.options["key_id"].upper()

    @property
    def secret(self) -> bytes:
        """The OpenPGP blob that the server is to send."""
        return base64.b64decode(self.options["secret"])

    def tls_context(self, priority: str) -> Context:
        """The TLS end that proves this key; its sessions block."""
        public, private = ((self.directory / name).read_bytes() for name in ("tls-pubkey.pem", "tls-privkey.pem"))
        return Context.with_key(priority, public, private, nonblocking=False)

    def section(self, **options: str) -> str:
        """This client's section of clients.conf; ``options`` are added or take the place of keygen's."""
        body = {**self.options, **options}
        return "\n".join([f"[{self.name}]", *(f"{key} = {value}" for key, value in body.items()), ""])

    def section_with_file(self, secret: Path, **options: str) -> str:
        """As ``section``, but with the secret in a file."""
        rest = {name: value for name, value in self.options.items() if name != "secret"}
        return evolve(self, options={**rest, "secfile": str(secret)}).section(**options)

    def files(self) -> list[str]:
        """The options that name the four key files, which mandos-client and mandos-fetch have in common."""
        names = {"pubkey": "pubkey.txt", "seckey": "seckey.txt"}
        names.update({"tls-pubkey": "tls-pubkey.pem", "tls-privkey": "tls-privkey.pem"})
        return [f"--{option}={self.directory / name}" for option, name in names.items()]


@cache
def _directory() -> Path:
    path = Path(tempfile.mkdtemp(prefix="mandos-keys-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def _generate(name: str, tls_type: str) -> Keys:
    if shutil.which(KEYGEN, path=f"{os.defpath}:/usr/sbin:/sbin") is None:
        raise SkipTest(f"{KEYGEN} is not installed (package mandos-client)")
    directory = Path(tempfile.mkdtemp(dir=_directory()))
    # 2048 bits, as 4096 take seconds.
    _keygen("--dir", directory, "--name", name, "--length=2048", "--sublength=2048", f"--tls-keytype={tls_type}")
    password = secrets.token_urlsafe(32).encode("ascii")
    password_file = directory / "password"
    password_file.write_bytes(password)
    section = _keygen("--dir", directory, "--name", name, "--passfile", password_file, "--no-ssh")
    keys = Keys(name, directory, password, _options(section))
    artefacts.remember_secret(f"password of {name}", password)
    artefacts.remember_secret(f"secret of {name}", keys.secret)
    for public, private in (("tls-pubkey.pem", "tls-privkey.pem"), ("pubkey.txt", "seckey.txt")):
        for part in _private_parts(_pem_body(directory / private), _pem_body(directory / public)):
            artefacts.remember_secret(f"{private} of {name}", part)
    return keys


def _keygen(*arguments: str | Path) -> str:
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    done = subprocess.run(
        [KEYGEN, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise AssertionError(f"{KEYGEN} failed: {done.stderr}")
    return done.stdout


def _options(section: str) -> dict[str, str]:
    """The lines of a section, continuation lines joined to theirs."""
    options: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if match := re.match(r"(\w+) =\s*(.*)", line):
            name = match[1]
            options[name] = match[2]
        elif line.startswith(" ") and name:
            options[name] += f"\n{line}"
    return options


def _pem_body(path: Path) -> bytes:
    """The bytes inside PEM or OpenPGP armour, which ends with a check sum of its own."""
    lines = [line for line in path.read_text("ascii").splitlines() if re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", line)]
    return base64.b64decode("".join(lines))


def _private_parts(private: bytes, public: bytes) -> Iterator[bytes]:
    """What the file of a private key has and that of the public key, with its fingerprints, has not."""
    known = {public[i : i + 8] for i in range(len(public) - 7)}
    shared = bytearray(len(private))
    for i in range(len(private) - 7):
        if private[i : i + 8] in known:
            shared[i : i + 8] = b"\1" * 8
    for match in re.finditer(rb"\0{16,}", shared):
        yield private[match.start() : match.end()]
