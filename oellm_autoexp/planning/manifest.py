"""Writes a plan to disk, whole or not at all, and reads manifests back."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oellm_autoexp import MANIFEST_VERSION
from oellm_autoexp.core import commands
from oellm_autoexp.core.errors import ConfigError, CorruptError, LockedError, Problem, StateError, raise_all
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.registry import broken
from oellm_autoexp.core.text import plain_name, plural
from oellm_autoexp.notifiers.base import NOTIFIERS
from oellm_autoexp.planning import snapshot
from oellm_autoexp.planning.plan import Plan, PlannedFile, manifest_path
from oellm_autoexp.planning.record import side_file
from oellm_autoexp.rules.actions import ACTIONS
from oellm_autoexp.rules.conditions import CONDITIONS
from oellm_autoexp.sbatch.script import MARKS
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import (
    Obstacle,
    create_atomic,
    link_atomic,
    read_json,
    writable_directory,
    write_atomic,
)
from oellm_autoexp.storage.lock import Lock, locked
from oellm_autoexp.storage.session_files import SessionFiles

_MANIFEST_LINK = "manifest.json"
PLAN_LINK = "plan"
"""The link from a job's folder to that of what all jobs of its plan have in common."""
_JOB_FILES = ("job.sbatch", "config.json")
_FOLDER = "manifests"
_YAML = (".yaml", ".yml")
_MOVE_BACK = "move it back, let a link lead from the old place to the new one (ln -s NEW OLD), or plan again"
_OTHER_ID = "choose another --plan-id"
_PATIENCE_SECONDS = 60.0
_BEAT_SECONDS = 60.0
_JOBS_PER_BEAT = 200
_TRIES = 10
_log = logging.getLogger(__name__)


def check_writable(plan: Plan, extra: Path | None = None) -> None:
    """Raise ConfigError with every directory of the plan that can't be written to, before anything is."""
    manifest = plan.manifest
    wanted: dict[Path, Location | str] = {
        Path(manifest.base_output_dir): CONFIG / "project.base_output_dir",
        Path(manifest.monitoring_state_dir): CONFIG / "project.monitoring_state_dir",
        **({extra.parent: "--manifest"} if extra else {}),
    }
    belong = {plan.manifest_path.parent: CONFIG / "project.base_output_dir"}
    links = [f"{manifest.base_output_dir}/sweep.json"]
    for job in manifest.jobs:
        new = _is_absent(job.output_dir)  # then nothing is in it, and the folder above decides: one question for all
        wanted.setdefault(Path(job.output_dir).parent if new else Path(job.output_dir), CONFIG / "project.output_dir")
        for number, folder in enumerate(job.log_dirs):
            if not (new and folder.startswith(f"{job.output_dir}/")):
                wanted.setdefault(Path(folder), CONFIG / "slurm" if number else CONFIG / "project.log_path")
        if not new:
            belong |= dict.fromkeys(
                (Path(job.output_dir, name) for name in (MARKS, "provenance")), CONFIG / "project.output_dir"
            )
            links.append(f"{job.output_dir}/job.sbatch")
    known: dict[str, Obstacle | None] = {}
    foreign = [
        Problem(
            f"{path} belongs to {owner}, who could replace the files written there", where, "choose another directory"
        )
        for path, where in {**wanted, **belong}.items()
        if (owner := trust.stranger(path)) is not None
    ]
    raise_all(ConfigError, foreign)
    found = (writable_directory(path, where, known) for path, where in wanted.items())
    # what keeps several folders from being made is reported once, for the first of them
    problems = list({problem.what: problem for problem in reversed([*filter(None, found)])}.values())[::-1]
    problems += [
        Problem("a file is at the place where a link must be created", link, "move it away")
        for link in links
        if os.path.lexists(link) and not os.path.islink(link)  # noqa: PTH114  a thousand times: without making Paths
    ]
    raise_all(ConfigError, problems)


