"""The kinds of containers that jobs run in: what each adds to a job's script. Pure.

Variables are passed on as data: no shell in a container reads their values as code.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from oellm_autoexp.containers.binds import Bind, Binds, beside
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.fields import Environment, Flags, Section, Text, Words, splits
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.redaction import redact
from oellm_autoexp.core.registry import Registry
from oellm_autoexp.core.text import Raw
from oellm_autoexp.sbatch.environment import REFERENCE, expanded
from oellm_autoexp.sbatch.launch import srun_index

_OF_THE_IMAGE = ("PATH", "LD_LIBRARY_PATH", "HOME")
"""Variables with paths of an image: those of the host would hide its programs."""
_OF_RUNTIMES = ("SLURM_", "SRUN_", "SBATCH_", "SINGULARITY", "APPTAINER", "ENROOT_", "PYXIS_")
_CLEANING = ("--cleanenv", "-e", "--containall", "-C", "--compat")
_BINDS = CONFIG / "container.binds"
_WIDTH = 112
_OF_PYXIS = {
    "container_image": "set container.image",
    "container_mounts": "set container.binds",
    "container_env": "set container.env; it reaches the container with the job's other variables",
    "container_workdir": "jobs run in the directory that the plan was made in",
}
_COMPUTE_HINT = "write the path as it is on the nodes"
Modules = list[Annotated[Text, AfterValidator(splits)]]


@dataclass(frozen=True)
class Job:
    """What a container needs to know of a job: its working directory, its folders, the names of its variables."""

    work_dir: str
    folders: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """How a job's program is started in a container.

    `lines` follow the variables of the script and export `variables`; `srun` are flags of srun; `words` are between the
    launcher and the program.
    """

    words: tuple[str | Raw, ...] = ()
    lines: str = ""
    variables: tuple[str, ...] = ()
    srun: Mapping[str, Any] = field(default_factory=dict)


class Container(Section):
    """One kind of container, or of none: the section `container` of a config, which `class_name` chooses."""

    modules: Modules = []
    """Commands of `module`, run after those of `slurm.modules`."""
    env: Environment = {}
    """Further variables for the program; they replace those of `slurm.env` with the same name."""

    def problems(self, launcher: Sequence[str]) -> list[Problem]:  # noqa: ARG002  of some kinds alone
        """What is wrong with it behind a launcher (`slurm.launcher_cmd`)."""
        return []

    def entry(self, job: Job) -> Entry:  # noqa: ARG002
        """What it adds to the script of a job. Raises ConfigError."""
        return Entry()

    def image_file(self, work_dir: str) -> str | Raw:  # noqa: ARG002
        """The file or folder of its image as a word of a script that runs in `work_dir`; '' if it has none."""
        return ""


class NoContainer(Container):
    """Programs run on the host."""

    class_name: Literal["NoContainer"] = "NoContainer"


class VenvContainer(Container):
    """Programs run on the host, with the Python of another virtual environment than the one that plans."""

    class_name: Literal["VenvContainer"]
    path: Text
    """The environment's folder."""

    def entry(self, job: Job) -> Entry:  # noqa: ARG002
        """See Container; what `bin/activate` sets."""
        set_here = (f"VIRTUAL_ENV={self.path}", f"PATH={self.path}/bin:$PATH")
        return Entry(("env", *(Raw(expanded(text)) for text in set_here)))


class _ImageContainer(Container):
    """The keys of all containers with an image."""

    image: Text
    """The path of the image on compute nodes."""
    binds: Binds = {}
    """Files and folders of the host in the container, by names of the user's choice: `path`, `path:target`,
    `path:target:ro`.
    """
    check: bool = True
    """Whether image, runtime and binds are checked before a job is submitted."""

    def problems(self, launcher: Sequence[str]) -> list[Problem]:  # noqa: ARG002
        """What is wrong with it behind a launcher (`slurm.launcher_cmd`)."""
        found = [
            Problem(f"{name} is set by the image", CONFIG / "container.env" / name, "set it when the image is built")
            for name in self.env
            if name in _OF_THE_IMAGE
        ]
        if not self.image.strip():
            hint = "container.image=PATH, or container=none"
            found.append(Problem("no image is named", CONFIG / "container.image", hint))
        return found

    def _handed_on(self, job: Job) -> list[str]:
        """The job's variables, which in the container replace those of the image."""
        return [name for name in job.variables if name not in _OF_THE_IMAGE and not name.startswith(_OF_RUNTIMES)]

    @property
    def is_file(self) -> bool:
        """Whether the image is a path that is known before the job runs; not a registry's name, or in a variable."""
        return "://" not in self.image and not REFERENCE.search(self.image)

    def image_file(self, work_dir: str) -> str | Raw:
        """See Container."""
        in_variable = "://" not in self.image and REFERENCE.search(self.image)
        return self._place(work_dir) if self.is_file or in_variable else ""

    def _place(self, work_dir: str) -> str | Raw:
        """The image as a word of the script."""
        if REFERENCE.search(self.image):
            return Raw(expanded(self.image))
        return posixpath.normpath(posixpath.join(work_dir, self.image)) if self.is_file else self.image

    def _binds(self, job: Job) -> list[Bind]:
        own = list({(bind.source, bind.place): bind for bind in self.binds.values()}.values())
        return [*own, *beside(own, (job.work_dir, *job.folders))]


