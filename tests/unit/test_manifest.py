"""A plan is written whole or not at all, by one of several at once, and never at another plan's expense."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import AutoexpError, ConfigError, StateError
from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.planning.checks.plan_checks import check_plan_id
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.storage.session_files import SessionFiles
from oellm_autoexp.testing.plans import plan_of

WRITES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir"}
Planner = Callable[..., Plan]


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Makes a plan of four jobs, in memory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))

    def plan(plan_id: str, *overrides: str) -> Plan:
        return plan_of(Source("autoexp", (), ("project=default", *overrides)), plan_id=plan_id)

    return plan


def tree(folder: Path) -> dict[str, bytes | Path | None]:
    """Every file, link and folder below a folder, with its content."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*"))}


def content(path: Path) -> bytes | Path | None:
    if path.is_symlink():
        return path.readlink()
    return path.read_bytes() if path.is_file() else None


def in_a_process(work: Callable[[], Any]) -> int:
    """Start a process of its own for a function; it ends with 0, 1 for an error shown to the user, 2 for any other."""
    if pid := os.fork():
        return pid
    code = 2
    try:
        work()
        code = 0
    except AutoexpError:
        code = 1
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_whole(plan: Plan) -> None:
    """What the manifest names is there, and is this plan's."""
    manifest = manifests.load(plan.manifest_path)
    assert manifest.model_dump_json() == plan.manifest.model_dump_json()
    assert [Path(job.script_path).read_text() for job in manifest.jobs] == [*plan.scripts]
    for job in manifest.jobs:
        assert Path(job.output_dir, "job.sbatch").resolve() == Path(job.script_path)
        shared = Path(job.script_path).with_name("plan")
        assert (shared / "manifest.json").resolve() == plan.manifest_path
        assert {file.path: (shared / file.path.name).read_text() for file in plan.shared} == {
            file.path: file.text for file in plan.shared
        }
    assert plan.sweep_path.read_text() == plan.sweep_file().text


@pytest.mark.slow
def test_of_many_processes_that_write_one_id_at_once_one_wins_and_its_plan_is_whole(planner: Planner) -> None:
    for turn in range(5):
        plans = [planner(f"K{turn}", f"+metadata.writer={number}") for number in range(6)]
        pids = [in_a_process(lambda plan=plan: manifests.write(plan)) for plan in plans]  # type: ignore[misc]
        codes = [ended(pid) for pid in pids]
        assert sorted(codes) == [0, 1, 1, 1, 1, 1]
        winner = plans[codes.index(0)]
        check_whole(winner)
        assert not [*winner.manifest_path.parent.glob(".*")]


