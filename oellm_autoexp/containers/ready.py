"""Why jobs can't run in their container, as far as this can be checked on the machine that submits."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from oellm_autoexp.containers import runtime
from oellm_autoexp.containers.binds import Bind, fixed
from oellm_autoexp.containers.contents import absent_programs
from oellm_autoexp.containers.image import Image, check_image, check_squashfs, own_machine
from oellm_autoexp.containers.kinds import (
    ApptainerContainer,
    Container,
    ContainerField,
    Job,
    PyxisContainer,
    VenvContainer,
)
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.sbatch.environment import REFERENCE

_IMAGE, _RUNTIME = CONFIG / "container.image", CONFIG / "container.runtime"
_UNSEEN = "container.check=false leaves it to the nodes"
_MODULE_HINT = (
    "if jobs load it as a module: container.modules=['load singularity']; else container.runtime=PATH; " + _UNSEEN
)
_NO_PYXIS_HINT = "choose a container with a runtime of its own: container=base"
_SINCE = {
    "--no-eval": "Apptainer 1.1, SingularityCE 3.10",
    "--mount": "Apptainer 1.0, SingularityCE 3.9",
    "--unsquash": "Apptainer 1.1",
    "--tmp-sandbox": "SingularityCE 4.1",
    "--no-tmp-sandbox": "SingularityCE 4.0",
}
"""The versions in which options of `exec` came (CHANGELOG.md of apptainer/apptainer and sylabs/singularity)."""


_NOT_LISTED = ("--pwd",)
"""Options that every version has and its help does not list (Apptainer: "synonym for --pwd")."""


def problems(recorded: Sequence[Mapping[str, Any]], work_dir: str) -> list[Problem]:
    """Why jobs could not run in the containers that a plan has recorded (kinds.recorded).

    What is on this machine is checked: binds, image, runtime and its options, programs in the image. A runtime from a
    module, paths with variables of the job, and images of a registry are not checked.
    """
    found = [_problems(json.dumps(dict(each), sort_keys=True), work_dir) for each in recorded]
    return list(dict.fromkeys(problem for some in found for problem in some))


@lru_cache  # a run checks when it plans and when it submits
def _problems(recorded: str, work_dir: str) -> tuple[Problem, ...]:
    data = json.loads(recorded)
    container: Container = TypeAdapter[Container](ContainerField).validate_python(data["container"])
    match container:
        case VenvContainer():
            return tuple(_of_venv(container, data["programs"], work_dir))
        case ApptainerContainer() if container.check:
            return tuple(_of_apptainer(container, data["programs"], work_dir))
        case PyxisContainer() if container.check:
            return tuple(_of_pyxis(container, data["srun"], work_dir))
    return ()


def _of_venv(container: VenvContainer, programs: Sequence[str], work_dir: str) -> Iterator[Problem]:
    if REFERENCE.search(container.path):
        return
    place, where = Path(work_dir, container.path), CONFIG / "container.path"
    if not (place / "bin").is_dir():
        hint = f"make it: python3 -m venv {place}"
        yield Problem(f"there is no virtual environment at {place}", where, hint)
        return
    path = os.pathsep.join((str(place / "bin"), os.environ.get("PATH", os.defpath)))
    for program in programs:
        if shutil.which(program, path=path) is None:
            yield Problem(f"there is no program {program} in {place}/bin, nor in PATH", where, "install it there")


def _of_apptainer(container: ApptainerContainer, programs: Sequence[str], work_dir: str) -> Iterator[Problem]:
    unbound = [*_of_binds(container.binds, work_dir)]
    yield from unbound
    image = None
    if container.is_file:
        try:
            image = check_image(Path(work_dir, container.image), _IMAGE, container.machine)
        except ConfigError as error:
            yield from error.problems
    try:
        found = runtime.find(container.runtime, _RUNTIME, hint=_MODULE_HINT)
    except ConfigError as error:
        if not container.modules:
            yield from error.problems
        return
    words = container.exec_options(Job(work_dir))
    if unknown := [word for word in _flags(words) if word not in runtime.known_options(found)]:
        for flag in unknown:
            since = f"it exists since {_SINCE[flag]}" if flag in _SINCE else "leave it out of container.options"
            yield Problem(f"{found} has no option {flag}", _RUNTIME, f"{since}; container.runtime names another one")
    elif image is not None and not unbound and image.machine in ("", own_machine()):
        yield from _of_programs(container, found, image, programs)


def _of_programs(
    container: ApptainerContainer, found: runtime.Runtime, image: Image, programs: Sequence[str]
) -> Iterator[Problem]:
    binds = tuple(str(word) for bind in fixed(container.binds.values()) for word in bind.words())
    try:
        absent = absent_programs(found, image, programs, options=("--no-eval", *container.options, *binds))
    except ConfigError as error:
        yield from (Problem(p.what, _IMAGE, f"{p.hint}; {_UNSEEN}") for p in error.problems)
        return
    for program in absent:
        hint = "choose another image, or bind the folder that it is in"
        yield Problem(f"the image has no program {program}: {image.path}", _IMAGE, hint)


def _flags(words: Sequence[object]) -> list[str]:
    """The long options among words of `exec`."""
    flags = (word.partition("=")[0] for word in map(str, words) if re.match(r"--[a-z]", word))
    return [flag for flag in flags if flag not in _NOT_LISTED]


def _of_binds(binds: Mapping[str, Bind], work_dir: str) -> Iterator[Problem]:
    for name, bind in binds.items():
        if bind.is_fixed and not Path(work_dir, bind.source).exists():
            hint = f"container.binds.{name}=null leaves it out; {_UNSEEN}"
            yield Problem(f"the path to bind does not exist: {bind.source}", CONFIG / "container.binds" / name, hint)


def _of_pyxis(container: PyxisContainer, srun: str, work_dir: str) -> Iterator[Problem]:
    yield from _of_binds(container.binds, work_dir)
    if container.is_file:
        try:
            check_squashfs(Path(work_dir, container.image), _IMAGE)
        except ConfigError as error:
            yield from error.problems
    if "--container-image" not in runtime.printed([srun, "--help"]):
        yield Problem(
            f"{srun} of this site has no --container-image: it lacks Pyxis", CONFIG / "container", _NO_PYXIS_HINT
        )
