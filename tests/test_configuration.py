"""The configuration directory: what is read, in which order, and what keeps it from being used."""

from __future__ import annotations

import stat

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.configuration import Configuration, describe, load
from mandos_tx.configuration_files import Access, ConfigFile, RecordedFiles
from mandos_tx.formats.complaint import ConfigurationError

DIRECTORY = Access("/etc/mandos", stat.S_IFDIR | 0o755, 0)


def config_file(content: str | bytes, mode: int = 0o600, path: str = "/etc/mandos/f") -> ConfigFile:
    data = content.encode() if isinstance(content, str) else content
    return ConfigFile(data, Access(path, stat.S_IFREG | mode, 0), (DIRECTORY,))


def client(name: str, number: int, more: str = "") -> str:
    return f"[{name}]\nkey_id = {number:064x}\nsecret = eA==\nhost = h\n{more}"


def in_memory(
    files: dict[str, str | bytes | ConfigFile | OSError], directory: Access = DIRECTORY, trusted: int = 0
) -> RecordedFiles:
    """Files of these names below /etc/mandos, and their directory clients.d, if any is in it."""
    names = tuple(sorted(path.removeprefix("clients.d/") for path in files if path.startswith("clients.d/")))
    return RecordedFiles(
        frozenset({trusted}),
        {
            f"/etc/mandos/{path}": config_file(found) if isinstance(found, str | bytes) else found
            for path, found in files.items()
        },
        {"/etc/mandos/clients.d": (directory, names)} if names else {},
    )


