"""What of a job's texts a shell evaluates, and what is said of those that only look as if it did. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oellm_autoexp.backends.base import Command, Note
from oellm_autoexp.config.schema import AutoexpConfig, JobSection, SlurmSection
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.redaction import redact, redact_words
from oellm_autoexp.core.text import Raw
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch.environment import OF_TASKS, REFERENCE
from oellm_autoexp.sbatch.in_job.layout import in_steps
from oellm_autoexp.sbatch.shell_code import (
    CODE_PLACES,
    Parts,
    code_spans,
    in_script,
    read_by_a_shell,
    split_parts,
    stays_text,
)

Code = Mapping[str, Parts]
"""The parts of those values of a job that hold shell code, by dotted key (`slurm.env.MASTER_ADDR`)."""
_ENV = "slurm.env."
_LAUNCHER = "slurm.launcher_cmd"
_TEMPLATE_WORD = "{{"


def environment(config: AutoexpConfig, command: Command, code: Code) -> tuple[dict[str, str], dict[str, str | Raw]]:
    """The job's variables as they are recorded, and as its script sets them: with code where a file has some."""
    own = {**config.container.env, **command.env}
    env = {**command.env_defaults, **config.slurm.env, **own}
    evaluated = {
        name: in_script(code[f"{_ENV}{name}"]) if name not in own and f"{_ENV}{name}" in code else value
        for name, value in env.items()
    }
    return env, evaluated


def launcher_words(slurm: SlurmSection, code: Code) -> Sequence[str | Raw]:
    """The words of `slurm.launcher_cmd`, of which those with code are as the script has them."""
    if _LAUNCHER in code:
        return split_parts(code[_LAUNCHER])
    return [
        in_script(code[f"{_LAUNCHER}.{index}"]) if f"{_LAUNCHER}.{index}" in code else word
        for index, word in enumerate(slurm.launcher_cmd)
    ]


def problems(slurm: SlurmSection) -> Iterator[Problem]:
    """Texts with which a job would never train: no shell reads them, and nothing else knows what they mean."""
    where = CONFIG / _LAUNCHER
    shells = read_by_a_shell(slurm.launcher_cmd)
    yield from _assignment(slurm.launcher_cmd, where, "write {name}: {value} into slurm.env")
    if slurm.launcher_cmd and (first := slurm.launcher_cmd[0]) in _OF_THE_SHELL:
        what = f"'{first}' is a command of the shell itself, which starts no program that the script waits for"
        yield Problem(what, where, "leave it out; what must run before goes into a template of your own")
    if len(slurm.launcher_cmd) in shells:
        what = f"'{slurm.launcher_cmd[-1]}' runs only the next word, which would be the program without its arguments"
        hint = 'leave the shell out (the script starts the program itself), or end it with \'… && exec "$0" "$@"\''
        yield Problem(what, where, hint)
    for index, word in enumerate(slurm.launcher_cmd):
        if _TEMPLATE_WORD in word:
            what = f"'{word}' contains a marker of a template, which is not replaced here"
            hint = "leave it out: the script exports slurm.env itself, and the program follows the launcher"
            yield Problem(what, where, f"{hint}; slurm.template_path names a template of your own")
        elif index not in shells and word in _SIGNS:
            what = f"'{word}' is shell syntax, but no shell reads this: it is one command"
            yield Problem(what, where, "write bash -c '…' for more, or a template of your own (slurm.template_path)")
        elif index not in shells and (found := OF_TASKS.search(word)):
            yield _of_tasks(found[1], where)
    for key, value in slurm.srun.items():
        if found := OF_TASKS.search(str(value)):
            yield _of_tasks(found[1], CONFIG / "slurm.srun" / key)
    for key, value in slurm.sbatch.items():
        if key != "comment" and isinstance(value, str) and (reference := REFERENCE.search(value)):
            name = reference.group().strip("${}")
            what = f"'{value}' contains a variable; sbatch does not expand variables in directives"
            meant = f"${{{of_config[1]}}}" if (of_config := _OF_CONFIG.search(value)) else ""
            hint = f"write {meant or f'${{oc.env:{name}}} for its value at planning time'}"
            yield Problem(what, CONFIG / "slurm.sbatch" / key, hint)


