"""From a job to the text of its sbatch script: a pure function of a template and the job's section."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

from oellm_autoexp.errors import ConfigError, Problem
from oellm_autoexp.slurm.limits import OPTIONS
from oellm_autoexp.slurm.times import parse_time
from oellm_autoexp.text import Raw, did_you_mean, scalar, shell

MARKS = "marks"
"""Folder in a job's output directory: `<id>.start` (seconds since 1970) and `<id>.exit` (exit code of the script)."""
LAUNCHER_VARIABLE = "AUTOEXP_LAUNCHER"
"""Environment variable that replaces the launcher (srun and its flags) of a script where it is set; empty: none."""

_MARKER = re.compile(r"\{\{(\w+)\}\}")
_MARKERS = ("directives", "name", "env", "work_dir", "marks", "command", "run")
_COMMANDS = ("command", "run")
_OWN = {
    "job_name": "set project.name",
    "output": "set project.log_path",
    "chdir": "jobs run in the directory that the plan was made in",
    "comment": "it carries the token by which a submission is found again",
    "array": "set slurm.array=true to submit the sweep's jobs as arrays",
    "clusters": "jobs are asked for on this cluster: submit there, or by slurm.submit_cmd, squeue_cmd and the others",
    "wait": "sbatch would not come back before the job has ended",
    "test_only": "use --check",
    "parsable": "it asks for the id of the job itself",
    "wrap": "sbatch takes no script beside it",
    "uid": "jobs are looked for among those of the one who submits them",
}
"""Options that the program sets itself, and what a person does instead."""
_OWN_PLACES = {"job_name": "$.project.name", "output": "$.project.log_path", "chdir": "the working directory"}
_LONG = {
    "A": "account",
    "B": "extra_node_info",
    "C": "constraint",
    "D": "chdir",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "J": "job_name",
    "L": "licenses",
    "M": "clusters",
    "N": "nodes",
    "O": "overcommit",
    "Q": "quiet",
    "S": "core_spec",
    "W": "wait",
    "a": "array",
    "b": "begin",
    "c": "cpus_per_task",
    "d": "dependency",
    "e": "error",
    "i": "input",
    "k": "no_kill",
    "m": "distribution",
    "n": "ntasks",
    "o": "output",
    "p": "partition",
    "q": "qos",
    "s": "oversubscribe",
    "t": "time",
    "v": "verbose",
    "w": "nodelist",
    "x": "exclude",
}
"""The options of one letter (sbatch(1))."""
_DIRECTIVE = "#SBATCH"
_WORD = re.compile(r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[^\s"'#\\])+|#""")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+\[\]*^~-]*")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def directives(
    sbatch: Mapping[str, Any], extra: Sequence[str], *, name: str, log_path: str, work_dir: str
) -> tuple[str, ...]:
    """The `#SBATCH` lines of a job: what the section says, and name, log and working directory.

    `cpus_per_task: 8` → `--cpus-per-task=8`; true → the bare flag; null and false → absent; a list → joined by commas.
    Raises ConfigError for keys that the program owns and for values that no directive can hold.
    """
    section = {key: value for key, value in sbatch.items() if value is not None and value is not False}
    own = {"job_name": name, "output": log_path, "chdir": work_dir}
    # A requeued job keeps its id, and SLURM would truncate the log of its first run.
    defaults = {} if "open_mode" in map(_key, sbatch) else {"open_mode": "append"}
    problems: list[Problem] = []
    lines: list[str] = []
    for key, value in {**own, **defaults}.items():
        _add(lines, key, value, _OWN_PLACES.get(key, ""), problems)
    lines += [line for found in _section_lines(section, problems).values() for line in found]
    for index, line in enumerate(extra):
        bare = line.removeprefix(_DIRECTIVE).strip()
        problems += _extra_problems(line, bare, f"$.slurm.sbatch_extra_directives[{index}]")
        lines.append(f"#SBATCH {bare}")
    if problems:
        raise ConfigError(*problems)
    return tuple(lines)


