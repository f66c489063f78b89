"""monitor --cmd restart, release: a new attempt of jobs; jobs that are held are let go."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor.ask_holder import (
    HANDLED_SECONDS,
    PAUSE_SECONDS,
    ask,
    ask_holder,
    chosen,
    report,
    some,
    when_done,
    who_watches,
)
from oellm_autoexp.cli.monitor.session_names import recorded
from oellm_autoexp.cli.steps import app, session_steps, watch_steps
from oellm_autoexp.core.errors import ConfigError, LockedError, Problem, raise_all
from oellm_autoexp.core.text import plural

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.job_state import JobState


def release(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Let the jobs go that are held because others failed in the same way."""
    from oellm_autoexp.decisions.holding import for_first, may_be_held

    session = recorded(manifest)
    names = [job.name for job in session.jobs.values() if may_be_held(job)]
    waits = for_first(session.jobs, session.hold, manifest.scheduler.get("first_jobs"), 0)
    if not (session.hold.fingerprint or (waits and names)):
        raise ConfigError(Problem("no job of this session is held", "--cmd release", "--cmd status shows its jobs"))
    try:
        with session_steps.session(manifest, path) as monitor:
            monitor.release()
            code = watch_steps.poll_once(monitor, on_stderr=options.json)
            messages = list(monitor.messages)
    except LockedError:
        return ask_holder(options, manifest, names[:1] or [manifest.jobs[0].name], "release", "", "release the jobs")
    report(options, manifest, recorded(manifest), names, messages)
    return code


def restart(options: argparse.Namespace, manifest: Manifest, path: Path) -> int:
    """Begin a new attempt of jobs: of those that failed, or of those that --job names."""
    from oellm_autoexp.core.states import BLOCKED
    from oellm_autoexp.rules.actions import RestartAction
    from oellm_autoexp.submission.outputs import claim_outputs

    session = recorded(manifest)
    names = chosen(options, manifest, session)
    overrides = read_overrides(options.override)
    before = dict(session.jobs)
    if not options.job:
        names = [name for name in names if _failed(before[name])]
    if not names:
        raise ConfigError(Problem("no job has failed", "--cmd restart", "name those to begin anew with --job"))
    _check_scripts(options, manifest, [before[name] for name in names], overrides)
    if session.finished:  # its output directories may be another's by now
        claim_outputs(manifest, session.path)
    reason = options.reason or ""
    action = RestartAction(
        class_name="RestartAction", reason=reason, overrides=overrides, exclude_nodes=options.exclude
    )
    asked = ask(manifest, names, "restart", reason, action)
    until = time.monotonic() + HANDLED_SECONDS
    messages: list[str] = []
    code = app.OK
    while True:
        try:
            with session_steps.session(manifest, path) as monitor:
                code = watch_steps.poll_once(monitor, on_stderr=options.json)
                messages = list(monitor.messages)
            break
        except LockedError:
            if not any(path.exists() for path in asked) or time.monotonic() >= until:
                break
        time.sleep(PAUSE_SECONDS)
    session = recorded(manifest)
    if any(path.exists() for path in asked):
        text = f"asked {who_watches(manifest)} to begin {plural(len(names), 'job')} anew"
        report(options, manifest, session, names, [f"{text}{when_done(asked)}"])
        return code
    begun = [name for name in names if _begun(before[name], session.jobs[name])]
    if not messages:  # the process that watches has handled it
        messages = [f"{name}: no new attempt, it is {session.jobs[name].state}" for name in names if name not in begun]
    refused = [name for name in begun if _refused(session.jobs[name])]
    messages += [f"{name}: refused: {session.jobs[name].reason}" for name in refused]
    still = [name for name in names if session.jobs[name].state == BLOCKED]
    messages += [f"{name}: still {session.jobs[name].reason}" for name in still]
    refused += still
    begun = [name for name in begun if name not in refused]
    report(options, manifest, session, begun, [*messages, f"to begin anew: {some(begun)}"])
    return code or (app.OK if begun and not refused else app.FAILED)


def _refused(job: JobState) -> bool:
    """Whether a job's newest attempt has ended before any scheduler knew it."""
    from oellm_autoexp.core.states import FINAL

    return job.state in FINAL and not job.answer.scheduler_state


def _begun(before: JobState, now: JobState) -> bool:
    """Whether a job has a new attempt, or is to have one."""
    return now.restart is not None or _count(now) > _count(before)


def _count(job: JobState) -> tuple[int, int]:
    """The number of a job's attempt, and of its restarts without those in the job."""
    from oellm_autoexp.decisions.restarts import IN_JOB

    return job.attempt, sum(count for cause, count in job.past.restarts.items() if cause != IN_JOB)


def _failed(job: JobState) -> bool:
    """Whether a job has ended badly, or waits because its submission was refused."""
    from oellm_autoexp.core.states import SUCCESS, WAITING

    return (job.over and job.state != SUCCESS) or (job.state == WAITING and job.waiting.refusals > 0)


def _check_scripts(
    options: argparse.Namespace, manifest: Manifest, jobs: Sequence[JobState], overrides: Mapping[str, Any]
) -> None:
    """Return if new attempts of jobs can be made with these overrides, and the scheduler would take and begin them.

    They are checked as a plan is before its submission. Raises ConfigError, StateError.
    """
    from oellm_autoexp.schedulers.base import make_scheduler
    from oellm_autoexp.submission.check import AttemptChecks

    specs = {spec.name: spec for spec in manifest.jobs}
    nodes = [node for node in re.split(r"[,\s]+", options.exclude) if node]
    checks = AttemptChecks(make_scheduler(manifest))
    problems: dict[Problem, None] = {}
    for job in jobs:
        own, excluded = {**job.changes.overrides, **overrides}, [*job.changes.excluded, *nodes]
        found = checks.overrides(manifest, specs[job.name], job.attempt + 1, own, excluded, test=options.check)
        problems.update((p if p.where.keys else Problem(p.what, job.name, p.hint), None) for p in found)
        chain = specs[job.name].chain
        if chain is not None and Path(chain.stop_file).exists():
            what = f"{job.name}: no link of its chain begins while this file exists"
            problems[Problem(what, chain.stop_file, "remove it")] = None
    raise_all(ConfigError, problems)


def read_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Overrides in Hydra's grammar, by their keys with `+ ++ ~`. Raises ConfigError with all that do not parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from oellm_autoexp.config.declared import settle_value
    from oellm_autoexp.config.overrides import check_override_text, value_of_override
    from oellm_autoexp.config.values.written import mark_override

    parser = OverridesParser.create()
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        try:
            check_override_text(word)
            override = parser.parse_override(word)
        except ConfigError as error:
            problems += error.problems
            continue
        except (HydraException, ValueError):  # ValueError: a number of thousands of digits
            if equals and "${" in text:  # a computed value, which Hydra's grammar need not know
                found[key] = text
                continue
            hint = "write key=value; a value with commas, quotes or brackets needs quotes of its own: 'key=\"a, b\"'"
            problems.append(Problem(f"{word!r} is no override", "--override", hint))
            continue
        if not override.key_or_group:
            problems.append(Problem(f"{word!r} is no override", "--override", "write key=value"))
        elif override.is_sweep_override():
            hint = "write a list as key=[1,2] and text as 'key=\"1,2\"'"
            problems.append(Problem(f"{word!r} has several values", "--override", hint))
        else:
            marked = mark_override(word, override.value(), value_of_override)
            found[key], unsettled = settle_value(key, value_of_override(marked))
            problems += unsettled
    raise_all(ConfigError, problems)
    return found