class ApptainerContainer(_ImageContainer):
    """Apptainer or Singularity, whichever is installed."""

    class_name: Literal["ApptainerContainer"]
    runtime: Text | None = None
    """The name or path of the runtime; null: apptainer, or singularity if that is missing."""
    gpu: Literal["nvidia", "amd"] | None = None
    """`nvidia`: --nv, `amd`: --rocm, null: no GPU."""
    options: Words = ()
    """Further options of its command `exec`."""
    machine: Text | None = None
    """The processors of the nodes, in the words of `uname -m`; null: those of the machine where it is submitted."""

    def problems(self, launcher: Sequence[str]) -> list[Problem]:
        """See Container."""
        what = "it would hide SLURM's variables, from which the program reads its rank"
        return [
            *super().problems(launcher),
            *(
                Problem(f"'{word}': {what}", CONFIG / "container.options", "leave it out")
                for word in self.options
                if word in _CLEANING
            ),
        ]

    def exec_options(self, job: Job) -> tuple[str | Raw, ...]:
        """The words between `exec` and the image."""
        gpu = {"nvidia": ("--nv",), "amd": ("--rocm",), None: ()}[self.gpu]
        binds = (word for bind in self._binds(job) for word in bind.words())
        return ("--no-eval", *gpu, *self.options, *binds, "--pwd", job.work_dir)

    def entry(self, job: Job) -> Entry:
        """See Container.

        An image may set variables of its own, in whose place are those of SINGULARITYENV_ (which Apptainer honours
        unless there is one of APPTAINERENV_). `--no-eval` leaves their values as they are.
        """
        names = self._handed_on(job)
        runtime = self.runtime or Raw('"$(command -v apptainer || command -v singularity || echo apptainer)"')
        return Entry(
            words=(runtime, "--quiet", "exec", *self.exec_options(job), self._place(job.work_dir)),
            lines=_handing_on(names),
            variables=tuple(f"SINGULARITYENV_{name}" for name in names),
        )


def _handing_on(names: Sequence[str]) -> str:
    """Lines of a script by which these variables of the job reach a container of Apptainer or Singularity."""
    if not names:
        return ""
    why = "# What the job sets holds in the container, whatever the image sets."
    set_here = " ".join(("export", *(f'SINGULARITYENV_{name}="${name}"' for name in names)))
    in_the_way = " ".join(("unset", *(f"APPTAINERENV_{name}" for name in names)))
    lines = (" \\\n  ".join(textwrap.wrap(words, _WIDTH, break_long_words=False)) for words in (set_here, in_the_way))
    return "\n".join((why, *lines))


class PyxisContainer(_ImageContainer):
    """Pyxis, a plugin of SLURM with which srun starts tasks in a container of Enroot."""

    class_name: Literal["PyxisContainer"]
    options: Flags = {}
    """Further flags of srun: `container_writable: true`, `no_container_mount_home: true`."""

    @property
    def is_file(self) -> bool:
        """See the base class; a name in a registry is no path."""
        path = self.image.startswith(("/", ".")) or self.image.endswith(".sqsh")
        return path and not REFERENCE.search(self.image)

    def problems(self, launcher: Sequence[str]) -> list[Problem]:
        """See Container."""
        found = super().problems(launcher)
        found += [
            Problem(f"'{key}' is set by the program", CONFIG / "container.options" / key, hint)
            for key in self.options
            if (hint := _OF_PYXIS.get(key.replace("-", "_")))
        ]
        if srun_index(launcher) is None:
            hint = "set slurm.launcher_cmd: srun, on a real SLURM; elsewhere container=none or container=base"
            found.append(
                Problem("Pyxis is a plugin of srun, but srun does not start the job", CONFIG / "container", hint)
            )
        if REFERENCE.search(self.image):
            found.append(Problem("a path for Pyxis can't contain variables", CONFIG / "container.image", _COMPUTE_HINT))
        for name, bind in self.binds.items():
            where = _BINDS / name
            if not (bind.is_fixed and bind.is_fixed_inside):
                found.append(Problem("a path for Pyxis can't contain variables", where, _COMPUTE_HINT))
        return found

    def entry(self, job: Job) -> Entry:
        """See Container. An image's own variables would take precedence of those not in `--container-env`.

        Raises ConfigError for a path that Pyxis can't mount.
        """
        mounts = [_mount(bind) for bind in self._binds(job)]
        return Entry(
            srun={
                "container_image": self._place(job.work_dir),
                "container_mounts": ",".join(mounts) or None,
                "container_workdir": job.work_dir,
                "container_env": ",".join(self._handed_on(job)) or None,
                **self.options,
            }
        )


def _mount(bind: Bind) -> str:
    """A mount as Pyxis takes it. Raises ConfigError.

    Pyxis separates mounts by commas and their parts by colons, and makes a line of fstab(5) of each (args.c of
    NVIDIA/pyxis, 0.24): there is no way to quote any of these.
    """
    for path in (bind.source, bind.place):
        if re.search(r"[,:\s]", path):
            hint = "rename it, or bind a folder above it"
            raise ConfigError(Problem(f"Pyxis can't mount a path with a comma, colon or space: {path}", _BINDS, hint))
    return f"{bind.source}:{bind.place}{':ro' if bind.read_only else ''}"


def _without_kind(value: Any) -> Any:
    """An empty section, as earlier versions recorded it: no container."""
    return {"class_name": "NoContainer"} if value == {} else value


CONTAINERS = Registry(Container, "oellm_autoexp.containers.kinds", "oellm_autoexp.containers")
if TYPE_CHECKING:
    ContainerField = Container
else:
    ContainerField = Annotated[CONTAINERS.union(), BeforeValidator(_without_kind)]


def recorded(container: Container, programs: Sequence[str], srun: str) -> dict[str, Any] | None:
    """What a plan records of a container, and the programs that it must have, for later checks; None: nothing.

    `srun` is the program of that name that starts jobs in it, '' without one.
    """
    if isinstance(container, NoContainer):
        return None
    section = container.model_dump(mode="json", by_alias=True, exclude={"env"})
    return {"container": redact(section), "programs": list(programs), "srun": srun}
