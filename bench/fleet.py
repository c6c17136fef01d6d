"""Makes a fleet: keys, secrets, and the files that servers and the load generator read of them.

As a program, ``python -m bench.fleet DIRECTORY --clients 1000``, it makes one to try a server by hand.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import random
from pathlib import Path

from attrs import frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET_BYTES = 1024


@frozen
class Fleet:
    """Where the files of a fleet are."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The directory of mandos.conf and clients.conf: every client."""
        return self.directory / "conf"

    @property
    def keys(self) -> Path:
        """What ``load deliver`` reads: the clients whose private keys exist."""
        return self.directory / "keys.list"

    @property
    def table(self) -> Path:
        """What ``floor`` reads: the same clients."""
        return self.directory / "floor.table"


def make_fleet(directory: Path, *, clients: int, keys: int, schedule: str = "", checker: str = ":") -> Fleet:
    """``clients`` clients with a secret of ``SECRET_BYTES`` each; the first ``keys`` of them have real key pairs.

    ``schedule`` is put into the section ``[DEFAULT]`` beside the checker. The same arguments make the same secrets.
    """
    fleet = Fleet(directory)
    fleet.configuration.mkdir(mode=0o700, parents=True)
    pairs = directory / "pairs"
    pairs.mkdir(mode=0o700)
    dice = random.Random(clients)
    with (
        open(fleet.configuration / "clients.conf", "w", encoding="ascii", opener=_private) as sections,
        fleet.keys.open("w", encoding="utf-8") as key_list,
        fleet.table.open("w", encoding="utf-8") as table,
    ):
        sections.write(f"[DEFAULT]\nchecker = {checker}\n{schedule}\n")
        for number in range(clients):
            secret = dice.randbytes(SECRET_BYTES)
            if number < keys:
                stem = pairs / str(number)
                key_id = _make_pair(stem)
                stem.with_suffix(".secret").write_bytes(secret)
                key_list.write(f"{stem}.key {stem}.pub {stem}.secret\n")
                table.write(f"{key_id} {stem}.secret\n")
            else:
                key_id = dice.randbytes(32).hex()
            text = base64.encodebytes(secret).decode().rstrip().replace("\n", "\n    ")
            sections.write(
                f"[client-{number}]\nhost = host-{number}.example.org\nkey_id = {key_id}\nsecret =\n    {text}\n\n"
            )
    with open(fleet.configuration / "mandos.conf", "w", encoding="ascii", opener=_private) as mandos_conf:
        mandos_conf.write("[DEFAULT]\n")
    return fleet


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _make_pair(stem: Path) -> str:
    """Write ``stem``.key and ``stem``.pub and return the key ID, SHA-256 of the SubjectPublicKeyInfo."""
    private = Ed25519PrivateKey.generate()
    stem.with_suffix(".key").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key()
    stem.with_suffix(".pub").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def main() -> None:
    """Make a fleet as the command line says."""
    parser = argparse.ArgumentParser(prog="bench.fleet", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=256, help="how many of them have key pairs (default 256)")
    parser.add_argument("--schedule", default="", help="more lines for [DEFAULT], such as 'interval = PT10S'")
    parser.add_argument("--checker", default=":")
    options = parser.parse_args()
    fleet = make_fleet(
        options.directory.resolve(),
        clients=options.clients,
        keys=options.keys,
        schedule=options.schedule,
        checker=options.checker,
    )
    print(f"--configdir {fleet.configuration}\nkeys {fleet.keys}\ntable {fleet.table}")


if __name__ == "__main__":
    main()
