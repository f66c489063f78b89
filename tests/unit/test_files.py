"""Files are never seen half-written, a claim has one holder at a time, and every line of a log is read once."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import ConfigError, CorruptError, LockedError, StateError
from oellm_autoexp.storage.files import create_atomic, link_atomic, read_json, writable_directory, write_atomic
from oellm_autoexp.storage.lock import Holder, Lock, is_running, locked, process_started
from oellm_autoexp.storage.log_tail import Cursor, read_added
from oellm_autoexp.storage.trust import check_owner

AS_ROOT = os.getuid() == 0


@contextmanager
def python(code: str, *words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A Python program that knows this package; its words are in `sys.argv[1:]`. It is killed at the end."""
    argv = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(params=["hard links", "no hard links"])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both kinds of file system; what a FAT or CIFS mount answers is the same as here."""
    if request.param == "no hard links":

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return bool(request.param == "hard links")


# --- writing ----------------------------------------------------------------------------------------------------------

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from oellm_autoexp.storage.files import write_atomic
print("ready", flush=True)
while True:
    for letter in "ab":
        write_atomic(Path(sys.argv[1]), letter * 300_000)
"""


@pytest.mark.slow
def test_a_reader_and_a_kill_at_any_instant_find_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "a" * 300_000)
    for milliseconds in range(1, 13):
        with python(WRITE_FOR_EVER, path) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            until = time.monotonic() + milliseconds / 1000
            while time.monotonic() < until:
                assert path.read_text() in ("a" * 300_000, "b" * 300_000)
        assert path.read_text() in ("a" * 300_000, "b" * 300_000)


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    (tmp_path / "folder" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "folder", "new")
    assert path.read_text() == "old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    write_atomic(path, "x")
    link_atomic(tmp_path / ("l" * 255), path)
    assert (tmp_path / ("l" * 255)).read_text() == "x"
    assert create_atomic(tmp_path / ("c" * 255), "y")


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o700])
def test_a_written_file_has_its_mode_but_for_what_the_umask_takes(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "written", "x", mode)
        create_atomic(tmp_path / "created", "x", mode)
    finally:
        os.umask(before)
    for name in ("written", "created"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode & ~0o027


def test_only_the_first_creation_counts(tmp_path: Path, links: bool) -> None:
    path = tmp_path / "file"
    assert create_atomic(path, "first")
    assert not create_atomic(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_creation_that_fails_otherwise_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        create_atomic(tmp_path / "file", "x")
    assert not list(tmp_path.iterdir())


def test_a_link_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    link = tmp_path / "current.log"
    for target in ("nowhere", "1.log", "2.log"):
        link_atomic(link, Path(target))
        assert link.readlink() == Path(target)
    (tmp_path / "file").write_text("precious")
    for real in (tmp_path / "file", tmp_path):
        with pytest.raises(StateError, match="a file is at the place where a link must be created"):
            link_atomic(real, Path("1.log"))
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(OSError, match="No such file"):
        link_atomic(tmp_path / "no folder" / "link", Path("1.log"))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["current.log", "file"]


# --- reading what is ours ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"version": 1, "plan', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "not a session of oellm-autoexp"),
        (b"{}", "not a session of oellm-autoexp"),
        (b'{"version": "1"}', "not a session of oellm-autoexp"),
        (b'{"version": true}', "not a session of oellm-autoexp"),
        (b'{"version": 2}', "has version 2; this program reads versions up to 1"),
    ],
)
def test_a_state_file_that_is_not_right_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(CorruptError) as raised:
        read_json(path, "session", 1)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_state_file_that_is_not_there_or_not_readable_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no session here\n    try another"):
        read_json(tmp_path / "none", "session", 1, missing="try another")
    with pytest.raises(ConfigError, match="can't read the session: Is a directory"):
        read_json(tmp_path, "session", 1)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't read the session: Not a directory"):
        read_json(tmp_path / "file" / "session", "session", 1)


def test_a_state_file_that_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"version": 1, "é": [1]}')
    assert read_json(tmp_path / "file", "session", 1) == {"version": 1, "é": [1]}


@pytest.mark.skipif(not AS_ROOT, reason="only root can make files of somebody else")
def test_files_of_somebody_else_are_refused_and_roots_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"version": 1}')
    check_owner(path)
    check_owner(tmp_path / "none")
    os.chown(path, 12345, -1)
    with pytest.raises(StateError, match="belongs to user 12345, not to you"):
        read_json(path, "session", 1)


def test_a_directory_that_can_be_made_is_no_problem_and_is_not_made(tmp_path: Path) -> None:
    assert writable_directory(tmp_path / "a" / "b", "$.x") is None
    assert writable_directory(Path("relative/path"), "$.x") is None
    assert not list(tmp_path.iterdir())


