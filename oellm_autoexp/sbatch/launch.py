"""The launch command of a script: srun with its flags, a wrapper (a container), and the program. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import Raw, scalar, shell
from oellm_autoexp.sbatch.options import long_name, option_words, said_twice, twice_problem
from oellm_autoexp.sbatch.shell_code import with_variables

LAUNCHER_VARIABLE = "AUTOEXP_LAUNCHER"
"""Environment variable that replaces the launcher (srun and its flags) of a script; if it is empty, there is none."""

_ALONE = frozenset(
    [
        *(
            "bcast",
            "compress",
            "contiguous",
            "disable_status",
            "exact",
            "exclusive",
            "hold",
            "immediate",
            "interactive",
        ),
        *("kill_on_bad_exit", "label", "multi_prog", "nice", "no_allocate", "no_kill", "overcommit"),
        *("overlap", "oversubscribe", "preserve_env", "propagate", "pty", "quiet", "quit_on_interrupt", "reboot"),
        *(
            "resv_ports",
            "send_libs",
            "spread_job",
            "stepmgr",
            "test_only",
            "unbuffered",
            "use_min_nodes",
            "verbose",
            "x11",
        ),
        # of Pyxis, NVIDIA's plugin for containers
        *("container_mount_home", "container_readonly", "container_remap_root", "container_writable"),
        "container_entrypoint",
    ]
)
_ALONE_LETTERS = frozenset("EHIKOQXZkluvs")
"""The options of srun whose value is never the next word: `--label`, `--exclusive[=user]` (srun(1))."""


@dataclass(frozen=True)
class Launcher:
    """The words before those of the program.

    `start` is the part that LAUNCHER_VARIABLE replaces: srun (and the words before it) with all of its flags, or
    another launcher. `wrapper` is a command that srun starts and that starts the program, such as
    `apptainer exec image.sif`.
    """

    start: tuple[str | Raw, ...] = ()
    wrapper: tuple[str | Raw, ...] = ()

    @classmethod
    def of(
        cls,
        words: Sequence[str | Raw],
        srun: Mapping[str, Any],
        *,
        env: Collection[str] = (),
        wrapper: Sequence[str | Raw] = (),
    ) -> Launcher:
        """The launcher of `slurm.launcher_cmd` and `slurm.srun`, whose flags follow the words of srun.

        `$NAME` in them is the job's variable; words with shell code are Raw.
        `env` are the names of the variables that each task must get, whatever `srun.export` leaves out; `wrapper` are
        further words between those of `words` and the program. Raises ConfigError: a flag that no line can hold, or
        flags and no srun to take them.
        """
        given = with_variables(flags(_delivering(srun, env)))
        plain = [*map(str, words)]
        words = [
            word if isinstance(word, Raw) else known for word, known in zip(words, with_variables(plain), strict=True)
        ]
        if not words:
            return cls((), tuple(wrapper))
        at = srun_index(plain)
        if at is None:
            if given:
                what = f"no srun in '{shell(plain)}' that could take the flags of slurm.srun ({given[0]})"
                hint = "write the flags into launcher_cmd, or set slurm.srun to {}"
                raise ConfigError(Problem(what, CONFIG / "slurm.launcher_cmd", hint))
            return cls(tuple(words), tuple(wrapper))
        end = at + 1 + sum(len(option) for option in _own_options(plain[at + 1 :]))
        behind = words[end + 1 :] if plain[end : end + 1] == ["--"] else words[end:]
        return cls((*words[:end], *given), (*behind, *wrapper))

    @property
    def words(self) -> tuple[str, ...]:
        """All words before those of the program."""
        return tuple(map(str, (*self.start, *self.wrapper)))

    @property
    def calls_srun(self) -> bool:
        """Whether srun is what starts the program."""
        return srun_index([*map(str, self.start)]) is not None

    def command(self, argv: Sequence[str | Raw]) -> str:
        """Launcher and program as one line of shell.

        bash (as any POSIX shell) splits an unquoted default value into words, but not inside of its quotes.
        """
        prefix = [Raw(f"${{{LAUNCHER_VARIABLE}-{shell(self.start)}}}")] if self.start else []
        return shell([*prefix, *self.wrapper, *argv])

    def guard(self) -> str:
        """The lines of a script that replace srun outside of a job; '' for a launcher without srun."""
        return _INSIDE_A_JOB if self.calls_srun else ""


def srun_index(words: Sequence[str]) -> int | None:
    """The index of srun in the words of a launcher (`env X=1 /opt/bin/srun -l`); None if it is not there."""
    return next((index for index, word in enumerate(words) if word.rpartition("/")[2] == "srun"), None)


def srun_options(words: Sequence[str], srun: Mapping[str, Any]) -> dict[str, Any]:
    """The options of srun in `slurm.launcher_cmd` and `slurm.srun`, by their long names; the section wins."""
    return own_options(words) | {
        long_name(key): value for key, value in srun.items() if value is not None and value is not False
    }


def own_options(words: Sequence[str]) -> dict[str, str]:
    """The options of srun in the words of a launcher, by their long names."""
    at = srun_index(words)
    return {} if at is None else dict(map(_parsed, _own_options(words[at + 1 :])))


def _own_options(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The options at the beginning of srun's words, each with its value if that is the next word."""
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        word = rest[0]
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            alone = "=" in word or name in _ALONE or name.startswith("no_")
        else:
            letters = word[1:]
            while len(letters) > 1 and letters[0] in _ALONE_LETTERS:  # `-lu`, `-ln4`
                letters = letters[1:]
            alone = len(letters) > 1 or letters in _ALONE_LETTERS
        size = 1 if alone or len(rest) == 1 or rest[1].startswith("-") else 2
        yield tuple(rest[:size])
        rest = rest[size:]


