"""Tests of ``mandos_tx.state.sqlite``."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.core.client import ClientDefinition
from mandos_tx.formats.saved_state import Tombstone, decode
from mandos_tx.interfaces import SavedState, StateStore, StateUnusable, StateUnwritable
from mandos_tx.state.directory import KEY_FILE, StateDirectory
from mandos_tx.state.schema import STEPS, Step
from mandos_tx.state.sqlite import DATABASE, SqliteStore
from tests.contracts.state_store import LINE, NOW, make_state_store_tests
from tests.state.golden import content

GOLDEN = Path(__file__).with_name("golden")
NOBODY = 65534


def state_directory(test: SynchronousTestCase) -> Path:
    path = Path(test.mktemp())
    path.mkdir(parents=True)
    return path


def fixture(test: SynchronousTestCase) -> Callable[[], StateStore]:
    path = state_directory(test)
    return lambda: SqliteStore(StateDirectory(path))


class SqliteStoreTests(make_state_store_tests(fixture)):  # type: ignore[misc]  # a class made at run time
    """A store in a file."""


class SqliteTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = state_directory(self)
        self.file = self.path / DATABASE

    def open(self, path: Path | None = None, *, steps: tuple[Step, ...] = STEPS) -> SqliteStore:
        store = SqliteStore(StateDirectory(path or self.path), steps, busy_timeout=0.0)
        self.addCleanup(store.close)
        return store

    def load(self, path: Path | None = None) -> SavedState:
        store = self.open(path)
        try:
            return store.load()
        finally:
            store.close()

    def save(self, *commits: dict[str, str | None]) -> None:
        """Let a server run and stop."""
        store = self.open()
        generation = store.load().generation
        for number, commit in enumerate(commits, 1):
            store.save(commit, generation + number, LINE, NOW)
        store.close()

    def refusal(self, path: Path | None = None) -> str:
        """Of a start: a sentence that names the file and the remedy, and nothing is touched."""
        before = {p: p.read_bytes() for p in self.path.iterdir() if p.is_file()}
        message = str(self.assertRaises(StateUnusable, self.load, path))
        self.assertEqual({p: p.read_bytes() for p in self.path.iterdir() if p.is_file()}, before)
        self.assertIn(str(path or self.path), message)
        self.assertNotIn("\n", message)
        self.assertIn(";", message)
        return message

    def become_nobody(self) -> None:
        """Root may write everywhere, so be somebody else; and somewhere where others may be."""
        self.path = Path(mkdtemp())
        self.addCleanup(shutil.rmtree, self.path)
        self.file = self.path / DATABASE
        if os.geteuid() == 0:
            os.chown(self.path, NOBODY, NOBODY)
            os.seteuid(NOBODY)
            self.addCleanup(os.seteuid, 0)


class FileTests(SqliteTestCase):
    def test_nobody_else_may_read_any_of_it_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in self.path.iterdir()}
        self.assertEqual(set(modes), {DATABASE, DATABASE + "-wal", DATABASE + "-shm", KEY_FILE})
        self.assertEqual(set(modes.values()), {0o600})

    def test_a_stopped_server_leaves_the_file_and_the_key(self) -> None:
        self.save({"a": "1"})
        self.assertEqual({p.name for p in self.path.iterdir()}, {DATABASE, KEY_FILE})

    def test_every_commit_is_on_disk_when_it_returns(self) -> None:
        store = self.open()
        store.load()
        assert store._connection is not None
        self.assertEqual(store._connection.execute("PRAGMA synchronous").fetchone(), (2,))
        self.assertEqual(store._connection.execute("PRAGMA journal_mode").fetchone(), ("wal",))

    def test_it_can_be_read_and_copied_while_the_server_runs(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        copy = state_directory(self)
        with closing(sqlite3.connect(self.file)) as reader, closing(sqlite3.connect(copy / DATABASE)) as target:
            reader.backup(target)
        store.save({"a": "2"}, 2, LINE, NOW)
        self.assertEqual(self.load(copy).documents, {"a": "1"})

    def test_names_may_hold_anything_that_a_file_name_may(self) -> None:
        self.path = self.path / "st?te #1 %20"
        self.path.mkdir()
        self.save({"a": "1"})
        self.assertEqual(self.load().documents, {"a": "1"})

    def test_the_working_directory_may_change(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        store = SqliteStore(StateDirectory(os.path.relpath(self.path)))
        self.addCleanup(store.close)
        os.chdir("/")
        store.load()
        self.assertTrue(store.path.exists())


class LockTests(SqliteTestCase):
    def test_a_second_server_is_refused(self) -> None:
        self.open().load()
        self.assertIn("another server", str(self.assertRaises(StateUnusable, self.open().load)))

    def test_when_the_first_has_stopped_a_second_may_come(self) -> None:
        store = self.open()
        store.load()
        store.close()
        store.close()
        self.open().load()


class GoldenTests(SqliteTestCase):
    def use(self, version: int) -> None:
        shutil.copyfile(GOLDEN / f"version-{version}.sqlite", self.file)
        self.file.chmod(0o600)
        (self.path / KEY_FILE).write_text(content.KEY.hex())
        (self.path / KEY_FILE).chmod(0o600)

    def assertGolden(self, saved: SavedState) -> None:
        self.assertEqual((saved.generation, saved.time_line, saved.saved_at), (42, content.LINE, content.SAVED_AT))
        definitions: dict[str, ClientDefinition] = {content.tombstone().name: content.tombstone()}
        definitions |= {c.name: c.definition for c in content.clients() if c.definition is not None}
        decoded = [decode(n, d, definitions.get(n), saved.key) for n, d in saved.documents.items()]
        self.assertCountEqual(decoded, [*content.clients(), Tombstone(content.tombstone())])

    def test_there_is_one_of_every_version(self) -> None:
        versions = {f"version-{number}.sqlite" for number in range(1, len(STEPS) + 1)}
        self.assertEqual({path.name for path in GOLDEN.glob("*.sqlite")}, versions)

    def test_every_version_is_understood(self) -> None:
        for version in range(1, len(STEPS) + 1):
            self.use(version)
            self.assertGolden(self.load())

    def test_no_secret_is_in_any_of_them(self) -> None:
        secrets = [client.settings.secret for client in content.clients()]
        for path in GOLDEN.glob("*.sqlite"):
            for secret in secrets:
                for form in (secret, secret.hex().encode(), secret.hex().upper().encode()):
                    self.assertNotIn(form, path.read_bytes())


class UpgradeTests(GoldenTests):
    """With a step that is not there yet."""

    @staticmethod
    def step(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE clients ADD COLUMN colour TEXT")

    def test_an_older_file_is_upgraded_once(self) -> None:
        self.use(1)
        for _ in range(2):
            store = self.open(steps=(*STEPS, self.step))
            self.assertGolden(store.load())
            assert store._connection is not None
            store._connection.execute("SELECT colour FROM clients")
            store.save({}, 42, content.LINE, content.SAVED_AT)
            store.close()

    def test_a_new_file_has_the_newest_version(self) -> None:
        steps = (*STEPS, self.step)
        store = self.open(steps=steps)
        store.load()
        store.close()
        with closing(sqlite3.connect(self.file)) as connection:
            self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (len(steps),))

    def test_an_older_file_that_cannot_be_written_is_still_understood(self) -> None:
        self.become_nobody()
        self.use(1)
        self.path.chmod(0o500)
        saved = self.open(steps=(*STEPS, self.step)).load()
        self.assertGolden(saved)
        self.assertNotEqual(saved.problem, "")
        self.path.chmod(0o700)

    def test_a_step_that_fails_changes_nothing(self) -> None:
        def fail(connection: sqlite3.Connection) -> None:
            self.step(connection)
            connection.execute("SELECT nonsense")

        self.use(1)
        store = self.open(steps=(*STEPS, fail))
        self.assertRaises(StateUnusable, store.load)
        store.close()
        self.assertGolden(self.load())

    def test_a_newer_file_is_refused(self) -> None:
        self.use(1)
        with closing(sqlite3.connect(self.file)) as connection:
            connection.execute("PRAGMA user_version = 99")
        self.assertIn("newer", self.refusal())


class ForeignTests(SqliteTestCase):
    def test_what_is_no_state_of_ours_is_refused(self) -> None:
        with closing(sqlite3.connect(self.path / "other")) as connection:
            connection.execute("CREATE TABLE clients (name)")
            connection.commit()
        for foreign in ((self.path / "other").read_bytes(), b"[DEFAULT]\n" * 100, b"\x80\x02}q\x00." * 100):
            self.file.write_bytes(foreign)
            self.file.chmod(0o600)
            self.assertIn("not a state of this server", self.refusal())

    def test_what_is_no_file_is_refused(self) -> None:
        self.file.mkdir()
        self.refusal()

    def test_a_symbolic_link_is_refused(self) -> None:
        other = state_directory(self)
        self.save({"a": "1"})
        self.file.rename(other / DATABASE)
        self.file.symlink_to((other / DATABASE).absolute())
        self.refusal()

    def test_a_file_that_others_may_write_is_refused(self) -> None:
        self.save({"a": "1"})
        for mode in (0o620, 0o602, 0o666):
            self.file.chmod(mode)
            self.assertIn(f"{mode:04o}", self.refusal())
        store = SqliteStore(StateDirectory(self.path, strict=False))
        self.addCleanup(store.close)
        self.assertEqual(store.load().documents, {"a": "1"})

    def test_a_file_of_a_stranger_is_refused(self) -> None:
        if os.geteuid() != 0:
            # Nobody else can give files away.
            return
        self.save({"a": "1"})
        os.chown(self.file, 12345, 12345)
        self.assertIn("12345", self.refusal())

    def test_a_log_without_its_file_is_refused(self) -> None:
        (self.path / (DATABASE + "-wal")).write_bytes(b"what was not yet in the file")
        self.refusal()

    def test_a_key_that_is_damaged_is_refused(self) -> None:
        self.save({"a": "1"})
        for damaged in ("", "00", "zz" * 32, "00" * 33, "\N{SNOWMAN}"):
            (self.path / KEY_FILE).write_text(damaged)
            self.assertIn(KEY_FILE, self.refusal())


class DamageTests(SqliteTestCase):
    """What is loaded is what was saved, or the start is refused; no start ever begins with less."""

    def setUp(self) -> None:
        super().setUp()
        self.documents = {f"client{number}": f"document {number}" * number for number in range(1, 20)}
        self.save({"client1": "older", "client20": "gone"}, dict(self.documents), {"client20": None})
        self.good = self.file.read_bytes()

    def outcome(self, damaged: bytes) -> dict[str, str] | None:
        self.file.write_bytes(damaged)
        try:
            return self.load().documents
        except StateUnusable as e:
            self.assertNotIn("\n", str(e))
            self.assertEqual(self.file.read_bytes(), damaged)
            return None

    def test_an_empty_file_is_no_beginning(self) -> None:
        self.file.write_bytes(b"")
        self.assertIn("damaged", self.refusal())

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**62))
    def test_a_file_that_is_cut_off_is_refused(self, where: int) -> None:
        self.assertIsNone(self.outcome(self.good[: where % len(self.good)]))

    @settings(max_examples=250, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 255)), min_size=1, max_size=3))
    def test_flipped_bits_are_refused_or_harmless(self, flips: list[tuple[int, int]]) -> None:
        damaged = bytearray(self.good)
        for where, bits in flips:
            damaged[where % len(damaged)] ^= bits
        self.assertIn(self.outcome(bytes(damaged)), (None, self.documents))

    def test_what_sqlite_quotes_need_not_be_text(self) -> None:
        """The last bytes of the first page hold the statements that made the tables."""
        for where in range(4096 - 400, 4096):
            damaged = bytearray(self.good)
            damaged[where] ^= 0xFF
            self.assertIn(self.outcome(bytes(damaged)), (None, self.documents))

    def test_a_page_of_an_older_time_is_refused(self) -> None:
        self.save({"client1": "newer"})
        newer = self.file.read_bytes()
        pages = [at for at in range(0, len(newer), 4096) if newer[at : at + 4096] != self.good[at : at + 4096]]
        self.assertGreater(len(pages), 1)
        for at in pages:
            mixed = newer[:at] + self.good[at : at + 4096] + newer[at + 4096 :]
            self.assertIn(self.outcome(mixed), (None, self.documents | {"client1": "newer"}))

    def test_content_that_was_changed_by_hand_is_refused(self) -> None:
        for statement in (
            "DELETE FROM clients WHERE name = 'client3'",
            "UPDATE clients SET name = 'client99' WHERE name = 'client3'",
            "UPDATE clients SET document = 'other' WHERE name = 'client3'",
            "UPDATE clients SET document = x'ff' WHERE name = 'client3'",
            "UPDATE clients SET document = CAST(x'ff' AS TEXT) WHERE name = 'client3'",
            "UPDATE server SET generation = generation - 1",
            "UPDATE server SET epoch = NULL",
            "DELETE FROM server",
            "DROP TABLE clients",
            "PRAGMA user_version = 0",
        ):
            self.file.write_bytes(self.good)
            with closing(sqlite3.connect(self.file)) as connection:
                connection.execute(statement)
                connection.commit()
            self.assertIn("damaged", self.refusal(), statement)


class CrashTests(SqliteTestCase):
    """The files as they are when the power fails."""

    def setUp(self) -> None:
        super().setUp()
        self.moments: list[dict[str, str]] = [{}]
        store = self.open()
        store.load()
        for number in range(1, 8):
            store.save({f"client{number}": "x" * 100 * number, "client1": str(number)}, number, LINE, NOW)
            self.moments.append(self.moments[-1] | {f"client{number}": "x" * 100 * number, "client1": str(number)})
        self.image = {p.name: p.read_bytes() for p in self.path.iterdir()}
        store.close()

    def after(self, image: dict[str, bytes]) -> Path:
        path = Path(mkdtemp(dir=self.path))
        for name, data in image.items():
            (path / name).write_bytes(data)
            (path / name).chmod(0o600)
        return path

    def test_every_commit_is_there(self) -> None:
        saved = self.load(self.after(self.image))
        self.assertEqual(saved.documents, self.moments[-1])
        self.assertEqual(saved.generation, len(self.moments) - 1)

    def test_without_the_shared_memory_too(self) -> None:
        del self.image[DATABASE + "-shm"]
        self.assertEqual(self.load(self.after(self.image)).documents, self.moments[-1])

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**62), st.booleans())
    def test_a_torn_log_gives_an_earlier_moment(self, where: int, shm: bool) -> None:
        image = dict(self.image)
        log = image[DATABASE + "-wal"]
        image[DATABASE + "-wal"] = log[: where % (len(log) + 1)]
        if not shm:
            del image[DATABASE + "-shm"]
        saved = self.load(self.after(image))
        self.assertEqual(saved.documents, self.moments[saved.generation])

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**62), st.integers(1, 255))
    def test_flipped_bits_in_the_log_give_an_earlier_moment_or_none(self, where: int, bits: int) -> None:
        image = dict(self.image)
        log = bytearray(image[DATABASE + "-wal"])
        log[where % len(log)] ^= bits
        image[DATABASE + "-wal"] = bytes(log)
        del image[DATABASE + "-shm"]
        try:
            saved = self.load(self.after(image))
        except StateUnusable:
            return
        self.assertEqual(saved.documents, self.moments[saved.generation])

    def test_a_crash_while_the_file_was_made_leaves_nothing_in_the_way(self) -> None:
        for image in ({DATABASE + ".new": b""}, {DATABASE + ".new": b"half", KEY_FILE + ".new": b"12"}):
            path = self.after(image)
            self.assertEqual(self.load(path).problem, "")
            self.assertEqual({p.name for p in path.iterdir()}, {DATABASE, KEY_FILE})


class UnwritableTests(SqliteTestCase):
    def limit_file_size(self, size: int) -> None:
        """As a full disk, but for the number of the error."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, limits)

    def test_a_directory_that_is_not_there_yet_is_used_as_soon_as_it_is(self) -> None:
        path = self.path / "later"
        store = self.open(path)
        saved = store.load()
        self.assertIn(str(path), saved.problem)
        self.assertRaises(StateUnwritable, store.save, {"a": "1"}, 1, LINE, NOW)
        path.mkdir()
        store.save({"a": "1"}, 1, LINE, NOW)
        store.close()
        loaded = self.load(path)
        self.assertEqual((loaded.documents, loaded.key), ({"a": "1"}, saved.key))

    def test_a_key_that_appears_damaged_meanwhile_is_a_problem(self) -> None:
        path = self.path / "later"
        store = self.open(path)
        store.load()
        path.mkdir()
        (path / DATABASE).mkdir()
        self.assertRaises(StateUnwritable, store.save, {"a": "1"}, 1, LINE, NOW)

    def test_a_file_instead_of_a_directory_is_no_directory(self) -> None:
        path = self.path / "file"
        path.touch()
        self.assertIn(str(path), self.load(path).problem)

    def test_a_state_that_appears_later_is_not_overwritten(self) -> None:
        path = self.path / "mounted"
        store = self.open(path)
        store.load()
        self.save({"a": "1"})
        path.mkdir()
        self.file.rename(path / DATABASE)
        message = str(self.assertRaises(StateUnwritable, store.save, {"b": "1"}, 1, LINE, NOW))
        self.assertIn("restart", message)
        store.close()
        self.assertEqual(self.load(path).documents, {"a": "1"})

    def test_a_state_in_a_read_only_directory_is_loaded(self) -> None:
        self.become_nobody()
        self.save({"a": "1"})
        self.path.chmod(0o500)
        store = self.open()
        saved = store.load()
        self.assertEqual(saved.documents, {"a": "1"})
        self.assertNotEqual(saved.problem, "")
        self.assertRaises(StateUnwritable, store.save, {"b": "1"}, 2, LINE, NOW)
        self.path.chmod(0o700)
        store.save({"b": "1"}, 2, LINE, NOW)
        store.close()
        self.assertEqual(self.load().documents, {"a": "1", "b": "1"})

    def test_so_is_one_that_a_crash_left_there(self) -> None:
        self.become_nobody()
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        crashed = self.path / "crashed"
        crashed.mkdir()
        for name in (DATABASE, DATABASE + "-wal", KEY_FILE):
            shutil.copyfile(self.path / name, crashed / name)
            (crashed / name).chmod(0o400)
        crashed.chmod(0o500)
        saved = self.load(crashed)
        crashed.chmod(0o700)
        self.assertEqual(saved.documents, {"a": "1"})
        self.assertNotEqual(saved.problem, "")

    def test_an_empty_read_only_directory_is_a_problem(self) -> None:
        self.become_nobody()
        self.path.chmod(0o500)
        self.assertIn(str(self.path), self.load().problem)
        self.path.chmod(0o700)

    def test_a_state_that_may_not_be_read_is_refused(self) -> None:
        self.become_nobody()
        self.save({"a": "1"})
        for path, mode in ((self.file, 0o200), (self.path / KEY_FILE, 0o200), (self.path, 0o000), (self.path, 0o600)):
            before = stat.S_IMODE(path.stat().st_mode)
            path.chmod(mode)
            message = str(self.assertRaises(StateUnusable, self.load))
            path.chmod(before)
            self.assertIn("Permission denied", message)
            self.assertIn(str(self.path), message)

    def test_a_full_disk_is_a_problem_until_there_is_room(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        self.limit_file_size(20_000)
        big = {f"client{number}": "x" * 1000 for number in range(100)}
        self.assertRaises(StateUnwritable, store.save, big, 2, LINE, NOW)
        self.limit_file_size(resource.RLIM_INFINITY)
        store.save({**big, "a": "2"}, 2, LINE, NOW)
        store.close()
        self.assertEqual(self.load().documents, {**big, "a": "2"})

    def test_what_is_on_disk_after_a_failure_is_what_was_there(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        self.limit_file_size(20_000)
        big: dict[str, str | None] = {f"client{number}": "x" * 1000 for number in range(100)}
        self.assertRaises(StateUnwritable, store.save, big, 2, LINE, NOW)
        self.limit_file_size(resource.RLIM_INFINITY)
        store.close()
        saved = self.load()
        self.assertEqual((saved.documents, saved.generation), ({"a": "1"}, 1))

    def test_a_disk_that_is_full_at_the_start_is_a_problem(self) -> None:
        self.save({"a": "1"})
        self.limit_file_size(0)
        saved = self.load()
        self.assertEqual(saved.documents, {"a": "1"})
        self.assertNotEqual(saved.problem, "")

    def test_a_first_start_on_a_nearly_full_disk_leaves_nothing_that_the_next_one_refuses(self) -> None:
        for size in range(0, 80_000, 4096):
            path = self.path / str(size)
            path.mkdir()
            self.limit_file_size(size)
            self.load(path)
            self.limit_file_size(resource.RLIM_INFINITY)
            self.assertEqual(self.load(path).problem, "")
            self.assertEqual({p.name for p in path.iterdir()}, {DATABASE, KEY_FILE})

    def test_a_new_file_appears_only_if_all_of_it_is_in_it(self) -> None:
        def keep_the_log_in_use(connection: sqlite3.Connection) -> None:
            reader = sqlite3.connect(self.path / (DATABASE + ".new"), isolation_level=None)
            self.addCleanup(reader.close)  # keeps it alive
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM server")

        store = self.open(steps=(*STEPS, keep_the_log_in_use))
        self.assertIn("another program", store.load().problem)
        self.assertFalse(self.file.exists())
        store.close()
        self.assertTrue((self.path / (DATABASE + ".new-wal")).stat().st_size)
        self.assertEqual(self.load().problem, "")
        self.assertEqual({p.name for p in self.path.iterdir()}, {DATABASE, KEY_FILE})

    def test_a_file_that_is_replaced_while_the_server_runs_is_left_alone(self) -> None:
        self.save({"a": "another"})
        another = self.file.read_bytes()
        self.file.unlink()
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        self.file.rename(self.path / "moved")
        self.file.write_bytes(another)
        self.file.chmod(0o600)
        for _ in range(2):
            message = str(self.assertRaises(StateUnwritable, store.save, {"a": "2"}, 2, LINE, NOW))
            self.assertIn("was replaced", message)
        self.assertEqual(self.file.read_bytes(), another)

    def test_a_file_that_vanishes_while_the_server_runs_is_asked_for(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        self.file.rename(self.path / "moved")
        for _ in range(2):
            message = str(self.assertRaises(StateUnwritable, store.save, {"a": "2"}, 2, LINE, NOW))
            self.assertIn("put it back", message)
        (self.path / "moved").rename(self.file)
        store.save({"a": "2"}, 2, LINE, NOW)

    def test_a_file_that_somebody_else_wrote_to_is_left_alone(self) -> None:
        self.become_nobody()
        self.save({"a": "1"})
        self.path.chmod(0o500)
        store = self.open()
        store.load()
        self.path.chmod(0o700)
        store.directory.unlock()
        self.save({"a": "2"})
        self.assertIn("restart", str(self.assertRaises(StateUnwritable, store.save, {}, 2, LINE, NOW)))

    def test_another_program_that_uses_it_is_waited_for_and_then_it_is_a_problem(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        with closing(sqlite3.connect(self.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.assertRaises(StateUnwritable, store.save, {"a": "2"}, 2, LINE, NOW)
            other.execute("ROLLBACK")
            store.save({"a": "3"}, 2, LINE, NOW)
        store.close()
        self.assertEqual(self.load().documents, {"a": "3"})

    def test_after_a_failure_the_log_begins_anew_before_anything_else_is_promised(self) -> None:
        store = self.open()
        store.load()
        store.save({"a": "1"}, 1, LINE, NOW)
        reader = sqlite3.connect(self.file, isolation_level=None)
        self.addCleanup(reader.close)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM clients").fetchall()
        store.save({"a": "2"}, 2, LINE, NOW)
        self.limit_file_size(20_000)
        big: dict[str, str | None] = {f"client{number}": "x" * 1000 for number in range(100)}
        self.assertRaises(StateUnwritable, store.save, big, 3, LINE, NOW)
        self.limit_file_size(resource.RLIM_INFINITY)
        self.assertIn("another program", str(self.assertRaises(StateUnwritable, store.save, big, 3, LINE, NOW)))
        reader.execute("ROLLBACK")
        store.save({"a": "3"}, 3, LINE, NOW)
        self.assertEqual((self.path / (DATABASE + "-wal")).stat().st_size > 0, True)

    def test_a_key_that_could_not_be_kept_is_kept_later(self) -> None:
        self.save({"a": "1"})
        (self.path / KEY_FILE).unlink()
        (self.path / (KEY_FILE + ".new")).mkdir()
        store = self.open()
        saved = store.load()
        self.assertNotEqual(saved.problem, "")
        (self.path / (KEY_FILE + ".new")).rmdir()
        store.save({}, 2, LINE, NOW)
        store.close()
        self.assertEqual(self.load().key, saved.key)
