"""What the scenarios stand on: our commands as a user types them, each plan in a folder of its own, and its outcome.

Nothing here reads a session's files: what happened is read from `--cmd status --json`, `--cmd events --json`, and by
the logs of the jobs.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

SCRIPTS = Path(__file__).resolve().parents[1]
EXPERIMENT = "experiments/scenarios/misbehaviours"
_ITERATION = re.compile(r"\] iteration +(\d+)/ *\d+ \|.*?(?: lm loss: (\S+) \|.*)?$", re.MULTILINE)
_SAVED = re.compile(r"successfully saved checkpoint from iteration +(\d+) to ")
_LOADED = re.compile(r"successfully loaded checkpoint from .* at iteration +(\d+)")
_LOOK_EVERY_SECONDS = 0.3
Job = dict[str, Any]
T = TypeVar("T")


class UnexpectedError(Exception):
    """Something is not as the scenario promises; the message says what."""


def expect(holds: object, message: str) -> None:
    """Raise UnexpectedError unless it holds."""
    if not holds:
        raise UnexpectedError(message)


def expect_equal(what: str, seen: object, wanted: object) -> None:
    """Raise UnexpectedError unless both are equal."""
    expect(seen == wanted, f"{what} is {seen!r}, not {wanted!r}")


@dataclass(frozen=True)
class Lab:
    """Where scenarios are played: a root folder, and the words that every plan gets.

    `on_slurm`: the words ask for a real SLURM; it counts in minutes, so that some numbers differ.
    `patience_seconds`: how long one wait may take, the time in the scheduler's queue included.
    """

    root: Path
    words: tuple[str, ...] = ()
    on_slurm: bool = False
    patience_seconds: float = 120
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def usual_words(self) -> tuple[str, ...]:
        """What differs from the experiment's own numbers, which are those of one machine."""
        if not self.on_slurm:
            # All jobs at once, however few cores there are: they sleep most of the time.
            return ("slurm.client.slots=16", *self.words)
        limits = (
            # Over 100 seconds of work, of which SLURM ends the first attempt after 60 to 90.
            "metadata.limit='00:01:00'",
            "metadata.limit_step_seconds=2.6",
            # The signal comes 20 to 80 seconds after the start.
            "metadata.leave_limit='00:02:00'",
            "metadata.leave_signal=TERM@40",
            "metadata.leave_step_seconds=2.4",
        )
        return ("metadata.patience_seconds=20", *limits, *self.words)

    def plan(self, name: str, *words: str, config_ref: str = EXPERIMENT) -> Run:
        """A plan-to-be in a folder of its own; nothing is run yet."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return Run(self, folder, ("--config-ref", config_ref, *self.usual_words, *words))


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job: its id, its log, the losses by iteration, and the iterations of its checkpoints.

    `loaded`: the iteration of the checkpoint from which it went on; 0 if from none.
    """

    job_id: str
    log: Path
    losses: dict[int, float | None]
    saved: tuple[int, ...]
    loaded: int


