"""What is read back or appended to is a file of this user: no link, no device, of bounded size, closed to others."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import CorruptError, StateError
from oellm_autoexp.core.text import digest
from oellm_autoexp.storage import trust

STRANGER = 54321
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of somebody else")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can reach, as pytest's own can't be."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "state")
        path.parent.chmod(0o755)
        path.mkdir(mode=0o755)
        yield path


def given_away(path: Path) -> Path:
    os.chown(path, STRANGER, -1, follow_symlinks=False)
    return path


def read(path: Path, most: int = 100) -> bytes:
    return trust.read(path, most=most)


def test_a_file_of_mine_is_read_and_one_that_is_missing_is_so(folder: Path) -> None:
    (folder / "file").write_text("mine")
    assert read(folder / "file") == b"mine"
    with pytest.raises(FileNotFoundError):
        read(folder / "none")
    with pytest.raises(FileNotFoundError):
        read(folder / "with\0nul")
    with pytest.raises(IsADirectoryError):
        read(folder)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def zeros(path: Path) -> None:
    os.symlink("/dev/zero", path)


@pytest.mark.parametrize("make", [fifo, bound_socket, zeros])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_no_regular_file_is_refused_at_once(folder: Path, make: Callable[[Path], None], named: bool) -> None:
    make(folder / "thing")
    with pytest.raises(StateError, match=r"is a link|is a device, pipe or socket"):
        trust.read(folder / "thing", most=100, named=named)
    with pytest.raises(StateError, match=r"is a link|is a device, pipe or socket"):
        trust.open_to_append(folder / "thing")


def test_a_device_that_a_person_names_is_no_file() -> None:
    with pytest.raises(StateError, match="/dev/zero: is a device, pipe or socket, not a regular file"):
        trust.read(Path("/dev/zero"), most=100, named=True)


def test_a_link_is_followed_only_where_a_person_named_it(folder: Path) -> None:
    (folder / "file").write_text("mine")
    (folder / "link").symlink_to("file")
    with pytest.raises(StateError, match="is a link; links are not followed here"):
        read(folder / "link")
    with pytest.raises(StateError, match="is a link; links are not followed here"):
        trust.open_to_append(folder / "link")
    assert trust.read(folder / "link", most=100, named=True) == b"mine"
    (folder / "loop").symlink_to("loop")
    with pytest.raises(StateError, match="is a link"):
        trust.read(folder / "loop", most=100, named=True)


@as_root
def test_files_links_and_folders_of_others_are_refused_with_their_name(folder: Path) -> None:
    (folder / "file").write_text("theirs")
    (folder / "link").symlink_to("other")
    (folder / "other").write_text("mine")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("mine")
    for path, named in ((given_away(folder / "file"), False), (given_away(folder / "link"), True)):
        with pytest.raises(StateError, match=rf"{path}: belongs to user {STRANGER}, not to you\n    use a directory"):
            trust.read(path, most=100, named=named)
    given_away(folder / "sub")
    with pytest.raises(StateError, match=f"sub: belongs to user {STRANGER}"):
        read(folder / "sub" / "file")
    os.chown(folder / "sub", os.getuid(), -1)
    given_away(folder)
    with pytest.raises(StateError, match=f"state: belongs to user {STRANGER}"):
        trust.read(folder / "sub" / "file", most=100, root=folder)
    assert trust.read(folder / "other", most=100, anyone=True) == b"mine"
    assert trust.read(folder / "other", most=100, named=True) == b"mine"  # wherever it lies


@as_root
def test_files_of_another_user_are_read_only_where_they_are_looked_at_as_theirs(folder: Path) -> None:
    (folder / "mine").write_text("mine")
    (folder / "theirs").write_text("theirs")
    owner = trust.stranger(given_away(folder / "theirs"))
    assert owner == trust.Owner(STRANGER)
    assert trust.stranger(folder / "mine") is None
    assert trust.stranger(folder / "none") is None
    os.chown(folder, STRANGER, -1)
    with trust.reading_as(owner):
        assert trust.reading_of_others()
        assert read(folder / "theirs") == b"theirs"
    assert not trust.reading_of_others()
    os.chown(folder / "mine", STRANGER + 1, -1)
    with (
        trust.reading_as(owner),
        pytest.raises(StateError, match=f"belongs to user {STRANGER + 1}, not to user {STRANGER}"),
    ):
        read(folder / "mine")  # put there by a third one


@pytest.mark.parametrize("mode", [pytest.param(0o664, marks=as_root), 0o646, 0o666], ids=oct)
def test_a_file_that_others_could_write_is_refused_where_they_can_reach_it(folder: Path, mode: int) -> None:
    path = folder / "file"
    path.write_text("whose?")
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, -1, STRANGER)  # its group is not that of one user alone
    with pytest.raises(StateError, match="can write to it"):
        read(path)
    with trust.open_file(path, most=100, lenient=True) as file:
        assert file.read() == b"whose?"
    folder.chmod(0o700)
    assert read(path) == b"whose?"


def test_what_is_appended_to_is_closed_to_others(folder: Path) -> None:
    before = os.umask(0)
    try:
        for path in (folder / "new", folder / "old"):
            if path.name == "old":
                path.write_text("old ")
                path.chmod(0o664)
            with trust.open_to_append(path) as file:
                file.write(b"more")
            assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
    assert (folder / "old").read_text() == "old more"


def test_nothing_is_appended_to_a_file_with_a_second_name(folder: Path) -> None:
    (folder / "precious").write_text("precious")
    (folder / "log").hardlink_to(folder / "precious")
    with pytest.raises(StateError, match="has a second name"):
        trust.open_to_append(folder / "log")
    assert (folder / "precious").read_text() == "precious"
    assert read(folder / "log") == b"precious"  # its owner wrote it, whatever it is called


def test_a_file_has_at_most_the_size_that_its_kind_can_have(folder: Path) -> None:
    (folder / "file").write_bytes(b"x" * 100)
    assert len(read(folder / "file")) == 100
    with pytest.raises(CorruptError, match="has 100 bytes; at most 99 are allowed"):
        read(folder / "file", most=99)
    os.truncate(folder / "file", trust.WHOLE + 1)  # a hole: it takes no room
    with pytest.raises(CorruptError, match="at most"):
        read(folder / "file", most=trust.WHOLE)


def test_a_folder_that_everybody_may_change_is_refused_and_one_of_a_group_is_not(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("mine")
    folder.chmod(0o2775)
    assert trust.read(folder / "sub" / "file", most=100, root=folder) == b"mine"
    folder.chmod(0o1777)
    assert trust.read(folder / "sub" / "file", most=100, root=folder) == b"mine"
    folder.chmod(0o777)
    with pytest.raises(StateError, match=f"every user may remove and replace .*\n    chmod o-w {folder}$"):
        trust.read(folder / "sub" / "file", most=100, root=folder)
    assert read(folder / "sub" / "file") == b"mine"  # not asked about


@as_root
def test_a_folder_that_is_a_link_counts_as_what_it_leads_to(folder: Path) -> None:
    (folder / "there").mkdir()
    (folder / "there" / "file").write_text("mine")
    (folder / "moved").symlink_to("there")
    assert trust.read(folder / "moved" / "file", most=100) == b"mine"
    given_away(folder / "moved")
    with pytest.raises(StateError, match=f"moved: belongs to user {STRANGER}"):
        read(folder / "moved" / "file")


def test_a_private_folder_is_closed_to_others_also_where_it_was_there(folder: Path) -> None:
    (folder / "old").mkdir(mode=0o775)
    for name in ("new", "old"):
        trust.private_folder(folder / name)
        assert (folder / name).stat().st_mode & 0o777 == 0o700
        trust.check_private(folder / name)
    (folder / "link").symlink_to("old")
    (folder / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(StateError, match="is at the place where a folder must be created"):
            trust.private_folder(folder / name)
        with pytest.raises(StateError, match="is not a folder"):
            trust.check_private(folder / name)
    (folder / "old").chmod(0o770)
    with pytest.raises(StateError, match="others can put files into this folder"):
        trust.check_private(folder / "old")


@as_root
def test_a_folder_that_another_user_prepared_is_not_used(folder: Path) -> None:
    (folder / "theirs").mkdir(mode=0o777)
    given_away(folder / "theirs")
    for use in (trust.private_folder, trust.check_private):
        with pytest.raises(StateError, match=f"theirs: (belongs to user {STRANGER}|others can put)"):
            use(folder / "theirs")


def test_a_script_that_was_changed_is_not_the_one_that_was_planned(folder: Path) -> None:
    path = folder / "job.sbatch"
    path.write_text("#!/bin/sh\necho \u00e9\n")
    known = digest(path.read_text())
    assert trust.read_script(path, known) == trust.read_script(path) == path.read_text()
    path.write_text("#!/bin/sh\necho e\n")
    with pytest.raises(StateError, match=re.escape(f"{path}: this is not the script that was planned")):
        trust.read_script(path, known)
