"""What mandos-fetch makes of gpg, with a gpg that only says what it would."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.tools.openpgp import DecryptionError, decrypt, run_gpg

PUBLIC, SECRET = Path("/keys/pubkey.txt"), Path("/keys/seckey.txt")
IMPORTED = b"gpg: key 1 imported\n[GNUPG:] IMPORT_OK 17 ABC\n"
DECRYPTED = b"[GNUPG:] DECRYPTION_OKAY\n"


@define
class FakeGnuPG:
    """Answers an import and a decryption, and notes the commands and the key rings that existed meanwhile."""

    on_import: bytes = IMPORTED
    on_decrypt: bytes = DECRYPTED
    password: bytes = b"open sesame"
    commands: list[list[str]] = field(factory=list)
    homes: list[tuple[Path, int]] = field(factory=list)
    given: bytes = b""

    def __call__(self, command: Sequence[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(list(command))
        home = Path(command[command.index("--homedir") + 1])
        self.homes.append((home, home.stat().st_mode & 0o777))
        if "--import" in command:
            return subprocess.CompletedProcess(command, 0, b"", self.on_import)
        if "--decrypt" in command:
            self.given = data
            return subprocess.CompletedProcess(command, 0, self.password, self.on_decrypt)
        return subprocess.CompletedProcess(command, 0, b"", b"")


class Decryption(SynchronousTestCase):
    def test_password_is_what_gpg_makes_of_the_blob(self) -> None:
        gpg = FakeGnuPG()
        self.assertEqual(decrypt(b"blob", PUBLIC, SECRET, gpg), b"open sesame")
        self.assertEqual(gpg.given, b"blob")

    def test_both_keys_are_imported_first(self) -> None:
        gpg = FakeGnuPG()
        decrypt(b"blob", PUBLIC, SECRET, gpg)
        self.assertEqual(gpg.commands[0][-3:], ["--", str(PUBLIC), str(SECRET)])

    def test_key_ring_is_private_and_gone_afterwards(self) -> None:
        gpg = FakeGnuPG()
        decrypt(b"blob", PUBLIC, SECRET, gpg)
        self.assertEqual({mode for _, mode in gpg.homes}, {0o700})
        self.assertEqual({home.exists() for home, _ in gpg.homes}, {False})

    def test_agent_is_ended_also_after_a_failure(self) -> None:
        gpg = FakeGnuPG(on_import=b"gpg: no valid OpenPGP data found.\n")
        self.assertRaises(DecryptionError, decrypt, b"blob", PUBLIC, SECRET, gpg)
        self.assertEqual(gpg.commands[-1][0], "gpgconf")
        self.assertFalse(gpg.homes[0][0].exists())

    def test_keys_that_gpg_does_not_take_are_named_with_its_words(self) -> None:
        gpg = FakeGnuPG(on_import=b"gpg: no valid OpenPGP data found.\n[GNUPG:] NODATA 1\n")
        error = self.assertRaises(DecryptionError, decrypt, b"blob", PUBLIC, SECRET, gpg)
        self.assertEqual(str(error), "gpg cannot import /keys/seckey.txt: no valid OpenPGP data found.")

    def test_output_without_gpgs_assurance_is_no_password(self) -> None:
        gpg = FakeGnuPG(on_decrypt=b"gpg: WARNING: encrypted message has been manipulated!\n")
        error = self.assertRaises(DecryptionError, decrypt, b"blob", PUBLIC, SECRET, gpg)
        self.assertIn("manipulated", str(error))
        self.assertNotIn("sesame", str(error))

    def test_silence_is_said_to_be_silence(self) -> None:
        gpg = FakeGnuPG(on_decrypt=b"")
        error = self.assertRaises(DecryptionError, decrypt, b"blob", PUBLIC, SECRET, gpg)
        self.assertIn("does not say why", str(error))

    def test_program_that_is_missing_is_named(self) -> None:
        error = self.assertRaises(DecryptionError, run_gpg, ["/nonexistent/gpg"], b"")
        self.assertEqual(str(error), "/nonexistent/gpg cannot be run: No such file or directory")
