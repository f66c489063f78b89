"""What jobs add to their plan beside their descriptions: notes, questions, files, what all have in common. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from oellm_autoexp.backends.base import Command, Note, Probe
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.containers import kinds as containers
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.planning.checks import rule_checks
from oellm_autoexp.planning.checks.plan_checks import check_plan_wide
from oellm_autoexp.planning.resolving.plan_places import differing
from oellm_autoexp.sbatch.directives import DIRECTIVES
from oellm_autoexp.sbatch.known_options import OPTIONS, SRUN_OPTIONS, unknown_option
from oellm_autoexp.sbatch.launch import srun_index


class Gathered:
    """Filled by one job after the other; what holds for the whole plan is taken from the first one.

    `odd_options` are by program (sbatch, srun) and option, with their places; `differing` are the keys of places that
    are not the same for all jobs; `later` are, one for each stage, place and value, overrides of new attempts, with the
    number of a job that has them.
    """

    def __init__(self) -> None:
        self.first: AutoexpConfig | None = None
        self.differing: set[str] = set()
        self.notes: dict[str, list[Note]] = defaultdict(list)  # by what they are about
        self.needs: dict[str, None] = {}
        self.versions: dict[str, str] = {}
        self.containers: dict[str, dict[str, Any]] = {}
        self.odd_options: dict[str, dict[str, Location]] = {"sbatch": {}, "srun": {}}
        self.later: dict[tuple[str | None, Location, str], tuple[int, Location, dict[str, Any]]] = {}
        self._probes: dict[tuple[tuple[str, ...], ...], tuple[Probe, list[str]]] = {}

    def note(self, notes: Iterable[Note]) -> None:
        """Keep notes of a job."""
        for note in notes:
            self.notes[note.about].append(note)

    def command(self, config: AutoexpConfig, command: Command) -> None:
        """Keep what a job's command needs where it runs, and what its program is to be asked."""
        self.needs.update(dict.fromkeys(command.needs))
        launcher = config.slurm.launcher_cmd
        srun = launcher[at] if (at := srun_index(launcher)) is not None else ""
        if recorded := containers.recorded(config.container, command.programs or command.argv[:1], srun):
            self.containers.setdefault(str(recorded), recorded)
        if command.probe is not None:
            kind = command.probe.program, command.probe.shape
            self._probes.setdefault(kind, (command.probe, []))[1].append(config.project.name)
        if command.version:
            self.versions[command.needs[0]] = command.version

    def options(self, config: AutoexpConfig) -> None:
        """Keep the options of sbatch and srun that are not known, and the values that new attempts are to have."""
        slurm = config.slurm
        for program, written, known in (("sbatch", slurm.sbatch, OPTIONS), ("srun", slurm.srun, SRUN_OPTIONS)):
            odd = {key: CONFIG / "slurm" / program / key for key in written if unknown_option(key, known)}
            self.odd_options[program] = {**odd, **self.odd_options[program]}
        prefix = DIRECTIVES
        for place, overrides in rule_checks.known_overrides(config.monitoring):
            directives = (key.removeprefix(prefix) for key in overrides if key.startswith(prefix))
            odd = {key: place for key in directives if unknown_option(key)}
            self.odd_options["sbatch"] = {**odd, **self.odd_options["sbatch"]}
            values = {key: value for key, value in overrides.items() if not key.startswith(prefix)}
            if values:
                self.later.setdefault((config.stage, place, str(values)), (config.index, place, values))

    def config(self, config: AutoexpConfig, groups_chosen: frozenset[str]) -> None:
        """Compare a job with the first one. Raises SweepError where the whole plan must have one value."""
        self.first = self.first or config
        check_plan_wide(self.first, config, groups_chosen)
        self.differing |= differing(self.first, config)

    def probes(self) -> tuple[Probe, ...]:
        """What the programs are to be asked, each question once."""
        return tuple(replace(probe, jobs=tuple(names)) for probe, names in self._probes.values())
