"""How long a job is expected to run, and the time limit that follows from it (`slurm.sbatch.time: auto`). Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from oellm_autoexp.backends.base import Command, Work
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import Estimate, Resources, Workload
from oellm_autoexp.core.text import plural
from oellm_autoexp.learning.estimating import Run, estimate, limit_for
from oellm_autoexp.learning.past_runs import PastRuns
from oellm_autoexp.learning.words import about
from oellm_autoexp.planning.jobs.job_script import JobPlaces
from oellm_autoexp.planning.resolving import plan_places
from oellm_autoexp.sbatch.times import AUTOMATIC_FACTOR, TIME, automatic, format_time

_WHERE = CONFIG / TIME
_NODES = ("partition", "constraint", "gres", "gpus", "gpus_per_node", "gpus_per_task")
"""Options of sbatch that decide on which kind of nodes and GPUs a job runs."""
_AMOUNT = re.compile(r":?\d+$")


class Expectations:
    """Compares jobs with earlier runs; without `past`, nothing is known of these."""

    def __init__(self, past: PastRuns | None, absolute: Callable[[str], str]) -> None:
        self._past = past
        self._absolute = absolute
        self._runs: dict[Any, list[Run]] = {}
        self._known: dict[Any, Estimate | None] = {}

    def workload(
        self,
        config: AutoexpConfig,
        command: Command,
        places: JobPlaces,
        resources: Resources,
        directives: Mapping[str, str],
    ) -> Workload:
        """What decides how long a job runs, and how long that is."""
        work = command.work or Work(command.argv)
        sizes = {**work.sizes, "nodes": resources.nodes, "gpus": resources.gpus}
        made = Workload(
            shape=_digest(config, work, places, directives),
            sizes=sizes,
            flops=work.flops,
            iterations=work.iterations,
            save_interval=work.save_interval,
            gpu_memory_gib=config.slurm.site.gpu_memory_gib,
        )
        found = self._estimate(config, work, made)
        return made if found is None else made.model_copy(update={"estimate": found})

    def _estimate(self, config: AutoexpConfig, work: Work, made: Workload) -> Estimate | None:
        if self._past is None:
            return None
        folders = self.folders(config)
        alike = made.shape, *made.sizes.items(), *folders
        if alike not in self._runs:  # the jobs of a sweep are mostly equal
            self._runs[alike] = self._past.like(made, folders, [*map(self._absolute, config.project.learn_from)])
        if not (runs := self._runs[alike]):
            return None
        start = work.start
        if start is None:
            start = self._past.newest_checkpoint(self._absolute(work.load)) if work.load else 0
        key = alike, made.iterations, made.save_interval, start
        if key not in self._known:
            self._known[key] = estimate(made, runs, start)
        return self._known[key]

    def folders(self, config: AutoexpConfig) -> tuple[str, ...]:
        """The state folders in which earlier runs are looked for: that of the plan, then `project.learn_from`."""
        project = config.project
        own = self._absolute(project.monitoring_state_dir)
        # that of a plan whose jobs have folders of their own
        above = plan_places.place_of_plan(own, project.name) if project.name in own else own
        return tuple(dict.fromkeys((own, above, *map(self._absolute, project.learn_from))))

    def limit(self, config: AutoexpConfig, workload: Workload, most_seconds: int | None) -> tuple[int, str]:
        """The automatic time limit of a job in seconds, and where it comes from.

        `most_seconds`: the longest that its site allows. Raises ConfigError if no earlier run is known.
        """
        text = config.slurm.sbatch["time"]
        factor = automatic(text) or AUTOMATIC_FACTOR
        expected = workload.estimate
        if expected is None:
            folders = self.folders(config)
            what = f"'{text}' needs an earlier run of this model and these resources; none is known in {folders[0]}"
            what += f" and {len(folders) - 1} more" if len(folders) > 1 else ""
            what = "; ".join((what, *(self._past.notes if self._past else ())))  # files that could not be read
            hint = (
                'write a time limit for the first run, such as slurm.sbatch.time: "02:00:00"; '
                "project.learn_from names more folders with sessions"
            )
            raise ConfigError(Problem(what, _WHERE, hint))
        seconds = limit_for(expected, factor)
        runs = plural(expected.runs, "earlier run")
        source = f"{text}: {factor:g} x {about(expected.high)}, which is enough for 9 of 10 runs by {runs}"
        if most_seconds is not None and seconds > most_seconds:
            return most_seconds, f"{source}; the site allows {format_time(most_seconds)}"
        return seconds, source


def _digest(config: AutoexpConfig, work: Work, places: JobPlaces, directives: Mapping[str, str]) -> str:
    """A digest of all that decides the speed beside sizes; without the job's own name and folder."""
    slurm, name = config.slurm, config.project.name
    nodes = [_AMOUNT.sub("", directives.get(option, "")) for option in _NODES]
    folder = places.output_dir
    words = [word.replace(folder, "FOLDER") if folder in word else word for word in work.shape]
    words = [_nameless(word, name) if name in word else word for word in words]
    parts = [type(slurm.client).__name__, slurm.site.name, *nodes, *words]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _nameless(word: str, name: str) -> str:
    """A word without the name of its job, where that is not a part of another word."""
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", "NAME", word)
