"""What one process reads, another gets as it was, and cannot choose."""

from __future__ import annotations

import json
import os
import socket
import stat
from typing import cast

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import mandos_tx
from mandos_tx.configuration import load
from mandos_tx.configuration_files import Access, ConfigFile, RecordedFiles
from mandos_tx.formats.complaint import ConfigurationError
from mandos_tx.privileged_reader import PrivilegedReader, PrivilegedReadError, decode, encode, serve, start

DIRECTORY = Access("/etc/mandos", stat.S_IFDIR | 0o755, 0)
TEXT = f"[a]\nhost = h\nkey_id = {'a' * 64}\nsecfile = s\n[b]\nsecfile = none\n"

text = st.text(st.characters(), max_size=10)
accesses = st.builds(Access, text, st.integers(0, 0o177777), st.integers(0, 2**32 - 1))
config_files = st.builds(ConfigFile, st.binary(max_size=50), accesses, st.lists(accesses, max_size=3).map(tuple))


def config_file(content: bytes) -> ConfigFile:
    return ConfigFile(content, Access("/etc/mandos/f", stat.S_IFREG | 0o600, 0), (DIRECTORY,))


FILES = RecordedFiles(
    frozenset({0}),
    {"/etc/mandos/clients.conf": config_file(TEXT.encode()), "/etc/mandos/s": config_file(b"\0secret\xff")},
    {"/etc/mandos/clients.d": (DIRECTORY, ("x.conf", "y"))},
    frozenset({103}),
)


