"""Blames nodes for what failed on them, and says which ones a job is kept from; for the plan of one session."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from oellm_autoexp.core.errors import AutoexpError, SchedulerError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.text import plural
from oellm_autoexp.nodes.entry import Entry
from oellm_autoexp.nodes.judge import Asked, Choice, Limits, Record, asked_by, choose, on_cluster, records
from oellm_autoexp.nodes.node_log import NodeLog
from oellm_autoexp.rules.rules import Nodes
from oellm_autoexp.schedulers.base import Scheduler
from oellm_autoexp.schedulers.site import VARIABLES, ClusterNodes
from oellm_autoexp.storage import trust

_CLUSTER_SECONDS = 600.0
"""How long what the scheduler said of its nodes counts as new."""
_JUDGED_SECONDS = 60.0
"""How long the nodes at the limit count as known where nothing is watched, as in a long submission."""
_NOBODY = Choice({}, {})


def section_of(manifest: Manifest) -> Nodes:
    """`monitoring.nodes` of a plan; the defaults for plans of older versions."""
    return Nodes.model_validate(manifest.monitoring.get("nodes") or {})


def limits_of(section: Nodes) -> Limits:
    """The limits of a section."""
    return Limits(section.exclude_after, section.expires_after_hours * 3600, section.max_share)


class Reputation:
    """The nodes of one session's cluster. `report` gets lines for people.

    Where the scheduler names no nodes (it has only this machine), nothing is blamed and nothing is left out.
    """

    def __init__(
        self, manifest: Manifest, scheduler: Scheduler, *, now: Callable[[], float], report: Callable[[str], None]
    ) -> None:
        section = section_of(manifest)
        self._manifest = manifest
        self._scheduler = scheduler
        self._now = now
        self._report = report
        self._limits = limits_of(section)
        self._log = NodeLog.of(section.folder, Path(manifest.monitoring_state_dir))
        self._cluster: ClusterNodes | None = None
        self._cluster_until = self._bad_until = self._suited_until = float("-inf")
        self._suited: dict[tuple[Asked, frozenset[str]], bool] = {}
        self._bad_now: list[Record] = []
        self._asked: dict[tuple[str, str], Asked] = {}
        self._seen: set[tuple[str, str, int, str]] = set()
        self._unwritten: list[Entry] = []
        self._reported: set[str] = set()

    # ---- blame

    def blame(self, entries: Iterable[Entry]) -> None:
        """Add to the log that nodes were blamed; the same node of the same attempt is in it once. Never raises.

        Called at each look, as it begins to judge anew. The cluster is filled in. What can't be written now is tried
        again with the next call.
        """
        self._bad_until = float("-inf")
        oldest = self._now() - self._limits.expires_after_seconds
        for entry in entries:
            if entry.key not in self._seen:
                self._seen.add(entry.key)
                if entry.at > oldest:
                    self._unwritten.append(entry)
        if not self._unwritten:
            return
        try:
            cluster = self._nodes()
        except SchedulerError:
            return
        known = {entry.key for entry in self._log.read()} if cluster else set()
        new = [
            replace(entry, cluster=cluster.name)
            for entry in self._unwritten
            if cluster and entry.key not in known and entry.node in cluster.names
        ]
        try:
            self._log.append(new)
        except (OSError, AutoexpError) as error:
            self.report_once(f"can't record which nodes failed: {_words(error)}")
            return
        self._unwritten = []
        for entry in new:
            record = self._records().get((entry.cluster, entry.node))
            self._report(f"node {entry.node} is blamed ({entry.category}: {entry.reason}){_follows(record)}")

    # ---- leave out

    def left_out(self, spec: JobSpec) -> dict[str, str]:
        """The nodes that a job which is submitted now is kept from, each with why. Never raises."""
        return dict(self._choice(spec).left_out)

    def left_out_of_queued(self, spec: JobSpec, already: Collection[str]) -> dict[str, str]:
        """The same of a job in the scheduler's queue, beside the nodes that it is kept from `already`.

        None where the scheduler has no others for the job: a submission that can't be fulfilled is refused, and made
        without that; a job in the queue would be stuck there.
        """
        left_out = dict(self._choice(spec, already).left_out)
        if left_out and not self._suits(spec, frozenset({*already, *left_out})):
            why = "the scheduler has no other nodes for them"
            self.report_once(f"jobs in the queue may still get {', '.join(left_out)}, which was blamed: {why}")
            return {}
        return left_out

    def _suits(self, spec: JobSpec, without: frozenset[str]) -> bool:
        """Whether the scheduler has other nodes for a job; asked once for all jobs whose scripts ask for the same."""
        if time.monotonic() >= self._suited_until:
            self._suited.clear()
            self._suited_until = time.monotonic() + _CLUSTER_SECONDS
        key = self._asked_by(spec), without
        if key not in self._suited:
            self._suited[key] = self._scheduler.suits(spec.script_path, without)
        return self._suited[key]

    @property
    def leaves_out(self) -> bool:
        """Whether some node is at the limit."""
        return bool(self._bad())

    def _choice(self, spec: JobSpec, already: Collection[str] = ()) -> Choice:
        found = self._bad()
        if not found:
            return _NOBODY
        try:
            asked = self._asked_by(spec)
        except (OSError, AutoexpError):  # what is wrong with its script is said where it is submitted
            return _NOBODY
        pool = self._cluster.of(asked.partition) if self._cluster else None
        choice = choose(found, pool, asked, self._limits.max_share, already)
        for node, why in choice.kept.items():
            self.report_once(f"jobs may still get {node}, which was blamed: {why}")
        return choice

    def _bad(self) -> list[Record]:
        """The nodes of this cluster at the limit, as of the last look: thousands of jobs may be asked for."""
        if time.monotonic() >= self._bad_until:
            self._bad_now = self._judged()
            self._bad_until = time.monotonic() + _JUDGED_SECONDS
        return self._bad_now

    def _judged(self) -> list[Record]:
        found = self._records()
        if all(record.until is None for record in found.values()):
            return []
        try:
            cluster = self._nodes()
        except SchedulerError as error:
            self.report_once(f"blamed nodes can't be left out: {error.problems[0].what}")
            return []
        if cluster is None:
            return []
        here = on_cluster(found, cluster.name)
        return [record for record in here if record.until is not None and record.node in cluster.names]

    def _records(self) -> dict[tuple[str, str], Record]:
        entries = self._log.read()
        for path, why in self._log.ignored.items():
            self.report_once(f"what is noted of nodes in {path} does not count: {why}")
        return records(entries, self._now(), self._limits)

    def _nodes(self) -> ClusterNodes | None:
        """What the scheduler says of its nodes. Raises SchedulerError."""
        if time.monotonic() >= self._cluster_until:
            self._cluster = self._scheduler.cluster_nodes()
            self._cluster_until = time.monotonic() + _CLUSTER_SECONDS
        return self._cluster

    def _asked_by(self, spec: JobSpec) -> Asked:
        """What a job's script asks of nodes. Raises OSError, StateError."""
        key = spec.script_path, spec.script_digest
        if key not in self._asked:
            text = trust.read_script(Path(spec.script_path), spec.script_digest, Path(self._manifest.base_output_dir))
            variables = {option: os.environ[name] for name, option in VARIABLES.items() if os.environ.get(name)}
            self._asked[key] = asked_by(text, spec.resources.nodes, variables)
        return self._asked[key]

    def report_once(self, text: str) -> None:
        """Report a line for people, unless it was reported before."""
        if text not in self._reported:
            self._reported.add(text)
            self._report(text)


def _follows(record: Record | None) -> str:
    """What follows from a new blame, in words."""
    if record is None:
        return ""
    if record.until is not None:
        return ": it is left out of jobs (monitor --cmd nodes)"
    return f", {plural(record.attempts, 'time')} so far"


def _words(error: OSError | AutoexpError) -> str:
    if isinstance(error, AutoexpError):
        return str(error.problems[0])
    return f"{error.strerror or error}: {error.filename or ''}"
