"""check-cluster: what a user finds on a cluster, and what is to be set before the first job."""

from __future__ import annotations

import argparse
import getpass
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.steps import app, facts, hints, plan_steps, session_steps, submit_steps
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem
from oellm_autoexp.core.location import CONFIG

if TYPE_CHECKING:
    from oellm_autoexp.engine.loop import Monitor
    from oellm_autoexp.planning.plan import Plan
    from oellm_autoexp.schedulers.slurm.cluster import Finding
    from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler

EXAMPLES = """\
  python scripts/check_cluster.py slurm=juwels                       check the cluster, on a login node
  python scripts/check_cluster.py slurm=juwels --submit              and run a job of one minute from plan to end
  python scripts/check_cluster.py slurm=juwels container=juwels slurm.debug=true --submit"""
EXIT_CODES = """\
exit codes: 0 no problem (there may be warnings); 1 a problem was reported; 2 wrong use or configuration;
3 SLURM is not here or does not answer; 130 interrupted"""
EXPERIMENT = "check_cluster"
_FACTS, _MOST_FACTS = "facts", 65536
"""The file into which the job writes what it sees, and how many bytes of it count."""
_LOOK_SECONDS = 0.5
_LATE_FILES_SECONDS = 10.0  # for a file of a job that has ended to be seen here
_PATIENCE_SECONDS = 900.0
_END_SECONDS = 60.0  # longer than a cancelled job gets to end by itself (slurm.conf(5): KillWait, by default 30 s)


def parser() -> app.Parser:
    """The command's options."""
    made = app.Parser(
        "Show what this cluster offers: SLURM, limits, accounts, container runtimes, variables, and the output root.",
        EXAMPLES,
        EXIT_CODES,
    )
    made.add_argument("--submit", action="store_true", help="also run a job of one minute, from the plan to its end")
    made.add_argument(
        "--patience",
        metavar="TIME",
        type=_time,
        default=_PATIENCE_SECONDS,
        help="with --submit: how long the job may wait in the queue before it is cancelled (default: 15, minutes)",
    )
    made.add_json()
    made.add_config()
    made.set_defaults(config_ref=EXPERIMENT)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _check, argv)


def _check(options: argparse.Namespace) -> int:
    return facts.in_json(options, lambda: _go(options))