def _section_lines(section: Mapping[str, Any], problems: list[Problem]) -> dict[str, list[str]]:
    """The directives of each option of a section, by its long name; what is wrong goes to `problems`."""
    found: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for key, value in section.items():
        where = f"$.slurm.sbatch.{key}"
        if _key(key) in _OWN:
            problems.append(Problem(f"'{key}' is set by the program", where, _OWN[_key(key)]))
        elif _key(key) in spelled and value is not None and value is not False:
            other = spelled[_key(key)]
            hint = f"set '{other}' alone, or '{other}: null' beside it"
            problems.append(Problem(f"'{key}' and '{other}' are the same option", where, hint))
        else:
            _add(found.setdefault(_key(key), []), key, value, where, problems)
            if value is not None and value is not False:
                spelled[_key(key)] = key
    return found


def _add(lines: list[str], key: str, value: Any, where: str, problems: list[Problem]) -> None:
    try:
        lines += [f"#SBATCH {flag}{joint}{_quoted(text)}" for flag, joint, text in _option(key, value)]
    except ValueError as error:
        problems.append(Problem(str(error), where))


def _extra_problems(line: str, bare: str, where: str) -> list[Problem]:
    if not bare.startswith("-") or any(ord(character) < 32 for character in bare.replace("\t", " ")):
        return [Problem(f"{line!r} is not a directive", where, "write --name=value, one on each line")]
    keys = [key for key, _ in _options_in(bare) if key in _OWN]
    return [Problem(f"'{key.replace('_', '-')}' is set by the program", where, _OWN[key]) for key in keys]


@dataclass(frozen=True)
class _Written:
    """An option as it stands in a line: its long name, its value ('': none, or in a form unknown here), its place."""

    key: str
    value: str
    start: int
    end: int


def _options_in(line: str) -> list[tuple[str, str]]:
    """The options of a directive by their long names, each with its value ('': none, or in a form unknown here)."""
    return [(option.key, option.value) for option in _written_options(line)]


def _written_options(line: str) -> list[_Written]:
    """The options of a directive; like sbatch, up to a `#` outside of quotes."""
    found: list[_Written] = []
    for match in _WORD.finditer(line):
        if match.group() == "#":
            break
        text = re.sub(r"""\\(.)|["']""", lambda escaped: escaped[1] or "", match.group())
        if text.startswith("--"):
            key, _, value = text[2:].partition("=")
            found.append(_Written(_key(key), value, *match.span()))
        elif text.startswith("-") and len(text) > 1:
            found.append(_Written(_key(text[1]), text[2:].removeprefix("="), *match.span()))
        elif found and not found[-1].value:
            found[-1] = _Written(found[-1].key, text, found[-1].start, match.end())
    return found


def _key(key: str) -> str:
    """The one name of an option, however it is spelled: by a letter, or (getopt_long(3)) by its beginning."""
    name = _LONG.get(key, key.replace("-", "_"))
    return name if len(name) < 2 else _whole(name)


@lru_cache(maxsize=4096)
def _whole(name: str) -> str:
    word = name.replace("_", "-")
    found = [option for option in OPTIONS if option.startswith(word)]
    return found[0].replace("-", "_") if len(found) == 1 and word not in OPTIONS else name


