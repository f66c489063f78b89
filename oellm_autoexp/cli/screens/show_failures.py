"""monitor --cmd why: the failures of a session, or of all of them, by their causes; or what a log says by itself."""

from __future__ import annotations

import argparse
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor import session_list, session_names, try_rules
from oellm_autoexp.cli.monitor.ask_holder import named
from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean, plural, printable

if TYPE_CHECKING:
    from oellm_autoexp.causes.cause import Cause
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.job_state import JobState
    from oellm_autoexp.session.session import Session

_SAID_BESIDE = 3
"""Lines of the screen that are no groups: the summary, how many more groups there are, and the prompt."""
_NAMES_SHOWN = 5


def of_session(options: argparse.Namespace, manifest: Manifest, session: Session) -> int:
    """The failures of a session's jobs."""
    jobs = [session.jobs[name] for name in named(options, manifest)]
    return _show(options, [(session.plan_id, jobs)], several=False)


def of_all(options: argparse.Namespace) -> int:
    """The failures of all sessions of the state folder."""
    sessions = session_list.sessions_in(session_names.directory_of(options))
    if not sessions and not options.json:
        session_list.report_none(options)
        return app.OK
    found = [(session.plan_id, list(session.jobs.values())) for session in sessions]
    return _show(options, _named_anywhere(options, found), several=True)


def _named_anywhere(
    options: argparse.Namespace, found: Sequence[tuple[str, list[JobState]]]
) -> list[tuple[str, list[JobState]]]:
    """The jobs of all sessions that --job means, by names and patterns. Raises ConfigError if it means none."""
    if not options.job:
        return list(found)
    names = [job.name for _, jobs in found for job in jobs]
    for word in options.job:
        if word not in names and not fnmatch.filter(names, word):
            raise ConfigError(Problem(f"no session has a job '{word}'", "--job", did_you_mean(word, names)))
    return [
        (plan, [job for job in jobs if any(job.name == w or fnmatch.fnmatch(job.name, w) for w in options.job)])
        for plan, jobs in found
    ]


def _show(options: argparse.Namespace, found: Sequence[tuple[str, list[JobState]]], *, several: bool) -> int:
    from oellm_autoexp.view.failures import failed_attempts, group_facts, groups, most_groups, print_failures
    from oellm_autoexp.view.tables import console

    attempts = [attempt for plan, jobs in found for attempt in failed_attempts(plan, jobs)]
    unknown = [f"{plan}/{job.name}" if several else job.name for plan, jobs in found for job in jobs if _causeless(job)]
    grouped = groups(attempts)
    screen = console()
    most = options.lines if options.json or options.lines is not None else most_groups(screen, _SAID_BESIDE)
    shown = grouped if most is None or (options.wide and options.lines is None) else grouped[:most]
    if options.json:
        print(json.dumps({"failures": [group_facts(group) for group in shown], "without_cause": unknown}))
        return app.OK
    print_failures(screen, shown, with_session=several, whole=options.wide)
    jobs = {(each.session, each.job) for each in attempts}
    if attempts:
        kinds = plural(len(grouped), "kind")
        screen.print(f"{plural(len(attempts), 'failed attempt')} of {plural(len(jobs), 'job')}, {kinds} of failure")
    else:
        screen.print("no failure is recorded")
    if len(shown) < len(grouped):
        left_out = plural(len(grouped) - len(shown), "more kind")
        screen.print(f"… and {left_out} (--lines N, --wide, --job NAME)")
    if unknown:
        more = f" and {len(unknown) - _NAMES_SHOWN} more" if len(unknown) > _NAMES_SHOWN else ""
        named_ = ", ".join(map(printable, unknown[:_NAMES_SHOWN])) + more
        screen.print(f"failed without a recorded cause: {named_} (--cmd status)", soft_wrap=True)
    return app.OK


def _causeless(job: JobState) -> bool:
    return job.failed and job.run.cause is None


def of_logs(options: argparse.Namespace, manifest: Manifest | None) -> int:
    """Why a program failed, by its logs alone: the shipped rules, and those of the plan or of the config."""
    from oellm_autoexp.causes.analysis import find_cause
    from oellm_autoexp.causes.endings import Ending
    from oellm_autoexp.causes.rule import combined
    from oellm_autoexp.engine.observing.cause_finder import end_of_stream, ends_of_logs, rank_of, shipped_rules

    _, rules = try_rules.rules_of(options, manifest)
    texts = []
    for name in dict.fromkeys(options.log):
        with try_rules.opened(name) as stream:  # raises ConfigError for what is no log
            if name == try_rules.STDIN:
                texts += end_of_stream(name, stream)
                continue
        texts += ends_of_logs({name: ""}, {name: rank_of(name)})
    cause = find_cause(Ending(), texts, combined(rules.causes, shipped_rules()))
    if options.json:
        print(json.dumps({"logs": options.log, "cause": asdict(cause)}))
    else:
        _show_cause(cause)
    return app.OK


def _show_cause(cause: Cause) -> None:
    app.note(f"cause: {cause.category}: {printable(cause.text)}")
    for name, value in (("rule", cause.rule), ("at fault", ", ".join(cause.blamed_nodes))):
        if value:
            app.note(f"  {name}: {printable(value)}")
    if cause.line:
        app.note(f"  {printable(cause.path)}, byte {cause.offset}: {cause.line}")
    app.note(f"  fingerprint: {cause.fingerprint}")
