"""What is checked beyond the plan itself: by the programs that are to run, and of scripts, each kind of them once."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Timer

from oellm_autoexp import trust
from oellm_autoexp.backends.base import Probe
from oellm_autoexp.errors import BackendError, ConfigError, Problem, raise_all
from oellm_autoexp.model import Manifest
from oellm_autoexp.scheduler.base import Scheduler
from oellm_autoexp.slurm.script import array_group, directive_lines


def check(manifest: Manifest, scheduler: Scheduler, *, test: bool = False) -> None:
    """Raise ConfigError with all that bash or the scheduler would refuse, or keep waiting for ever.

    `test`: the scheduler is also asked to judge one script of each kind as if it were submitted.
    """
    kinds = _kinds(manifest)
    raise_all(
        ConfigError,
        [problem for path, text in kinds.items() for problem in _syntax(path, text)]
        + scheduler.check(kinds, test=test),
    )


_PATIENCE_SECONDS = 600  # for the program to start
_PATIENCE_SECONDS_EACH = 10


def ask(probes: Iterable[Probe], progress: Callable[[], None] = lambda: None) -> None:
    """Put questions to the programs themselves, each started once. Raises BackendError with all that they refuse.

    `progress` is called with every answer.
    """
    by_program: dict[tuple[str, ...], list[Probe]] = defaultdict(list)
    for probe in probes:
        by_program[probe.program].append(probe)
    found = [problem for program, asked in by_program.items() for problem in _problems(program, asked, progress)]
    raise_all(BackendError, dict.fromkeys(found))


def absent(files: Iterable[str]) -> tuple[str, ...]:
    """A note for each file that is not here; it may be on the nodes, or inside of a container."""
    hint = "if it is not inside of the container either: git submodule update --init, or name another"
    return tuple(f"{file} is not on this machine; {hint}" for file in files if not Path(file).exists())


def _problems(program: tuple[str, ...], probes: Sequence[Probe], progress: Callable[[], None]) -> list[Problem]:
    first = probes[0]
    try:
        answers, failure = _answers(program, probes, progress)
    except OSError as error:
        return [Problem(f"can't ask {program[0]}: {error}", first.where, first.help)]
    if failure:
        return [Problem(f"can't ask the program itself: {failure}", first.where, first.help)]
    return [
        Problem(f"it would be refused: {what}", probe.where)
        for probe, line in zip(probes, answers, strict=True)
        for what in json.loads(line)
    ]


def _answers(program: tuple[str, ...], probes: Sequence[Probe], progress: Callable[[], None]) -> tuple[list[str], str]:
    """A line for each question, and why there are not as many. Raises OSError: it can't be started."""
    patience = _PATIENCE_SECONDS + _PATIENCE_SECONDS_EACH * len(probes)
    with tempfile.TemporaryFile("w+") as questions, tempfile.TemporaryFile("w+", errors="replace") as said:
        questions.writelines(f"{json.dumps(dict(probe.question))}\n" for probe in probes)
        questions.seek(0)
        environment = {**os.environ, "NO_VCS_VERSION": "1"}  # else Megatron asks git for its version
        answers = []
        with subprocess.Popen(
            program, stdin=questions, stdout=subprocess.PIPE, stderr=said, text=True, errors="replace", env=environment
        ) as child:
            late = Timer(patience, child.kill)
            late.start()
            try:
                for line in child.stdout or ():
                    if line.startswith("["):
                        answers.append(line)
                        progress()
            except BaseException:
                child.kill()
                raise
            finally:
                too_late = not late.is_alive()
                late.cancel()
        if child.returncode == 0 and len(answers) == len(probes):
            return answers, ""
        said.seek(0)
        lines = said.read().strip().splitlines()
    if too_late:
        lines = [f"it took more than {patience} seconds"]
    return answers, (lines or [f"exit code {child.returncode}"])[-1]


def _kinds(manifest: Manifest) -> dict[str, str]:
    """One script (path → text) of each stage and set of directives: values are quoted, so that others are like it."""
    found: dict[tuple[str | None, str], tuple[str, str]] = {}
    for job in manifest.jobs:
        try:
            text = trust.read_script(Path(job.script_path), job.script_digest, Path(manifest.base_output_dir))
        except OSError as error:
            raise ConfigError(
                Problem(f"can't read the script: {error.strerror}", job.script_path, "plan again")
            ) from None
        found.setdefault((job.stage, array_group(directive_lines(text), "")), (job.script_path, text))
    return dict(found.values())


def _syntax(path: str, text: str) -> list[Problem]:
    if "bash" not in text.partition("\n")[0]:
        return []
    result = subprocess.run(["bash", "-n", "--", path], capture_output=True, text=True, errors="replace", check=False)  # noqa: S607
    said = result.stderr.strip().splitlines()
    return [Problem(f"bash -n: {said[0] if said else 'failed'}", path)] if result.returncode else []
