"""What a watch shows on a terminal: its summary, how far each stage is, its jobs, and what has happened last."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from oellm_autoexp.core.states import RUNNING
from oellm_autoexp.session.job_state import HistoryEntry, JobState, Tally
from oellm_autoexp.session.waits import only_actions_wait, waits
from oellm_autoexp.view.jobs.columns import duration
from oellm_autoexp.view.jobs.evidence import Evidence
from oellm_autoexp.view.jobs.progress import EMPTY, FULL, Done, done, seconds_left
from oellm_autoexp.view.jobs.table import JobTable, subjects_of
from oellm_autoexp.view.jobs.waiting import clock, waiting_lines
from oellm_autoexp.view.metrics import SeriesReader
from oellm_autoexp.view.session_table import headline
from oellm_autoexp.view.shown import Shown

ONLY_ACTIONS_WAIT = "every job has ended: this waits for actions alone (--cmd skip abandons those that wait)"
_NEWEST, _NEWEST_OF_SEVERAL = 5, 2
_KEPT = 50
_ANSWERED_SECONDS = 2.0
_LIVE_WAITS = 3
_MOST_BARS = 6
_BAR = 20
_ALL = "all jobs"
_FEWEST_LINES = 3
"""Of a session that is shown: the header, one job, and how many more there are."""


class Screen:
    """The screen of a watch. It remembers what each session's watcher has said, and what logs say of bad ends."""

    def __init__(self) -> None:
        self._evidence: dict[str, Evidence] = {}
        self._series: dict[str, SeriesReader] = {}
        self._said: dict[str, deque[tuple[float, str]]] = {}

    def of(self, monitors: Sequence[Shown], *, alone: bool) -> RenderableType:
        """What is to be shown now; `alone`: of one session, which needs no title."""
        return _Screenful([self._section(monitor, alone) for monitor in monitors]) if monitors else Text()

    def _section(self, monitor: Shown, alone: bool) -> _Section:
        now, plan, session = time.time(), monitor.manifest.plan_id, monitor.session
        said = self._said.setdefault(plan, deque(maxlen=_KEPT))
        said += [(now, line) for line in monitor.messages]
        monitor.messages.clear()
        quotes = self._evidence.setdefault(plan, Evidence()).of(session)
        series = self._series.setdefault(plan, SeriesReader()).of(session)
        subjects = subjects_of(session.jobs.values(), monitor.manifest.jobs, now, quotes, series)
        jobs = list(session.jobs.values())
        title = [] if alone else [Text(plan, style="bold underline")]
        summary = Text(headline(session), style="bold" if alone else "")
        bars = _bars(monitor, now) if alone else _bars(monitor, now)[-1:]
        newest = newest_events(jobs, said, _NEWEST if alone else _NEWEST_OF_SEVERAL)
        lines = [_dim(f"{clock(at, now)} {text}") for at, text in newest]
        below = [*_warnings(monitor), *lines, *([] if alone else [Text()])]
        table = JobTable(subjects=subjects, note_lines=1, logs=False, hidden=("log",))
        return _Section([*title, summary], [*title, summary, *bars], table, below)


@dataclass(frozen=True)
class _Section:
    """One session on the screen."""

    needed: Sequence[Text]
    """Those lines above the table that stay whatever the height."""
    above: Sequence[Text]
    table: JobTable
    below: Sequence[Text]