def test_what_keeps_a_directory_from_being_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for path, message in (
        (tmp_path / "file" / "x", "is not a directory"),
        (tmp_path / "broken" / "x", "is a broken link"),
        (tmp_path / "loop" / "x", "can't be a directory: Too many levels"),
        (tmp_path / ("n" * 256), "can't be a directory: File name too long"),
    ):
        problem = writable_directory(path, "$.project.base_output_dir")
        assert problem is not None
        assert message in problem.what
        assert str(problem.where) == "$.project.base_output_dir"


@contextmanager
def without_privileges() -> Iterator[None]:
    """For root, to whom no directory is closed: be an ordinary user for the time of a block."""
    if not AS_ROOT:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_closed_directory_is_reported() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o500)
        (folder / "dark" / "inner").mkdir(parents=True)
        (folder / "dark").chmod(0)
        with without_privileges():
            problems = [writable_directory(folder / path, "$.x") for path in ("closed/x", "dark/inner")]
        (folder / "dark").chmod(0o700)
    for problem in problems:
        assert problem is not None
        assert "can't write below" in problem.what


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_its_start_and_not_by_its_number_alone() -> None:
    started = process_started(os.getpid())
    assert started is not None
    assert is_running(os.getpid(), started)
    assert not is_running(os.getpid(), f"{started}0")
    assert not is_running(os.getpid(), f"other boot.{started.partition('.')[2]}")


def test_a_process_that_nobody_has_waited_for_is_dead() -> None:
    with subprocess.Popen(["true"]) as process:
        deadline = time.monotonic() + 20
        while process_started(process.pid) is not None:
            assert time.monotonic() < deadline
    assert process_started(process.pid) is None


def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    program = tmp_path / os.fsdecode(b") Z \xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9")  # cut within a letter
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "100"]) as process:
        assert process_started(process.pid) is not None
        process.kill()


# --- claims -----------------------------------------------------------------------------------------------------------

CLAIM_IN_TURN = """
import errno, os, random, signal, sys, time
from pathlib import Path
from oellm_autoexp.storage.lock import Lock

def dawdling(call):
    def dawdle(*words):
        time.sleep(random.random() * random.choice((0, 0.01)))
        return call(*words)
    return dawdle

for name in ("link", "rename", "replace", "unlink"):
    setattr(os, name, dawdling(getattr(os, name)))
path, log, links = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
if not links:
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")
    os.link = refuse
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for turn in range(6):
    child = os.fork()
    if child == 0:
        random.seed()
        claim = Lock(path)
        while claim.acquire() is not None:
            pass
        os.write(output, f"{os.getpid()} enters\\n".encode())
        time.sleep(random.random() * 0.01)
        dies = random.random() < 0.5
        os.write(output, f"{os.getpid()} {'dies' if dies else 'leaves'}\\n".encode())
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        claim.release()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_eight_processes_that_die_or_leave_hold_a_claim_one_at_a_time(tmp_path: Path, links: bool) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        words = (CLAIM_IN_TURN, tmp_path / "claim", log, str(links))
        racers = [stack.enter_context(python(*words)) for _ in range(8)]
        assert [racer.wait(60) for racer in racers] == [0] * 8
    lines = log.read_text().splitlines()
    assert len(lines) == 8 * 6 * 2
    for enters, ends in zip(lines[::2], lines[1::2], strict=True):
        assert enters.split()[1] == "enters"
        assert ends.split()[0] == enters.split()[0]
    left = {item.name for item in tmp_path.iterdir()}
    assert left <= {"log", "claim"}, "a race leaves nothing else behind"


HOLD = """
import sys, time
from pathlib import Path
from oellm_autoexp.storage.lock import Lock
assert Lock(Path(sys.argv[1])).acquire() is None
print("held", flush=True)
time.sleep(100)
"""


def test_a_claim_names_its_holder_and_is_free_once_that_was_killed(tmp_path: Path, links: bool) -> None:
    path = tmp_path / "claim"
    with python(HOLD, path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        holder = Lock(path).acquire()
        assert holder is not None
        assert str(holder) == f"process {other.pid} on {socket.gethostname()}"
        with (
            pytest.raises(LockedError, match=f"session x is in use by process {other.pid} on "),
            locked(path, "session x"),
        ):
            pass
        other.kill()
        other.wait()
        with locked(path, "session x") as claim:
            claim.beat()
            assert Lock(path).holder() == claim.holder()
    assert list(tmp_path.iterdir()) == []


def foreign(path: Path, overdue_seconds: float) -> Holder:
    """Make `path` the claim of a process on another host whose next heartbeat was due so long ago."""
    holder = Holder("elsewhere", os.getpid(), process_started(os.getpid()) or "", "token")
    path.write_text(json.dumps({**holder.__dict__, "added_by": "a newer version"}))
    due = time.time() - overdue_seconds
    os.utime(path, (due, due))
    return holder


def test_a_heartbeat_says_when_the_next_one_is_due(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with locked(path, "it") as claim:
        claim.beat(600)
        assert path.stat().st_mtime > time.time() + 500
        claim.beat()
        assert path.stat().st_mtime < time.time() + 1


def lose_to_another(path: Path) -> None:
    foreign(path, 0)


def lose_the_file(path: Path) -> None:
    path.unlink()


def lose_to_a_claim_of_the_same_process(path: Path) -> None:
    path.unlink()
    assert Lock(path).acquire() is None


@pytest.mark.parametrize("lose", [lose_to_another, lose_the_file, lose_to_a_claim_of_the_same_process])
def test_who_has_lost_a_claim_hears_of_it_and_does_not_give_up_the_new_one(
    tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    path = tmp_path / "claim"
    claim = Lock(path)
    assert claim.acquire() is None
    lose(path)
    now = Lock(path).holder()
    with pytest.raises(LockedError, match="lost to"):
        claim.beat()
    claim.release()
    assert Lock(path).holder() == now


def test_a_claim_can_be_released_and_taken_again_but_not_taken_twice(tmp_path: Path) -> None:
    claim = Lock(tmp_path / "claim")
    assert claim.acquire() is None
    again = Lock(tmp_path / "claim").acquire()
    assert again is not None
    assert again.pid == os.getpid()
    claim.release()
    claim.release()
    assert not claim.path.exists()
    assert claim.acquire() is None


def test_a_forked_child_does_not_give_up_its_parents_claim(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from oellm_autoexp.storage.lock import Lock
claim = Lock(Path(sys.argv[1]))
claim.acquire()
child = os.fork()
if child == 0:
    claim.release()
    os._exit(0)
os.waitpid(child, 0)
claim.beat()
print("held")
"""
    with python(code, tmp_path / "claim") as process:
        assert process.communicate(timeout=20)[0] == "held\n"


