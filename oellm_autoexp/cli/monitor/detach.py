"""--detach: hand the watching of sessions to a small job of its own, which needs no terminal."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app, hints, plan_steps, session_steps, watch_steps, watchers
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import AutoexpError, ConfigError, LockedError, Problem

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.engine.detached import Detached, Executor, Standing, Wishes
    from oellm_autoexp.session.session import Session

_LOCK_PATIENCE_SECONDS = 600.0
"""So long a monitor that begins waits for a session that is in use: one whose host has died holds it for minutes."""
_BEGINS_SECONDS = 30.0


def add_option(parser: argparse.ArgumentParser) -> None:
    """The option."""
    parser.add_argument(
        "--detach",
        choices=("slurm", "local"),
        help="let a monitor of its own watch: a small SLURM job (see monitoring.detach), or a process of this machine",
    )


def check(options: argparse.Namespace, manifest: Manifest | None = None, script: str | None = None) -> None:
    """Return if the options go together and, with a manifest, if its monitor could be detached.

    `script` is that of the first job. Raises ConfigError, and UnreachableError where there is no sbatch.
    """
    if not options.detach:
        return
    words = vars(options)
    against = [f"--{name.replace('_', '-')}" for name in ("once", "json", "no_monitor", "no_submit") if words.get(name)]
    if words.get("cmd", "watch") != "watch":
        against.append(f"--cmd {options.cmd}")
    if against:
        raise ConfigError(Problem(f"--detach hands the watching over; {' and '.join(against)} can't be beside it"))
    if manifest is not None:
        from oellm_autoexp.engine.detached import check_directory

        check_directory(Path(manifest.monitoring_state_dir))
        if options.detach == "slurm":
            _wishes(manifest, script)


def hand_over(options: argparse.Namespace, manifest: Manifest, path: Path, code: int = app.OK) -> int:
    """Detach the monitor of a session, if that is asked for, `code` (of what came before) is 0, and jobs are left.

    Returns the exit code. Raises LockedError if somebody watches already, SchedulerError if no job could be submitted.
    """
    from oellm_autoexp.planning.manifest import canonical_path
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.storage.session_files import SessionFiles

    directory = Path(manifest.monitoring_state_dir)
    session = SessionFiles.named(directory, manifest.plan_id).path
    if not options.detach or code != app.OK:
        return code
    opened = with_backoff(lambda: Session.load(session))
    if opened.finished:
        app.note(f"{manifest.plan_id}: every job has ended, there is nothing to watch")
        return session_steps.outcome(opened)
    watcher = Watcher.of(directory, manifest.plan_id, canonical_path(manifest, path))
    resume = hints.resume_command(manifest)
    try:
        return _detach(
            options.detach, watcher, manifest, f"session {manifest.plan_id}", resume, lambda: _free(manifest)
        )
    except LockedError:
        raise
    except AutoexpError as error:
        rest = Problem("the monitor is not detached; the jobs go on", hint=f"watch them: {resume}")
        raise type(error)(*error.problems, rest) from None


def hand_over_all(options: argparse.Namespace, directory: Path, sessions: list[Session]) -> int:
    """Detach one monitor for all sessions of a state directory, also those that turn up later; returns the exit code.

    Its job is made as the newest unfinished session has it. Raises as `hand_over` does.
    """
    unfinished = [session for session in sessions if not session.finished]
    if not unfinished:
        app.note(f"no unfinished sessions in {directory}")
        return app.OK
    manifests = []
    for session in unfinished:
        try:
            manifests.append(session_steps.load_manifest(session.manifest_path))
        except AutoexpError as error:  # one that can't be read hides no other
            app.report(error)
            continue
        check(options, manifests[-1])
    if not manifests:
        raise ConfigError(Problem("no session here can be watched", str(directory)))
    maker = next(filter(_on_slurm, manifests), manifests[0])
    directory = directory.absolute()
    resume = hints.command("monitor", "--all", "--monitoring-state-dir", str(directory))
    what = f"every unfinished session of {directory}"
    return _detach(options.detach, Watcher.of(directory, watchers.ALL), maker, what, resume, lambda: None)


def _detach(
    executor: Executor, watcher: Watcher, manifest: Manifest, what: str, resume: str, free: Callable[[], None]
) -> int:
    from oellm_autoexp.engine.detached import Detached
    from oellm_autoexp.schedulers.base import make_scheduler

    wishes = _wishes(manifest) if executor == "slurm" else None
    slurm = make_scheduler(manifest) if _on_slurm(manifest) else None
    detached = Detached(Path(watcher.directory), watcher.name, slurm)
    work_dir = manifest.jobs[0].work_dir if watcher.manifest_path else str(Path.cwd())
    standing = detached.hand_over(executor, watcher, wishes, work_dir, free)
    _tell(detached, standing, manifest, what, resume)
    return app.OK


def _wishes(manifest: Manifest, script: str | None = None) -> Wishes:
    """What the monitor's job asks for. Raises ConfigError, and UnreachableError where there is no sbatch."""
    from oellm_autoexp.engine.detached import Wishes, check_command
    from oellm_autoexp.sbatch.directives import options

    check_command(manifest.slurm["submit_cmd"])
    if not _on_slurm(manifest):
        what = f"the jobs of {manifest.plan_id} run on this machine, where no other can watch them"
        raise ConfigError(Problem(what, "--detach slurm", "choose --detach local"))
    if script is None:
        with contextlib.suppress(ConfigError):  # it may have been tidied away since; then there are no such defaults
            script = plan_steps.read_script(manifest)
    return Wishes.of(manifest.monitoring.get("detach") or {}, options(script or ""))