def kill_at(step: int, plan: Plan, root: Path) -> None:
    """Write a plan, and die before the write of that number below the root."""
    left = step

    def audit(event: str, words: tuple[Any, ...]) -> None:
        nonlocal left
        opens = event == "open" and isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in WRITES) and any(str(root) in str(word) for word in words[:2]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    manifests.write(plan)


@pytest.mark.slow
def test_a_planner_killed_at_any_write_leaves_nothing_that_keeps_the_next_one_from_the_same_id(
    planner: Planner, tmp_path: Path
) -> None:
    plan, other = planner("K", "sweep.grids=[{backend.options.lr:[1,2]}]"), planner("K")
    whole = 0
    for step in range(1, 200):
        root = tmp_path / f"out{step}"
        moved, next_one = (moved_to(each, root) for each in (plan, other))
        code = ended(in_a_process(lambda step=step, moved=moved, root=root: kill_at(step, moved, root)))  # type: ignore[misc]
        if moved.manifest_path.exists():  # then it is whole, whatever came later
            assert manifests.load(moved.manifest_path).plan_id == "K"
            assert [Path(job.script_path).read_text() for job in moved.manifest.jobs] == [*moved.scripts]
            whole += 1
            if code == 0:
                break
            with pytest.raises(StateError, match="exists already"):
                manifests.write(next_one)
            continue
        assert code == -signal.SIGKILL
        manifests.write(next_one)
        check_whole(next_one)
    assert code == 0
    assert whole > 2


def moved_to(plan: Plan, root: Path) -> Plan:
    """The plan in another output root."""
    before = plan.manifest.base_output_dir

    def moved(text: str) -> str:
        return text.replace(before, str(root))

    manifest = plan.manifest.model_validate_json(moved(plan.manifest.model_dump_json()))
    shared = tuple(replace(file, path=Path(moved(str(file.path)))) for file in plan.shared)
    return replace(plan, manifest=manifest, shared=shared)


@pytest.mark.parametrize("failing", range(1, 50, 4))
def test_a_plan_that_fails_takes_back_what_it_made_and_nothing_else(
    failing: int, planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests.write(planner("first"))
    plan = planner("second", *(["project.base_output_dir=${oc.env:OUTPUT_DIR}/more"] if failing % 2 else []))
    before = tree(tmp_path)
    left = failing

    def scarce(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(words[0]))
            return function(*words, **named)

        return call

    for name in ("mkdir", "link", "symlink", "open"):
        monkeypatch.setattr(os, name, scarce(getattr(os, name)))
    error = None
    try:
        manifests.write(plan)
    except AutoexpError as found:
        error = found
    monkeypatch.undo()
    if error is None:
        check_whole(plan)
    else:
        assert "No space left" in str(error)
        assert tree(tmp_path) == before


def test_the_files_of_a_plan_of_this_id_in_another_output_root_stay_and_the_new_plan_is_refused(
    planner: Planner, tmp_path: Path
) -> None:
    there = f"project.output_dir={tmp_path}/jobs/${{project.name}}"
    manifests.write(planner("K", there))
    before = tree(tmp_path)
    with pytest.raises(StateError, match="exists already"):
        manifests.write(planner("K", there, f"project.base_output_dir={tmp_path}/elsewhere"))
    assert tree(tmp_path) == before


def test_an_id_whose_session_exists_is_refused(planner: Planner, tmp_path: Path) -> None:
    plan = planner("K")
    session = SessionFiles.named(Path(plan.manifest.monitoring_state_dir), "K").path
    session.parent.mkdir(parents=True)
    session.write_text("{}")
    with pytest.raises(StateError, match="a session of this id exists already"):
        manifests.write(plan)
    assert [*(tmp_path / "out").rglob("*.sbatch")] == []


def test_a_manifest_in_the_place_of_a_sweep_file_is_never_touched(planner: Planner) -> None:
    plan = planner("z")
    manifests.write(plan)
    older = plan.manifest_path.with_name("y.sweep.json")  # as versions before this one wrote it for the id y.sweep
    plan.manifest_path.rename(older)
    text = older.read_text()
    with pytest.raises(StateError, match="a file of another plan has this name"):
        manifests.write(planner("y"))
    assert older.read_text() == text


@pytest.mark.parametrize(
    "plan_id",
    [
        *("z.sweep", "Z.SWEEP", "K.arrays", "K.provenance", "x.requests", "x.journal", "x.events", "x.actions"),
        *("x.detached", "x.lease", "x.json", "local", "Local", ".hidden", "-x", "a/b"),
        *("", "x" * 200, "a\nb", "é" * 100, "\ud800"),
    ],
    ids=ascii,
)
def test_an_id_whose_files_could_be_anothers_is_refused(plan_id: str) -> None:
    with pytest.raises(ConfigError, match="plan's id"):
        check_plan_id(plan_id)


@pytest.mark.parametrize("plan_id", ["z", "my.sweep-2", "run_1.5", "sweep", "été", "locality"])
def test_other_ids_are_taken(plan_id: str) -> None:
    check_plan_id(plan_id)


def test_a_default_id_is_readable_and_has_a_random_end_for_hundreds_of_people_at_once(planner: Planner) -> None:
    made = plan_of(Source("autoexp", (), ("project=default",)))
    assert re.fullmatch(r"default-\d{8}-\d{6}-[0-9a-f]{8}", made.manifest.plan_id)


def test_a_program_in_python_writes_its_log_at_once_unless_the_environment_says_otherwise(planner: Planner) -> None:
    def env(*overrides: str) -> dict[str, str]:
        return planner("K", *overrides).manifest.jobs[0].env

    assert env()["PYTHONUNBUFFERED"] == "1"
    assert env("slurm.env.PYTHONUNBUFFERED=''")["PYTHONUNBUFFERED"] == ""
    assert env("backend.env.PYTHONUNBUFFERED=''", "slurm.env.PYTHONUNBUFFERED=1")["PYTHONUNBUFFERED"] == ""