def test_a_claim_that_can_not_be_made_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for path, message in (
        (tmp_path / "file" / "claim", "can't lock the session: "),
        (tmp_path / "link", "is a link; links are not followed here"),
        (tmp_path, "can't lock the session: Is a directory"),
    ):
        with pytest.raises(StateError, match=message), locked(path, "the session"):
            pass


# --- logs -------------------------------------------------------------------------------------------------------------

pieces = st.lists(st.binary(max_size=12) | st.lists(st.sampled_from([b"a", b"\n", b"\r"])).map(b"".join), max_size=12)


@given(pieces, st.integers(1, 20) | st.just(1 << 20))
def test_however_a_log_grows_every_byte_is_read_once_and_in_whole_lines(parts: list[bytes], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        cursor, read, written = Cursor(), list[bytes](), b""
        for part in (*parts, None):
            if part is not None:
                written += part
                path.write_bytes(written)
            while True:
                data, after = read_added(path, cursor, final=part is None, limit=limit, longest=limit)
                assert data == written[cursor.offset : after.offset]
                assert len(written[cursor.offset : after.offset]) <= limit
                read += data.splitlines()
                assert after.offset > cursor.offset or not data
                cursor = after
                if not data:
                    break
            assert cursor.size == len(written)
        assert cursor.offset == len(written)
        if all(len(line) < limit for line in written.splitlines(keepends=True)):
            assert read == written.splitlines()


def read_all(path: Path, cursor: Cursor, **more: bool) -> tuple[list[bytes], Cursor]:
    """Read on until there is nothing new, as the monitor does."""
    found = []
    while True:
        data, cursor = read_added(path, cursor, **more)
        found += data.splitlines()
        if not data:
            return found, cursor


def test_an_unfinished_line_waits_unless_its_writer_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    lines, cursor = read_all(path, Cursor())
    assert (lines, cursor.offset) == ([b"one"], 4)
    assert read_all(path, cursor) == ([], cursor)
    assert read_all(path, cursor, final=True)[0] == [b"tw"]
    path.write_bytes(b"one\ntwo\n")
    assert read_all(path, cursor)[0] == [b"two"]


def test_a_progress_bar_that_never_ends_its_line_is_read_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\r 1%|#\r 2%|##\r 3%|")
    lines, cursor = read_all(path, Cursor())
    assert lines == [b"", b" 1%|#", b" 2%|##"]
    path.write_bytes(path.read_bytes() + b"###\r\n")
    assert read_all(path, cursor)[0] == [b" 3%|###"]


def test_a_line_longer_than_the_limit_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 2500 + b"\nshort\n")
    sizes, cursor = [], Cursor()
    while True:
        data, cursor = read_added(path, cursor, limit=1000, longest=1000)
        if not data:
            break
        sizes += [len(line) for line in data.splitlines()]
    assert sizes == [1000, 1000, 500, 5]


