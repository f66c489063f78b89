"""Code that has changed since a plan was made is reported before its jobs begin."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.flow.conftest import User

pytestmark = pytest.mark.slow


def git(user: User, *words: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, *words], cwd=user.home, env=user.environment, check=True, capture_output=True)


@pytest.fixture
def checkout(user: User) -> User:
    """A user in a checkout with an edited file."""
    git(user, "init", "-q")
    (user.home / "train.py").write_text("1\n")
    git(user, "add", "train.py")
    git(user, "commit", "-qm", "first")
    (user.home / "train.py").write_text("2\n")
    return user


def test_code_that_was_edited_or_committed_since_the_plan_is_reported_by_submit_and_status(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[sh,-c,'sleep 30']", "project.name=job", "slurm=fake")
    assert checkout.run("plan", "--manifest", "m.json", *words).returncode == 0
    dry = ("submit", "--manifest", "m.json", "--dry-run")
    assert "has changed" not in checkout.run(*dry).stdout
    (checkout.home / "train.py").write_text("3\n")
    assert "has changed since the plan was made (files have been edited since commit" in checkout.run(*dry).stdout
    git(checkout, "commit", "-qam", "second")
    assert "(its commit was " in checkout.run(*dry).stdout


def test_status_of_a_session_that_goes_on_tells_it(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[sh,-c,'sleep 30']", "project.name=job")
    started = checkout.run("run", "--no-monitor", "--plan-id", "p", *words)
    assert started.returncode == 0, started.stderr
    status = ("monitor", "--session", "p", "--cmd", "status")
    assert "has changed" not in checkout.run(*status).stdout
    (checkout.home / "train.py").write_text("3\n")
    try:
        assert "has changed since the plan was made" in checkout.run(*status).stdout
    finally:
        checkout.run("monitor", "--session", "p", "--cmd", "cancel")


EXPERIMENT = """
defaults: [override /backend: command]
project: {name: job, code: snapshot}
backend:
  argv: [sh, -c, 'cat train.py untracked.py; pwd; echo X=$X; ls ignored.txt; [ "$X" = 1 ]']
slurm: {env: {X: "0"}}
monitoring:
  poll_interval_seconds: 0.2
  state_events:
    crash:
      actions: [{class_name: RestartAction, max_attempts: 1, overrides: {slurm.env.X: "1"}}]
"""


def test_jobs_and_their_new_attempts_run_the_code_that_was_laid_aside_with_the_plan(checkout: User) -> None:
    (checkout.home / "exp.yaml").write_text(EXPERIMENT)
    (checkout.outputs / "manifests" / "p.code.part" / "left by a planner that was killed").mkdir(parents=True)
    (checkout.home / ".gitignore").write_text("ignored.txt\n")
    for name in ("untracked.py", "ignored.txt"):
        (checkout.home / name).write_text(f"{name}\n")
    planned = checkout.run("plan", "--config-ref", "./exp.yaml", "--plan-id", "p", "--manifest", "m.json")
    assert planned.returncode == 0, planned.stderr
    copy = checkout.outputs / "manifests" / "p.code"
    assert f"note: the jobs run a copy of the code in {checkout.home}: 4 files" in planned.stdout
    assert {path.name for path in copy.iterdir()} == {"train.py", "untracked.py", "exp.yaml", ".gitignore"}
    for name in ("train.py", "untracked.py"):
        (checkout.home / name).write_text("edited\n")
    done = checkout.run("submit", "--manifest", "m.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has changed since" not in done.stdout
    logs = sorted((checkout.outputs / "job" / "logs").iterdir())
    assert len(logs) == 2
    for attempt, log in enumerate(logs):
        assert log.read_text().splitlines()[:4] == ["2", "untracked.py", str(copy), f"X={attempt}"]


def test_relative_places_of_a_job_that_runs_a_copy_are_those_of_the_plan(checkout: User) -> None:
    (checkout.home / "exp.yaml").write_text(
        """
defaults: [override /backend: command]
project: {name: job, code: snapshot, base_output_dir: ./outputs}
backend:
  argv: [sh, -c, 'echo $1 $PLACE $WORD > "$0"', '${project.output_dir}/kept', '--save=${project.output_dir}']
  env: {PLACE: '${project.output_dir}/a:./other/b', WORD: outputs}