def _go(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    from oellm_autoexp.schedulers.base import make_scheduler
    from oellm_autoexp.schedulers.slurm.cluster import FAILED
    from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler

    report = _Report()
    plan = plan_steps.plan(options, judged=False)
    client = make_scheduler(plan.manifest)
    if not isinstance(client, SlurmScheduler):
        raise ConfigError(
            Problem("this configuration does not use SLURM", CONFIG / "slurm.client", "choose slurm=base or a profile")
        )
    reachable = _look_around(plan, client, report)
    judged = _judged(options, client, report) if reachable else None
    if judged is not None and options.submit:
        _submit(judged, report, options.patience)
    failed = any(finding.verdict == FAILED for finding in report.findings)
    if not options.submit and not failed:
        app.note("\nnext: the same with --submit, which runs a job of one minute")
    code = app.OK if not failed else app.FAILED if reachable else app.SCHEDULER
    return code, {"findings": [asdict(finding) for finding in report.findings]}


class _Report:
    """Findings, each printed when it is made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(self, *findings: Finding) -> None:
        """Keep and print them."""
        from oellm_autoexp.core.redacted_text import redact_message
        from oellm_autoexp.core.text import printable

        for finding in findings:
            self.findings.append(finding)
            print(printable(redact_message(f"{finding.verdict:<8} {finding.topic + ':':<21}{finding.text}")))
            if finding.hint:
                print(f"{'':<30}{printable(redact_message(finding.hint))}")

    def failed(self, topic: str, error: AutoexpError) -> None:
        """Keep and print what is wrong, by an error."""
        from oellm_autoexp.schedulers.slurm.cluster import FAILED, Finding

        self.add(*(Finding(topic, FAILED, problem.what, problem.hint) for problem in error.problems))


def _look_around(plan: Plan, client: SlurmScheduler, report: _Report) -> bool:
    """Everything that needs no job; returns whether SLURM answers."""
    from oellm_autoexp.schedulers.slurm import cluster
    from oellm_autoexp.schedulers.slurm.commands import CONFIGURATION_HINT, beside, configuration_problem

    def commands(name: str) -> tuple[str, ...]:
        return beside(plan.manifest.slurm["squeue_cmd"], name)

    by_wrapper = len(commands("squeue")) > 1  # on another machine, with variables of its own
    if not by_wrapper and (problem := configuration_problem()):  # its commands would wait for the file for a minute
        report.add(cluster.Finding("SLURM", cluster.FAILED, problem, CONFIGURATION_HINT))
    else:
        report.add(*cluster.controller(cluster.ask, commands))
    reachable = report.findings[-1].verdict == cluster.OK
    if reachable:
        report.add(cluster.accounting(cluster.ask, commands), *cluster.partitions(client.site()))
    report.add(*cluster.runtimes(cluster.ask, commands if reachable else None))
    report.add(*cluster.variables(os.environ))
    report.add(*cluster.output_root(Path(plan.manifest.base_output_dir), cluster.ask, getpass.getuser()))
    return reachable


def _refused(plan: Plan, client: SlurmScheduler) -> list[Problem]:
    """Why SLURM itself would not take the job's script (`sbatch --test-only`)."""
    with tempfile.TemporaryDirectory(prefix="check_cluster-") as folder:
        script = Path(folder, "job.sbatch")
        script.write_text(plan.scripts[0])
        return client.check({str(script): plan.scripts[0]}, test=True)


def _judged(options: argparse.Namespace, client: SlurmScheduler, report: _Report) -> Plan | None:
    """The plan of the job, if the site would take it."""
    from oellm_autoexp.planning.programs import container_problems
    from oellm_autoexp.sbatch.directives import options as asked_by
    from oellm_autoexp.schedulers.slurm.cluster import FAILED, OK, Finding

    try:
        plan = plan_steps.plan(options)
    except AutoexpError as error:
        report.failed("job", error)
        return None
    if refused := _refused(plan, client):
        report.add(*(Finding("job", FAILED, problem.what, problem.hint) for problem in refused))
        return None
    asked = asked_by(plan.scripts[0])
    words = ", ".join(f"{key} {asked[key]}" for key in ("account", "partition", "qos", "time") if asked.get(key))
    report.add(Finding("job", OK, f"the site takes it: {words}"))
    unready = container_problems(plan.manifest)
    report.add(*(Finding("container", FAILED, problem.sentence, problem.hint) for problem in unready))
    if unready:
        return None
    for recorded in plan.manifest.container or ():
        report.add(Finding("container", OK, f"jobs can run in {recorded['container'].get('image', 'it')}"))
    return plan


def _submit(plan: Plan, report: _Report, patience: float) -> None:
    """Run the job through the whole chain, and report what it saw, or why it did not begin in `patience` seconds."""
    from oellm_autoexp.core.states import SUCCESS
    from oellm_autoexp.sbatch.script import MARKS
    from oellm_autoexp.schedulers.slurm import cluster
    from oellm_autoexp.storage.world import Files

    spec = plan.manifest.jobs[0]
    files = Files(spec.output_dir)
    try:
        path = plan_steps.write_plan(plan, None)
        with session_steps.session(plan.manifest, path, patient=True) as monitor:
            seen_at = _run(monitor, lambda: files.exists(_FACTS), patience)
            job = monitor.session.jobs[spec.name]
    except AutoexpError as error:
        report.failed("job", error)
        return
    except OSError as error:
        report.add(cluster.Finding("job", cluster.FAILED, f"{error.filename}: {error.strerror}"))
        return
    except _TooLateError as late:
        report.add(cluster.Finding("job", cluster.FAILED, late.what, late.hint))
        return
    facts = files.tail(_FACTS, _MOST_FACTS)
    if job.state == SUCCESS:
        report.add(cluster.Finding("job", cluster.OK, f"{job.newest.scheduler_id} ran to its end: {spec.output_dir}"))
    elif not facts and not files.count(f"{MARKS}/*") and not files.count("logs/*"):
        what = f"{job.newest.scheduler_id} ended as {job.answer.scheduler_state} and wrote nothing to {spec.output_dir}"
        hint = "compute nodes do not see this folder, or can't write to it: set OUTPUT_DIR to one that they share"
        report.add(cluster.Finding("shared files", cluster.FAILED, what, hint))
    else:
        last = (files.tail(spec.log_path_current, _MOST_FACTS).strip().splitlines() or ["its log is empty"])[-1]
        ended = f"ended as {job.answer.scheduler_state}, exit code {job.answer.exit_code}"
        what = f"{job.newest.scheduler_id} {ended}: {last}"
        report.add(cluster.Finding("job", cluster.FAILED, what, f"see {spec.log_path_current}"))
    if facts:
        report.add(*cluster.compute_node(facts, seen_at))


class _TooLateError(Exception):
    """The job was in one state for too long."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


def _run(monitor: Monitor, there: Callable[[], bool], patience: float) -> float:
    """Submit a session's only job and watch it until it has ended; the time when `there` first held (0: never).

    Raises _TooLateError if it is in one state for longer than `patience` seconds; then it is ended.
    """
    (name,) = monitor.session.jobs
    seen_at, turn, printed = 0.0, 0.0, ""

    def go() -> int:
        nonlocal seen_at, turn, printed
        submit_steps.submit(monitor)
        late_files = _LATE_FILES_SECONDS
        state, since = "", time.monotonic()
        while not monitor.session.finished or (not seen_at and late_files > 0):
            seen_at = seen_at or (time.time() if there() else 0.0)
            job = monitor.session.jobs[name]
            if monitor.session.finished:
                late_files -= _LOOK_SECONDS if job.answer.exit_code == 0 else late_files
            elif time.monotonic() >= turn:
                monitor.cycle()
                turn = time.monotonic() + monitor.interval_seconds
            if not monitor.session.finished:
                printed = _print_state(monitor, name, printed)
                if job.answer.scheduler_state != state:
                    state, since = job.answer.scheduler_state, time.monotonic()
                elif time.monotonic() - since > patience:
                    raise _given_up(monitor, name, patience)
            time.sleep(_LOOK_SECONDS)
        return app.OK

    if session_steps.resumable(hints.resume_command(monitor.manifest, anywhere=True), go) == app.INTERRUPTED:
        raise KeyboardInterrupt
    return seen_at


def _print_state(monitor: Monitor, name: str, printed: str) -> str:
    """Print what SLURM says of the job, and what that means, if it differs from what was printed last; returns it."""
    from oellm_autoexp.core.states import PENDING
    from oellm_autoexp.schedulers.slurm.reasons import explained

    job = monitor.session.jobs[name]
    meaning = explained(job.reason, job.newest.scheduler_id)[0] if job.state == PENDING and job.reason else ""
    said = f"{job.newest.scheduler_id} {job.answer.scheduler_state} {job.reason}".strip()
    said += f": {meaning}" if meaning else ""
    said = f"SLURM does not answer: {monitor.scheduler_error}" if monitor.scheduler_error else said
    if said != printed:
        app.note(f"{'':<9}{'job:':<21}{said}")
    return said


def _given_up(monitor: Monitor, name: str, patience: float) -> _TooLateError:
    """End the job, and say in what state it was for so long, and what to do. Raises SchedulerError."""
    from oellm_autoexp.core.states import PENDING
    from oellm_autoexp.sbatch.times import format_time
    from oellm_autoexp.schedulers.slurm.reasons import explained

    job, limit = monitor.session.jobs[name], format_time(patience)
    what = f"{job.newest.scheduler_id} has been {job.answer.scheduler_state} for {limit} and was cancelled"
    if monitor.scheduler_error:
        hint = f"the job is not cancelled; once SLURM answers: {hints.resume_command(monitor.manifest)} --cmd cancel"
        return _TooLateError(f"SLURM has not answered for {limit}: {monitor.scheduler_error}", hint)
    monitor.cancel([name], f"it has been {job.answer.scheduler_state} for {limit}")
    end = time.monotonic() + _END_SECONDS
    while not monitor.session.finished and time.monotonic() < end:
        monitor.cycle()
        time.sleep(_LOOK_SECONDS)
    if job.state != PENDING:
        return _TooLateError(what, f"scontrol show job {job.newest.scheduler_id}, or the site, shows why")
    meaning, advice = explained(job.reason, job.newest.scheduler_id)
    reason = f"{job.reason or 'SLURM gives no reason'}{f' ({meaning})' if meaning else ''}"
    return _TooLateError(f"{what}: {reason}", f"{advice}; --patience TIME waits longer")


def _time(text: str) -> float:
    """A time as sbatch takes it, in seconds."""
    from oellm_autoexp.sbatch.times import parse_time

    try:
        return parse_time(text) or math.inf
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{error.problems[0].what}: {error.problems[0].hint}") from None