def test_a_truncated_log_is_read_from_its_start_as_another_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    _, first = read_all(path, Cursor())
    path.write_bytes(b"new\n")
    lines, second = read_all(path, first)
    assert lines == [b"new"]
    path.write_bytes(b"")
    _, third = read_all(path, second)
    path.write_bytes(b"again\n")
    assert read_all(path, third)[0] == [b"again"]
    assert len({first.identity, second.identity, third.identity}) == 3, (
        "events are distinguished by identity and offset"
    )


def test_a_log_that_was_truncated_and_has_outgrown_the_offset_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first attempt\n")
    _, cursor = read_all(path, Cursor())
    path.write_bytes(b"second attempt\nwith more lines than the first one\n")
    lines, after = read_all(path, cursor)
    assert lines == [b"second attempt", b"with more lines than the first one"]
    assert after.identity != cursor.identity


def test_a_rotated_log_is_read_to_its_end_before_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"one\ntw")
    _, cursor = read_all(path, Cursor())
    path.rename(tmp_path / "train.log.1")
    with (tmp_path / "train.log.1").open("ab") as old:
        old.write(b"o\nthr")
        old.flush()
        lines, cursor = read_all(path, cursor)
        assert lines == [b"two"], "its writer may go on where there is no new log yet"
        old.write(b"ee\nfo")
    path.write_bytes(b"five\n")
    lines, cursor = read_all(path, cursor)
    assert lines == [b"three", b"fo", b"five"]
    path.write_bytes(b"five\nsix\n")
    assert read_all(path, cursor)[0] == [b"six"]


def test_a_log_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path, other = tmp_path / "log", tmp_path / "other"
    path.write_bytes(b"one\n")
    _, cursor = read_all(path, Cursor())
    other.write_bytes(b"two\nthree\n")
    other.replace(path)
    assert read_all(path, cursor)[0] == [b"two", b"three"]


@pytest.mark.parametrize("text", [b"step 1\n", b'{"step": 1}'])
def test_a_file_that_is_written_anew_in_its_place_is_news_also_with_its_size(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(text)
    first, cursor = read_all(path, Cursor())
    assert read_added(path, cursor) == (b"", cursor)
    path.write_bytes(text.replace(b"1", b"2"))
    os.utime(path, ns=(0, cursor.changed + 1))  # file systems round
    lines, after = read_all(path, cursor)
    assert lines == [line.replace(b"1", b"2") for line in first]
    assert after.grew(cursor)
    os.utime(path, ns=(0, cursor.changed + 2))
    lines, again = read_all(path, after)
    assert (lines, again.grew(after)) == ([], True), "the same bytes once more"


def test_of_a_file_whose_end_or_start_is_overwritten_only_what_is_new_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    cursor, seen = Cursor(), list[bytes]()
    for count in range(1, 30):
        path.write_bytes(b"[\n" + b",\n".join(b'{"step": %d}' % step for step in range(count)) + b"\n]\n")
        os.utime(path, ns=(0, count))
        lines, cursor = read_all(path, cursor, overwritten=True)
        seen += lines
    entries = [line.rstrip(b",") for line in seen if line != b"]"]
    assert entries == [b"[", *(b'{"step": %d}' % step for step in range(29))]
    path, cursor, seen = tmp_path / "counted.txt", Cursor(), []
    for count in range(1, 30):
        path.write_bytes(b"count %2d\n" % count + b"".join(b"record %d of the job\n" % step for step in range(count)))
        os.utime(path, ns=(0, count))
        lines, cursor = read_all(path, cursor, overwritten=True)
        seen += lines
    assert [seen.count(b"record %d of the job" % step) for step in range(8, 29)] == [1] * 21
    path.write_bytes(b"another\n" + b"x" * 1000 + b"\n")
    assert read_all(path, cursor, overwritten=True)[0] == [b"another", b"x" * 1000]


def test_a_log_that_is_not_there_or_is_no_file_is_no_news(tmp_path: Path) -> None:
    cursor = Cursor("7", 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("none", "none/log", "file/log", "pipe", "loop", "."):
        assert read_added(tmp_path / name, cursor) == (b"", cursor)


def test_a_cursor_keeps_its_place_over_a_restart_of_the_program(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    _, cursor = read_all(path, Cursor())
    path.write_bytes(b"one\ntwo\n")
    assert read_all(path, Cursor(cursor.identity, cursor.offset))[0] == [b"two"]
    assert read_all(path, Cursor(cursor.identity, cursor.offset, cursor.mark))[0] == [b"two"]