_OF_THE_SHELL = frozenset(("exec", "eval", "source", ".", "cd", "export", "set", "trap", "ulimit"))
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


def _assignment(words: Sequence[str], where: Location, hint: str) -> Iterator[Problem]:
    """A first word `NAME=value`, by which a shell would set a variable, and which nothing else takes for a program."""
    if words and (found := _ASSIGNMENT.fullmatch(words[0])):
        name, value = found.groups()
        shown = redact({name: value})[name]
        what = f"'{name}={shown}' would be run as a program: no shell reads this, so it sets no variable"
        yield Problem(what, where, hint.format(name=name, value=shown))


_OF_CONFIG = re.compile(
    rf"\$((?:{'|'.join(AutoexpConfig.model_fields)})(?:\.[A-Za-z_]\w*)+|(?:index|stage)\b)(?!\s*[({{])"
)
"""What is most likely meant as an interpolation: `$metadata.x`, which a shell reads as $metadata and `.x`."""

_SIGNS = frozenset((";", "&", "&&", "|", "||", ">", ">>", "<", "2>", "2>&1"))


def _of_tasks(name: str, where: Location) -> Problem:
    what = f"${name} differs in each task, but would be read only once, before srun starts the tasks"
    return Problem(what, where, f"let a shell in the task read it: bash -c '… ${name} …'")


def word_problems(argv: Sequence[str], where: Location) -> Iterator[Problem]:
    """Words of a program with a variable that only a shell in the task could read."""
    yield from _assignment(argv, where / "argv", "write {name}: {value} into backend.env")
    odd = {index: found for index, word in enumerate(argv) if "$" in word and (found := OF_TASKS.search(word))}
    shells = read_by_a_shell(argv) if odd else set()
    for index, found in odd.items():
        if index not in shells:
            yield _of_tasks(found[1], where)


def notes(config: AutoexpConfig, command: Command, code: Code) -> Iterator[Note]:
    """The shell code of a job, and its texts that look like some and are none; of a secret nothing is said."""
    for key, parts in code.items():
        shown = _redacted(key, " … ".join(" ".join(part.split()) for part in parts[1::2]))
        often = "for each step" if in_steps(config.slurm) and key.startswith(_ENV) else "once"
        yield Note(f"code {key}", f"{key} is shell code, which the job's script runs {often}: {shown}")
    for key, value in _texts(config, code):
        if (sign := stays_text(value)) and _redacted(key, value) == value:
            yield Note(f"text {key}", f"{key}: {_why_text(key, sign, value)}")
        elif value.startswith("~/") or value == "~":
            yield Note(f"text {key}", f"{key}: the '~' in {value!r} stays text, as no shell expands it: {_HOME}")
        elif (found := _OF_CONFIG.search(value)) and "." in found[1]:
            yield Note(f"text {key}", f"{key}: {found[0]} is not read as a value of the config; write ${{{found[1]}}}")
    odd = [index for index, word in enumerate(command.argv) if "$" in word or "`" in word]
    if not odd:
        return
    shells = read_by_a_shell(command.argv)
    redacted = redact_words(command.argv)
    for index in odd:
        word = command.argv[index]
        if index in shells or redacted[index] != word:
            continue
        if sign := stays_text(word):
            yield Note(f"text {word}", f"the {sign} in {word!r} stays text: no shell reads the program's arguments")
        elif found := _OF_CONFIG.search(word):
            text = f"{found[0]} in {word!r} stays text: no shell reads the program's arguments; ${{{found[1]}}} is"
            yield Note(f"text {word}", f"{text} the value of the config")
        elif (found := REFERENCE.search(word)) and not found.group().strip("${}").startswith("SLURM_"):
            name = found.group().strip("${}")
            text = (
                f"the ${name} in {word!r} stays text: no shell reads the program's arguments; ${{oc.env:{name}}} is its"
            )
            yield Note(f"text {word}", f"{text} value at planning time")


