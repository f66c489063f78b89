"""The section `slurm` of a config, without its client: the options of scripts and of their submission. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from oellm_autoexp.core.fields import (
    WORDS_IN_YAML,
    AlsoWritten,
    Count,
    Directives,
    Environment,
    Number,
    Seconds,
    Section,
    Text,
    Words,
    command_words,
    listed,
    splits,
)
from oellm_autoexp.sbatch import shell_code


def _launcher(value: Any) -> Any:
    """The words of a launcher. If it is a text, each `$(…)` is within one word."""
    if not isinstance(value, str):
        return command_words(value)
    try:
        return shell_code.split(value)
    except ValueError as error:
        hint = (
            "cluster modules go into slurm.modules, variables into slurm.env, other lines into a template of your own"
        )
        raise PydanticCustomError("launcher", "{why} ({hint})", {"why": str(error), "hint": hint}) from None


LauncherWords = Annotated[tuple[str, ...], BeforeValidator(_launcher), WORDS_IN_YAML]


def _master_addr(text: str) -> str:
    """`{address}`, or a name, which may contain `{hostname}`."""
    if (text != "{address}" and re.search(r"[{}\s]", text.replace("{hostname}", ""))) or not text:
        raise PydanticCustomError("master_addr", "must be {hostname}, a name made of it, or {address}")
    return text


class LimitsSection(Section):
    """Limits of a partition or a QOS for one job; null: none is known."""

    time: Text | None = None
    """The longest time limit."""
    nodes: Count | None = Field(default=None, ge=1)
    """The most nodes."""
    min_nodes: Count | None = Field(default=None, ge=1)
    """The fewest nodes."""


class SiteSection(Section):
    """A cluster, as its documentation describes it. What SLURM itself reports counts more."""

    name: Text = "this site"
    """What the cluster is called."""
    accounts_cmd: Text = "sacctmgr show assoc user=$USER format=account,qos"
    """The command that lists a user's accounts there."""
    needs: tuple[Literal["account", "partition", "qos"], ...] = ()
    """Options without which the site accepts no job."""
    partition: Text | None = None
    qos: Text | None = None
    debug_partition: Text | None = None
    debug_qos: Text | None = None
    """The options that `slurm.debug` chooses, for short tests without long waiting."""
    partitions: dict[str, LimitsSection] = {}
    qos_limits: dict[str, LimitsSection] = {}
    """Limits by name. A limit of a QOS replaces that of its partition."""
    gpu_memory_gib: Number | None = Field(default=None, gt=0)
    """The memory of one GPU (of LUMI's MI250X, of one of its halves), beside which a plan shows what runs need."""


OF_THE_SCRIPT = ("answer", "slurm")
"""What a script itself looks at: whether a node answers, what SLURM shows of it. Others are checks of its preflight."""


def _check_name(name: str) -> str:
    """The name of a check as it stands in lines of the log and of a status file: `name: reason`."""
    if not name.strip() or not name.isprintable() or ":" in name:
        raise PydanticCustomError("check_name", "must be one line of text, without a colon")
    if name in OF_THE_SCRIPT:
        raise PydanticCustomError("check_name", f"must be none of {', '.join(OF_THE_SCRIPT)}: the script uses them")
    return name