def _on_slurm(manifest: Manifest) -> bool:
    from oellm_autoexp.schedulers.base import client_of

    return client_of(manifest).is_slurm


def _free(manifest: Manifest) -> None:
    """Raise LockedError if somebody watches the session."""
    from oellm_autoexp.storage.lock import Lock
    from oellm_autoexp.storage.session_files import SessionFiles

    claim = Lock(SessionFiles.of(manifest).lease)
    held = not claim.clear() and claim.await_change(f"session {manifest.plan_id}", partial(app.note, on_stderr=True))
    if held and (watcher := watchers.find(manifest)) is not None:
        raise watchers.locked(manifest, watcher)
    claim.clear()  # the monitor that begins on another machine has not watched it


def _tell(detached: Detached, standing: Standing, manifest: Manifest, what: str, resume: str) -> None:
    job = f"monitor job {standing.job_id}"
    end = shlex.join([*manifest.slurm["cancel_cmd"], standing.job_id])
    if standing.executor == "local":
        process = detached.await_process(standing.job_id, _BEGINS_SECONDS)
        job = f"monitor process {process[0]} on {process[1]}" if process else "a monitor process that is about to begin"
        end = f"kill {process[0]}" if process else ""
    already = "" if standing.fresh else f" already ({standing.state}); nothing was submitted"
    app.note(f"{job} watches {what}{already}")
    hints.show(
        [
            f"its log           tail -n +1 -F {shlex.quote(str(standing.log))}",
            *([f"end it            {end}    (the jobs go on)"] if end else []),
            f"take over         end it, then: {resume}",
        ]
    )


@dataclass(frozen=True)
class Watcher:
    """What the monitor's job runs: it watches one session, or with no `manifest_path` all of a state directory.

    Pickled by submitit, which asks `checkpoint` for what a requeued job shall run.
    """

    directory: str
    name: str
    manifest_path: str
    program: str
    """How we were called, for the commands that are shown."""
    variables: frozenset[str]
    """The names of the variables that the user's environment has."""
    python_path: str | None

    @classmethod
    def of(cls, directory: Path, name: str, manifest_path: Path | None = None) -> Watcher:
        """One for the user's environment as it is now."""
        from oellm_autoexp.schedulers.base import outside_jobs

        return cls(
            str(directory.absolute()),
            name,
            str(manifest_path.absolute()) if manifest_path else "",
            str(Path(sys.argv[0]).absolute()),
            frozenset(outside_jobs(os.environ)),
            os.environ.get("PYTHONPATH"),
        )

    def __call__(self) -> int:
        """Watch until every job has ended; returns the exit code that the command would have."""
        from oellm_autoexp.engine.detached import folder, leave_process

        mine = folder(Path(self.directory), self.name)
        # Of an earlier run of this job: its end, if SLURM requeued it, and what submitit stumbles over.
        for path in (*mine.glob("*.save_tmp"), mine / f"{os.environ['SLURM_JOB_ID']}_0_result.pkl"):
            path.unlink(missing_ok=True)
        leave_process(mine, socket.gethostname())
        self._be_as_the_user()
        try:
            app.set_log_level(argparse.Namespace(verbose=False, debug=False))
            logging.getLogger("submitit").propagate = False  # it has a handler of its own
            return self._watch() if self.manifest_path else self._watch_all()
        except AutoexpError as error:
            app.report(error)
            return error.exit_code
        except KeyboardInterrupt:
            return app.INTERRUPTED

    def checkpoint(self) -> DelayedSubmission:
        """The same again, after the requeue that follows. From now on nothing may keep this process from its end."""
        from submitit.helpers import DelayedSubmission

        for number in (signal.SIGUSR2, signal.SIGTERM):  # what SLURM sends while it requeues
            signal.signal(number, signal.SIG_IGN)
        return DelayedSubmission(self)

    def _be_as_the_user(self) -> None:
        """Take back what the job has set: the jobs that are submitted from here get this environment.

        SLURM's own variables stay, since submitit and srun need them; a submission leaves them out.
        """
        sys.argv = [self.program]
        for name in set(os.environ) - self.variables:
            if not name.startswith(("SLURM", "SRUN")):
                del os.environ[name]
        if self.python_path is not None:
            os.environ["PYTHONPATH"] = self.python_path

    def _watch(self) -> int:
        path = Path(self.manifest_path)
        manifest = session_steps.load_manifest(path)
        give_up = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            try:
                with (
                    ExitStack() as held,
                    session_steps.terminating(),
                ):  # nothing may cut its release
                    return watch_steps.watch_until_ended(held.enter_context(session_steps.session(manifest, path)))
            except LockedError:
                if time.monotonic() >= give_up:
                    raise
            _pause()

    def _watch_all(self) -> int:
        directory = Path(self.directory)
        give_up = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while True:
            with session_steps.terminating():
                code, _ = watch_steps.watch_all(directory)
            if code == app.INTERRUPTED or time.monotonic() >= give_up or not _unfinished(directory):
                return code
            _pause()


def _pause() -> None:
    with session_steps.terminating():
        time.sleep(5)


def _unfinished(directory: Path) -> bool:
    """Whether a state directory has a session that can be read and is not finished."""
    from oellm_autoexp.session.session import Session, all_sessions

    for path in all_sessions(directory):
        with contextlib.suppress(AutoexpError):
            if not Session.load(path).finished:
                return True
    return False