@dataclass
class Run:
    """One plan and its session."""

    lab: Lab
    folder: Path
    words: tuple[str, ...]

    # ---- commands

    def command(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands to its end."""
        try:
            return subprocess.run(
                self._argv(name, words),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.lab.patience_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UnexpectedError(f"{name} has not ended within {self.lab.patience_seconds:g} s") from None

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start one of our commands; what it prints is added to `output.txt`."""
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                self._argv(name, words),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Plan, submit and watch; returns when the session is there."""
        process = self.start("run", *self.words, *words)
        self.until(lambda: process.poll() is not None or self._has_session(), "a session")
        if not self._has_session():
            raise UnexpectedError(f"run ended with exit code {process.returncode}: {self.output[-1500:]}")
        return process

    def watched_to_the_end(self, process: subprocess.Popen[str]) -> int:
        """Wait for a command that watches; its exit code."""
        try:
            return process.wait(self.lab.patience_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            states = {name: (job["state"], job["reason"]) for name, job in self.status().items()}
            raise UnexpectedError(f"not at an end after {self.lab.patience_seconds:g} s: {states}") from None

    def session_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command about this session, to its end."""
        return self.command("monitor", "--session", self.plan_id, *words)

    def _argv(self, name: str, words: Sequence[str]) -> list[str]:
        return [sys.executable, str(SCRIPTS / f"{name}_autoexp.py"), *words]

    def _environment(self) -> dict[str, str]:
        inherited = {key: text for key, text in self.lab.environment.items() if key != "OELLM_MONITORING_STATE_DIR"}
        # `python` in an action's command is the one that runs this.
        path = os.pathsep.join((os.path.dirname(sys.executable), inherited.get("PATH", os.defpath)))  # noqa: PTH120  not resolved
        return {**inherited, "OUTPUT_DIR": str(self.outputs), "PATH": path}

    # ---- what became of it

    @property
    def outputs(self) -> Path:
        """Where its jobs write."""
        return self.folder / "outputs"

    @property
    def output(self) -> str:
        """What the started commands printed."""
        return (self.folder / "output.txt").read_text(errors="replace")

    @functools.cached_property
    def plan_id(self) -> str:
        """Its id."""
        return (self.outputs / "sweep.json").resolve().name.removesuffix(".sweep.json")

    def _has_session(self) -> bool:
        link = self.outputs / "sweep.json"
        return link.exists() and (self.outputs / "monitoring_state" / f"{self.plan_id}.json").exists()

    def status(self) -> dict[str, Job]:
        """Every job by its name, as recorded."""
        return {job["name"]: job for job in self._json("--cmd", "status")["jobs"]}

    def events(self, job: str | None = None) -> list[dict[str, Any]]:
        """Every event, or those of a job, each with what became of its actions; asked for once, so at the end."""
        return [event for event in self._events if job in (None, event["job"])]

    @functools.cached_property
    def _events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._json("--cmd", "events")["events"]
        return found

    def _json(self, *words: str) -> dict[str, Any]:
        result = self.session_command(*words, "--json")
        try:
            found: dict[str, Any] = json.loads(result.stdout)
        except ValueError:
            printed = result.stderr.strip() or result.stdout.strip()
            raise UnexpectedError(f"{' '.join(words)} gives no JSON: {printed[-500:]}") from None
        return found

    def queue(self, *words: str) -> dict[str, Any]:
        """What `--cmd queue` prints."""
        return self._json("--cmd", "queue", *words)

    def attempts(self, job: str) -> list[Attempt]:
        """The attempts of a job that have left a log, in order."""
        logs = sorted((self.outputs / job / "logs").glob("*.out"), key=lambda log: _numbers(log.stem))
        return [_attempt(log) for log in logs]

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait for something to become true, and return it."""
        end = time.monotonic() + self.lab.patience_seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(_LOOK_EVERY_SECONDS)
        raise UnexpectedError(f"waited in vain for {what}")

    def scancel(self, job_id: str) -> None:
        """End a job as somebody would who knows nothing of us, by the scheduler itself."""
        from oellm_autoexp.planning.manifest import load
        from oellm_autoexp.schedulers.base import make_scheduler

        manifest = load(self.outputs / "manifests" / f"{self.plan_id}.json")
        if manifest.slurm["client"]["class_name"] == "SlurmClient":
            # As a command, since it is the lab's environment that says which cluster is meant.
            words = [*manifest.slurm["cancel_cmd"], job_id]
            subprocess.run(words, env=self._environment(), check=True, timeout=self.lab.patience_seconds)
        else:
            make_scheduler(manifest).cancel({job_id: ""})


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _attempt(log: Path) -> Attempt:
    text = log.read_text(errors="replace")
    losses = {int(number): float(loss) if loss else None for number, loss in _ITERATION.findall(text)}
    loaded = _LOADED.search(text)
    saved = tuple(map(int, _SAVED.findall(text)))
    return Attempt(log.stem, log, losses, saved, int(loaded.group(1)) if loaded else 0)
