"""torchtitan as a backend: its words, its launch, and what its own parser is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.base import Command, Job, Probe
from oellm_autoexp.backends.torchtitan.backend import PARSER, TorchtitanBackend
from oellm_autoexp.config.loader import Source
from oellm_autoexp.config.schema import decode_section
from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.planning.programs import ask
from oellm_autoexp.testing.plans import plan_of

ON_SLURM: dict[str, Any] = {
    "client": {"class_name": "SlurmClient"},
    "launcher_cmd": "srun",
    "env": {},
    "sbatch": {"nodes": 2, "ntasks_per_node": 1, "gpus_per_node": 4},
    "srun": {},
    "sbatch_extra_directives": [],
}


def command(torchtitan: dict[str, Any] | None = None, slurm: dict[str, Any] = ON_SLURM, **section: Any) -> Command:
    words = {
        "class_name": "TorchtitanBackend",
        "module": "llama3",
        "config": "llama3_8b",
        "torchtitan": torchtitan or {},
    }
    return TorchtitanBackend.model_validate({**words, **section}).command(Job({}, decode_section("slurm", slurm)))


def given(made: Command) -> list[str]:
    """The words for torchtitan itself."""
    return list(made.argv[made.argv.index("torchtitan.train") + 1 :])


def refusals(torchtitan: dict[str, Any], slurm: dict[str, Any] = ON_SLURM) -> list[Problem]:
    with pytest.raises(BackendError) as error:
        command(torchtitan, slurm)
    return list(error.value.problems)


@pytest.mark.parametrize("again", [{"training.steps": 6}, {"training": {"steps": 5}, "training.steps": 5}])
def test_a_field_that_is_set_twice_is_reported(again: dict[str, Any]) -> None:
    (problem,) = refusals({"training": {"steps": 5}, **again})
    assert (problem.what, str(problem.where)) == ("this is set twice", "$.backend.torchtitan.training.steps")
    assert command({"training": {"steps": 5}, "training.steps": None})


def test_sections_and_fields_are_dotted_flags_behind_the_config() -> None:
    overrides = {
        "training": {"steps": 500, "max_norm": 0.5},
        "optimizer.lr": 3e-4,
        "dump_folder": "/out/it's here",
        "lr_scheduler": {"warmup_steps": None},
        "parallelism": {"data-parallel-shard-degree": -1},
        "aux": {"tokens": 5},
    }
    assert given(command(overrides, extra_args="--comm.mode=fake_backend")) == [
        "--module=llama3",
        "--config=llama3_8b",
        "--training.steps=500",
        "--training.max_norm=0.5",
        "--optimizer.lr=0.0003",
        "--dump_folder=/out/it's here",
        "--parallelism.data_parallel_shard_degree=-1",
        "--comm.mode=fake_backend",
    ]


def test_flags_are_negated_at_their_last_part_and_texts_of_a_list_are_one_word() -> None:
    overrides = {
        "compile": {"enable": True, "components": ["model", "loss"]},
        "checkpoint": {"enable": False},
        "verbose": False,
        "debug": {"ranks": [0, 4], "names": []},
    }
    assert given(command(overrides))[2:] == [
        "--compile.enable",
        "--compile.components=model,loss",
        "--checkpoint.no-enable",
        "--no-verbose",
        *("--debug.ranks", "0", "4"),
        "--debug.names",
    ]


def test_what_is_no_field_or_no_value_is_reported_at_once() -> None:
    problems = refusals({"training": {"st eps": 1, "x": [[1]]}, "a": {"b": ["c,d"]}, "--lr": 1})
    places = [str(problem.where).removeprefix("$.backend.torchtitan.") for problem in problems]
    assert places == ["training.st eps", "training.x", "a.b", "--lr"]
    assert "'c,d' contains a comma" in problems[2].what


def test_a_torchrun_per_node_starts_the_module() -> None:
    made = command()
    assert made.argv[:2] == ("bash", "-c")
    assert "torch.distributed.run" in made.argv[2]
    assert "--nproc-per-node=4" in made.argv[2]
    assert made.argv[3:6] == ("torchtitan", "-m", "torchtitan.train")
    assert made.env == {"MASTER_ADDR": "$SLURMD_NODENAME", "SLURM_KILL_BAD_EXIT": "1"}
    assert "once per node" in refusals({}, {**ON_SLURM, "sbatch": {**ON_SLURM["sbatch"], "ntasks_per_node": 4}})[0].what


def test_by_srun_each_task_is_a_rank(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text('#!/bin/sh\necho "$RANK/$WORLD_SIZE" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    slurm = {**ON_SLURM, "sbatch": {**ON_SLURM["sbatch"], "ntasks_per_node": 4}}
    made = command({"training.steps": 5}, slurm, launch="srun")
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}
    done = subprocess.run(made.argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "3/8 -m torchtitan.train --module=llama3 --config=llama3_8b --training.steps=5\n"


def test_a_sweep_needs_no_plus_for_a_field() -> None:
    source = Source(
        overrides=(
            "backend=torchtitan",
            "backend.torchtitan.training.steps=5",
            "project.name='t_${backend.torchtitan.optimizer.lr}'",
            "sweep={params:{backend.torchtitan.optimizer.lr:[1e-3,2e-3]}}",
        )
    )
    plan = plan_of(source)
    assert [job.argv[-1] for job in plan.manifest.jobs] == ["--optimizer.lr=0.001", "--optimizer.lr=0.002"]
    assert "--training.steps=5" in plan.manifest.jobs[0].argv


# ---------------------------------------------------------------------------------------------------------------------
# torchtitan's own parser

PACKAGE = """
import sys

