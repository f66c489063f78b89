"""Where a mistake is reported: at the key that a person wrote, and once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_declared import reported

CASES = {
    "5: x": ("exp.yaml:2 ($.5): the key 5 is not text", "write '5' in quotes"),
    "slurm: {5: x}": ("exp.yaml:2 ($.slurm.5): the key 5 is not text", "write '5' in quotes"),
    'project: {output_dir: "a\\0b"}': ("exp.yaml:2 ($.project.output_dir): the value contains a line break", ""),
    'project: {name: "a\\tb"}': ("exp.yaml:2 ($.project.name): the value contains a line break", ""),
    "project: {output_dir: $HOME/runs}": ("exp.yaml:2 ($.project.output_dir): '$HOME/runs' begins with", "oc.env:HOME"),
    "project: {output_dir: .}": ("exp.yaml:2 ($.project.output_dir): '", "give the job a folder"),
    "slurm: {sbatch: {N: x, nodes: null}}": ("exp.yaml:2 ($.slurm.sbatch.N): 'x' is not a number", ""),
    "slurm: {sbatch_extra_directives: [--nodes=2, --time=x]}": (
        "exp.yaml:2 ($.slurm.sbatch_extra_directives[1]): 'x' is not a time",
        "write minutes",
    ),
    "slurm: {sbatch_extra_directives: ['#SBATCH --signal=x']}": (
        "exp.yaml:2 ($.slurm.sbatch_extra_directives[0]): Invalid --signal",
        "as in B:USR1@120",
    ),
    "defaults: [{override /backend: tiny_lm}, {override /backend@backend: command}]": (
        "exp.yaml:2: the choice of 'backend' is overridden twice in this list: by tiny_lm and by command",
        "keep one",
    ),
    "metadata: {a: 1e200, b: '${oc.mul:${metadata.a},${metadata.a}}'}": (
        "exp.yaml:2 ($.metadata.b): ${oc.mul:…} fails: the number is too large",
        "",
    ),
    "metadata: {a: '${oc.eval:1e400}'}": ("exp.yaml:2 ($.metadata.a): ${oc.eval:…} fails: the number is too large", ""),
    "metadata: {a: \"${oc.decode:'1e400'}\"}": ("exp.yaml:2 ($.metadata.a): ${oc.decode:…} fails", "too large"),
    "backend: {options: {y: [1, {a: 1}]}}": ("exp.yaml:2 ($.backend.options.y[1]): must be one value", "not a mapping"),
    "backend: {options: {m.lr: 1}}\nsweep: {params: {backend.options.m.lr: [1, 2]}}": (
        "exp.yaml:3 ($.backend.options.m.lr, set by the sweep): the config has no key",
        "set the mapping that contains it",
    ),
    "slurm: {array: maybe}": ("exp.yaml:2 ($.slurm.array): must be true or false, not 'maybe'", ""),
    "slurm: {sbatch: {time: 1.5}}": ("exp.yaml:2 ($.slurm.sbatch.time): '1.5' is not a time", "write minutes"),
    "sweep: {type: list, groups: [{params: {metadata.x: [1]}, stage: a, project.name: a}, {params: {metadata.x: [1]}, "
    "stage: b, project.name: '${sibling.a.nme}'}]}\nmetadata: {x: 0}": (
        "exp.yaml:2 ($.project.name, set by the sweep): ${sibling.a.nme} refers to 'nme', which does not exist",
        "did you mean 'project.name'",
    ),
    "sweep: {params: {hydra.run.dir: [x]}}": ("exp.yaml:2 ($.hydra.run.dir, set by the sweep): Hydra's own", "leave"),
    "slurm: {env: {A: 'x$SLURM_PROCID'}}": (
        "exp.yaml:2 ($.slurm.env.A): $SLURM_PROCID has the value of the script",
        "sh -c",
    ),
    "backend: {env: {A: '$SLURM_NODEID'}}": (
        "exp.yaml:2 ($.backend.env.A): $SLURM_NODEID has the value of the script",
        "",
    ),
    "slurm: {sbatch: {nodes: 0}}": ("exp.yaml:2 ($.slurm.sbatch.nodes): a job has at least one of nodes, not 0", ""),
    "slurm: {sbatch: {n: 0}}": ("exp.yaml:2 ($.slurm.sbatch.n): a job has at least one of ntasks, not 0", ""),
    "slurm: {env: {IFS: ','}}": ("exp.yaml:2 ($.slurm.env.IFS): IFS is a variable of the shell", "leave it out"),
    "backend: {env: {autoexp_marks: x}}": ("exp.yaml:2 ($.backend.env.autoexp_marks): autoexp_marks is a variable", ""),
    "sweep: {params: {backend.options: {+x: [1, 2]}}}": (
        "exp.yaml:2 ($.backend.options, set by the sweep): '+' is inside the key",
        "put it before the whole key: '+backend.options.x'",
    ),
}


@pytest.mark.parametrize("text", CASES)
def test_a_mistake_is_reported_once_at_the_key_that_a_person_wrote(tmp_path: Path, text: str) -> None:
    what, hint = CASES[text]
    (problem,) = reported(tmp_path, f"{text}\n")
    assert problem.startswith(what)
    assert hint in problem


@pytest.mark.parametrize(
    ("text", "others", "hint"),
    [
        (
            "defaults:\n  - _self_\n  - /backend: command\nbackend:\n  argv: [train]\n",
            {},
            "exp.yaml:6 sets it, but 'backend/command', later in the defaults list, replaces that; "
            "choose 'backend/command' before _self_",
        ),
        (
            "defaults: [low, /backend: command]  # low has argv\n",
            {"low": "# @package _global_\nbackend: {argv: [train]}\n"},
            "low.yaml:2 sets it, but 'backend/command', later in the defaults list, replaces that; "
            "choose 'backend/command' before 'low'",
        ),
        ("backend: {argv: []}\n", {}, "set backend.argv"),
    ],
)
def test_a_value_that_a_later_choice_replaces_is_told_with_its_line(
    tmp_path: Path, text: str, others: dict[str, str], hint: str
) -> None:
    for name, content in others.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    (problem,) = reported(tmp_path, text)
    assert "no program to run" in problem
    assert hint in problem.replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("slurm.master_addr={hostname}i", "there is text after the '}' at position 28"),
        ("slurm.sbatch.nodelist=n[1-3,5]", "the '[' at position 24 is inside text"),
        ("backend.options.x='a''b'", 'the "\'" at position 22 is inside text'),
        ("/backend=tiny_lm", "a key does not begin with '/'"),
        ("backend.options=[1]", "'backend.options' holds keys and values; this value does not"),
        ("backend.argv={a: 1}", "'backend.argv' holds a list; this value does not"),
    ],
)
def test_what_is_at_fault_in_an_override_is_named(tmp_path: Path, override: str, what: str) -> None:
    (problem,) = reported(tmp_path, "backend: {argv: [train]}\n", override)
    assert what in problem


@pytest.mark.slow
def test_a_dot_in_a_key_and_a_sweep_that_is_none_are_reported_of_an_override(tmp_path: Path) -> None:
    (problem,) = reported(tmp_path, "backend: {options: {m.lr: 1}}\n", "backend.options.m.lr=4")
    assert "did you mean" not in problem
    assert "contains a dot" in problem
    (problem,) = reported(tmp_path, "", "sweep=3")
    assert problem.startswith("sweep=3: 'sweep' is a group of configs")