def _parsed(option: tuple[str, ...]) -> tuple[str, str]:
    """Name and value of one option of srun."""
    word, *value = option
    if word.startswith("--"):
        name, _, inside = word[2:].partition("=")
        return long_name(name), value[0] if value else inside
    return long_name(word[1]), value[0] if value else word[2:].removeprefix("=")


def flags(srun: Mapping[str, Any]) -> list[str]:
    """The words of the `slurm.srun` section for a launcher's command line.

    Raises ConfigError for keys that name no option and for values that no line can hold.
    """
    problems = [twice_problem(key, other, CONFIG / "slurm.srun" / key) for key, other in said_twice(srun).items()]
    words: list[str] = []
    for key, value in srun.items():
        try:
            words += ["".join(parts) for parts in option_words(key, value)]
        except ValueError as error:
            problems.append(Problem(str(error), CONFIG / "slurm.srun" / key))
    if problems:
        raise ConfigError(*problems)
    return words


def _delivering(srun: Mapping[str, Any], env: Collection[str]) -> dict[str, Any]:
    """The section, its `export` with the variables of `env` added: srun would not pass them on otherwise.

    `NONE` can't be combined with names (srun(1)); it is replaced by the list of these names.
    """
    return {
        key: _exported(value, env) if long_name(key) == "export" and value not in (None, False, True) else value
        for key, value in srun.items()
    }


def _exported(value: Any, env: Collection[str]) -> Any:
    items = [scalar(item) for item in (value if isinstance(value, list) else scalar(value).split(","))]
    kinds = {item.strip().upper() for item in items}
    if "ALL" in kinds or not env:
        return value
    listed = [item for item in items if item.strip().upper() not in ("", "NONE", "NIL")]
    known = {item.partition("=")[0].strip() for item in listed}
    return ",".join((*listed, *(name for name in env if name not in known)))


_INSIDE_A_JOB = f"""\
[ -n "${{SLURM_JOB_ID-}}${{{LAUNCHER_VARIABLE}+set}}" ] || {{
  echo 'not a job of SLURM: srun would ask for an allocation of its own; submit it, or use run_sweep_entry.py' >&2
  exit 2
}}
"""

_SRUN = re.compile(r"(?:^|[;&|(]|\b(?:exec|time|then|do|else)\s)\s*(?:\S*/)?srun\s", re.MULTILINE)
_BY_SRUN = re.compile(rf"\$\{{{LAUNCHER_VARIABLE}-(?:[^}}\n]*\s)?(?:[^\s}}]*/)?srun[\s}}]")


def terminal_problems(script: str) -> list[Problem]:
    """Why a script would run under srun although LAUNCHER_VARIABLE removes its launcher."""
    body = "\n".join(line for line in script.split("\n") if not line.lstrip().startswith("#"))
    if not _SRUN.search(body):
        return []
    what = "the script calls srun itself, which would ask SLURM for an allocation of its own"
    return [Problem(what, "", "plan again; a template of your own leaves srun to {{run}} or {{command}}")]


_LAUNCHER = re.compile(rf"""\$\{{{LAUNCHER_VARIABLE}-((?:'[^']*'|"[^"]*"|[^'"}}])*)\}}""")


def has_launcher(script: str) -> bool:
    """Whether LAUNCHER_VARIABLE replaces anything in the script."""
    return bool(launcher_text(script))


def launcher_text(script: str) -> str:
    """The part of a script that LAUNCHER_VARIABLE replaces (`srun --cpus-per-task=8`); '' if there is none."""
    found = _LAUNCHER.search(script)
    return found[1] if found else ""


def is_launched_by_srun(script: str) -> bool:
    """Whether the launcher of a script is srun."""
    return _BY_SRUN.search(script) is not None
