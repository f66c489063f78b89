"""The journal: what was appended is read in its order, whatever a crash, a kill or a full disk has left of the rest."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.storage import journal as journals
from oellm_autoexp.storage.journal import Journal, line_at, whole_lines


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


def lines(journal: Journal) -> list[str]:
    with journal.opened() as file:
        return [line.text.decode().removesuffix("\n") for line in whole_lines(file)]


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within it, a write beyond this size is cut short and then fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_nothing_appended_makes_no_file(journal: Journal) -> None:
    journal.append([])
    assert not journal.path.exists()
    with pytest.raises(FileNotFoundError):
        journal.opened()


def test_what_was_appended_is_read_in_its_order(journal: Journal) -> None:
    journal.append(["a", "b"])
    journal.append(["c"])
    assert lines(journal) == ["a", "b", "c"]


def test_a_line_is_found_again_by_its_offset(journal: Journal) -> None:
    journal.append(["one", "zwei ü", "three"])
    with journal.opened() as file:
        found = list(whole_lines(file))
        assert [line.number for line in found] == [1, 2, 3]
        assert [line_at(file, line.offset) for line in reversed(found)] == [line.text for line in reversed(found)]


def test_wherever_a_crash_has_cut_the_file_all_whole_lines_count_and_the_next_append_is_whole(
    journal: Journal,
) -> None:
    journal.append(["first", "second", "third"])
    whole = journal.path.read_bytes()
    for size in range(len(whole) + 1):
        journal.path.write_bytes(whole[:size])
        left = ["first", "second", "third"][: whole[:size].count(b"\n")]
        assert lines(journal) == left
        Journal(journal.path).append(["next"])
        assert lines(journal) == [*left, "next"]


@pytest.mark.parametrize("size", [1, journals._BLOCK_BYTES - 1, journals._BLOCK_BYTES, 3 * journals._BLOCK_BYTES + 7])
def test_a_cut_line_of_any_length_is_removed(journal: Journal, size: int) -> None:
    journal.append(["whole"])
    with journal.path.open("ab") as file:
        file.write(b"x" * size)
    Journal(journal.path).append(["next"])
    assert lines(journal) == ["whole", "next"]


def test_after_a_full_disk_the_cut_line_is_gone_and_the_repeated_lines_are_there(journal: Journal) -> None:
    journal.append(["before"])
    with files_of_at_most(journal.path.stat().st_size + 9), pytest.raises(OSError, match="File too large"):
        journal.append(["first", "second"])
    assert journal.path.read_bytes() == b"before\nfirst\nsec"
    assert lines(journal) == ["before", "first"]
    journal.append(["first", "second"])
    assert lines(journal) == ["before", "first", "first", "second"]


KILLED = """
import os, signal, sys
from pathlib import Path
from oellm_autoexp.storage.journal import Journal

journal = Journal(Path(sys.argv[1]))
journal.append(["a"])
os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
journal.append(["b", "c"])
"""


def test_a_writer_that_is_killed_before_its_lines_are_on_the_disk_leaves_whole_lines(journal: Journal) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(journal.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert lines(journal) == ["a", "b", "c"]
    journal.append(["d"])
    assert lines(journal) == ["a", "b", "c", "d"]


def test_a_writer_that_takes_over_continues_after_the_lines_of_the_first(journal: Journal) -> None:
    journal.append(["a"])
    Journal(journal.path).append(["b"])
    journal.append(["c"])
    assert lines(journal) == ["a", "b", "c"]


def test_a_journal_that_was_removed_begins_again(journal: Journal) -> None:
    journal.append(["a"])
    journal.remove()
    journal.remove()
    journal.append(["b"])
    assert lines(journal) == ["b"]


def test_a_link_is_not_appended_to(journal: Journal) -> None:
    target = journal.path.with_name("target")
    target.write_text("")
    journal.path.symlink_to(target)
    with pytest.raises(StateError):
        journal.append(["a"])
    assert target.read_text() == ""


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))))
def test_any_lines_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, appended: list[list[str]]) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "journal")
    journal.append(["begin"])
    for some in appended:
        journal.append(some)
    assert lines(journal) == ["begin", *(line for some in appended for line in some)]