def of_conditions(job: JobSection) -> Iterator[Note]:
    """What looks like a shell's in the conditions of a job, and in the command before it starts: nothing reads it."""
    yield from _unread_words("job.start_condition_cmd", job.start_condition_cmd)
    for name in ("start_conditions", "cancel_conditions", "done_conditions"):
        for index, condition in enumerate(getattr(job, name)):
            yield from _of_kind(f"job.{name}[{index}]", condition)


def of_rules(rules: Rules) -> Iterator[Note]:
    """The same in the actions of rules, and in their conditions."""
    for _, binding, place in rules.bindings():
        yield from _of_kind(str(place), binding.action)
        for index, condition in enumerate(binding.conditions):
            yield from _of_kind(f"{place}.conditions[{index}]", condition)


def _of_kind(place: str, kind: Any) -> Iterator[Note]:
    """Of a condition or an action: its paths and its command."""
    for name in ("path", "log_path"):
        if isinstance(text := getattr(kind, name, None), str):
            yield from _unread(f"{place}.{name}", text)
    yield from _unread_words(f"{place}.command", getattr(kind, "command", ()))


def _unread_words(place: str, words: Sequence[str]) -> Iterator[Note]:
    shells = read_by_a_shell(words)
    for index, (word, shown) in enumerate(zip(words, redact_words(tuple(words)), strict=True)):
        if shown != word:  # of a secret nothing is said
            continue
        if index not in shells and word in _SIGNS:
            yield Note(
                f"word {place}", f"{place}: {word!r} is a word of the command, as no shell reads it: {_IN_A_SHELL}"
            )
        elif index not in shells:
            yield from _unread(place, word)


_IN_A_SHELL = "write bash -c '…' for more"


def _unread(place: str, text: str) -> Iterator[Note]:
    if _redacted(place, text) != text:
        return
    if sign := stays_text(text):
        yield Note(f"text {place}", f"{place}: the {sign} in {text!r} stays text: no shell reads it")
    elif found := REFERENCE.search(text):
        name = found.group().strip("${}")
        value = f"${{oc.env:{name}}} is its value at planning time"
        yield Note(f"text {place}", f"{place}: the ${name} in {text!r} stays text: no shell reads it; {value}")


def _redacted(key: str, text: str) -> str:
    return str(redact({key.rpartition(".")[2]: text}).popitem()[1])


def _why_text(key: str, sign: str, value: str) -> str:
    """Why a sign of shell code in a value is no code."""
    text = f"the {sign} in {value!r} stays text"
    if key.startswith(CODE_PLACES):
        try:
            code_spans(value)
        except ValueError as error:
            return f"{text}: {error}"
    return f"{text}; {_WHERE_CODE}"


_HOME = "write ${oc.env:HOME}"
_WHERE_CODE = "only a text written in a YAML file, in slurm.env or slurm.launcher_cmd, is shell code"


def _texts(config: AutoexpConfig, code: Code) -> Iterator[tuple[str, str]]:
    """The values beside the program's words that no shell reads, by dotted key."""
    slurm = config.slurm
    sections: dict[str, Mapping[str, Any]] = {
        "slurm.env": slurm.env,
        "container.env": config.container.env,
        "backend.env": config.backend.env,
        "slurm.sbatch": slurm.sbatch,
        "slurm.srun": slurm.srun,
    }
    for section, values in sections.items():
        for key, value in values.items():
            if f"{section}.{key}" not in code and isinstance(value, str):
                yield f"{section}.{key}", value
    shells = read_by_a_shell(slurm.launcher_cmd)
    for index, word in enumerate(slurm.launcher_cmd):
        if index not in shells and _LAUNCHER not in code and f"{_LAUNCHER}.{index}" not in code:
            yield _LAUNCHER, word