def _option(key: str, value: Any) -> list[tuple[str, str, str]]:
    """One sbatch or srun option as flag, joint and text, or nothing. Raises ValueError for what no line can hold."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not the name of an option")
    flag, joint = (f"-{key}", "") if len(key) == 1 else (f"--{key.replace('_', '-')}", "=")
    if value is None or value is False:
        return []
    if value is True:
        return [(flag, "", "")]
    text = ",".join(scalar(item) for item in value) if isinstance(value, list) else scalar(value)
    if any(ord(character) < 32 for character in text):
        raise ValueError("the value holds a line break or control character")
    return [(flag, joint, text)]


def _quoted(text: str) -> str:
    """`text` as sbatch reads quotes in a directive (get_argument in src/sbatch/opt.c): like a shell's double quotes."""
    return text if _PLAIN.fullmatch(text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def flags(srun: Mapping[str, Any]) -> list[str]:
    """The words of the `slurm.srun` section for a launcher's command line. Raises ConfigError, as `directives`."""
    problems: list[Problem] = []
    words: list[str] = []
    for key, value in srun.items():
        try:
            words += ["".join(parts) for parts in _option(key, value)]
        except ValueError as error:
            problems.append(Problem(str(error), f"$.slurm.srun.{key}"))
    if problems:
        raise ConfigError(*problems)
    return words


def render(
    template: str,
    *,
    name: str,
    lines: Sequence[str],
    env: Mapping[str, str],
    work_dir: str,
    marks: str,
    launcher: Sequence[str],
    argv: Sequence[str],
) -> str:
    """The whole script of a job.

    `{{command}}` becomes one simple command: the launcher, which LAUNCHER_VARIABLE replaces, and the program. `{{run}}`
    is the same and, for a job that asks for `--signal=B:…`, sends that signal on to it; its status is the command's.

    Raises ConfigError: the template is none that sbatch takes, lacks a marker or has an unknown one; or a text holds a
    NUL, which no program can be given.
    """
    found = _MARKER.findall(template)
    problems = _template_problems(template)
    problems += [
        Problem("it holds a NUL character", where)
        for where, texts in {"$.backend": (*launcher, *argv), "the environment": env.values()}.items()
        if "\0" in "".join(texts)
    ]
    problems += [
        Problem(
            f"unknown marker {{{{{marker}}}}} in the template", "$.slurm.template_path", did_you_mean(marker, _MARKERS)
        )
        for marker in dict.fromkeys(found)
        if marker not in _MARKERS
    ]
    problems += [
        Problem(f"the template has no {{{{{marker}}}}}", "$.slurm.template_path", "see the shipped template")
        for marker, missing in (("directives", "directives" not in found), ("command", not {*_COMMANDS} & {*found}))
        if missing
    ]
    if problems:
        raise ConfigError(*problems)
    command = _with_launcher(launcher, argv)
    to_shell = _signal_to_shell("\n".join((*lines, *directive_lines(template))))
    values = {
        "directives": "\n".join(lines),
        "name": " ".join(name.split()),
        "env": "\n".join(f"export {key}={_environment_value(value)}" for key, value in env.items()),
        "work_dir": shell([work_dir]),
        "marks": shell([marks]),
        "command": command,
        "run": _inside_a_job(launcher) + _forwarding(command, to_shell),
    }
    return _MARKER.sub(lambda match: values[match.group(1)], template)


def _with_launcher(launcher: Sequence[str], argv: Sequence[str]) -> str:
    """The command as one line of shell.

    bash (as any POSIX shell) splits an unquoted default value into words, but not inside of its quotes.
    """
    prefix = [Raw(f"${{{LAUNCHER_VARIABLE}-{shell(launcher)}}}")] if launcher else []
    return shell([*prefix, *argv])


_INSIDE_A_JOB = f"""\
[ -n "${{SLURM_JOB_ID-}}${{{LAUNCHER_VARIABLE}+set}}" ] || {{
  echo 'not a job of SLURM: srun would ask for an allocation of its own; submit it, or use run_sweep_entry.py' >&2
  exit 2
}}
"""


def _inside_a_job(launcher: Sequence[str]) -> str:
    return _INSIDE_A_JOB if launcher and launcher[0].rpartition("/")[2] == "srun" else ""


_SRUN = re.compile(r"(?:^|[;&|(]|\b(?:exec|time|then|do|else)\s)\s*(?:\S*/)?srun\s", re.MULTILINE)


def terminal_problems(script: str) -> list[Problem]:
    """Why a script would run under srun also where LAUNCHER_VARIABLE takes its launcher away, if it would."""
    body = "\n".join(line for line in script.split("\n") if not line.lstrip().startswith("#"))
    if not _SRUN.search(body):
        return []
    what = "the script calls srun itself, which would ask SLURM for an allocation of its own"
    return [Problem(what, "", "plan again; a template of your own leaves srun to {{run}} or {{command}}")]


def has_launcher(script: str) -> bool:
    """Whether LAUNCHER_VARIABLE takes something away."""
    return f"${{{LAUNCHER_VARIABLE}-" in script


def _template_problems(template: str) -> list[Problem]:
    """What sbatch would refuse, or silently read otherwise than it looks."""
    where = "$.slurm.template_path"
    problems = []
    if not template.startswith("#!"):
        problems.append(Problem("the template does not begin with #!", where, "begin it with #!/bin/bash"))
    if "\r" in template:
        problems.append(
            Problem("the template has the line ends of Windows", where, "sbatch refuses them: use dos2unix")
        )
    above, marker, _ = template.partition("{{directives}}")
    if marker and not all(map(_is_no_command, above.split("\n"))):
        hint = "sbatch reads no directive below the first command"
        problems.append(Problem("{{directives}} stands below a command", where, hint))
    # The last one of two directives counts, so that a template's own would overrule what the program relies on.
    return problems + [
        Problem(f"the template's '{key.replace('_', '-')}' is set by the program", where, _OWN[key])
        for key in options(template.replace("{{directives}}", "#"))
        if key in _OWN
    ]


_REFERENCE = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")


def _environment_value(text: str) -> str:
    """An environment value, quoted; `$NAME` and `${NAME}` in it are the job's own variables, nothing else expands."""
    words: list[str | Raw] = []
    position = 0
    for match in _REFERENCE.finditer(text):
        if match.start() > position:
            words.append(text[position : match.start()])
        words.append(Raw(f'"{match.group()}"'))
        position = match.end()
    if position < len(text) or not words:
        words.append(text[position:])
    return "".join(shell([word]) for word in words)


def array_script(job_script: str, array_dir: str, log_name: str) -> str:
    """The script of an array whose task `i` runs `<array_dir>/<i>/job.sbatch`, a link to a job's output directory.

    `job_script` is any member's script: its directives, which all members share, are kept but for name, log and
    working directory. `log_name` is the log's path below an output directory, with SLURM's patterns.
    """
    shared = [line for line in directive_lines(job_script) if not _owned(line)]
    output = f"#SBATCH --output={_quoted(f'{slurm_path(array_dir)}/%a/{log_name}')}"
    interpreter = job_script.partition("\n")[0].removeprefix("#!").strip()
    return "\n".join(
        (
            "#!/bin/bash",
            *shared,
            output,
            "",
            "# Each task runs the script of its own job, unless it has become another user's since.",
            f'script={shell([array_dir])}/"$SLURM_ARRAY_TASK_ID"/job.sbatch',
            '[[ -O $script ]] || { echo "$script is gone, or belongs to another user: it is not run" >&2; exit 1; }',
            f'exec {shell(interpreter.split(maxsplit=1))} "$script"',
            "",
        )
    )


def directive_lines(script: str) -> list[str]:
    """The `#SBATCH` lines of a script; like sbatch, those above its first command."""
    lines = takewhile(_is_no_command, script.split("\n"))
    return [line for line in lines if line.startswith(_DIRECTIVE)]


def with_options(text: str, options: Mapping[str, Any]) -> str:
    """The script `text` with other directives; all else stays byte for byte.

    `options` is as the `slurm.sbatch` section: what it names is replaced wherever a directive says it, in any spelling,
    and what is null or false is taken out. Raises ConfigError for keys that the program owns, whatever their value, and
    for values that no directive can hold.
    """
    problems: list[Problem] = []
    wanted = _section_lines(options, problems)
    if problems:
        raise ConfigError(*problems)
    lines = text.split("\n")
    head = sum(1 for _ in takewhile(_is_no_command, lines))
    made: list[str] = []
    after = 1 if text.startswith("#!") else 0  # where directives go that replace none
    told: set[str] = set()
    for line in lines[:head]:
        written = _written_options(line.removeprefix(_DIRECTIVE)) if line.startswith(_DIRECTIVE) else []
        replaced = dict.fromkeys(option.key for option in written if option.key in wanted)
        if replaced:
            made += _without(line, replaced)
            made += [new for key in replaced if key not in told for new in wanted[key]]
            told.update(replaced)
        else:
            made.append(line)
        if line.startswith(_DIRECTIVE):
            after = len(made)
    made[after:after] = [new for key, found in wanted.items() if key not in told for new in found]
    return "\n".join((*made, *lines[head:]))


def _without(line: str, keys: Collection[str]) -> list[str]:
    """A directive without some of its options; none at all if nothing else is in it."""
    inside = line.removeprefix(_DIRECTIVE)
    written = _written_options(inside)
    kept = [inside[option.start : option.end] for option in written if option.key not in keys]
    after = inside[written[-1].end :].strip()
    comment = [after] if after.startswith("#") else []  # other words would become the value of the option before
    return [" ".join((_DIRECTIVE, *kept, *comment))] if kept else []


def excluding(text: str, nodes: Iterable[str]) -> str:
    """The script `text` with `nodes` kept from the job as well: behind those that `--exclude` names already.

    Raises ConfigError if `--exclude` names a file of nodes, which can't be added to.
    """
    present = options(text).get("exclude", "")
    if "/" in present:
        hint = "name the nodes themselves: exclude: [n1, n2]"
        raise ConfigError(Problem(f"'{present}' is a file: no node can be added", "$.slurm.sbatch.exclude", hint))
    union = node_union(present, nodes)
    return text if union == node_union(present, ()) else with_options(text, {"exclude": union})


def node_union(present: str, nodes: Iterable[str]) -> str:
    """A list of nodes as SLURM writes it (`n[1,3-4],m7`), and behind it those `nodes` that it does not name so."""
    return ",".join(dict.fromkeys(name for text in (present, *nodes) for name in node_names(text)))


def node_names(text: str) -> tuple[str, ...]:
    """The nodes that a list names, by commas or spaces; `n[1,3-4]` stays one."""
    return tuple(name for name in _BETWEEN_NODES.split(text) if name)


_BETWEEN_NODES = re.compile(r"[,\s]+(?![^\[]*\])")


@dataclass(frozen=True)
class Signal:
    """What --signal asks for: to be sent so many seconds before the time limit, to the batch shell or to all but it."""

    number: int
    seconds: int
    to_batch_shell: bool


# The names are those that sbatch takes, in large or small letters (tried with 22.05).
_SIGNAL = re.compile(
    r"(?:(?P<flags>R|R?B|BR):)?"
    r"(?:(?:SIG)?(?P<name>HUP|INT|QUIT|ABRT|KILL|ALRM|TERM|USR[12]|URG|CONT|STOP|TSTP|TTIN|TTOU|XCPU)|(?P<number>\d{1,9}))"
    r"(?:@(?P<seconds>\d{0,9}))?",
    re.ASCII | re.IGNORECASE,
)
_DIGITS = 9
_USUAL_WARNING_SECONDS, _LONGEST_WARNING_SECONDS = 60, 65535


def signal_before_end(lines: Sequence[str]) -> Signal | None:
    """The signal that directives ask for by `--signal=[{R|B}:]<number or name>[@<seconds>]` (sbatch(1)), if any.

    Raises ValueError, in sbatch's words, for what it refuses and for numbers that are no signal's.
    """
    options = (option for line in lines for option in _options_in(line.removeprefix(_DIRECTIVE)))
    found = [_signal(value) for key, value in options if key == "signal"]
    return found[-1] if found else None


def _signal(text: str) -> Signal:
    match = _SIGNAL.fullmatch(text)
    if match is not None:
        number = int(match["number"] or signal.Signals[f"SIG{match['name'].upper()}"])
        seconds = _USUAL_WARNING_SECONDS if match["seconds"] is None else int(match["seconds"] or 0)
        if number in signal.valid_signals() and seconds <= _LONGEST_WARNING_SECONDS:
            return Signal(number, seconds, "B" in (match["flags"] or "").upper())
    raise ValueError("Invalid --signal specification")


_NEVER_TRAPPED = (signal.SIGKILL, signal.SIGSTOP)
_KEPT_BY_SRUN = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Signals at which srun kills its tasks, or tells their state, instead of handing them on (srun(1), SIGNALS)."""
_FORWARDING = """\
# --signal=B:{signal} is for this shell, which hands it on: bash does so only while it waits for a background process.
autoexp_command=({command})
if [ -n "${{{variable}+set}}" ]; then  # in a terminal, whose input and Ctrl-C are for the program
  "${{autoexp_command[@]}}"
else
  autoexp_child='' autoexp_signalled=''
  trap 'autoexp_signalled=1; [ -z "$autoexp_child" ] || kill -s {signal} "$autoexp_child"' {signal}
  "${{autoexp_command[@]}}" &
  autoexp_child=$!
  wait "$autoexp_child"
  autoexp_code=$?
  while [ -n "$autoexp_signalled" ] && [ "$autoexp_code" -gt 128 ]; do  # the signal has ended the wait
    autoexp_signalled=''
    wait "$autoexp_child"
    autoexp_code=$?
  done
  trap - {signal}
  (exit "$autoexp_code")
fi"""


def _signal_to_shell(script: str) -> signal.Signals | None:
    """The signal that a script asks to be sent to its shell (`--signal=B:…`), if it can act on it at all."""
    try:
        asked = signal_before_end(directive_lines(script))
    except ValueError:  # sbatch refuses it
        return None
    if asked is None or not asked.to_batch_shell or asked.number in _NEVER_TRAPPED:
        return None
    return signal.Signals(asked.number)


def _forwarding(command: str, asked: signal.Signals | None) -> str:
    if asked is None:
        return command
    name = asked.name.removeprefix("SIG")
    return _FORWARDING.format(signal=name, command=command, variable=LAUNCHER_VARIABLE)


def signal_problems(script: str) -> list[Problem]:
    """Why the signal of `--signal=B:…` would end the job instead of reaching the program, if it would.

    A template of one's own takes it by a trap, or by `exec`, which puts the program into the shell's place.
    """
    asked = _signal_to_shell(script)
    if asked is None:
        return []
    where, name = "$.slurm.sbatch.signal", asked.name.removeprefix("SIG")
    usual = "without B: SLURM sends it to the program itself, below srun"
    body = [line.strip() for line in script.split("\n") if not line.lstrip().startswith("#")]
    traps = [line for line in body if re.match(r"trap\s", line)]
    if not any(re.search(rf"\b(?:SIG)?{name}\b|\b{int(asked)}\b|\$\{{?\w+\}}?[\"']?$", line) for line in traps):
        if any(line.startswith("exec ") for line in body):
            return []
        hint = f"use {{{{run}}}} in the template, as the shipped one does, or trap it there and send it on; {usual}"
        return [
            Problem(f"B:{name} goes to the script's shell, which it ends: the script has no trap for it", where, hint)
        ]
    by_srun = re.search(rf"\$\{{{LAUNCHER_VARIABLE}-(?:\S*/)?srun[\s}}]", script)
    if by_srun and asked in _KEPT_BY_SRUN and "autoexp_signalled" in script:
        what = f"B:{name} would not reach the program: srun does not hand {name} on, and kills its tasks or goes on"
        return [Problem(what, where, f"{usual}; or choose USR1 or USR2")]
    return []


def options(script: str) -> dict[str, str]:
    """What the directives of a script ask for, by the long names of options (`_` for `-`); a bare flag is ''."""
    return dict(option for line in directive_lines(script) for option in _options_in(line.removeprefix(_DIRECTIVE)))


def _is_no_command(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _owned(line: str) -> bool:
    return any(key in _OWN for key, _ in _options_in(line.removeprefix(_DIRECTIVE)))


def array_group(lines: Sequence[str], log_name: str) -> str:
    """A word that is the same for jobs whose directives, but for those of one job alone, are the same."""
    text = "\n".join((*(line for line in lines if not _owned(line)), log_name))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


LOG_PATTERNS = ("%%", "%j", "%A", "%a")
"""The patterns of sbatch's --output that a log path may hold: those that are known as soon as the job has its id."""


def resolve_log_path(pattern: str, job: str) -> str:
    """`pattern` with %j, %A, %a replaced for job `12` or array task `12_3`, and %% by %."""
    base, _, task = job.partition("_")
    values = dict(zip(LOG_PATTERNS, ("%", job, base, task), strict=True))
    return re.sub("%[%jAa]", lambda match: values[match.group()], pattern)


def slurm_path(path: str) -> str:
    """A literal path for `--output`, where `%` begins a pattern."""
    return path.replace("%", "%%")


def resources(sbatch: Mapping[str, Any], extra: Sequence[str] = ()) -> tuple[int, int, int | None]:
    """Nodes, GPUs over all nodes, and time limit in seconds that a section asks for (None: no limit).

    `extra` are directives that override it. Counts `--gpus`, `--gpus-per-node`, `--gpus-per-task`, `--gpus-per-socket`,
    `--gres=gpu…` and `--tres-per-task=gres/gpu…`; without `--nodes`, as many nodes as tasks or GPUs need at least
    (sbatch(1)). Raises ConfigError.
    """
    asked = _Asked(sbatch, extra)
    tasks, tasks_per_node = asked.count("ntasks"), asked.count("ntasks_per_node")
    all_gpus, gpus_per_node = asked.gpus("gpus"), asked.gpus("gpus_per_node") or asked.gpus("gres")
    nodes = asked.count("nodes") or max(1, _over(tasks, tasks_per_node), _over(all_gpus, gpus_per_node))
    sockets = nodes * (asked.count("sockets_per_node") or 1)
    gpus = (
        all_gpus
        or nodes * gpus_per_node
        or (tasks or nodes * (tasks_per_node or 1)) * (asked.gpus("gpus_per_task") or asked.gpus("tres_per_task"))
        or sockets * asked.gpus("gpus_per_socket")
    )
    return nodes, gpus, asked.time()


def tasks(sbatch: Mapping[str, Any], extra: Sequence[str] = ()) -> int | None:
    """The tasks over all nodes that a section asks for, as `resources`; None if it does not say. Raises ConfigError."""
    asked = _Asked(sbatch, extra)
    per_node = asked.count("ntasks_per_node")
    return asked.count("ntasks") or (resources(sbatch, extra)[0] * per_node if per_node else None)


def _over(total: int, each: int) -> int:
    """How many are needed where each takes its share; 0 if that is not known."""
    return -(-total // each) if each else 0


_SHOWN = 40  # characters of a value that is none


class _Asked:
    """The options of a section and of further directives, by the long names of options."""

    def __init__(self, sbatch: Mapping[str, Any], extra: Sequence[str]) -> None:
        self._found = {
            _key(key): (f"$.slurm.sbatch.{key}", value)
            for key, value in sbatch.items()
            if value is not None and value is not False
        }
        for index, line in enumerate(extra):
            for key, value in _options_in(line.removeprefix(_DIRECTIVE)):
                self._found[key] = (f"$.slurm.sbatch_extra_directives[{index}]", value)

    def count(self, key: str) -> int:
        """The largest number of `4`, `2-4` or `1,4-8`; 0 if the option is not there. Raises ConfigError."""
        if key not in self._found:
            return 0
        where, value = self._found[key]
        if not re.fullmatch(r"\d{1,9}(?:[-,]\d{1,9})*", scalar(value), re.ASCII):  # SLURM counts with 32 bits
            raise ConfigError(Problem(f"{scalar(value)[:60]!r} is not a number that sbatch takes", where))
        return max(int(part) for part in re.findall(r"\d+", str(value)))

    def gpus(self, key: str) -> int:
        """The GPUs of `4`, `a100:4`, `a100:2,h100:2`, or among others `gpu:a100:4,nvme:1`; 0 without the option."""
        if key not in self._found:
            return 0
        where, value = self._found[key]
        parts = value if isinstance(value, list) else scalar(value).split(",")
        words = [scalar(part).strip().removeprefix("gres/").replace("=", ":").split("(")[0] for part in parts]
        if key in ("gres", "tres_per_task"):
            words = [word.removeprefix("gpu").lstrip(":") for word in words if re.match(r"gpu(?::|$)", word)]
        numbers = [word.rsplit(":", 1)[-1] for word in words]
        if too_long := [number for number in numbers if number.isdecimal() and len(number) > _DIGITS]:
            raise ConfigError(Problem(f"{too_long[0][:60]!r} is not a number that sbatch takes", where))
        return sum(int(number) if number.isdecimal() else 1 for number in numbers)

    def time(self) -> int | None:
        """The time limit in seconds. Raises ConfigError."""
        where, value = self._found.get("time", ("", None))
        try:
            return None if value is None else parse_time(value)
        except ConfigError as error:
            raise ConfigError(*(Problem(p.what, where, p.hint) for p in error.problems)) from None