"""
    )
    done = checkout.run("run", "--config-ref", "./exp.yaml", "--plan-id", "p")
    assert done.returncode == 0, done.stdout + done.stderr
    place = checkout.home / "outputs" / "job"
    assert (place / "kept").read_text() == f"--save={place} {place}/a:./other/b outputs\n"


def test_outside_of_a_checkout_there_is_no_code_to_lay_aside(user: User) -> None:
    words = ("backend=command", "backend.argv=[true]", "project.name=job", "project.code=snapshot")
    refused = user.run("plan", *words)
    assert refused.returncode == 2
    assert "there is no git checkout here to copy" in refused.stderr


def test_a_plan_whose_id_is_taken_leaves_the_code_of_the_other_one(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[true]", "project.name=job", "project.code=snapshot", "--plan-id", "p")
    assert checkout.run("plan", *words).returncode == 0
    assert checkout.run("plan", *words).returncode == 2
    assert (checkout.outputs / "manifests" / "p.code" / "train.py").exists()


def test_a_script_of_the_checkout_that_is_named_by_its_path_is_that_of_the_copy(checkout: User) -> None:
    script = checkout.home / "Megatron-LM" / "pretrain_gpt.py"
    script.parent.mkdir()
    script.write_text("")
    words = ("backend=megatron", "backend/megatron=130M", "project.name=job", "project.code=snapshot")
    planned = checkout.run("plan", "--plan-id", "p", f"backend.script={script}", *words)
    assert planned.returncode == 0, planned.stderr
    copy = checkout.outputs / "manifests" / "p.code" / "Megatron-LM" / "pretrain_gpt.py"
    assert copy.exists()
    assert str(copy) in (checkout.outputs / "job" / "job.sbatch").read_text()


def test_a_plan_that_is_drawn_from_its_manifest_reports_it(checkout: User) -> None:
    words = ("backend=command", "backend.argv=[true]", "project.name=job", "slurm=fake")
    assert checkout.run("plan", "--manifest", "m.json", *words).returncode == 0
    drawn = checkout.run("visualize_plan", "--manifest", "m.json")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    (checkout.home / "train.py").write_text("3\n")
    again = checkout.run("visualize_plan", "--manifest", "m.json")
    assert again.stdout == drawn.stdout
    assert "has changed since the plan was made" in again.stderr
    assert "has changed" not in checkout.run("visualize_plan", *words).stderr
    refused = checkout.run("visualize_plan", "--manifest", "m.json", *words)
    assert refused.returncode == 2
    assert "a plan that is written takes no config: backend=command" in refused.stderr


def test_files_edited_within_a_submodule_are_reported_and_recorded(checkout: User, tmp_path: Path) -> None:
    library = User(tmp_path / "library", checkout.environment, checkout.forks)
    library.home.mkdir()
    git(library, "init", "-q")
    (library.home / "layer.py").write_text("1\n")
    git(library, "add", "layer.py")
    git(library, "commit", "-qm", "first")
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(library.home), "libs/library")
    git(checkout, "commit", "-qam", "with a library")
    (checkout.home / "libs" / "library" / "layer.py").write_text("2\n")
    words = ("backend=command", "backend.argv=[true]", "project.name=job", "slurm=fake", "--plan-id", "p")
    assert checkout.run("plan", "--manifest", "m.json", *words).returncode == 0
    recorded = (checkout.outputs / "manifests" / "p.provenance" / "git.diff").read_text()
    assert "--- a/libs/library/layer.py\n+++ b/libs/library/layer.py\n" in recorded
    dry = ("submit", "--manifest", "m.json", "--dry-run")
    assert "has changed" not in checkout.run(*dry).stdout
    (checkout.home / "libs" / "library" / "layer.py").write_text("3\n")
    assert "has changed since the plan was made (files have been edited since commit" in checkout.run(*dry).stdout


USING = """
defaults: [override /backend: command]
project: {name: job, code: snapshot}
backend:
  argv: [sh, TOP/run.sh, --config=TOP/run.yaml, TOP/data, "cat TOP/run.yaml"]
  env: {FILES: "TOP/run.yaml:/etc/hosts", PYTHONPATH: "TOP/lib:TOP"}
slurm: {launcher_cmd: [sh, TOP/wrap.sh], srun: {}, env: {CONFIG: TOP/run.yaml, DATA: TOP/data}}
"""


def test_what_jobs_use_of_the_copy_and_what_of_the_checkout_itself(checkout: User) -> None:
    top = checkout.home
    (top / "exp.yaml").write_text(USING.replace("TOP", str(top)))
    (top / ".gitignore").write_text("data/*.bin\n")
    for name in ("run.sh", "run.yaml", "lib/code.py", "data/README", "data/tokens.bin"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text("of the plan\n")
    (top / "wrap.sh").write_text('echo wrapped; exec "$@"\n')
    (top / "run.sh").write_text('echo "$@"; echo $FILES $PYTHONPATH $CONFIG $DATA; cat $CONFIG\n')
    planned = checkout.run("plan", "--config-ref", "./exp.yaml", "--plan-id", "p", "--manifest", "m.json")
    assert planned.returncode == 0, planned.stderr
    note = f"jobs use {top}/data, {top}/run.yaml of the checkout itself (project.code: snapshot)"
    assert note in planned.stdout
    for name in ("run.sh", "run.yaml", "wrap.sh"):
        (top / name).write_text("edited\n")
    done = checkout.run("submit", "--manifest", "m.json")
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (checkout.outputs / "job" / "logs").iterdir()
    copy = checkout.outputs / "manifests" / "p.code"
    assert log.read_text().splitlines()[:4] == [
        "wrapped",
        f"--config={copy}/run.yaml {top}/data cat {top}/run.yaml",
        f"{copy}/run.yaml:/etc/hosts {copy}/lib:{copy} {copy}/run.yaml {top}/data",
        "of the plan",
    ]
