"""monitor --cmd queue and --cmd actions: look at a session's queued actions, and carry them out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints, session_steps
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import plain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.engine.worker import Tally, Worker
    from oellm_autoexp.session.queue import Queue
    from oellm_autoexp.session.queue_entry import QueueEntry
    from oellm_autoexp.session.waits import Wait

_OUTPUT_LINES = 20
_OUTPUT_BYTES = 65536


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the two commands."""
    group = parser.add_argument_group("the action queue (--cmd queue, --cmd actions)")
    group.add_argument("--queue-event", metavar="NAME", help="entries of one event, by its name or id")
    group.add_argument("--queue-id", metavar="ID", help="one entry, by its id or the beginning of it")
    group.add_argument("--queue-show", action="store_true", help="all about the entry, and its output's last lines")
    group.add_argument("--queue-retry", action="store_true", help="make a finished entry pending again")
    group.add_argument("--follow", action="store_true", help="actions: go on until the session is finished, too")
    group.add_argument(
        "--jobs", metavar="N", type=app.whole_number(1, 1000), help="actions: run N programs at once (default: 1)"
    )


def check(options: argparse.Namespace) -> None:
    """Return if the options of the queue go together. Raises ConfigError."""
    for option in ("queue_id", "queue_event"):
        word = getattr(options, option)
        if word is not None and not plain_name(word):
            hint = "--cmd queue lists them"
            raise ConfigError(Problem(f"{word!r} names no entry", f"--{option.replace('_', '-')}", hint))
    if (options.queue_show or options.queue_retry) and not options.queue_id:
        raise ConfigError(Problem("which entry?", hint="name it with --queue-id ID; --cmd queue lists them"))
    if options.queue_show and options.queue_retry:
        raise ConfigError(Problem("show the entry or retry it, one at a time", "--queue-show --queue-retry"))
    if options.queue_id and options.queue_event:
        raise ConfigError(Problem("--queue-id names one entry already", "--queue-event"))
    if options.follow and options.once:
        raise ConfigError(Problem("go on, or stop after one pass?", "--follow --once"))


def show_queue(options: argparse.Namespace, manifest: Manifest) -> int:
    """List the entries, show one, or make one pending again."""
    from oellm_autoexp.session.queue import Queue

    queue = Queue(_session(manifest))
    if options.queue_retry:
        return _retry(queue, manifest, options)
    if options.queue_id:
        return _show(queue, manifest, options)
    return _list(queue, manifest, options)


def _session(manifest: Manifest) -> Path:
    from oellm_autoexp.storage.session_files import SessionFiles

    return SessionFiles.of(manifest).path


def _list(queue: Queue, manifest: Manifest, options: argparse.Namespace) -> int:
    from oellm_autoexp.session.queue_entry import FAILED
    from oellm_autoexp.view.jobs.waiting import wait_facts
    from oellm_autoexp.view.queue import queue_headline, queue_table, tally_line
    from oellm_autoexp.view.tables import console

    event = options.queue_event
    waits = _not_in_the_queue(manifest, event)
    entries = queue.entries(event, report=app.report)
    tally = queue.tally(event)
    finished = queue.finished(event, report=app.report) if event else []
    if event and not entries and not finished and not waits:
        raise ConfigError(_no_event(queue, event))
    if options.json:
        listed = [_facts(entry) for entry in (*entries, *finished)]
        waiting = wait_facts(waits)
        print(json.dumps({"plan_id": manifest.plan_id, "entries": listed, "finished": tally, "waiting": waiting}))
        return app.OK
    screen = console()
    if not entries and not tally:
        yet = " yet" if waits else ""
        screen.print(f"the queue of {manifest.plan_id} is empty: no action was put into it{yet}")
        _tell_waits(waits, manifest)
        return app.OK
    held = {entry.id: queue.worker_of(entry) for entry in entries}
    if entries or finished:
        screen.print(queue_table([*entries, *finished], held))
    screen.print(queue_headline(entries) if entries else "nothing waits in the queue")
    for name, counts in sorted(tally.items()):
        screen.print(tally_line(name, counts))
    _tell_waits(waits, manifest)
    lines = []
    if any(held[entry.id] is None for entry in entries):
        lines.append(f"carry them out    {_command(manifest, '--cmd', 'actions')}")
    failed = [entry.id for entry in finished if entry.status == FAILED]
    if failed:
        lines.append(
            f"why it failed     {_command(manifest, '--cmd', 'queue', '--queue-id', failed[-1], '--queue-show')}"
        )
        lines.append(
            f"try it again      {_command(manifest, '--cmd', 'queue', '--queue-id', failed[-1], '--queue-retry')}"
        )
    elif any(counts[FAILED] for counts in tally.values()):
        name = next(name for name, counts in sorted(tally.items()) if counts[FAILED])
        lines.append(f"which failed      {_command(manifest, '--cmd', 'queue', '--queue-event', name)}")
    if lines:
        hints.show(lines)
    return app.OK


def _not_in_the_queue(manifest: Manifest, event: str | None = None) -> list[Wait]:
    """The actions of the session, perhaps of one event, that wait for something else than a worker of the queue."""
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.session.waits import waits

    path = _session(manifest)
    jobs = Session.load(path).jobs.values() if path.exists() else ()
    return [wait for wait in waits(jobs) if wait.kind == "action" and event in (None, wait.event)]