def _is_absent(path: str) -> bool:
    """Whether nothing is there, not even a link to nowhere, as far as is known."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def write(plan: Plan, extra: Path | None = None, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Write a plan's files, and last of all its manifest; returns the manifest's path.

    The plan exists from the moment its manifest does, which appears whole or not at all. A plan that can't be written
    whole takes back what it has made and nothing else. Of several processes that write one plan id, the first wins.
    `extra` is one more place for a copy of the manifest. `progress` gets the number of each job written.
    Raises ConfigError where a directory can't be written to, StateError if the plan's id is already taken.
    """
    check_writable(plan, extra)
    path, plan_id = plan.manifest_path, plan.manifest.plan_id
    if extra is not None and extra.exists():
        load(extra)  # only a manifest of ours is ever replaced
    manifest, taken = side_file.concealed(plan.manifest, plan.known_secrets)
    secrets = side_file.text({side_file.MANIFEST: taken, **plan.secrets})
    above: list[str] = []
    try:
        _make(str(path.parent), above)
        lock_path = path.with_name(f".{plan_id}.planning")
        with locked(lock_path, f"the plan id {plan_id}", wait_seconds=_PATIENCE_SECONDS) as lock:
            _check_free(plan)
            making = _Making(plan, lock, above)
            try:
                if plan.snapshot:
                    snapshot.take(plan.snapshot)
                making.files(secrets, progress)
                making.publish(manifest, extra)
            except BaseException:
                making.take_back()
                if plan.snapshot:
                    snapshot.remove(plan.snapshot)
                raise
    except BaseException as error:
        for folder in reversed(above):
            with contextlib.suppress(OSError):  # others have put something there meanwhile
                os.rmdir(folder)  # noqa: PTH106
        if not isinstance(error, OSError):
            raise
        where = str(error.filename or path)
        raise ConfigError(Problem(f"can't write the plan: {error.strerror}", where)) from None
    _link(plan)
    _log.info("wrote the scripts and records of %s, and %s", plural(len(plan.manifest.jobs), "job"), path)
    return path


def _check_free(plan: Plan) -> None:
    """Raise StateError if a plan or a session of this id exists, or a file of another plan has the name of one."""
    path, plan_id = plan.manifest_path, plan.manifest.plan_id
    if os.path.lexists(path):
        raise StateError(Problem("a plan of this id exists already", str(path), _OTHER_ID))
    session = SessionFiles.named(Path(plan.manifest.monitoring_state_dir), plan_id).path
    if os.path.lexists(session):  # of a plan in another output root, or of one whose manifest was removed
        raise StateError(Problem("a session of this id exists already", str(session), _OTHER_ID))
    if plan.snapshot and os.path.lexists(plan.snapshot.folder):
        raise StateError(
            Problem("a copy of the code of this plan's id exists already", plan.snapshot.folder, _OTHER_ID)
        )
    sweep = plan.sweep_path
    if os.path.lexists(sweep):
        try:
            found = json.loads(trust.read(sweep, most=trust.WHOLE, lenient=True))
        except (OSError, ValueError, RecursionError, StateError):
            found = None
        if not isinstance(found, dict) or "jobs" in found or found.get("plan_id") != plan_id:
            raise StateError(Problem("a file of another plan has this name", str(sweep), _OTHER_ID))


