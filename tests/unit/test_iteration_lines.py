"""Many lines of iterations at once report what they report one by one, whatever else stands in the log."""

from __future__ import annotations

import math
import os
import random
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.states import RUNNING
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.rules.iteration_lines import iterations_of
from oellm_autoexp.rules.metrics import known_lines
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.session import series
from oellm_autoexp.session.job_state import Attempt, JobState
from oellm_autoexp.session.series import Point, Rows, Written

ROUNDS = int(os.environ.get("AUTOEXP_METRIC_ROUNDS", "200"))
METRICS: list[dict[str, Any]] = [
    {},
    {"consumed": r"consumed samples: +(?P<value>\d+) \|"},  # of the lines that are read many at once
    {"loss": r"lm loss: (?P<value>\S+)", "accuracy": r"accuracy=(\S+)"},  # a name that these lines have, too
    {"x": r"step (?P<iteration>\d+) x (?P<value>\S+)", "j": {"json": "loss"}, "grad_norm": r"accuracy=(\S+)"},
]
NUMBERS = ["nan", "-inf", "NaN", "1e999", "-0", ".5", "5.", "1_000", "1,000", "0x1", "9" * 32, "9" * 33, "1e12345"]
NUMBERS += ["infinity", "+3", "--1", "", "1.2.3", "\u0661", "1e", "1." + "3" * 33, "12 ", "  1"]
ODD = ["\r", "\t", " ", "|", " | ", ":", ": ", "\x1b[31m", "\u00e9", "\u2028", "\x85", "\x0b", "\x1c", "\0", "_", "e"]
ODD += ["] iteration", "] iteration        5/  100 |", "[2026-13-01 00:00:00]", "[2026-01-01 00:00:60]", "9" * 25]
ODD += [
    "validation loss at iteration 7 | lm loss value: 3.0E+00 | ",
    "(after 7 iterations) memory (MB) | max reserved: 9",
]
ODD += [
    " new: 5 |",
    " lm loss: 7.0 |",
    " validation_loss: 3.0 |",
    f" {'n' * 81}: 5 |",
    " a b |",
    " : 5 |",
    "lm loss",
    "2",
]
OTHERS = ["accuracy=0.5", "step 5 x 3.5", "step 7 x nan", '{"loss": 3.5, "step": 9}', '{"loss": 1}', "", "lm loss: 5 "]
OTHERS += [" validation loss at iteration 7 | lm loss value: 2.1E+00 | lm loss PPL: 8.2E+00 | "]
OTHERS += [
    "successfully loaded checkpoint from /x at iteration 80",
    "successfully saved checkpoint from iteration 7 to /x",
]
OTHERS += ["[rank0]:[titan] 2026-01-31 10:00:00,123 - root - INFO - step:  7  loss:  8.5  grad_norm:  1.2  tps: 5 "]


def iteration(number: int, loss: str = "2.1E+00") -> str:
    return (
        f" [2026-03-01 12:{number // 60 % 60:02}:{number % 60:02}.{number * 7919 % 1000:03}] iteration {number:8d}/"
        f" 1000000 | consumed samples: {number * 512:12d} | elapsed time per iteration (ms): {2800 + number % 9:.1f} |"
        f" learning rate: {3e-4 - number * 1e-11:.6E} | global batch size:   512 | lm loss: {loss} | loss scale: 1.0 |"
        f" grad norm: {number % 999 / 1000:.3f} | number of nan iterations:   0 |"
    )


def mutated(chance: random.Random, line: str) -> str:
    """A line with another number, with a field lost or moved, cut, or with something odd in it."""
    parts = line.split("|")
    one, other = chance.randrange(len(parts)), chance.randrange(len(parts))
    how = chance.randrange(5)
    if how == 0:
        name = parts[one].split(":")[0]
        parts[one] = f"{name}: {' ' * chance.choice([0, 0, 3])}{chance.choice(NUMBERS)} "
    elif how == 1:
        del parts[one]
    elif how == 2:
        parts[one], parts[other] = parts[other], parts[one]
    elif how == 3:
        return line[: chance.randrange(len(line))]
    else:
        start = chance.randrange(len(line))
        return line[:start] + chance.choice(ODD) + line[start + chance.choice([0, 1, 2, 10]) :]
    return "|".join(parts)


def log(chance: random.Random, *, timed: bool) -> bytes:
    """Whole lines of a training: most of one layout, some with another, odd ones, and those of other kinds."""
    label = chance.choice(["", "", "0: ", "%: ", "[rank%]: ", "\x1b[1m", "] iteration"])
    end = chance.choice(["", "", "\r", " x", " tail: 5"])
    odd, place = chance.choice(["", "", "", *ODD]), chance.randrange(300)
    missing, damaged, number = chance.choice([0, 0.02, 0.3]), chance.choice([0, 0.01, 0.1]), chance.randrange(10**6)
    lines = []
    for _ in range(chance.choice([1, 7, 8, 9, 20, 60])):
        number += chance.choice([1, 1, 1, -3])
        line = iteration(number, chance.choice(["2.1E+00", "2.1E+00", "nan"]))
        if chance.random() < missing:
            line = line.replace(" lm loss: 2.1E+00 |", "")
        if not timed:
            line = re.sub(r"\[[^]]*\] ", "", line)
        line = line[:place] + odd + line[place:]
        line = label.replace("%", str(chance.randrange(3))) + line + end
        lines.append(mutated(chance, line) if chance.random() < damaged else line)
        if chance.random() < 0.1:
            lines.append(chance.choice(OTHERS))
    return "".join(f"{line}\n" for line in lines).encode()


