"""What reaches the tasks on a real SLURM: the config's words and environment, and nothing of the submitting shell's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp.core.nouns import Submission
from oellm_autoexp.sbatch.directives import directives
from oellm_autoexp.sbatch.environment import OF_SRUN_ALONE, SRUN_INPUTS
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.sbatch.script import render
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler
from tests.flow.conftest import User, until

TEMPLATE = (Path(__file__).resolve().parents[2] / "oellm_autoexp/sbatch/job.sbatch.template").read_text()
TASK = 'echo "$SLURM_PROCID/$SLURM_NTASKS A=$A cpus=$SLURM_CPUS_PER_TASK in $PWD"'
DISTURBING = {
    **dict.fromkeys(("SLURM_EXPORT_ENV", "SRUN_EXPORT_ENV"), "NONE"),
    **dict.fromkeys(("SLURM_STDOUTMODE", "SLURM_STDERRMODE", "SRUN_OUTPUT", "SRUN_ERROR"), "/dev/null"),
    **dict.fromkeys(("SLURM_REMOTE_CWD", "SLURM_WORKING_DIR"), "/usr"),
    **dict.fromkeys(("SLURM_PROLOG", "SLURM_EPILOG", "SLURM_TASK_PROLOG", "SLURM_TASK_EPILOG"), "/bin/false"),
    **dict.fromkeys(("SLURM_LABELIO", "SLURM_DEBUG", "SLURM_SRUN_MULTI", "SLURM_RESV_PORTS", "SLURM_NO_KILL"), "1"),
    **dict.fromkeys(("SLURM_GRES", "SLURM_STEP_GRES"), "gpu:9"),
}
"""A value by which srun would run the tasks otherwise; of the other variables most take no 9, and srun fails."""


def submission(folder: Path, name: str, log_name: str = "%j.out") -> Submission:
    """A job of two tasks that print what they got."""
    made = folder / name
    (made / "marks").mkdir(parents=True)
    log = f"{made}/{log_name}"
    asked = {"ntasks": 2, "cpus_per_task": 2, "time": "1", "mem": "50"}
    text = render(
        TEMPLATE,
        name=name,
        lines=directives(asked, (), name=name, log_path=log, work_dir=str(made)),
        env={"A": "a b"},
        work_dir=str(made),
        log_path=log,
        marks=f"{made}/marks",
        launcher=Launcher.of(("srun", "env", "B=1"), {"label": False}),
        argv=("/bin/sh", "-c", TASK),
    )
    script = made / "job.sbatch"
    script.write_text(text)
    script.chmod(0o700)
    return Submission(
        token=name, name=name, script_path=str(script), work_dir=str(made), log_path=log, array=(), array_limit=None
    )


def unlike(folder: Path) -> Iterator[tuple[str, str]]:
    """The jobs whose tasks did not print what they should, and what they printed."""
    for made in sorted(folder.iterdir()):
        log = "".join(path.read_text() for path in made.glob("*.out"))
        if sorted(log.splitlines()) != [f"{rank}/2 A=a b cpus=2 in {made}" for rank in range(2)]:
            yield made.name, log


def ended(folder: Path) -> bool:
    return all([*(made / "marks").glob("*.exit")] for made in folder.iterdir())


@pytest.mark.slurm
def test_no_variable_by_which_srun_can_be_told_otherwise_reaches_it_by_our_submission(
    slurm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = SlurmScheduler()
    for name in sorted(SRUN_INPUTS - {"SLURM_JOB_ID"}):
        with monkeypatch.context() as shell:
            shell.setenv(name, DISTURBING.get(name, "9"))
            client.submit(submission(tmp_path / "jobs", name))
    until(lambda: ended(tmp_path / "jobs"), "the end of all jobs")
    assert dict(unlike(tmp_path / "jobs")) == {}


@pytest.mark.slurm
def test_a_script_that_is_submitted_by_hand_takes_these_variables_away_itself(slurm: object, tmp_path: Path) -> None:
    for name in ("SLURM_EXPORT_ENV", *OF_SRUN_ALONE):
        if name in ("SLURM_CLUSTERS", "SLURM_HOSTFILE", "SLURM_EXIT_ERROR"):  # sbatch itself heeds these
            continue
        script = submission(tmp_path / "jobs", name).script_path
        environment = {**os.environ, name: DISTURBING.get(name, "9")}
        subprocess.run(["sbatch", script], env=environment, check=True, capture_output=True)
    until(lambda: ended(tmp_path / "jobs"), "the end of all jobs")
    assert dict(unlike(tmp_path / "jobs")) == {}


EXPORTS: dict[str, dict[str, Any]] = {
    "sbatch_none": {"slurm.sbatch.export": "NONE"},
    "sbatch_list": {"slurm.sbatch.export": "HOME"},
    "srun_none": {"slurm.srun.export": "NONE"},
    "srun_list": {"slurm.srun.export": ["HOME", "ADDED=3"]},
}


def experiment(user: User, **sections: dict[str, Any]) -> list[str]:
    """An experiment for SLURM of these sections; the words that run it."""
    defaults = [{"override /backend": "command"}, {"override /slurm": "base"}]
    watched: dict[str, Any] = {"poll_interval_seconds": 0.2, **sections.pop("monitoring", {})}
    config: dict[str, Any] = {"defaults": defaults, "monitoring": watched, **sections}
    (user.home / "e.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    return ["run", "--config-ref", "./e.yaml"]


@pytest.mark.slurm
def test_whatever_is_exported_the_environment_of_the_config_reaches_the_tasks(slurm_user: User) -> None:
    words = experiment(
        slurm_user,
        backend={"argv": ["/bin/sh", "-c", 'echo "A=$A B=$B cpus=$SLURM_CPUS_PER_TASK"'], "env": {"B": "of, backend"}},
        slurm={"env": {"A": "of slurm"}, "sbatch": {"cpus_per_task": 2}},
        sweep={"configs": [{"project.name": name, **values} for name, values in EXPORTS.items()]},
    )
    done = slurm_user.run(*words, A="of the shell")
    assert done.returncode == 0, done.stderr + done.stdout
    for name in EXPORTS:
        reported = (slurm_user.outputs / name / "current.log").read_text()
        assert reported == "A=of slurm B=of, backend cpus=2\n", name


FAILING = "[ $SLURM_PROCID = 0 ] || (echo 'CUDA out of memory' >&2; exit 1)"
STREAMS: dict[str, dict[str, str]] = {
    "in_the_log": {},
    "errors": {"slurm.sbatch.error": "${project.output_dir}/errors/%j.err"},
    "errors_of_ranks": {"slurm.srun.error": "${project.output_dir}/ranks/%j_%t.err"},
    "all_of_ranks": {"slurm.srun.output": "ranks/${project.name}_%j_%N_%3t.out"},
}


@pytest.mark.slurm
def test_rules_see_what_is_printed_wherever_slurm_writes_it(slurm_user: User) -> None:
    words = experiment(
        slurm_user,
        backend={"argv": ["/bin/sh", "-c", FAILING]},
        slurm={"sbatch": {"ntasks": 2}},
        monitoring={"log_events": {"no_memory": {"pattern": "CUDA out of memory", "state": "oom"}}},
        sweep={"configs": [{"project.name": name, **values} for name, values in STREAMS.items()]},
    )
    done = slurm_user.run(*words)
    assert done.returncode == 1, done.stderr
    assert {name: job["state"] for name, job in slurm_user.session().items()} == dict.fromkeys(STREAMS, "oom")
    assert [*(slurm_user.outputs / "errors_of_ranks" / "ranks").glob("*_1.err")]


@pytest.mark.slurm
def test_what_a_job_prints_goes_to_its_log_and_not_through_a_link_that_another_user_has_put_there(
    slurm: object, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    job = submission(tmp_path / "jobs", "linked", log_name="job.out")
    log = Path(job.log_path)
    log.symlink_to(precious)
    os.chown(log, 65534, 65534, follow_symlinks=False)
    SlurmScheduler().submit(job)
    until(lambda: ended(tmp_path / "jobs"), "the end of the job")
    assert precious.read_text() == "as it was"
    first, *rest = log.read_text().splitlines()
    assert not log.is_symlink()
    assert first == "oellm-autoexp: a link of another user stood where this log is, and was removed"
    assert sorted(rest) == [f"{rank}/2 A=a b cpus=2 in {log.parent}" for rank in range(2)]
