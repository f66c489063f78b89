"""A log that is written, cut, rotated and begun anew at any instant: each line that matches makes exactly one event."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from oellm_autoexp.decisions.detect import Detector, see_log
from oellm_autoexp.rules.events import Event
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.storage.log_tail import read_added

SEEDS = int(os.environ.get("AUTOEXP_FAULT_ROUNDS", "50")) * 4
MOST_BYTES = 1 << 20
"""The length from which on a line is read in pieces."""
MATCH = b"checkpoint %d saved"
RULES = Rules.model_validate({"log_events": [{"name": "saved", "pattern": r"checkpoint (?P<number>\d+) saved"}]})


@dataclass
class Reader:
    """What the monitor does with a log. `save` is what its session keeps, and `crash` goes back to it."""

    path: Path
    job: JobState = field(default_factory=lambda: JobState(name="a", state="running", attempt=1))
    found: dict[str, Event] = field(default_factory=dict)
    """The record: every event by its id, which is there once although it was seen twice."""

    def __post_init__(self) -> None:
        self.detector = Detector(RULES)
        self.saved = self.job

    def look(self, *, final: bool = False) -> None:
        while True:
            data, cursor = read_added(self.path, self.job.logs.cursor, final=final)
            self.job = see_log(self.job, data, cursor, 1.0)
            if not data:
                return
            self.job = self.detector.measured(self.job, data, 1.0, own=True)
            self.job, events = self.detector.lines(self.job, data, cursor, 1.0)
            for event in events:
                self.found.setdefault(event.id, event)

    def save(self) -> None:
        self.saved = self.job

    def crash(self) -> None:
        self.job = self.saved

    @property
    def numbers(self) -> list[int]:
        return [int(event.metadata["number"]) for event in self.found.values()]

    @property
    def tally(self) -> int:
        return self.job.actions.events["saved"].count if self.job.actions.events else 0

    @property
    def queued(self) -> int:
        return len({pending.id for pending in self.job.actions.pending})


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "train.log")


def lines(*numbers: int) -> bytes:
    return b"".join(MATCH % number + b"\n" for number in numbers)


def write(reader: Reader, data: bytes) -> None:
    with reader.path.open("ab") as log:
        log.write(data)


# ---- lines longer than what is read at once


@pytest.mark.parametrize("cut", range(1, len(MATCH % 1234), 3))
def test_a_match_is_found_wherever_a_very_long_line_is_read_in_pieces(reader: Reader, cut: int) -> None:
    write(reader, b"x" * (MOST_BYTES - cut) + MATCH % 1234 + b"y" * 100 + b"\n" + lines(1))
    reader.look(final=True)
    assert reader.numbers == [1234, 1]


def test_a_match_behind_the_hole_that_a_copying_rotation_leaves_is_found(reader: Reader) -> None:
    with reader.path.open("wb") as log:  # its writer keeps its place: after the cut, the file begins with zeros
        log.write(lines(1) + b"x" * 3 * MOST_BYTES + b"\n")
        log.flush()
        reader.look()
        os.truncate(reader.path, 0)
        reader.look()
        log.write(lines(2, 3))
    reader.look(final=True)
    assert reader.numbers == [1, 2, 3]


# ---- truncation


def test_a_log_that_was_cut_and_is_as_long_as_before_is_read_at_the_end_at_the_latest(reader: Reader) -> None:
    write(reader, lines(1, 2))
    reader.look()
    reader.path.write_bytes(lines(3, 4))
    reader.look(final=True)
    assert reader.numbers == [1, 2, 3, 4]


def test_a_log_that_was_cut_and_begins_again_with_the_same_long_banner_is_read_from_its_start(reader: Reader) -> None:
    banner = b"=" * 100 + b"\n"
    write(reader, lines(1) + banner)
    reader.look()
    reader.path.write_bytes(lines(2) + banner + lines(3))
    reader.look(final=True)
    assert reader.numbers == [1, 2, 3]


# ---- rotation


def rotate(reader: Reader, kept: int = 9) -> None:
    """Move train.log to train.log.1, that to train.log.2, … as logrotate and RotatingFileHandler do."""
    names = [reader.path, *(Path(f"{reader.path}.{number}") for number in range(1, kept + 1))]
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            newer.replace(older)


def test_a_log_that_was_cut_and_then_rotated_between_two_looks_is_read_whole(reader: Reader) -> None:
    write(reader, lines(1, 2, 3))
    reader.look()
    os.truncate(reader.path, 0)
    write(reader, lines(4))
    rotate(reader)
    write(reader, lines(5))
    reader.look(final=True)
    assert reader.numbers == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_a_log_that_was_rotated_several_times_between_two_looks_is_read_whole(reader: Reader, times: int) -> None:
    write(reader, lines(100))
    reader.look()
    for number in range(times):
        write(reader, lines(number * 2))
        rotate(reader)
        write(reader, lines(number * 2 + 1))
    reader.look(final=True)
    assert reader.numbers == [100, *range(times * 2)]


NUMBERINGS = (
    "train.log.{}",
    "train.log.2026010{}",
    "train.log-2026010{}",
    "train.log.2026-01-0{}",
    "train.2026-01-0{}.log",
)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("name", NUMBERINGS)
def test_a_log_rotated_to_numbers_or_dates_that_grow_is_read_whole(reader: Reader, name: str, times: int) -> None:
    written = 0
    for number in range(1, 10):
        for _ in range(2):
            write(reader, lines(written))
            written += 1
            if number % times == 0 or written == 1:
                reader.look()
        os.utime(reader.path, (number, number))
        reader.path.rename(reader.path.with_name(name.format(number)))
    write(reader, lines(written))
    reader.look(final=True)
    assert reader.numbers == [*range(written + 1)]


def test_a_rotated_log_whose_writer_goes_on_does_not_change_the_order_of_others(reader: Reader) -> None:
    for number in range(1, 6):
        write(reader, lines(number))
        os.utime(reader.path, (number, number))
        if number == 1:
            reader.look()
        rotate(reader)
    os.utime(f"{reader.path}.5")  # the oldest one
    write(reader, lines(6))
    reader.look(final=True)
    assert reader.numbers == [1, 2, 3, 4, 5, 6]


def test_a_new_log_in_the_place_of_a_removed_one_has_events_of_its_own_although_it_has_its_inode(
    reader: Reader,
) -> None:
    """File systems give the number of a removed file to the next one: log.1 is replaced, and log has its number."""
    write(reader, lines(1))
    first = reader.path.stat().st_ino
    reader.look()
    rotate(reader, kept=1)
    write(reader, b"between\n")
    reader.look()
    rotate(reader, kept=1)  # the first file is gone now
    for number in range(2000):
        if number:
            with contextlib.suppress(FileNotFoundError):
                reader.path.rename(reader.path.with_name(f"kept{number}"))
        write(reader, lines(2))
        if reader.path.stat().st_ino == first:
            break
    else:
        pytest.xfail("this file system does not use the numbers of removed files again so soon")
    reader.look()
    assert reader.numbers == [1, 2]
    assert reader.tally == 2


# ---- anything, in any order


ENDS = (b"\n", b"\r\n", b"\r")
NOISE = (
    b"",
    b"plain",
    b"$(touch x) `id` ; rm -rf * | \"'\\",
    b"{number} {0} {job.name} %s %(number)s",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
    b"\x00\x00zero",
    b"\xff\xfe\xc3( not UTF-8 \xed\xa0\x80",
    "Übergrößenträger ✓ 漢字 🙂\u2028\u0085".encode(),
    b"checkpoint saved",
    b"checkpoint  5 saved",
    b"checkpoint 5",
    b"saved",
)


class Log:
    """A log as a job writes it, by a seed. `certain` must make one event each, `possible` at most one."""

    def __init__(self, reader: Reader, chance: random.Random) -> None:
        self.reader, self.chance = reader, chance
        self.certain: set[int] = set()
        self.possible: set[int] = set()
        self.rest = b""
        self.in_file: set[int] = set()
        self.number = 0

    def line(self) -> bytes:
        noise = self.chance.choice(NOISE)
        end = self.chance.choice(ENDS)
        if self.chance.random() < 0.5:
            return noise + end
        self.number += 1
        self.in_file.add(self.number)
        return noise + b" " + MATCH % self.number + self.chance.choice(NOISE) + end

    def grow(self) -> None:
        self.rest += b"".join(self.line() for _ in range(self.chance.randrange(4)))
        cut = self.chance.randint(0, len(self.rest))
        write(self.reader, self.rest[:cut])
        self.rest = self.rest[cut:]

    def finish_line(self) -> None:
        write(self.reader, self.rest)
        self.rest = b""

    def leave_file(self) -> None:
        """What was not read when a log is cut may be lost; what was read stays."""
        read = {*self.reader.numbers}
        self.certain |= self.in_file & read
        self.possible |= self.in_file - read
        self.in_file = set()
        self.rest = b""

    def truncate(self) -> None:
        self.finish_line()
        self.reader.look(final=True)
        self.reader.save()
        self.leave_file()
        os.truncate(self.reader.path, 0)

    def rotate(self) -> None:
        known = self.reader.saved.logs.cursor.inode
        if known != str(self.reader.path.stat().st_ino):  # several at once have a test of their own
            return
        self.finish_line()
        rotate(self.reader)
        self.certain |= self.in_file
        self.in_file = set()

    def look(self) -> None:
        self.reader.look()
        if self.chance.random() < 0.5:
            self.reader.save()

    def check(self) -> None:
        self.finish_line()
        self.reader.look(final=True)
        self.certain |= self.in_file
        counts = Counter(self.reader.numbers)
        assert self.certain <= set(counts) <= self.certain | self.possible
        assert not counts or max(counts.values()) == 1
        assert self.reader.tally == sum(counts.values())


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_line_of_a_random_life_of_a_log_makes_one_event(tmp_path: Path, seed: int) -> None:
    """The seed that fails is in the test's name."""
    chance = random.Random(seed)
    reader = Reader(tmp_path / "train.log")
    reader.path.touch()
    log = Log(reader, chance)
    steps = [log.grow, log.look, reader.crash, log.truncate, log.rotate]
    for _ in range(60):
        chance.choices(steps, weights=[10, 8, 3, 1, 1])[0]()
        if not reader.path.exists():
            reader.path.touch()
    log.check()