class _Making:
    """One plan while its files are written: knows what it has made, so that it takes back that and nothing else.

    The folder of what all jobs have in common holds a link to the manifest, and each job's folder a link to that one,
    made first. A folder with such a link to a manifest that does not exist, and that holds only what planning writes,
    was left by a planner that was killed; a new plan replaces it.
    """

    def __init__(self, plan: Plan, lock: Lock, above: list[str]) -> None:
        """`above` is where folders are noted that had to be made for the plan's own, and for logs."""
        self._plan = plan
        self._lock = lock
        self._manifest = str(plan.manifest_path)
        self._shared = str(plan.shared[0].path.parent)
        shared = (_MANIFEST_LINK, side_file.NAME, *(file.path.name for file in plan.shared))
        self._planned = {PLAN_LINK, *shared, *_JOB_FILES}
        self._first_link = ""
        self._files: list[Path] = []
        self._folders: list[str] = []  # that bear the plan's id
        self._above = above

    def files(self, secrets: str, progress: Callable[[int], None]) -> None:
        """Write all but the manifest; `secrets` is the side file's text. Raises OSError, StateError or LockedError."""
        plan = self._plan
        self._own(self._shared)
        os.symlink(self._manifest, f"{self._shared}/{_MANIFEST_LINK}")
        for file in plan.shared:
            _write_new(file)
        if secrets:
            _write_new(PlannedFile(side_file.side_file(plan.manifest), secrets, 0o600))
        sweep = plan.sweep_file()
        write_atomic(sweep.path, sweep.text.encode(errors="backslashreplace"), sweep.mode)
        self._files.append(sweep.path)
        for number, job in enumerate(plan.manifest.jobs):
            if number % _JOBS_PER_BEAT == 0:
                self._lock.beat(_BEAT_SECONDS)
            folder = os.path.dirname(job.script_path)  # noqa: PTH120  a thousand times: without making Paths
            for above in (job.output_dir, os.path.dirname(folder)):  # noqa: PTH120  from above: each is asked for once
                _make(above, self._above)
            self._own(folder)
            self._link_to_plan(f"{folder}/{PLAN_LINK}")
            for logs in job.log_dirs:
                _make(logs, self._above)
            for file in plan.job_files(number):
                _write_new(file)
            progress(number)

    def publish(self, manifest: Manifest, extra: Path | None) -> None:
        """Let the plan exist: write its manifest, and the copy. Raises StateError, ConfigError or OSError."""
        path, text = self._plan.manifest_path, manifest.model_dump_json(indent=1) + "\n"
        self._lock.beat(_BEAT_SECONDS)
        if not create_atomic(path, text):
            raise StateError(Problem("a plan of this id exists already", str(path), _OTHER_ID))
        self._files.append(path)
        if extra is not None and extra.resolve() != path.resolve():
            _write_copy(extra, text)

    def take_back(self) -> None:
        """Remove what was made. The manifest goes first, so that it never names a script that is gone."""
        try:
            self._lock.beat()
        except (LockedError, OSError):  # what is there now may be another process's
            return
        for path in reversed(self._files):
            path.unlink(missing_ok=True)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _own(self, folder: str) -> None:
        """Make a folder that is this plan's alone."""
        if not _make(folder, self._above, self._folders):
            self._clear(folder)
            if not _make(folder, self._above, self._folders):
                raise StateError(Problem("another process has just made this folder", folder, _OTHER_ID))

    def _link_to_plan(self, link: str) -> None:
        """Let a job's folder lead to what all jobs have in common: one link with many names needs one inode."""
        try:
            if not self._first_link:
                raise FileNotFoundError
            os.link(self._first_link, link, follow_symlinks=False)
        except OSError:  # the first one, another file system, one without hard links, or with a limit of them
            os.symlink(self._shared, link)
            self._first_link = link

    def _clear(self, folder: str) -> None:
        """Remove what a killed planner has left of a plan of this id. Raises StateError for anything else."""
        found = os.listdir(folder) if not os.path.islink(folder) and os.path.isdir(folder) else [""]  # noqa: PTH112, PTH114
        ours = {PLAN_LINK: self._shared, _MANIFEST_LINK: self._manifest}
        left = not found or any(_leads_to(f"{folder}/{name}", place) for name, place in ours.items())
        if not left or not self._planned.issuperset(found):
            raise StateError(Problem("this folder, which would be the plan's own, exists already", folder, _OTHER_ID))
        for name in sorted(found, key=lambda name: name in ours):  # the link last: it says whose this is
            os.unlink(f"{folder}/{name}")
        os.rmdir(folder)  # noqa: PTH106


def _leads_to(link: str, place: str) -> bool:
    try:
        return os.readlink(link) == place  # noqa: PTH115
    except OSError:
        return False


def _make(folder: str, above: list[str], made: list[str] | None = None) -> bool:
    """Make a folder, noted in `made` (else in `above`), and those above it; False if it was there. Raises OSError."""
    for _ in range(_TRIES):  # a plan that failed may remove the empty folders that it had made above
        try:
            os.mkdir(folder)  # noqa: PTH102  a thousand times: without making Paths
        except FileExistsError:
            return False
        except FileNotFoundError:
            _make(os.path.dirname(folder), above)  # noqa: PTH120
            continue
        (above if made is None else made).append(folder)
        return True
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)


