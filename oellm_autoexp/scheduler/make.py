"""The scheduler that a manifest asks for."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter

from oellm_autoexp.config.schema import Client, FakeSlurmClient, LocalClient, SlurmClient, SlurmSection
from oellm_autoexp.model import Manifest
from oellm_autoexp.scheduler import fake, local, slurm
from oellm_autoexp.scheduler.base import Scheduler
from oellm_autoexp.slurm.site import Site

_LONGEST_LOOK_SECONDS = 20  # a plan can be made where SLURM does not answer
_COMMANDS = ("submit_cmd", "squeue_cmd", "sacct_cmd", "cancel_cmd")


def scheduler_key(manifest: Manifest) -> str:
    """A text that is the same for manifests whose jobs are in the queue of one scheduler."""
    of_jobs = ("array", "array_task_limit")
    section = {key: value for key, value in manifest.slurm.items() if key not in of_jobs}
    spool = manifest.monitoring_state_dir if section["client"]["class_name"] == "LocalClient" else ""
    return json.dumps([section, spool], sort_keys=True)


def live_site(section: SlurmSection) -> Site:
    """What SLURM itself tells of the cluster; nothing where its commands are not, or do not answer."""
    client = section.client
    if not isinstance(client, SlurmClient):
        return Site()
    commands = {key: getattr(section, key) for key in _COMMANDS}
    return slurm.SlurmClient(**commands, timeout_seconds=min(client.timeout_seconds, _LONGEST_LOOK_SECONDS)).site()


def make_scheduler(manifest: Manifest) -> Scheduler:
    """The client that `slurm.client.class_name` names, with its settings."""
    section = manifest.slurm
    client: Client = TypeAdapter[Client](Client).validate_python(section["client"])
    match client:
        case SlurmClient():
            commands = {key: tuple(section[key]) for key in _COMMANDS}
            return slurm.SlurmClient(
                **commands, timeout_seconds=client.timeout_seconds, settle_seconds=client.settle_seconds
            )
        case LocalClient():
            spool = Path(manifest.monitoring_state_dir, "local")
            return local.LocalClient(spool, client.slots, client.kill_grace_seconds)
        case FakeSlurmClient():
            return fake.FakeSlurmClient(client.states)