def after(detector: Detector, pieces: Iterable[bytes]) -> JobState:
    job = JobState(name="a", state=RUNNING, newest=Attempt(started_at=0.0))
    for data in pieces:
        job = detector.measured(job, data, 5.0, own=True)
    return job


def shown(numbers: Iterable[float]) -> list[str]:
    return [struct.pack("<d", number).hex() if not math.isnan(number) else "nan" for number in numbers]


def series_in(path: Path, job: JobState) -> tuple[Written, list[Any]]:
    written = series.append(path, Written(), 3, job.logs.unwritten)
    found = series.read(path, written)
    return written, [
        (name, list(one.iterations), shown(one.times), shown(one.values), set(one.attempts))
        for name, one in found.items()
    ]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_many_lines_report_what_they_report_one_by_one(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    timed = chance.random() < 0.7
    detector = Detector(Rules.model_validate({"metrics": chance.choice(METRICS)}))
    data = log(chance, timed=timed)
    whole, parts = after(detector, [data]), after(detector, data.splitlines(keepends=True))
    if b"\r" not in data:  # Python takes it for a line's end
        assert series_in(tmp_path / "whole", whole) == series_in(tmp_path / "parts", parts)
        assert str(whole.progress) == str(parts.progress)
    found, spans = iterations_of(data)
    read = [one.line(number) for one in found for number in range(len(one.offsets))]
    read = sorted([*read, *known_lines(data, spans)], key=lambda one: one.offset)
    assert str(read) == str(known_lines(data))


def test_lines_with_the_same_fields_are_read_at_once_also_with_others_between() -> None:
    other = OTHERS[-2]
    lines = [iteration(number) for number in range(100)]
    data = "".join(f"{line}\n" for line in [*lines[:50], other, *lines[50:]]).encode()
    (found,), spans = iterations_of(data)
    assert list(found.iterations) == list(range(100))
    assert [data[start:end] for start, end in spans] == [f"{other}\n".encode()]


@pytest.mark.parametrize("label", ["", "0: ", "[default3]:", "2026-03-01T12:00:00Z ", "(worker pid=3) "])
def test_lines_without_a_time_of_their_own_are_read_at_once_too(label: str) -> None:
    lines = [f"{label}{re.sub(r'.*?] ', ' ', iteration(number), count=1)}" for number in range(100)]
    lines.insert(50, OTHERS[-3])
    data = "".join(f"{line}\n" for line in lines).encode()
    (found,), _ = iterations_of(data)
    assert list(found.iterations) == list(range(100))
    assert [one.iteration for one in known_lines(data) if one.whole] == list(range(100))
    assert after(Detector(Rules()), [data]).progress.iteration == 99


def test_an_epochs_line_of_another_program_is_no_iteration() -> None:
    assert not known_lines(b"Training epoch 1, iteration 3/9 | lr: 0.001 | reduced_train_loss: 3.5 | step: 12\n")


def test_one_damaged_line_leaves_most_of_the_others_together() -> None:
    lines = [iteration(number) for number in range(500)]
    lines[321] = lines[321][:100]
    found, _ = iterations_of("".join(f"{line}\n" for line in lines).encode())
    assert sum(len(one.offsets) for one in found) > 480


def test_rows_are_written_as_their_points_line_by_line(tmp_path: Path) -> None:
    far = (1 << 40) + 5
    rows = Rows(("a", "b"), [1, far], [10.0, 20.0], ([1.5, math.inf], [-0.0, 2.5]))
    points = [Point("a", 1, 10.0, 1.5), Point("b", 1, 10.0, -0.0), Point("a", far, 20.0, math.inf)]
    points.append(Point("b", far, 20.0, 2.5))
    both: list[list[Point | Rows]] = [[rows], [*points]]
    for number, reported in enumerate(both):
        path = tmp_path / str(number)
        begun = series.append(path, Written(), 1, [Point("b", None, 0.0, 0.0)])
        assert series.append(path, begun, 5000, reported) == Written(120, {"b": 3, "a": 2})
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_of_rows_only_as_many_metrics_as_are_kept_are_written(tmp_path: Path) -> None:
    names = tuple(f"m{number}" for number in range(series.MOST_METRICS + 5))
    columns = tuple([float(number)] * 2 for number in range(len(names)))
    written = series.append(tmp_path / "a", Written(), 1, [Rows(names, [1, 2], [1.0, 2.0], columns)])
    found = series.read(tmp_path / "a", written)
    assert {name: list(one.values) for name, one in found.items()} == dict(
        zip(names[: series.MOST_METRICS], columns, strict=False)
    )
