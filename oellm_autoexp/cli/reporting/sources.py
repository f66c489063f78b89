"""What a report is made of: sessions with their plans, series and events; and the files of its page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor import session_names, show_events
from oellm_autoexp.cli.steps import app, session_steps
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem
from oellm_autoexp.report.document import Event, Source
from oellm_autoexp.report.page import ASSETS
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import shipped
from oellm_autoexp.view.jobs.evidence import quotes

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Series
    from oellm_autoexp.session.session import Session

MOST_EVENTS = 2000
"""Events of a session that a report shows, the newest."""


def sources(options: argparse.Namespace, *, with_events: bool = True) -> list[Source]:
    """The sessions that --session names, each once. Raises ConfigError, CorruptError, StateError."""
    paths = dict.fromkeys(_session_file(options, name) for name in options.session)
    return [_source(path, with_events=with_events) for path in paths]


def _session_file(options: argparse.Namespace, name: str) -> Path:
    path = Path(name)
    if "/" in name or path.suffix == ".json":
        if not path.exists():
            raise ConfigError(Problem("there is no such file", name, "monitor --cmd list shows the ids of sessions"))
        return path.absolute()
    given = argparse.Namespace(session=name, monitoring_state_dir=options.monitoring_state_dir)
    return session_names.session_file(given).absolute()


def _source(path: Path, *, with_events: bool) -> Source:
    from oellm_autoexp.session import series
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session

    owner = trust.stranger(path)
    with trust.reading_as(owner):
        manifest = session_steps.load_manifest(with_backoff(lambda: Session.load(path)).manifest_path)
        session = session_names.recorded(manifest)
        total, events = _events(session) if with_events else (0, [])
        said = quotes(session)

    def read(job: JobState) -> Mapping[str, Series]:
        with trust.reading_as(owner):
            return series.read(series.file_of(path, job.name), job.logs.series)

    return Source(manifest, session, read, events, total, said)


def _events(session: Session) -> tuple[int, list[Event]]:
    """How many events there are, and the newest of them; an event log that can't be read hides nothing else."""
    from oellm_autoexp.session.event_log import EventLog

    try:
        found = EventLog(session.path).histories(lambda _: True, newest_first=True, most=MOST_EVENTS)
        return found.total, [_event(row) for row in show_events.rows(session, found.shown)]
    except AutoexpError as error:
        app.report(error)
        return 0, []


def _event(row: Mapping[str, Any]) -> Event:
    actions = tuple(
        f"{each['action']}: {each['status']}" + (f" ({each['message']})" if each["message"] else "")
        for each in row["actions"]
    )
    return Event(row["at"], row["job"], row["attempt"], row["name"], " ".join(_words(row["metadata"])), actions)


def _words(metadata: Mapping[str, Any]) -> Iterator[str]:
    """The line that was seen; else what else is known of the event."""
    if line := metadata.get("line"):
        yield str(line)
        return
    for key, value in metadata.items():
        if isinstance(value, str | int | float) and str(value):
            yield f"{key}={value}"


def assets() -> dict[str, str]:
    """The texts of the page's files. Raises OSError, StateError."""
    folder = shipped("oellm_autoexp/report/assets")
    return {name: trust.read(folder / name, most=trust.WHOLE).decode() for name in ASSETS}
