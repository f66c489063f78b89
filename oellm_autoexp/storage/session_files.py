"""The names of a session's files: one place that says what is called how, and where it lies. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest


MEASURED = ".measured.jsonl"
"""What the name of a file ends with that says what the attempts of a session took."""


@dataclass(frozen=True)
class SessionFiles:
    """The files of one session, beside each other in its state directory. `path` is the session's own file."""

    path: Path

    @classmethod
    def named(cls, directory: Path, plan_id: str) -> SessionFiles:
        """Those of the session of a plan's id: `<directory>/<plan_id>.json` and so on."""
        return cls(directory / f"{plan_id}.json")

    @classmethod
    def of(cls, manifest: Manifest) -> SessionFiles:
        """Those of a plan's session."""
        return cls.named(Path(manifest.monitoring_state_dir), manifest.plan_id)

    @property
    def lease(self) -> Path:
        """The lock of the one process that writes the session."""
        return self.path.with_suffix(".lease")

    @property
    def journal(self) -> Path:
        """What has changed since the session's file was written."""
        return self.path.with_suffix(".journal")

    @property
    def secrets(self) -> Path:
        """Values that no other file holds in clear."""
        return self.path.with_suffix(".secrets")

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path.with_suffix(".events.jsonl")

    @property
    def series(self) -> Path:
        """The folder of the jobs' metrics."""
        return self.path.with_suffix(".series")

    @property
    def measured(self) -> Path:
        """What its attempts took, for the estimates of later plans."""
        return self.path.with_suffix(MEASURED)

    @property
    def actions(self) -> Path:
        """The folder of the queue."""
        return self.path.with_suffix(".actions")

    @property
    def requests(self) -> Path:
        """The folder of requests to the process that holds the session."""
        return self.path.with_suffix(".requests")

    @property
    def detached(self) -> Path:
        """The folder of its detached monitor. Absolute, as that monitor runs elsewhere."""
        return self.path.absolute().with_suffix(".detached")

    @property
    def report(self) -> Path:
        """The page that `monitoring.report` keeps fresh."""
        return self.path.with_suffix(".report.html")

    @property
    def exports(self) -> Path:
        """The folder of what exporters note of it."""
        return self.path.with_suffix(".exports")

    @property
    def alive_log(self) -> Path:
        """What the program printed that gives the signal of `monitoring.alive`."""
        return self.path.with_suffix(".alive.log")

    @property
    def beside(self) -> tuple[Path, ...]:
        """All but the session's own file and its lock."""
        folders = (self.series, self.actions, self.requests, self.detached, self.exports)
        return (self.journal, self.secrets, self.events, self.measured, *folders, self.report, self.alive_log)
