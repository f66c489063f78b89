"""Which jobs of a session a person means, what is asked of the process that holds it, and what is reported of it."""

from __future__ import annotations

import argparse
import fnmatch
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor.session_names import recorded
from oellm_autoexp.cli.steps import app, hints, watchers
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.rules.actions import RestartAction
    from oellm_autoexp.session.session import Session


HANDLED_SECONDS, PAUSE_SECONDS = 5.0, 0.2
"""How long the process that holds a session is waited for, and between two looks whether it has done what was asked."""
_LINES, _NAMES = 20, 5


def chosen(options: argparse.Namespace, manifest: Manifest, session: Session) -> list[str]:
    """The names of the jobs that --job and --failed mean; every job where neither is given. Raises ConfigError."""
    names = named(options, manifest)
    return [name for name in names if session.jobs[name].failed] if options.failed else names


def named(options: argparse.Namespace, manifest: Manifest) -> list[str]:
    """The names of the jobs that --job means; every job where it is not given. Raises ConfigError."""
    names = [job.name for job in manifest.jobs]
    if not options.job:
        return names
    by_index = {str(job.index): job.name for job in manifest.jobs}
    found: dict[str, None] = {}
    for word in options.job:
        matching = [word] if word in names else [by_index[word]] if word in by_index else fnmatch.filter(names, word)
        if not matching:
            raise ConfigError(Problem(f"the plan has no job '{word}'", "--job", did_you_mean(word, names)))
        found.update(dict.fromkeys(matching))
    return list(found)


def ask(
    manifest: Manifest, names: Sequence[str], kind: Any, reason: str, restart: RestartAction | None = None
) -> list[Path]:
    """Leave requests for whoever holds the session; their files, which are there until they are handled."""
    from oellm_autoexp.session import requests

    session = recorded(manifest)
    left = []
    for name in names:
        asked = requests.Request(
            id=f"{kind}-{secrets.token_hex(6)}",
            kind=kind,
            job=name,
            attempt=session.jobs[name].attempt,
            reason=reason,
            restart=restart,
            actions=kind == "cancel",
            at=time.time(),
        )
        requests.ask(session.path, asked)
        left.append(requests.place(session.path, asked))
    return left


def ask_holder(
    options: argparse.Namespace,
    manifest: Manifest,
    names: Sequence[str],
    kind: Any,
    reason: str,
    what: str,
    lines: Sequence[str] = (),
) -> int:
    """Ask the process that holds the session, and wait a moment for it to do so."""
    who = who_watches(manifest)  # it may end as soon as it has done what it is asked
    asked = ask(manifest, names, kind, reason)
    until = time.monotonic() + HANDLED_SECONDS
    while any(path.exists() for path in asked) and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
    text = f"asked {who} to {what}{when_done(asked)}"
    report(options, manifest, recorded(manifest), names, [*lines, text])
    return app.OK


def who_watches(manifest: Manifest) -> str:
    watcher = watchers.find(manifest)
    return (
        f"the process that watches the session ({watcher.name})" if watcher else "the process that watches the session"
    )


def when_done(asked: Sequence[Path]) -> str:
    return " (handled at its next poll)" if any(path.exists() for path in asked) else ""


def report(
    options: argparse.Namespace, manifest: Manifest, session: Session, names: Sequence[str], messages: Sequence[str]
) -> None:
    """Print what was done to jobs."""
    if options.json:
        jobs = {name: session.jobs[name].state for name in names}
        print(json.dumps({"plan_id": manifest.plan_id, "jobs": jobs, "messages": messages}))
        return
    shown = [*messages[: _LINES - 1], *messages[_LINES - 1 :][-1:]]  # the last one sums up
    for number, line in enumerate(shown):
        if number == _LINES - 1 and len(messages) > len(shown):
            app.note(f"… and {len(messages) - len(shown)} more")
        app.note(line)
    if not session.finished:
        hints.show([f"go on watching    {hints.resume_command(manifest)}"])


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many there are where that is not all."""
    shown = ", ".join(names[:_NAMES]) or "nothing"
    return f"{shown} and {len(names) - _NAMES} more" if len(names) > _NAMES else shown


def say(options: argparse.Namespace, names: Sequence[str], text: str) -> None:
    if options.json:
        print(json.dumps({"jobs": list(names), "messages": [text]}))
    else:
        app.note(text)
