"""Apptainer and SingularityCE: which of them is installed, and the words that run a program in an image."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oellm_autoexp.containers import mounts
from oellm_autoexp.containers.failures import explain
from oellm_autoexp.containers.limits import limits
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import Location

PROGRAMS = ("apptainer", "singularity")
"""The names of runtimes; the first one that is installed is used."""
NOT_FOUND_HINT = (
    "load its module (module load singularity, or GCC Apptainer-Tools at JSC), or name it: --container-runtime PATH"
)
_VERSION = re.compile(r"(apptainer|singularity(?:-ce|-pro)?) version (\d+(?:\.\d+)*)\S*")
_PATIENCE_SECONDS = 60
_MOUNT_SINCE = {"apptainer": (1, 0), "singularity": (3, 9)}


@dataclass(frozen=True)
class Runtime:
    """A container runtime: its program (an absolute path), its flavour and its version.

    `flavour` is "apptainer" or "singularity" (SingularityCE, SingularityPRO and Singularity 3), by `--version`:
    Apptainer installs a command named singularity, too.
    """

    program: str
    flavour: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.flavour} {'.'.join(map(str, self.version))}"

    def exec_words(
        self,
        image: str,
        program: Sequence[str],
        *,
        binds: Iterable[str] = (),
        cwd: str | None = None,
        options: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """The words that run `program` in `image`, with host paths `binds` at the same place in it.

        `--quiet` leaves out the runtime's own INFO lines, not its errors. Raises ConfigError for a path that this
        version can't bind.
        """
        mounts = [word for path in binds for word in self.bind_words(path)]
        place = ("--pwd", cwd) if cwd else ()
        return (self.program, "--quiet", "exec", *options, *mounts, *place, image, *program)

    def bind_words(self, source: str, target: str | None = None, *, read_only: bool = False) -> tuple[str, str]:
        """The words that make a host path visible in the container (see mounts.words). Raises ConfigError."""
        option, value = mounts.words(source, target, read_only=read_only)
        if option == "--mount" and self.version < _MOUNT_SINCE[self.flavour]:
            least = ".".join(map(str, _MOUNT_SINCE[self.flavour]))
            what = f"{self} can't bind a path with a comma or colon"
            raise ConfigError(Problem(what, source, f"rename it, or use {self.flavour} {least} or newer"))
        return option, value


def parse_version(program: str, text: str) -> Runtime | None:
    """The runtime in the output of `--version` (`apptainer version 1.4.5`); None for that of another program."""
    found = _VERSION.search(text)
    if found is None:
        return None
    return Runtime(program, found[1].partition("-")[0], tuple(map(int, found[2].split("."))))


def find(name: str | None = None, where: Location | str = "--container-runtime", hint: str = NOT_FOUND_HINT) -> Runtime:
    """The runtime `name` (a command or a path), or the first of PROGRAMS in PATH. Raises ConfigError.

    `where` is the option or key that names it, `hint` what to do if there is none.
    """
    names = (name,) if name else PROGRAMS
    program = next(filter(None, (shutil.which(os.path.expanduser(candidate)) for candidate in names)), None)  # noqa: PTH111
    if program is None:
        for candidate in names:
            if closed := _not_executable(candidate):
                mend = f"chmod +x {shlex.quote(closed)}, or name another one"
                raise ConfigError(Problem(f"{closed} is not executable", where if name else "", mend))
        if name is None:
            raise ConfigError(Problem("no container runtime in PATH: neither apptainer nor singularity", "", hint))
        what = f"there is no program {name}" if "/" in name else f"no program {name} in PATH"
        raise ConfigError(Problem(what, where, hint))
    program = os.path.abspath(program)  # noqa: PTH100  a name with a link in it stays: apptainer looks at it
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        what = f"{program} --version does not answer within {_PATIENCE_SECONDS} s"
        raise ConfigError(Problem(what, where if name else "", "wait, or name another one")) from None
    except OSError as error:
        raise ConfigError(Problem(f"can't run {program}: {error.strerror}", where if name else "", hint)) from None
    if runtime := parse_version(program, said):
        return runtime
    if done.returncode:
        what, hint = explain(done.returncode, said.splitlines(), limits())
        raise ConfigError(Problem(f"{program} --version: {what}", where if name else "", hint))
    first = (said.strip().splitlines() or ["nothing"])[0]
    hint = "Debian's package `singularity` is a game; the runtime is singularity-container or apptainer"
    raise ConfigError(
        Problem(f"{program} is neither Apptainer nor Singularity: --version prints {first!r}", where, hint)
    )


def _not_executable(name: str) -> str:
    """The file of `name` (a command or a path), which is not executable; '' if there is no such file."""
    folders = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(os.pathsep)
    places = (os.path.join(folder, os.path.expanduser(name)) for folder in folders)  # noqa: PTH111, PTH118
    return next((place for place in places if os.path.isfile(place)), "")  # noqa: PTH113


def known_options(runtime: Runtime) -> frozenset[str]:
    """The long options of its command `exec`, as its help lists them."""
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z-]*)", printed([runtime.program, "exec", "--help"]), re.M))


def printed(words: Sequence[str]) -> str:
    """What a program prints; '' if it can't be run."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