def _tell_waits(waits: Sequence[Wait], manifest: Manifest) -> None:
    """Say which actions wait, if some do, and how to abandon them."""
    from oellm_autoexp.view.jobs.waiting import waiting_lines

    if waits:
        app.note("actions of the session that wait, not in the queue:")
        for line in waiting_lines(waits):
            app.note(f"  {line}")
        app.note(f"abandon them: {_command(manifest, '--cmd', 'skip')}")


def _no_event(queue: Queue, name: str) -> Problem:
    from oellm_autoexp.core.text import did_you_mean

    known = {*queue.tally(), *(entry.event.name for entry in queue.entries(report=lambda _error: None))}
    hint = did_you_mean(name, known) or ("the queue is empty" if not known else "--cmd queue lists them")
    return Problem(f"no entry has an event '{name}'", "--queue-event", hint)


def _facts(entry: QueueEntry) -> dict[str, object]:
    """What is known of an entry, for programs; without secrets."""
    from oellm_autoexp.core.redaction import redact

    facts: dict[str, object] = redact(entry.model_dump(mode="json", exclude={"sidecar": {"token"}}))
    return facts


def _show(queue: Queue, manifest: Manifest, options: argparse.Namespace) -> int:
    from oellm_autoexp.session.queue_entry import FINISHED
    from oellm_autoexp.view.queue import entry_lines
    from oellm_autoexp.view.tables import console

    entry = queue.get(options.queue_id)
    output = _end_of(queue.place(entry).with_suffix(".log"))
    if options.json:
        print(json.dumps({"entry": _facts(entry), "output": output}))
        return app.OK
    screen = console()
    for line in entry_lines(entry, queue.worker_of(entry), output):
        screen.print(line, soft_wrap=True)
    if entry.status in FINISHED:
        again = _command(manifest, "--cmd", "queue", "--queue-id", entry.id, "--queue-retry")
        hints.show([f"try it again      {again}"])
    return app.OK


def _end_of(path: Path) -> list[str]:
    """The last lines of an entry's output."""
    from oellm_autoexp.core.redacted_text import redact_text
    from oellm_autoexp.core.text import printable
    from oellm_autoexp.search.escapes import without_escapes
    from oellm_autoexp.storage import trust

    try:
        with trust.open_file(path, most=None, lenient=True) as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _OUTPUT_BYTES))
            lines = without_escapes(log.read()).decode(errors="replace").splitlines()[-_OUTPUT_LINES:]
    except FileNotFoundError:
        return []
    return [printable(redact_text(line)) for line in lines]


def _retry(queue: Queue, manifest: Manifest, options: argparse.Namespace) -> int:
    entry = queue.retry(options.queue_id)
    if options.json:
        print(json.dumps({"entry": _facts(entry)}))
        return app.OK
    app.note(f"{entry.id} is pending again")
    hints.show([f"carry it out      {_command(manifest, '--cmd', 'actions')}"])
    return app.OK


def work(options: argparse.Namespace, manifest: Manifest) -> int:
    """Carry the entries out; returns 1 if some failed."""
    from oellm_autoexp.engine.worker import Worker
    from oellm_autoexp.session.queue import Queue

    queue = Queue(_session(manifest))
    say = _say_on_stderr if options.json else app.note
    worker = Worker(queue, manifest, jobs=options.jobs or 1, log=say, report=app.report)
    resume = _command(manifest, "--cmd", "actions", *(["--follow"] if options.follow else []))

    def go() -> int:
        tally = _way(worker, options, manifest)()
        return app.FAILED if tally.failed else app.OK

    code = session_steps.resumable(resume, go, on_stderr=options.json)
    if options.json or code != app.INTERRUPTED:
        _tell(worker.tally, manifest, options)
    return code


def _way(worker: Worker, options: argparse.Namespace, manifest: Manifest) -> Callable[[], Tally]:
    if options.once:
        return worker.run_once
    if options.follow:
        return lambda: worker.follow(lambda: _finished(manifest))
    return worker.run


def _finished(manifest: Manifest) -> bool:
    from oellm_autoexp.session.session import Session

    try:
        return Session.load(_session(manifest)).finished
    except ConfigError:  # removed, with its queue
        return True


def _tell(tally: Tally, manifest: Manifest, options: argparse.Namespace) -> None:
    from oellm_autoexp.core.text import plural

    if options.json:
        print(json.dumps({"plan_id": manifest.plan_id, "done": tally.done, "failed": tally.failed}))
        return
    count = len(tally.done) + len(tally.failed)
    if not count:
        app.note("nothing to do: no action waits for a worker")
        _tell_waits(_not_in_the_queue(manifest), manifest)
        return
    app.note(f"{plural(count, 'action')}: {len(tally.done)} done, {len(tally.failed)} failed")
    if tally.failed:
        shown = _command(manifest, "--cmd", "queue", "--queue-id", tally.failed[-1], "--queue-show")
        hints.show([f"why it failed     {shown}"])


def _say_on_stderr(line: str) -> None:
    app.note(line, on_stderr=True)


def _command(manifest: Manifest, *words: str) -> str:
    import shlex

    return f"{hints.resume_command(manifest)} {shlex.join(words)}"
