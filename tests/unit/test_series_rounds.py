"""Series equal what the logs say, whenever the monitor is killed, a log is rotated or cut, or a new attempt begins."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.session import series
from oellm_autoexp.session.session import Session
from tests.unit.test_executor import FOREVER, Stage, on_state, restart

ROUNDS = int(os.environ.get("AUTOEXP_SERIES_ROUNDS", "60"))


class Killed(BaseException):
    """The end of the monitor's process."""


DEATHS = [(place, name, late) for place, name in ((series, "append"), (Session, "save")) for late in (False, True)]
"""Functions before or after which the monitor dies."""


@dataclass
class Training:
    """A job whose program writes Megatron's lines; `reported` are the points of all whole lines."""

    stage: Stage
    random: random.Random
    iteration: int = 0
    furthest: int = 0
    rotations: int = 0
    reported: list[tuple[int, float, int]] = field(default_factory=list)
    rest: bytes = b""

    def write(self) -> None:
        lines = [self.rest]
        for _ in range(self.random.randint(1, 4)):
            self.iteration += 1
            loss = round(self.random.uniform(1, 9), 4)
            self.reported.append((self.iteration, loss, self.stage.a.attempt))
            lines.append(b" [2026-01-31 10:00:00] iteration %d/ 999 | lm loss: %f |\n" % (self.iteration, loss))
        data = b"".join(lines)
        cut = self.random.choice([0, self.random.randint(0, 60)])
        self.stage.write("a", data[: len(data) - cut])
        self.rest = data[len(data) - cut :]

    def finish_line(self) -> None:
        self.stage.write("a", self.rest)
        self.rest = b""

    def rotate(self) -> None:
        self.finish_line()
        log = Path(self.stage.a.logs.resolved_log_path)
        if log.exists() and self.stage.a.logs.cursor.identity:  # a file that nobody has ever read can't be missed
            for number in range(self.rotations, 0, -1):
                log.with_name(f"{log.name}.{number}").rename(log.with_name(f"{log.name}.{number + 1}"))
            self.rotations += 1
            log.rename(log.with_name(f"{log.name}.1"))
            log.touch()
            self.stage.cycle()

    def begin_anew(self) -> None:
        """The job crashes, further on than ever, and its next attempt goes on from an earlier iteration."""
        while self.iteration <= self.furthest:
            self.write()
        self.furthest = self.iteration
        self.finish_line()
        attempt = self.stage.a.attempt
        self.stage.slurm._scripts[self.stage.a.newest.scheduler_id] = [JobStatus("FAILED")]
        self.stage.until(lambda: self.stage.a.attempt > attempt and self.stage.a.state == "running")
        self.iteration = self.random.randint(0, self.iteration)
        self.rotations = 0


def killed_in(stage: Stage, number: int) -> None:
    """Look once more, with a monitor that dies in one of these places; a new one takes over."""
    place, name, late = DEATHS[number]
    real = getattr(place, name)

    def die(*words: Any, **more: Any) -> None:
        if late:
            real(*words, **more)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, die)
        try:
            stage.cycle()
        except Killed:
            stage.resumed()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_series_are_what_the_logs_say(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    stage = Stage(tmp_path, on_state(restart(max_attempts=99)), {"a": [FOREVER]})
    stage.until(lambda: stage.a.state == "running")
    training = Training(stage, chance)
    steps: list[Callable[[], None]] = [
        training.write,
        training.write,
        stage.cycle,
        training.rotate,
        training.begin_anew,
        *(lambda number=number: killed_in(stage, number) for number in range(len(DEATHS))),
    ]
    for _ in range(25):
        chance.choice(steps)()
    training.finish_line()
    stage.cycle(2)
    found = series.read(series.file_of(stage.path, "a"), stage.a.logs.series).get("loss")
    points = [] if found is None else list(zip(found.iterations, found.values, found.attempts, strict=True))
    assert points == training.reported
    assert stage.a.logs.series.points.get("loss", 0) == len(training.reported)
