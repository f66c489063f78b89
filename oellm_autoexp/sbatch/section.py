"""The section `slurm` of a config, without its client: the options of scripts and of their submission. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from oellm_autoexp.core.fields import Count, Directives, Environment, Section, Text, Words, command_words, splits
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


LauncherWords = Annotated[tuple[str, ...], BeforeValidator(_launcher)]


def _master_addr(text: str) -> str:
    """`{address}`, or a name, which may contain `{hostname}`."""
    if (text != "{address}" and re.search(r"[{}\s]", text.replace("{hostname}", ""))) or not text:
        raise PydanticCustomError("master_addr", "must be {hostname}, a name made of it, or {address}")
    return text


class LimitsSection(Section):
    """Limits of a partition or a QOS for one job; null: none is known."""

    time: Text | None = None
    nodes: Count | None = Field(default=None, ge=1)
    min_nodes: Count | None = Field(default=None, ge=1)


class SiteSection(Section):
    """A cluster, as its documentation describes it. What SLURM itself reports counts more."""

    name: Text = "this site"
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


class SlurmOptions(Section):
    """How scripts are made and submitted. `sbatch`, `srun` and `env` accept any key."""

    template_path: str | None = None
    array: bool = False
    array_task_limit: Count | None = Field(default=None, ge=1)
    submit_cmd: Words = ("sbatch",)
    squeue_cmd: Words = ("squeue",)
    sacct_cmd: Words = ("sacct",)
    cancel_cmd: Words = ("scancel",)
    launcher_cmd: LauncherWords = ("srun",)
    env: Environment = {}
    srun: Directives = {}
    sbatch: Directives = {}
    sbatch_extra_directives: list[str] = []
    modules: list[Annotated[Text, AfterValidator(splits)]] = []
    """Commands of `module`, run by the job's script before its environment is set: `purge`, `load GCC/13.3.0`."""
    master_addr: Annotated[Text, AfterValidator(_master_addr)] = "{hostname}"
    """The first node's name for other ranks: `{hostname}`, a name made of it (`{hostname}i`) or its `{address}`."""
    debug: bool = False
    site: SiteSection = SiteSection()
    client: Any
    """The scheduler's own section; config/schema.py knows its kinds."""