class _Screenful:
    """Sessions one below the other, their tables cut to the height of the screen."""

    def __init__(self, sections: Sequence[_Section]) -> None:
        self._sections = sections

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(height=None)
        share = (console.size.height - 1) // len(self._sections)
        sections = [_fitted(console, wide, each, share) for each in self._sections]
        fixed = [_lines(console, wide, [*each.above, *each.below]) for each in sections]
        room = console.size.height - 1 - sum(fixed)
        for number, section in enumerate(sections):
            height = max(_FEWEST_LINES, room // (len(sections) - number))
            table = replace(section.table, height=height)
            room -= _lines(console, wide, [table])
            yield from section.above
            yield table
            yield from section.below


def _fitted(console: Console, options: ConsoleOptions, section: _Section, height: int) -> _Section:
    """A section without its first news and its last bars, where these would take more than half of its height."""
    above, below = list(section.above), list(section.below)
    most = max(len(section.needed), min(height // 2, height - _FEWEST_LINES))
    while below and _lines(console, options, [*above, *below]) > most:
        below.pop(0)
    while len(above) > len(section.needed) and _lines(console, options, above) > most:
        above.pop()
    return replace(section, above=above, below=below)


def _lines(console: Console, options: ConsoleOptions, what: Iterable[Any]) -> int:
    return sum(len(console.render_lines(each, options, pad=False)) for each in what)


# ---------------------------------------------------------------------------------------------------------------------
# Its parts.


def _bars(monitor: Shown, now: float) -> list[Text]:
    """A bar for each stage, the one of all jobs last; that alone where there are no stages."""
    stages: dict[str, list[JobState]] = {}
    for spec in monitor.manifest.jobs:
        if (job := monitor.session.jobs.get(spec.name)) is not None:
            stages.setdefault(spec.stage or "", []).append(job)
    named = {name: jobs for name, jobs in stages.items() if name} if len(stages) > 1 else {}
    shown = dict(sorted(named.items(), key=lambda item: all(job.over for job in item[1]))[:_MOST_BARS])
    rest = len(named) - len(shown)
    everything = {_ALL: list(monitor.session.jobs.values())}
    width = max(map(len, [*shown, *everything]))
    lines = [_bar(name, jobs, width, now) for name, jobs in {**shown, **everything}.items()]
    if rest:
        lines.insert(-1, Text(f"… and {rest} more stages", style="dim"))
    return lines


def _bar(name: str, jobs: Sequence[JobState], width: int, now: float) -> Text:
    how = done(jobs)
    good, bad, runs = how.cells(_BAR)
    left = seconds_left(jobs) if any(job.state == RUNNING for job in jobs) else None
    until = f", until {clock(now + left, now)[:-3]}" if left is not None and name == _ALL else ""
    line = Text(f"{name:<{width}} ", no_wrap=True, overflow="ellipsis")
    for count, style in ((good, "green"), (bad, "red"), (runs, "cyan")):
        line.append(FULL * count, style=style)
    line.append(EMPTY * (_BAR - good - bad - runs), style="dim")
    line.append(f" {_told(how)}{'' if left is None else f', {duration(left)} left'}{until}")
    return line


def _told(how: Done) -> str:
    """` 62 %, 3/8 ended, 1 badly`."""
    ended = how.succeeded + how.failed
    share = min(99, int(100 * how.share)) if ended < how.count else 100
    return f"{share:3} %, {ended}/{how.count} ended{f', {how.failed} badly' if how.failed else ''}"


def _warnings(monitor: Shown) -> list[Text]:
    """What waits for actions, and what keeps the watcher from its work."""
    jobs = monitor.session.jobs.values()
    actions = [wait for wait in waits(jobs) if wait.kind == "action"]
    lines = [Text(line, style="dim") for line in waiting_lines(actions, most=_LIVE_WAITS)]
    if only_actions_wait(jobs):
        lines.append(Text(ONLY_ACTIONS_WAIT, style="yellow"))
    if monitor.scheduler_error:
        lines.append(Text(f"the scheduler does not answer, waiting for it: {monitor.scheduler_error}", style="yellow"))
    if monitor.storage_error:
        lines.append(Text(f"can't go on, trying again: {monitor.storage_error}", style="yellow"))
    return lines


def _dim(line: str) -> Text:
    return Text(line, style="dim", no_wrap=True, overflow="ellipsis")


def _message(entry: HistoryEntry) -> str:
    """What is shown of something beside its name, unless it says the same."""
    message = entry.message.removeprefix(f"{entry.event}: ")
    return f" ({message})" if message and message.lower() != entry.event else ""


def newest_events(jobs: Iterable[JobState], said: Iterable[tuple[float, str]], count: int) -> list[tuple[float, str]]:
    """The last things that happened to jobs, that rules have seen, and that the watcher has said; the newest last.

    What an action has answered to a rule stands in one line with it, and what two entries of a job say in one.
    """
    found: list[tuple[float, str]] = []
    for job in jobs:
        entries = {entry.message or entry.event: entry for entry in job.history[-2 * count :]}
        answered = set()
        for entry in entries.values():
            label, tally = entry.rule or entry.event, job.actions.events.get(entry.rule)
            if tally is not None and 0 <= entry.at - tally.last_at <= _ANSWERED_SECONDS:
                answered.add(entry.rule)
                label = _label(entry.rule, tally)
            text = f": {entry.message}" if entry.rule and entry.message else _message(entry)
            found.append((entry.at, f"{job.name}: {label}{text}"))
        seen = job.actions.events.items()
        found += [(tally.last_at, f"{job.name}: {_label(name, tally)}") for name, tally in seen if name not in answered]
    shown = "\n".join(text for _, text in found)  # what stands in the history is said, too
    found += [(at, text) for at, text in said if text.partition(": ")[2] not in shown]
    return heapq.nlargest(count, dict.fromkeys((at, " ".join(text.split())) for at, text in found))[::-1]


def _label(rule: str, tally: Tally) -> str:
    return f"{rule} (no. {tally.count})" if tally.count > 1 else rule
