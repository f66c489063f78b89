"""Our checks and Megatron's own judge alike: what it refuses we refuse, and we refuse nothing that it takes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.backends.base import Probe
from oellm_autoexp.backends.make import make_backend
from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import MegatronBackend
from oellm_autoexp.errors import BackendError
from oellm_autoexp.workflow.check import ask
from oellm_autoexp.workflow.plan import Plan, make_plan
from oellm_autoexp.workflow.provenance import Circumstances
from tests.megatron import parser
from tests.megatron.parser import Parser
from tests.megatron.validation_cases import BASE, RIGHT, SILENT, WRONG, Case

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "config").with_suffix(""))
    for path in (ROOT / "config/experiments").rglob("*.yaml")
    if "override /backend: megatron" in path.read_text()
)
MODELS = sorted(
    path.stem for path in (ROOT / "config/backend/megatron").glob("*.yaml") if path.stem[0] in "0123456789m"
)


def named(case: Case) -> str:
    return case.name.replace(" ", "_")


def asked(megatron: Parser, case: Case) -> str:
    values = case.values
    return megatron.validate(Arguments.of().argv(values, explicit=True), case.world)


@pytest.mark.parametrize("case", [case for case in WRONG if case.asked], ids=named)
def test_megatron_refuses_what_we_refuse(case: Case, megatron_parser: Parser) -> None:
    assert asked(megatron_parser, case)


@pytest.mark.parametrize("case", [*RIGHT, *SILENT], ids=named)
def test_megatron_takes_what_we_let_through(case: Case, megatron_parser: Parser) -> None:
    assert asked(megatron_parser, case) == ""


def planned(source: Source) -> Plan:
    now, variables = datetime(2026, 1, 31, tzinfo=UTC), {"DATA_DIR": "/data", "OUTPUT_DIR": "/out"}
    around = Circumstances(now, Path("/work"), "python3", variables, ("plan",), "me", "here", "00")
    template = (ROOT / "oellm_autoexp/slurm/job.sbatch.template").read_text()
    return make_plan(load(source), around, read_template=lambda _: template)


def refusals(megatron: Parser, plan: Plan) -> list[str]:
    """What Megatron says of jobs: of each argv that differs in more than what it is called."""
    found = []
    for job in plan.manifest.jobs:
        script = next(index for index, word in enumerate(job.argv) if word.endswith("pretrain_gpt.py"))
        found.append(megatron.validate(job.argv[script + 1 :], job.resources.gpus))
    return [refusal for refusal in found if refusal]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_megatron_takes_every_shipped_experiment(name: str, megatron_parser: Parser) -> None:
    plan = planned(Source(config_ref=name))
    assert refusals(megatron_parser, plan) == []
    assert [note for note in plan.notes if "backend" in note] == []


@pytest.mark.parametrize("backend", ["megatron", "megatron_torchrun"])
@pytest.mark.parametrize("model", MODELS)
def test_megatron_takes_every_shipped_model(model: str, backend: str, megatron_parser: Parser) -> None:
    tasks = "slurm.sbatch.ntasks_per_node=" + ("8" if backend == "megatron" else "1")
    words = (f"backend={backend}", f"backend/megatron={model}", "slurm=base", "slurm.sbatch.gpus_per_node=8", tasks)
    plan = planned(Source(overrides=words))
    assert refusals(megatron_parser, plan) == []
    assert [note for note in plan.notes if "backend" in note] == []


def test_the_shipped_question_to_the_parser_gets_its_answers(megatron_parser: Parser) -> None:
    def probe(**changes: object) -> Probe:
        section = {
            "class_name": "MegatronBackend",
            "python": [str(parser.python()), "-W", "ignore"],
            "script": str(parser.megatron() / "pretrain_gpt.py"),
            "megatron": {**BASE, **changes},
            "validate": "parser",
        }
        slurm = {"client": {"class_name": "LocalClient"}}
        made = make_backend(MegatronBackend.model_validate(section)).command({"slurm": slurm}).probe
        assert made is not None
        return made

    ask([probe(), probe(num_layers=4)])
    with pytest.raises(BackendError) as error:  # none of our own checks knows this
        ask([probe(), probe(cuda_graph_impl="full_iteration"), probe(lr=1)])
    assert len(error.value.problems) == 1


def test_there_are_experiments_and_models_to_judge() -> None:
    assert len(EXPERIMENTS) >= 9
    assert {"130M", "300M", "1B", "3B", "8B", "moe_7B_A1B"} == set(MODELS)
