"""The window of a session: its jobs above, the log, events, curves of one of them and the queue below (Textual)."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label, Static, TabbedContent, TabPane

from oellm_autoexp.cli.monitor.session_names import recorded, stamps_of
from oellm_autoexp.cli.screens import panels
from oellm_autoexp.cli.screens.acting import act
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.text import printable
from oellm_autoexp.storage.trust import reading_of_others
from oellm_autoexp.view.jobs.evidence import Evidence
from oellm_autoexp.view.jobs.names import short_names
from oellm_autoexp.view.jobs.table import colour, default_columns, subjects_of
from oellm_autoexp.view.metrics import LOSS, SeriesReader, metrics_of
from oellm_autoexp.view.session_table import headline

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session, Stamp
    from oellm_autoexp.view.jobs.columns import Subject

_EVERY_SECONDS = 1.0
_SHORTEST_NAME = 16
_HIDDEN = ("log", "iterations")


class Question(ModalScreen[bool]):
    """Asks whether something is to be done; only `y` does it."""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "yes"), ("n,escape", "answer(False)", "no")]
    CSS = "Question { align: center middle; } #question { width: auto; padding: 1 2; border: heavy $warning; }"

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        """See Screen.compose."""
        yield Label(Text(f"{self._text}\n\ny: yes   n: no"), id="question")

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.dismiss(yes)


class Window(App[None]):
    """Reads the session as it is recorded, again and again; what is to be done is asked for as the commands do."""

    CSS = """
    #summary { height: 1; text-style: bold; }
    #jobs { height: 2fr; }
    #below { height: 3fr; }
    #about { height: auto; max-height: 3; color: $text-muted; }
    #messages { height: auto; max-height: 4; color: $warning; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "show('log')", "log"),
        Binding("e", "show('events')", "events"),
        Binding("p", "show('curves')", "curves"),
        Binding("u", "show('queue')", "queue"),
        Binding("m", "next_metric", "metric"),
        Binding("f", "only_failed", "failed"),
        Binding("r", "ask('restart')", "restart"),
        Binding("c", "ask('cancel')", "cancel"),
        Binding("q", "quit", "leave"),
        Binding("home", "go(0)", show=False, priority=True),
        Binding("end", "go(-1)", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, manifest: Manifest, path: Path) -> None:
        super().__init__()
        self._manifest, self._path = manifest, path
        self._session: Session = recorded(manifest)
        self._stamps: tuple[Stamp | None, Stamp | None] | None = None
        """Of the session that was read; None: it is read again, as it may have changed meanwhile."""
        self._evidence, self._series = Evidence(), SeriesReader()
        self._failed_only, self._metric = False, LOSS
        self._columns: list[str] = []
        self._shown: dict[str, list[str]] = {}

    def compose(self) -> ComposeResult:
        """See App.compose."""
        yield Static(id="summary")
        yield DataTable(id="jobs", cursor_type="row", zebra_stripes=True)
        with Vertical(id="below"):
            yield Static(id="about")
            yield Static(id="messages")
            with TabbedContent(id="tabs"):
                for name in ("log", "events", "curves", "queue"):
                    with TabPane(name, id=name), VerticalScroll(id=f"{name}-scroll"):
                        yield Static(id=f"{name}-text")
        yield Footer(compact=True)  # all keys at 80 columns

    def on_mount(self) -> None:
        """Show the session, and go on doing so."""
        self.query_one("#messages", Static).display = False
        self._draw()
        self.query_one("#jobs", DataTable).focus()
        self.set_interval(_EVERY_SECONDS, self._refresh)

    def _refresh(self) -> None:
        """Read the session again if it has changed; one that can't be read now stays as it is."""
        if not self.query("#summary"):  # the window is being closed
            return
        stamps = stamps_of(self._session.path)
        if stamps != self._stamps:
            try:
                self._session = recorded(self._manifest)
            except AutoexpError as error:
                self._tell([problem.sentence for problem in error.problems])
                return
            self._stamps = stamps
        self._draw()

    # ---- the jobs

    def _subjects(self) -> list[Subject]:
        session, now = self._session, time.time()
        series = self._series.of(session)
        subjects = subjects_of(session.jobs.values(), self._manifest.jobs, now, self._evidence.of(session), series)
        return [subject for subject in subjects if subject.job.failed or not self._failed_only]

    def _draw(self) -> None:
        self.query_one("#summary", Static).update(Text(headline(self._session), no_wrap=True, overflow="ellipsis"))
        self._draw_jobs(self._subjects())
        self._draw_panel()

    def _draw_jobs(self, subjects: list[Subject]) -> None:
        """Change the cells that have changed; the table is made anew where its columns or its jobs are others."""
        table: DataTable[Text] = self.query_one("#jobs", DataTable)
        columns = default_columns(subjects, _HIDDEN)
        names = [column.name for column in columns]
        short = short_names([subject.job.name for subject in subjects], max(_SHORTEST_NAME, self.size.width // 4))
        cells = {
            subject.job.name: [name if column.name == "job" else printable(column.shown(subject)) for column in columns]
            for subject, name in zip(subjects, short, strict=True)
        }
        if names != self._columns or list(cells) != list(self._shown):
            row = table.cursor_row
            table.clear(columns=True)
            for name in names:
                table.add_column(name, key=name)
            for subject in subjects:
                table.add_row(*map(_cell, names, cells[subject.job.name]), key=subject.job.name)
            table.move_cursor(row=min(row, max(0, len(cells) - 1)))
        else:
            for job, texts in cells.items():
                for name, text, before in zip(names, texts, self._shown[job], strict=True):
                    if text != before:
                        table.update_cell(job, name, _cell(name, text), update_width=True)
        self._columns, self._shown = names, cells

    @property
    def _job(self) -> JobState | None:
        """The job at the cursor."""
        table: DataTable[Text] = self.query_one("#jobs", DataTable)
        names = list(self._shown)
        return self._session.jobs[names[table.cursor_row]] if 0 <= table.cursor_row < len(names) else None

    def on_data_table_row_highlighted(self) -> None:
        """Show the panel of another job, from its end."""
        self._draw_panel(anew=True)

    # ---- the panels

    def _draw_panel(self, *, anew: bool = False) -> None:
        """Fill the panel that is seen. One whose end is on the screen follows; another stays where it is."""
        name, job = self.query_one("#tabs", TabbedContent).active, self._job
        if not name:
            return
        quoted = "" if job is None else self._evidence.of(self._session, [job]).get(job.name, "")
        self.query_one("#about", Static).update(Text("" if job is None else panels.about(job, quoted)))
        scroll = self.query_one(f"#{name}-scroll", VerticalScroll)
        follows = anew or scroll.scroll_offset.y >= scroll.max_scroll_y
        self.query_one(f"#{name}-text", Static).update(self._panel(name, job))
        if name == "log" and follows:
            scroll.scroll_end(animate=False)

    def _panel(self, name: str, job: JobState | None) -> Text:
        if name == "queue":
            return Text("\n".join(panels.queue_lines(self._session)))
        if job is None:
            return Text("no job is like that")
        if name == "log":
            return Text("\n".join(panels.log_lines(job)))
        if name == "events":
            return Text("\n".join(panels.event_lines(self._session, job)))
        size = self.query_one("#tabs", TabbedContent).size
        return panels.curves(self._session, job, self._metric, max(30, size.width - 3), max(8, size.height - 3))

    def on_tabbed_content_tab_activated(self) -> None:
        """Fill the panel that is seen now."""
        self._draw_panel(anew=True)

    def action_show(self, name: str) -> None:
        """Show a panel."""
        self.query_one("#tabs", TabbedContent).active = name

    def action_next_metric(self) -> None:
        """Show the curve of the next metric of the job."""
        known = metrics_of([self._job]) if self._job is not None else []
        if known:
            place = known.index(self._metric) + 1 if self._metric in known else 0
            self._metric = known[place % len(known)]
            self.action_show("curves")
            self._draw_panel(anew=True)

    def action_go(self, row: int) -> None:
        """Go to the first job, or to the last one; to an end of the panel, if that has the focus."""
        if isinstance(self.focused, VerticalScroll):
            (self.focused.scroll_end if row else self.focused.scroll_home)(animate=False)
            return
        table: DataTable[Text] = self.query_one("#jobs", DataTable)
        table.move_cursor(row=row % table.row_count if table.row_count else 0)

    def action_only_failed(self) -> None:
        """Show the jobs that failed, or all again."""
        self._failed_only = not self._failed_only
        self._draw()

    # ---- acting

    def action_ask(self, name: str) -> None:
        """Restart or cancel the job at the cursor, if the person is sure."""
        job = self._job
        if job is None:
            return
        if reading_of_others():
            self._tell(["this session belongs to another user: only they can act on it"])
            return
        what = "begin a new attempt of" if name == "restart" else "end"
        self.push_screen(Question(f"{name}: {what} {job.name} ({job.state})?"), partial(self._answered, name, job.name))

    def _answered(self, name: str, job: str, yes: bool | None) -> None:
        if yes:
            self._tell([f"{name} of {job} …"])
            self.run_worker(partial(self._act, name, job), thread=True, exit_on_error=False)

    def _act(self, name: str, job: str) -> None:
        """In a thread: the command, which may wait for the process that holds the session."""
        try:
            messages = act(name, self._manifest, self._path, job)
        except Exception as error:  # whatever it is, it is shown; the window stays
            messages = [f"{name} of {job} failed: {type(error).__name__}: {error}"]
        self.call_from_thread(self._tell, messages)

    def _tell(self, messages: list[str]) -> None:
        shown = self.query_one("#messages", Static)
        shown.update(Text(printable("\n".join(messages[-4:]))))
        shown.display = bool(messages)


def _cell(column: str, text: str) -> Text:
    return Text(" ".join(text.split()), style=colour(text) if column == "state" else "")