class PreflightCheck(Section):
    """A check that runs on each node of a job before its program: a shipped one (`check`), or a command."""

    check: Literal["gpus", "scratch", "shm", "image", "clock"] | None = None
    """A shipped check; a text in the list is the same as `{check: text}`."""
    command: Words = ()
    """A command that succeeds (exit code 0) on a node that works; else the last line that it prints is the reason."""
    name: Annotated[Text, AfterValidator(_check_name)] | None = None
    """What a command is called in messages; null: as its program."""
    timeout_seconds: Seconds = 60
    """Seconds after which a check without a result has failed."""
    path: Text | None = None
    """Of `scratch`: the folder that must be writable, which may contain variables of the node; null: $TMPDIR."""
    free_mb: Count = Field(default=64, ge=0)
    """Of `scratch` and `shm` (/dev/shm): the free room that must be there, in MB."""
    max_seconds: Count = Field(default=5, ge=1)
    """Of `clock`: by how many seconds a node's clock may differ from that of the batch node."""

    @model_validator(mode="after")
    def _one_of_both(self) -> PreflightCheck:
        if bool(self.check) == bool(self.command):
            raise PydanticCustomError("preflight", "{why} ({hint})", _NO_CHECK)
        kind = self.check or "command"
        for key, kinds in _KEYS.items():
            if kind not in kinds and getattr(self, key) != type(self).model_fields[key].default:
                why = {"why": f"'{key}' has no meaning for {kind}", "hint": f"it is a key of {', '.join(kinds)}"}
                raise PydanticCustomError("preflight", "{why} ({hint})", why)
        return self

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.check or self.name or " ".join(self.command[0].rpartition("/")[2].split()) or "command"


_KEYS = {"name": ("command",), "path": ("scratch",), "free_mb": ("scratch", "shm"), "max_seconds": ("clock",)}
"""The keys that only some checks have."""
_NO_CHECK = {
    "why": "must name a check or a command, and not both",
    "hint": "gpus, scratch, shm, image, clock, or {command: [...], timeout_seconds: 60}",
}


def _check(value: Any) -> Any:
    """A text is the name of a shipped check."""
    return {"check": value} if isinstance(value, str) else value


Preflight = Annotated[
    tuple[Annotated[PreflightCheck, BeforeValidator(_check), AlsoWritten({"type": "string"})], ...],
    BeforeValidator(listed),
]


class SlurmOptions(Section):
    """How scripts are made and submitted. `sbatch`, `srun` and `env` accept any key."""

    template_path: str | None = None
    """A template of the user's own, with `{{directives}}`, `{{env}}` and `{{run}}`; null: the shipped one."""
    array: bool = False
    """Whether jobs that ask for the same resources are submitted as one array."""
    array_task_limit: Count | None = Field(default=None, ge=1)
    """Tasks of one array that run at once, at most; null: no limit."""
    submit_cmd: Words = ("sbatch",)
    """The command that submits a script."""
    squeue_cmd: Words = ("squeue",)
    """The command that lists jobs."""
    sacct_cmd: Words = ("sacct",)
    """The command that lists ended jobs."""
    cancel_cmd: Words = ("scancel",)
    """The command that ends jobs."""
    launcher_cmd: LauncherWords = ("srun",)
    """What starts the program; the flags of `srun` are added after the word srun."""
    env: Environment = {}
    """The job's environment. `$NAME` is a variable of the job itself; null leaves a variable out."""
    srun: Directives = {}
    """Flags of srun, by name (`cpu_bind: cores`); true is the bare flag, null none."""
    sbatch: Directives = {}
    """Directives of the script, by name (`cpus_per_task: 8`); true is the bare flag, null none."""
    sbatch_extra_directives: list[str] = []
    """Further directives, as they are written in a script."""
    modules: list[Annotated[Text, AfterValidator(splits)]] = []
    """Commands of `module`, run by the job's script before its environment is set: `purge`, `load GCC/13.3.0`."""
    master_addr: Annotated[Text, AfterValidator(_master_addr)] = "{hostname}"
    """The first node's name for other ranks: `{hostname}`, a name made of it (`{hostname}i`) or its `{address}`."""
    restarts_in_job: Count = Field(default=0, ge=0, le=1000)
    """How often the program may be begun again in its allocation after it has failed, without the queue."""
    spare_nodes: Count = Field(default=0, ge=0, le=1000)
    """Nodes that a job asks for beside `sbatch.nodes`, to take the place of nodes that fail."""
    preflight: Preflight = ()
    """Checks that run on each node before the program: `gpus`, `scratch`, `shm`, `image`, `clock`, or commands."""
    debug: bool = False
    """Whether the partition and the QOS for short tests are used."""
    site: SiteSection = SiteSection()
    """What is known of the cluster."""
    client: Any
    """The scheduler's own section; config/schema.py knows its kinds."""
