"""Writes a plan to disk, whole or not at all, and reads manifests back."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from oellm_autoexp import trust
from oellm_autoexp.errors import ConfigError, CorruptError, Problem, StateError, raise_all
from oellm_autoexp.files import Obstacle, link_atomic, read_json, writable_directory, write_atomic
from oellm_autoexp.model import MANIFEST_VERSION, Manifest
from oellm_autoexp.text import plain_name, plural
from oellm_autoexp.workflow.plan import Plan, PlannedFile, manifest_path

_log = logging.getLogger(__name__)


def check_writable(plan: Plan, extra: Path | None = None) -> None:
    """Raise ConfigError with every directory of the plan that can't be written to, before anything is."""
    manifest = plan.manifest
    wanted = {
        Path(manifest.base_output_dir): "$.project.base_output_dir",
        Path(manifest.monitoring_state_dir): "$.project.monitoring_state_dir",
        **({extra.parent: "--manifest"} if extra else {}),
    }
    for job in manifest.jobs:
        wanted.setdefault(Path(job.output_dir), "$.project.output_dir")
        wanted.setdefault(Path(job.log_dir), "$.project.log_path")
    known: dict[str, Obstacle | None] = {}
    belong = {**wanted, plan.manifest_path.parent: "$.project.base_output_dir"}
    foreign = [
        Problem(
            f"{path} belongs to {owner}, who could replace what is written there", where, "choose another directory"
        )
        for path, where in belong.items()
        if (owner := trust.stranger(path)) is not None
    ]
    raise_all(ConfigError, foreign)
    found = (writable_directory(path, where, known) for path, where in wanted.items())
    # what keeps several folders from being made is told once, for the first of them
    problems = list({problem.what: problem for problem in reversed([*filter(None, found)])}.values())[::-1]
    links = [f"{job.output_dir}/job.sbatch" for job in manifest.jobs]
    problems += [
        Problem("a file stands where a link is to be made", link, "move it away")
        for link in links
        if os.path.lexists(link) and not os.path.islink(link)  # noqa: PTH114  a thousand times: without making Paths
    ]
    raise_all(ConfigError, problems)


def write(plan: Plan, extra: Path | None = None, progress: Callable[[int], None] = lambda done: None) -> Path:
    """Write a plan's files, and last of all its manifest; returns the manifest's path.

    `extra` is one more place for a copy of the manifest. `progress` is told the number of each job written.
    Raises ConfigError where a directory can't be written to, StateError if the plan's id is already taken.
    """
    check_writable(plan, extra)
    path = plan.manifest_path
    if path.exists():
        raise StateError(Problem("a plan of this id exists already", str(path), "choose another --plan-id"))
    if extra is not None and extra.exists():
        load(extra)  # only a manifest of ours is ever replaced
    text = plan.manifest.model_dump_json(indent=1) + "\n"
    try:
        _write_files(plan, progress)
        write_atomic(path, text)
        if extra is not None and extra.resolve() != path.resolve():
            _write_copy(extra, text)
        _link(plan)
    except BaseException as error:
        _remove(plan)
        if not isinstance(error, OSError):
            raise
        where = str(error.filename or path)
        raise ConfigError(Problem(f"can't write the plan: {error.strerror}", where)) from None
    _log.info("wrote the scripts and records of %s, and %s", plural(len(plan.manifest.jobs), "job"), path)
    return path


def _write_copy(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:  # its file name is that of a file on the way
        raise ConfigError(Problem(f"can't write a manifest there: {error.strerror}", f"--manifest {path}")) from None


def _remove(plan: Plan) -> None:
    """Take back what was written of a plan that could not be written whole: folders that bear its id, all its own."""
    for job in plan.manifest.jobs:
        shutil.rmtree(Path(job.script_path).parent, ignore_errors=True)
    shutil.rmtree(plan.shared[0].path.parent, ignore_errors=True)
    for path in (plan.sweep_path, plan.manifest_path):
        path.unlink(missing_ok=True)


def _write_files(plan: Plan, progress: Callable[[int], None]) -> None:
    plan.shared[0].path.parent.mkdir(parents=True, exist_ok=True)
    for file in (*plan.shared, plan.sweep_file()):
        _write_new(file)
    for number, job in enumerate(plan.manifest.jobs):
        folder = Path(job.script_path).parent
        folder.mkdir(parents=True, exist_ok=True)
        Path(job.log_dir).mkdir(parents=True, exist_ok=True)
        for file in plan.job_files(number):
            _write_new(file)
        for shared in plan.shared:
            _copy(str(shared.path), f"{folder}/{shared.path.name}")
        progress(number)


def _link(plan: Plan) -> None:
    """Let the links that lead to the newest plan lead to this one."""
    for job in plan.manifest.jobs:
        link_atomic(Path(job.output_dir, "job.sbatch"), Path("provenance", plan.manifest.plan_id, "job.sbatch"))
    link_atomic(Path(plan.manifest.base_output_dir, "sweep.json"), Path("manifests", plan.sweep_path.name))


def _write_new(file: PlannedFile) -> None:
    """Write a file of this plan alone; it counts only once the manifest, which is written last, is there."""
    with os.fdopen(
        os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode),
        "w",
        encoding="utf-8",
        errors="backslashreplace",
    ) as out:
        out.write(file.text)


def _copy(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without hard links
        shutil.copy(source, path)


def load(path: Path) -> Manifest:
    """The manifest in a file. Raises ConfigError if there is none, CorruptError if it is cut, not ours or newer."""
    missing = "make one with plan_autoexp.py --manifest PATH"
    data = read_json(path, "manifest", MANIFEST_VERSION, missing=missing, named=True)
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "$." + ".".join(str(part) for part in first["loc"])
        raise CorruptError(Problem(f"not a whole manifest: {where}: {first['msg'].lower()}", str(path))) from None
    if not plain_name(manifest.plan_id):
        raise CorruptError(Problem("not a whole manifest: $.plan_id: can't be the name of a file", str(path)))
    return manifest


def canonical_path(manifest: Manifest, given: Path) -> Path:
    """The manifest's own place, which no later plan overwrites, if it is there; else the path it was read from."""
    own = manifest_path(manifest)
    trust.check_owner(own)
    return own if own.exists() else given.resolve()