class ConfigManager:
    def parse_args(self, args):
        print("noise")
        if "--training.stpes=5" in args:
            print("\\x1b[31m╭─ Parsing error ─╮\\n│ Unrecognized options: │", file=sys.stderr)
            print("│ --training.stpes=5 │\\n╰──╯", file=sys.stderr)
            raise SystemExit(2)
        if "--training.steps=0" in args:
            raise ValueError("steps must be positive")
"""


def asked(tmp_path: Path, *words: str) -> Probe:
    return Probe((sys.executable, str(PARSER)), {"argv": list(words)}, words, CONFIG / "backend.torchtitan", "help")


def test_what_its_parser_refuses_is_reported_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchtitan").mkdir()
    (tmp_path / "torchtitan/__init__.py").touch()
    (tmp_path / "torchtitan/config.py").write_text(PACKAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = [("--training.steps=5",), ("--training.stpes=5",), ("--training.steps=0",)]
    with pytest.raises(BackendError) as error:
        ask(asked(tmp_path, *some) for some in words)
    assert [problem.what for problem in error.value.problems] == [
        "it would be refused: Parsing error Unrecognized options: --training.stpes=5",
        "it would be refused: ValueError: steps must be positive",
    ]


def test_a_refusal_names_the_jobs_that_it_is_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchtitan").mkdir()
    (tmp_path / "torchtitan/__init__.py").touch()
    (tmp_path / "torchtitan/config.py").write_text(PACKAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probes = [replace(asked(tmp_path, "--training.steps=0"), jobs=names) for names in (("a", "b"), ("c",))]
    with pytest.raises(BackendError) as error:
        ask(probes)
    (problem,) = error.value.problems
    assert problem.what == "job a and 2 others would be refused: ValueError: steps must be positive"


def test_without_torchtitan_it_is_reported_that_nothing_can_be_asked(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="can't import torchtitan: ModuleNotFoundError"):
        ask([asked(tmp_path)])


def test_jobs_that_differ_in_their_folder_are_asked_about_once() -> None:
    def shape(**torchtitan: Any) -> tuple[str, ...]:
        probe = command(torchtitan, validate="parser").probe
        assert probe is not None
        assert json.loads(json.dumps(dict(probe.question)))["argv"][0] == "--module=llama3"
        return probe.shape

    assert shape(dump_folder="/a") == shape(dump_folder="/b/c")
    assert shape(lr=1e-3) != shape(lr=0.5)
    assert shape(steps=1) != shape(steps=2)
    assert command().probe is None