def _write_copy(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:  # its file name is that of a file on the way
        raise ConfigError(Problem(f"can't write a manifest there: {error.strerror}", f"--manifest {path}")) from None


def _link(plan: Plan) -> None:
    """Let the links that lead to the newest plan lead to this one; a plan is whole without them."""
    links = [
        (Path(job.output_dir, "job.sbatch"), Path("provenance", plan.manifest.plan_id, "job.sbatch"))
        for job in plan.manifest.jobs
    ]
    links.append((Path(plan.manifest.base_output_dir, "sweep.json"), Path("manifests", plan.sweep_path.name)))
    for link, target in links:
        try:
            link_atomic(link, target)
        except (OSError, StateError) as error:
            _log.warning("no link %s to the newest plan: %s", link, error)


def _write_new(file: PlannedFile) -> None:
    """Write a file of this plan alone; it counts only once the manifest, which is written last, is there."""
    with os.fdopen(
        os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode),
        "w",
        encoding="utf-8",
        errors="backslashreplace",
    ) as out:
        out.write(file.text)


def load(path: Path) -> Manifest:
    """The manifest in a file. Raises ConfigError if there is none, CorruptError if it is cut, not ours or newer."""
    if path.suffix in _YAML and path.exists():
        hint = f"this is a config; plan it first: {commands.command('plan', '--config-ref', str(path))}"
        raise ConfigError(Problem("a YAML file is not a manifest", str(path), hint))
    missing = f"make one: {commands.command('plan', '--manifest', str(path))} …"
    if path.parent.name == _FOLDER and not path.parent.parent.exists():
        missing = f"was the output root {path.parent.parent} moved? {_MOVE_BACK}"
    data = read_json(path, "manifest", MANIFEST_VERSION, missing=missing, named=True)
    try:
        manifest = Manifest.model_validate(side_file.revealed(data, path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "$." + ".".join(str(part) for part in first["loc"])
        raise CorruptError(Problem(f"not a valid manifest: {where}: {first['msg'].lower()}", str(path))) from None
    if not plain_name(manifest.plan_id):
        raise CorruptError(Problem("not a valid manifest: $.plan_id: can't be the name of a file", str(path)))
    if unknown := sorted(unknown_kinds(manifest)):
        hint = "; ".join(map(str, broken())) or "install their package for this Python"
        what = f"the plan's rules use kinds that are not installed here: {', '.join(unknown)}"
        raise StateError(Problem(what, str(path), hint))
    return manifest


def unknown_kinds(manifest: Manifest) -> set[str]:
    """The kinds of actions, conditions and notifiers that a plan names and no package here has."""
    conditions = [
        condition
        for job in manifest.jobs
        for condition in (*job.start_conditions, *job.cancel_conditions, *job.done_conditions)
    ]
    actions = []
    for section in (manifest.monitoring, *(job.monitoring for job in manifest.jobs if job.monitoring is not None)):
        for kind in ("log_events", "state_events"):
            events = section.get(kind)
            for event in _mappings(list(events.values()) if isinstance(events, dict) else []):
                for action in _mappings(event.get("actions")):
                    conditions += _mappings(action.get("conditions"))
                    actions += _mappings([action.get("action", action)])
    notifiers = _mappings([action.get("notifier") for action in actions])
    known = {*ACTIONS.classes(), *CONDITIONS.classes(), *NOTIFIERS.classes()}
    return {str(one.get("class_name")) for one in (*actions, *conditions, *notifiers)} - known


def _mappings(value: Any) -> list[dict[str, Any]]:
    """The items of a list that are mappings; what else is there is reported by those who read it."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def canonical_path(manifest: Manifest, given: Path) -> Path:
    """The manifest's own place, which no later plan overwrites, if it is there; else the path it was read from."""
    own = manifest_path(manifest)
    trust.check_owner(own)
    return own if own.exists() else given.resolve()


def check_place(manifest: Manifest, found: Path) -> None:
    """Raise ConfigError if the folder that a plan was made in was moved or renamed, or is gone: paths are absolute."""
    script, root = manifest.jobs[0].script_path, manifest.base_output_dir
    session = SessionFiles.of(manifest).path
    if any(path.exists() for path in (manifest_path(manifest), Path(script), session)):
        return
    what = f"the plan was made in {root}, and its files no longer exist there"
    found = found.resolve()
    if found.parent.name == _FOLDER and found.parent.parent != Path(root):
        what += f": the output root was moved to {found.parent.parent}"
    raise ConfigError(Problem(what, str(found), _MOVE_BACK))
