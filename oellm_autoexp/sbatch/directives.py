"""The `#SBATCH` lines of a script: made from a section, read, and changed for a later attempt. Pure.

Each key of `slurm.sbatch` becomes a line. The known options are in `known_options`; planning checks the keys.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import CONTROL
from oellm_autoexp.sbatch.options import (
    long_name,
    node_union,
    option_words,
    options_in,
    quoted,
    said_twice,
    too_much,
    twice_problem,
    written_options,
)
from oellm_autoexp.sbatch.times import is_automatic

DIRECTIVES = "slurm.sbatch."
"""The overrides of a new attempt below this become directives of its script; others plan the job anew."""
OWN = {
    "job_name": "set project.name",
    "output": "set project.log_path",
    "chdir": "jobs run in the directory that the plan was made in",
    "comment": "it holds the token by which the program finds a submission again",
    "array": "set slurm.array=true to submit the sweep's jobs as arrays",
    "clusters": "jobs are searched only on this cluster: submit on the other, or set slurm.submit_cmd, squeue_cmd etc.",
    "wait": "sbatch would return only when the job has ended",
    "test_only": "use --check",
    "parsable": "the program reads the job's id from sbatch itself",
    "wrap": "sbatch accepts no script with it",
    "uid": "jobs are searched only among those of the submitting user",
}
"""Options that the program sets itself, and what the user does instead."""
_OWN_PLACES: Mapping[str, Location | str] = {
    "job_name": CONFIG / "project.name",
    "output": CONFIG / "project.log_path",
    "chdir": "the working directory",
}
DIRECTIVE = "#SBATCH"
SECTION = CONFIG / "slurm.sbatch"


def directives(
    sbatch: Mapping[str, Any], extra: Sequence[str], *, name: str, log_path: str, work_dir: str
) -> tuple[str, ...]:
    """The `#SBATCH` lines of a job: the options of the section, and name, log and working directory.

    `cpus_per_task: 8` → `--cpus-per-task=8`; true → the bare flag; null and false → absent; a list → joined by commas.
    `requeue: false` → `--no-requeue`, since sites requeue jobs by default (slurm.conf(5), JobRequeue).
    Raises ConfigError for keys that the program owns and for values that no directive can hold.
    """
    section = {key: value for key, value in sbatch.items() if value is not None and value is not False}
    if any(value is False and long_name(key) == "requeue" for key, value in sbatch.items()):
        section["no_requeue"] = True
    if _same(section.get("output"), log_path, work_dir):  # as the program sets it
        del section["output"]
    own = {"job_name": name, "output": log_path, "chdir": work_dir}
    # A requeued job keeps its id, and SLURM would truncate the log of its first run.
    defaults = {} if "open_mode" in map(long_name, sbatch) else {"open_mode": "append"}
    problems: list[Problem] = []
    lines: list[str] = []
    for key, value in {**own, **defaults}.items():
        _add(lines, key, value, _OWN_PLACES.get(key, ""), problems)
    lines += [line for found in _section_lines(section, problems).values() for line in found]
    for index, line in enumerate(extra):
        bare = line.removeprefix(DIRECTIVE).strip()
        problems += _extra_problems(line, bare, CONFIG / "slurm.sbatch_extra_directives" / index)
        lines.append(f"#SBATCH {bare}")
    problems += at_their_options(_automatic_times(extra), {}, extra)
    if problems:
        raise ConfigError(*problems)
    return tuple(lines)


def _automatic_times(lines: Iterable[str]) -> Iterator[Problem]:
    """Time limits that sbatch would be to find itself."""
    for key, value in (option for line in lines for option in options_in(line.removeprefix(DIRECTIVE))):
        if key == "time" and is_automatic(value):
            what = f"'{value}' is found only when a plan is made, for slurm.sbatch.time"
            yield Problem(what, SECTION / key, "write a time, such as 02:00:00, or slurm.sbatch.time: auto")


def _same(path: Any, other: str, work_dir: str) -> bool:
    return isinstance(path, str) and posixpath.normpath(posixpath.join(work_dir, path)) == other


def at_their_options(problems: Iterable[Problem], sbatch: Mapping[str, Any], extra: Sequence[str]) -> list[Problem]:
    """Problems of options (`$.slurm.sbatch.nodes`) at the key, or the further directive, that sets the option."""
    found = [*problems]
    if not found:  # as of nearly all jobs
        return []
    keys = {long_name(key): SECTION / key for key in sbatch}
    for index, line in enumerate(extra):
        place = CONFIG / "slurm.sbatch_extra_directives" / index
        keys |= {key: place for key, _ in options_in(line.removeprefix(DIRECTIVE))}
    places = {SECTION / option: place for option, place in keys.items()}
    return [replace(problem, where=places.get(problem.where, problem.where)) for problem in found]


def _section_lines(section: Mapping[str, Any], problems: list[Problem]) -> dict[str, list[str]]:
    """The directives of each option of a section, by its long name; mistakes are added to `problems`."""
    found: dict[str, list[str]] = {}
    twice = said_twice(section)
    for key, value in section.items():
        where = SECTION / key
        if long_name(key) in OWN:
            problems.append(Problem(f"'{key}' is set by the program", where, OWN[long_name(key)]))
        elif key in twice:
            problems.append(twice_problem(key, twice[key], where))
        else:
            _add(found.setdefault(long_name(key), []), key, value, where, problems)
    problems += at_their_options(_automatic_times(found.get("time", ())), section, ())
    return found


def _add(lines: list[str], key: str, value: Any, where: Location | str, problems: list[Problem]) -> None:
    try:
        lines += [f"#SBATCH {flag}{joint}{quoted(text)}" for flag, joint, text in option_words(key, value)]
    except ValueError as error:
        problems.append(Problem(str(error), where))


def _extra_problems(line: str, bare: str, where: Location) -> list[Problem]:
    if not bare.startswith("-") or CONTROL.search(bare.replace("\t", " ")):
        return [Problem(f"{line!r} is not a directive", where, "write --name=value, one on each line")]
    found = options_in(bare)
    return [
        *(
            Problem(f"'{key.replace('_', '-')}' is set by the program", where, OWN[key])
            for key, _ in found
            if key in OWN
        ),
        *(Problem(why, where) for key, value in found if (why := too_much(key, value))),
    ]


@lru_cache(maxsize=8)  # a job's script is asked for them by each of its checks
def directive_lines(script: str) -> tuple[str, ...]:
    """The `#SBATCH` lines of a script above its first command; sbatch reads no others."""
    lines = takewhile(is_no_command, script.split("\n"))
    return tuple(line for line in lines if line.startswith(DIRECTIVE))


def with_options(text: str, options: Mapping[str, Any]) -> str:
    """The script `text` with other directives; all else stays byte for byte.

    `options` has the form of the `slurm.sbatch` section. Its options are replaced in every directive, in any spelling;
    those that are null or false are removed. Raises ConfigError for keys that the program sets itself, also with the
    value null, and for values that no directive can hold.
    """
    problems: list[Problem] = []
    wanted = _section_lines(options, problems)
    if "error" in wanted:
        what = "a new attempt keeps the files that its output goes to"
        problems.append(Problem(what, CONFIG / "slurm.sbatch.error", "set it in the plan"))
    if problems:
        raise ConfigError(*problems)
    lines = text.split("\n")
    head = sum(1 for _ in takewhile(is_no_command, lines))
    made: list[str] = []
    after = 1 if text.startswith("#!") else 0  # where new directives are inserted
    given: set[str] = set()
    for line in lines[:head]:
        written = written_options(line.removeprefix(DIRECTIVE)) if line.startswith(DIRECTIVE) else []
        replaced = dict.fromkeys(option.key for option in written if option.key in wanted)
        if replaced:
            made += _without(line, replaced)
            made += [new for key in replaced if key not in given for new in wanted[key]]
            given.update(replaced)
        else:
            made.append(line)
        if line.startswith(DIRECTIVE):
            after = len(made)
    made[after:after] = [new for key, found in wanted.items() if key not in given for new in found]
    return "\n".join((*made, *lines[head:]))


def _without(line: str, keys: Collection[str]) -> list[str]:
    """A directive without some of its options, as a list of one line; empty if it has no others."""
    inside = line.removeprefix(DIRECTIVE)
    written = written_options(inside)
    kept = [inside[option.start : option.end] for option in written if option.key not in keys]
    after = inside[written[-1].end :].strip()
    comment = [after] if after.startswith("#") else []  # other words would become the value of the option before
    return [" ".join((DIRECTIVE, *kept, *comment))] if kept else []


def excluding(text: str, nodes: Iterable[str]) -> str:
    """The script `text` in which `--exclude` has `nodes`, too, after the nodes that it names already.

    Raises ConfigError if `--exclude` names a file of nodes, which can't be added to.
    """
    present = options(text).get("exclude", "")
    if "/" in present:
        hint = "name the nodes themselves: exclude: [n1, n2]"
        raise ConfigError(
            Problem(f"'{present}' is a file, so no node can be added", CONFIG / "slurm.sbatch.exclude", hint)
        )
    union = node_union(present, nodes)
    return text if union == node_union(present, ()) else with_options(text, {"exclude": union})


def options(script: str) -> dict[str, str]:
    """The values of a script's directives, by the long names of options (`_` for `-`); a bare flag has ''."""
    return dict(option for line in directive_lines(script) for option in options_in(line.removeprefix(DIRECTIVE)))


def is_no_command(line: str) -> bool:
    """Whether sbatch reads directives below this line: it is no command."""
    return line.lstrip()[:1] in ("", "#")


def is_own_line(line: str) -> bool:
    """Whether a directive is one that the program sets for each job."""
    return any(key in OWN for key, _ in options_in(line.removeprefix(DIRECTIVE)))


def array_group(lines: Sequence[str], log_name: str) -> str:
    """A digest that is equal for jobs with equal directives, apart from those that differ in every job (name, log)."""
    text = "\n".join((*(line for line in lines if not is_own_line(line)), log_name))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