class LoadTests(SynchronousTestCase):
    def load(self, files: dict[str, str | bytes | ConfigFile | OSError], strict: bool = True) -> Configuration:
        return load("/etc/mandos", in_memory(files), strict=strict)

    def complaints(self, files: RecordedFiles) -> list[str]:
        with self.assertRaises(ConfigurationError) as caught:
            load("/etc/mandos", files)
        return [str(complaint).partition(";")[0] for complaint in caught.exception.complaints]

    def test_a_directory_without_files_has_no_clients_and_says_so(self) -> None:
        for files in ({}, {"clients.conf": ""}, {"clients.conf": "[DEFAULT]\n"}):
            configuration = self.load(dict(files))
            self.assertEqual((), configuration.definitions)
            [warning] = configuration.warnings
            self.assertIn("/etc/mandos/clients.conf: No clients defined; ", str(warning))

    def test_clients_conf_comes_first_then_clients_d_by_name(self) -> None:
        configuration = self.load(
            {
                "clients.d/20-b.conf": client("b", 3),
                "clients.conf": "[DEFAULT]\ntimeout = PT7M\n" + client("z", 1),
                "clients.d/10-c.conf": client("c", 2),
            }
        )
        self.assertEqual(["z", "c", "b"], [definition.name for definition in configuration.definitions])
        self.assertEqual({420}, {definition.settings.timeout.seconds for definition in configuration.definitions})
        self.assertEqual((), configuration.warnings)

    def test_clients_d_does_not_need_clients_conf(self) -> None:
        self.assertEqual(1, len(self.load({"clients.d/a.conf": client("a", 1)}).definitions))

    def test_only_files_named_conf_count_and_no_hidden_ones(self) -> None:
        files = {
            name: client(name, n) for n, name in enumerate(["clients.d/.a.conf", "clients.d/b.conf~", "clients.d/c"])
        }
        self.assertEqual((), self.load(dict(files)).definitions)

    def test_a_secfile_is_found_beside_the_file_that_names_it(self) -> None:
        configuration = self.load(
            {
                "clients.conf": "[a]\nhost = h\nkey_id = " + "a" * 64 + "\nsecfile = sec/a\n",
                "sec/a": config_file(b"\0one"),
                "clients.d/b.conf": "[b]\nhost = h\nkey_id = " + "b" * 64 + "\nsecfile = /etc/mandos/sec/b\n",
                "sec/b": config_file(b"\0two"),
            }
        )
        self.assertEqual([b"\0one", b"\0two"], [definition.settings.secret for definition in configuration.definitions])

    def test_home_directories_and_variables_are_for_the_files_to_know(self) -> None:
        for path in ("~mandos/secret", "$CREDENTIALS_DIRECTORY/secret"):
            files = in_memory({"clients.conf": f"[a]\nhost = h\nkey_id = {'a' * 64}\nsecfile = {path}\n"})
            files = RecordedFiles(files.trusted, {**files.read_files, path: config_file(b"x")}, {})
            self.assertEqual(b"x", load("/etc/mandos", files).definitions[0].settings.secret)

    def test_every_complaint_of_every_file_comes_at_once(self) -> None:
        files = in_memory(
            {
                "clients.conf": config_file("[a]\nkey_id = x\nsecfile = s\n", 0o660, "/etc/mandos/clients.conf"),
                "clients.d/a.conf": "junk\n",
                "clients.d/b.conf": PermissionError(13, "Permission denied"),
                "clients.d/c.conf": FileNotFoundError(2, "No such file or directory"),
                "clients.d/d.conf": client("d", 1, "timeout = 5\n"),
            }
        )
        self.assertEqual(
            [
                "/etc/mandos/clients.conf: /etc/mandos/clients.conf can be written by its group (mode 0660)",
                "/etc/mandos/clients.d/b.conf: cannot be read: Permission denied",
                "/etc/mandos/clients.d/c.conf: cannot be read: No such file or directory",
                '/etc/mandos/clients.conf:2: [a] key_id: "x" is not hexadecimal',
                "/etc/mandos/clients.conf:3: [a] secfile: s cannot be read: others may write the configuration",
                "/etc/mandos/clients.d/a.conf:1: text before the first section",
                '/etc/mandos/clients.d/d.conf:5: [d] timeout: "5" is not a duration',
            ],
            self.complaints(files),
        )

    def test_a_secfile_that_others_may_write_is_refused(self) -> None:
        text = f"[a]\nhost = h\nkey_id = {'a' * 64}\nsecfile = s\n"
        files = in_memory({"clients.conf": text, "s": config_file(b"x", 0o602, "/etc/mandos/s")})
        self.assertEqual(
            ["/etc/mandos/clients.conf:4: [a] secfile: /etc/mandos/s can be written by others (mode 0602)"],
            self.complaints(files),
        )

    def test_the_servers_user_may_have_secfiles_but_no_configuration(self) -> None:
        text = f"[a]\nhost = h\nkey_id = {'a' * 64}\nsecfile = s\n"
        own = ConfigFile(b"x", Access("/etc/mandos/s", stat.S_IFREG | 0o600, 103), (DIRECTORY,))
        configuration = evolve(in_memory({"clients.conf": text, "s": own}), server_users=frozenset({103}))
        self.assertEqual(1, len(load("/etc/mandos", configuration).definitions))
        conf = ConfigFile(text.encode(), Access("/etc/mandos/clients.conf", stat.S_IFREG | 0o600, 103), (DIRECTORY,))
        self.assertEqual(
            [
                "/etc/mandos/clients.conf: /etc/mandos/clients.conf belongs to user ID 103",
                "/etc/mandos/clients.conf:4: [a] secfile: s cannot be read: others may write the configuration",
            ],
            self.complaints(evolve(in_memory({"clients.conf": conf}), server_users=frozenset({103}))),
        )

    def test_files_that_cannot_be_read_are_complained_of(self) -> None:
        files = RecordedFiles(
            frozenset({0}),
            {"/etc/mandos/clients.conf": PermissionError(13, "Permission denied")},
            {"/etc/mandos/clients.d": NotADirectoryError(20, "Not a directory")},
        )
        self.assertEqual(
            [
                "/etc/mandos/clients.conf: cannot be read: Permission denied",
                "/etc/mandos/clients.d: cannot be read: Not a directory",
            ],
            self.complaints(files),
        )

    def test_a_directory_clients_d_that_others_may_write_is_refused(self) -> None:
        writable = Access("/etc/mandos/clients.d", stat.S_IFDIR | 0o777, 0)
        files = in_memory({"clients.d/a.conf": client("a", 1)}, directory=writable)
        [complaint] = self.complaints(files)
        self.assertIn("/etc/mandos/clients.d can be written by others (mode 0777)", complaint)
        self.assertEqual(1, len(load("/etc/mandos", files, strict=False).definitions))

    def test_strict_modes_can_be_turned_off(self) -> None:
        text = "[a]\nhost = h\nkey_id = " + "a" * 64 + "\nsecfile = s\n"
        configuration = self.load(
            {"clients.conf": config_file(text, 0o660), "s": config_file(b"x", 0o660)}, strict=False
        )
        self.assertEqual(1, len(configuration.definitions))

    def test_what_others_can_read_is_a_warning(self) -> None:
        text = "[a]\nhost = h\nkey_id = " + "a" * 64 + "\nsecfile = s\n"
        configuration = self.load(
            {
                "clients.conf": config_file(text, 0o644, "/etc/mandos/clients.conf"),
                "s": config_file(b"x", 0o604, "/etc/mandos/s"),
            }
        )
        self.assertEqual(
            [
                "/etc/mandos/clients.conf: /etc/mandos/clients.conf can be read by others (mode 0644)",
                "/etc/mandos/clients.conf:4: [a] secfile: /etc/mandos/s can be read by others (mode 0604)",
            ],
            [str(warning).partition(";")[0] for warning in configuration.warnings],
        )


class DescribeTests(SynchronousTestCase):
    def test_says_who_the_clients_are_and_what_is_doubtful_but_no_secret(self) -> None:
        files = in_memory({"clients.conf": client("a", 1, "enabled = no\ntimout = 1\n") + client("b\x1b", 2)})
        lines = describe(load("/etc/mandos", files))
        self.assertEqual(
            [
                'WARNING: /etc/mandos/clients.conf:6: [a] timout: unknown option; perhaps "timeout" is meant',
                f"a: disabled, key ID {1:064X}, secret of 1 bytes, timeout PT5M, interval PT2M",
                f"b\\x1b: enabled, key ID {2:064X}, secret of 1 bytes, timeout PT5M, interval PT2M",
                "2 clients, 1 warning",
            ],
            lines,
        )

    def test_says_what_is_wrong_and_what_is_doubtful_besides(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            load("/etc/mandos", in_memory({"clients.conf": f"a\n{client('b', 1, 'timout = 1')}\n[c]\n"}))
        lines = describe(caught.exception)
        self.assertEqual("3 errors, 1 warning", lines[-1])
        self.assertTrue(lines[0].startswith("WARNING: /etc/mandos/clients.conf:6: [b] timout: "), lines[0])
        self.assertTrue(all(line.startswith("ERROR: /etc/mandos/clients.conf:") for line in lines[1:-1]))