class AnswerTests(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(
        st.builds(
            RecordedFiles,
            st.frozensets(st.integers(0, 2**32 - 1)),
            st.dictionaries(text, config_files, max_size=3),
            st.dictionaries(text, st.tuples(accesses, st.lists(text, max_size=3).map(tuple)), max_size=3),
            st.frozensets(st.integers(0, 2**32 - 1)),
        )
    )
    def test_is_understood_as_it_was_meant(self, recorded: RecordedFiles) -> None:
        self.assertEqual(recorded, self.decoded(b"".join(encode(recorded))))

    def test_keeps_errors(self) -> None:
        recorded = RecordedFiles(frozenset(), {"/f": PermissionError(13, "no")}, {"/d": FileNotFoundError(2, "none")})
        again = self.decoded(b"".join(encode(recorded)))
        with self.assertRaises(PermissionError) as caught:
            again.read("/f")
        self.assertEqual("no", caught.exception.strerror)
        self.assertRaises(FileNotFoundError, again.directory, "/d")

    def test_that_is_none_is_refused(self) -> None:
        for header in (
            b"",
            b"{",
            b"[]",
            b"{}",
            b"null",
            b"\xff",
            b'{"trusted":[],"server_users":[],"files":{"f":{}},"directories":{}}',
        ):
            self.assertRaises(ValueError, decode, header, lambda size: b"")

    def decoded(self, answer: bytes) -> RecordedFiles:
        length = int.from_bytes(answer[:8], "big")
        contents = memoryview(answer)[8 + length :]
        position = 0

        def receive(size: int) -> bytes:
            nonlocal position
            position += size
            return bytes(contents[position - size : position])

        recorded = decode(answer[8 : 8 + length], receive)
        self.assertEqual(len(contents), position)
        return recorded


class ConversationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ours, self.its = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.its.close)

    def served(self, requests: bytes, files: RecordedFiles = FILES) -> None:
        """Have these requests answered, and the process end."""
        ours, its = socket.socketpair()
        with ours, its:
            ours.sendall(requests)
            ours.shutdown(socket.SHUT_WR)
            serve(its, "/etc/mandos", files, strict=True)
            its.shutdown(socket.SHUT_WR)
            while answer := ours.recv(65536):
                self.its.sendall(answer)
        self.its.shutdown(socket.SHUT_WR)

    def test_each_request_is_answered_by_all_that_loading_needs(self) -> None:
        self.served(b"xx")
        reader = PrivilegedReader(self.ours)
        for _ in range(2):
            recorded = reader.read()
            self.assertEqual((FILES.trusted, FILES.server_users), (recorded.trusted, recorded.server_users))
            self.assertEqual(TEXT.encode(), recorded.read("/etc/mandos/clients.conf").content)
            self.assertEqual(b"\0secret\xff", recorded.read("/etc/mandos/s").content)
            self.assertEqual(("x.conf", "y"), recorded.directory("/etc/mandos/clients.d")[1])
            self.assertRaises(FileNotFoundError, recorded.read, "/etc/mandos/none")
            self.assertRaises(FileNotFoundError, recorded.read, "/etc/mandos/clients.d/x.conf")

    def test_what_strict_modes_refuse_is_neither_followed_nor_told(self) -> None:
        theirs = Access("/etc/mandos/f", stat.S_IFREG | 0o600, 103)
        for path in ("/etc/mandos/clients.conf", "/etc/mandos/s"):
            found = FILES.read(path)
            refused = evolve(found, access=theirs if path.endswith(".conf") else evolve(theirs, owner=1000))
            self.ours, self.its = socket.socketpair()
            self.addCleanup(self.ours.close)
            self.addCleanup(self.its.close)
            self.served(b"x", evolve(FILES, read_files={**FILES.read_files, path: refused}))
            recorded = PrivilegedReader(self.ours).read()
            self.assertEqual(evolve(refused, content=b""), recorded.read(path))
            if path.endswith(".conf"):
                self.assertRaises(FileNotFoundError, recorded.read, "/etc/mandos/s")
            self.assertRaises(ConfigurationError, load, "/etc/mandos", recorded)

    def test_the_configuration_loads_from_an_answer(self) -> None:
        text = TEXT.partition("[b]")[0].encode()
        files = RecordedFiles(FILES.trusted, {**FILES.read_files, "/etc/mandos/clients.conf": config_file(text)})
        for piece in encode(files):
            self.its.sendall(piece)
        configuration = load("/etc/mandos", PrivilegedReader(self.ours).read())
        self.assertEqual([b"\0secret\xff"], [definition.settings.secret for definition in configuration.definitions])

    def test_a_process_that_has_ended_is_an_error_now_and_later(self) -> None:
        self.its.close()
        reader = PrivilegedReader(self.ours)
        for _ in range(2):
            self.assertRaises(PrivilegedReadError, reader.read)

    def test_a_process_that_says_nothing_is_an_error_after_a_while(self) -> None:
        self.assertRaises(PrivilegedReadError, PrivilegedReader(self.ours).read, 0.001)

    def test_an_answer_that_breaks_off_or_never_ends_is_an_error(self) -> None:
        header = json.dumps({"trusted": [], "server_users": [], "files": {}, "directories": {}}).encode()
        for answer in (
            b"\0",
            (10).to_bytes(8, "big") + b"{",
            b"\xff" * 8,
            (len(header)).to_bytes(8, "big") + header[1:],
        ):
            ours, its = socket.socketpair()
            with ours, its:
                its.sendall(answer)
                its.shutdown(socket.SHUT_WR)
                self.assertRaises(PrivilegedReadError, PrivilegedReader(ours).read)

    def test_closing_ends_the_process(self) -> None:
        reader = PrivilegedReader(self.ours)
        reader.close()
        self.assertEqual(b"", self.its.recv(1))
        reader.close()


class StartTests(SynchronousTestCase):
    def test_the_process_has_the_other_end_of_the_socket_and_finds_the_same_modules(self) -> None:
        started: list[tuple[list[str], dict[str, str]]] = []

        def spawn(program: str, words: list[str], environment: dict[str, str], **more: object) -> int:
            started.append((words, environment))
            (action, descriptor, new_descriptor), *_ = cast(list[tuple[int, int, int]], more["file_actions"])
            self.assertEqual((os.POSIX_SPAWN_DUP2, 0), (action, new_descriptor))
            self.its = socket.socket(fileno=os.dup(descriptor))
            return os.getppid()

        reader = start("conf", True, spawn)
        [(words, environment)] = started
        self.assertEqual(["-P", "-m", "mandos_tx.privileged_reader", "strict", os.path.abspath("conf")], words[1:])
        self.assertIn(os.path.dirname(os.path.dirname(mandos_tx.__file__)), environment["PYTHONPATH"].split(":"))
        reader.close()
        with self.its:
            self.assertEqual(b"", self.its.recv(1))
        self.assertIsNone(reader.pid)

    def test_a_process_that_cannot_be_started_is_an_error(self) -> None:
        def spawn(*arguments: object, **more: object) -> int:
            raise BlockingIOError(11, "Resource temporarily unavailable")

        self.assertRaises(OSError, start, "conf", True, spawn)
