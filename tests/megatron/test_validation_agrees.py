"""Our checks and Megatron's own judge alike: what it refuses we refuse, and we refuse nothing that it takes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.backends.base import Job, Probe
from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.backends.megatron.backend import MegatronBackend
from oellm_autoexp.backends.megatron.validation import Judge
from oellm_autoexp.config.loader import Source
from oellm_autoexp.config.schema import decode_section
from oellm_autoexp.core.errors import BackendError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.programs import ask
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.testing.plans import plan_of
from tests.megatron import parser
from tests.megatron.parser import Parser
from tests.megatron.validation_cases import BASE, RIGHT, SILENT, WRONG, Case, offered

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
    return megatron.validate(Arguments.of().argv(case.values), case.world, case.environment)


@pytest.mark.parametrize("case", [case for case in WRONG if case.asked], ids=named)
def test_megatron_refuses_what_we_refuse(case: Case, megatron_parser: Parser) -> None:
    assert asked(megatron_parser, case)


@pytest.mark.parametrize("case", [case for case in WRONG if case.asked], ids=named)
def test_megatron_takes_the_values_that_a_hint_offers(case: Case, megatron_parser: Parser) -> None:
    dests = Arguments.of().dests
    judge = Judge(lambda dest: dests[dest].default)
    (problem,) = judge.verdict(case.values, case.world, case.environment).problems
    for mended in offered(case, problem.hint):
        assert asked(megatron_parser, mended) == "", mended.changes


@pytest.mark.parametrize("case", [*RIGHT, *SILENT], ids=named)
def test_megatron_takes_what_we_let_through(case: Case, megatron_parser: Parser) -> None:
    assert asked(megatron_parser, case) == ""


def planned(source: Source) -> Plan:
    now, variables = datetime(2026, 1, 31, tzinfo=UTC), {"DATA_DIR": "/data", "OUTPUT_DIR": "/out"}
    around = PlanContext(now, Path("/work"), "python3", variables, ("plan",), "me", "here", "00")
    return plan_of(source, around)


def questions(plan: Plan) -> list[tuple[tuple[str, ...], int, dict[str, str]]]:
    """The argv of each job, how many ranks it has, and its environment."""
    found = []
    for job, text in zip(plan.manifest.jobs, plan.scripts, strict=True):
        script = next(index for index, word in enumerate(job.argv) if word.endswith("pretrain_gpt.py"))
        nodes, gpus = job.resources.nodes, job.resources.gpus
        spare = re.search(r"^autoexp_spare=(\d+) ", text, re.MULTILINE)
        ranks = gpus // nodes * (nodes - (int(spare[1]) if spare else 0))
        found.append((job.argv[script + 1 :], ranks, dict(job.env)))
    return found


def refusals(megatron: Parser, plan: Plan) -> list[str]:
    """What Megatron says of jobs: of each argv that differs in more than what it is called."""
    return [refusal for question in questions(plan) if (refusal := megatron.validate(*question))]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_megatron_takes_every_shipped_experiment_and_does_what_it_asks_for(name: str, megatron_parser: Parser) -> None:
    plan = planned(Source(config_ref=name))
    assert refusals(megatron_parser, plan) == []
    assert [note for note in plan.notes if "backend" in note] == []
    assert [made for question in questions(plan) if (made := megatron_parser.made(*question))] == []


@pytest.mark.parametrize("backend", ["megatron", "megatron_torchrun"])
@pytest.mark.parametrize("model", MODELS)
def test_megatron_takes_every_shipped_model(model: str, backend: str, megatron_parser: Parser) -> None:
    tasks = "slurm.sbatch.ntasks_per_node=" + ("8" if backend == "megatron" else "1")
    words = (f"backend={backend}", f"backend/megatron={model}", "slurm=base", "slurm.sbatch.gpus_per_node=8", tasks)
    plan = planned(Source(overrides=words))
    assert refusals(megatron_parser, plan) == []
    assert [note for note in plan.notes if "backend" in note] == []


@pytest.mark.parametrize(
    "words",
    [
        "use_megatron_fsdp=true",
        "use_torch_fsdp2=true untie_embeddings_and_output_weights=true",
        "use_distributed_optimizer=false",
        "overlap_grad_reduce=false",
    ],
)
def test_megatron_takes_the_defaults_that_give_way(words: str, megatron_parser: Parser) -> None:
    on_gpus = ("slurm=base", "slurm.sbatch.gpus_per_node=8", "slurm.sbatch.ntasks_per_node=8")
    changes = [f"backend.megatron.{word}" for word in words.split()]
    plan = planned(Source(overrides=("backend=megatron", "backend/megatron=300M", *on_gpus, *changes)))
    assert refusals(megatron_parser, plan) == []


def probe(env: dict[str, str] | None = None, extra: str = "", **changes: Any) -> Probe:
    """The question of a job that differs in so much from the base."""
    section = {
        "class_name": "MegatronBackend",
        "python": [str(parser.python()), "-W", "ignore"],
        "script": str(parser.megatron() / "pretrain_gpt.py"),
        "megatron": {**BASE, **changes},
        "extra_args": extra,
        "env": env or {},
        "validate": "parser",
    }
    slurm = decode_section("slurm", {"client": {"class_name": "LocalClient"}})
    made = MegatronBackend.model_validate(section).command(Job({}, slurm)).probe
    assert made is not None
    return made


CLIPPED: dict[str, Any] = {"qk_clip": True, "optimizer": "muon"}
GRAPHS: dict[str, Any] = {"cuda_graph_impl": "transformer_engine", "te_rng_tracker": True}
SEGMENTS = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        (probe(**CLIPPED, qk_clip_alpha=0.5), probe(**CLIPPED, qk_clip_alpha=2.0), "qk-clip-alpha"),
        (
            probe(num_layers=None, hybrid_layer_pattern="M-M*/M-M*"),
            probe(num_layers=None, hybrid_layer_pattern="M-M*/M-M?"),
            "hybrid",
        ),
        (
            probe({**SEGMENTS, "NCCL_GRAPH_REGISTER": "0"}, **GRAPHS),
            probe({**SEGMENTS, "NCCL_GRAPH_REGISTER": "1"}, **GRAPHS),
            "NCCL_GRAPH_REGISTER",
        ),
        (probe(), probe(decoder_first_pipeline_num_layers=2), "transformer_config.py"),
        (probe(extra="--of-kitchen 5 --lr 2e-3"), probe(extra="--lr fast"), "invalid float value"),
    ],
    ids=["fraction", "slash", "environment", "model", "extra"],
)
def test_every_question_whose_answer_may_be_another_is_asked(
    right: Probe, wrong: Probe, says: str, megatron_parser: Parser
) -> None:
    assert right.shape != wrong.shape
    with pytest.raises(BackendError, match=says) as error:
        ask([right, wrong])
    assert len(error.value.problems) == 1


MODELOPT = """\
def add_modelopt_args(parser):
    parser.add_argument("--export-kv-cache-quant", choices=["none", "fp8"])
    return parser
"""


def test_words_of_an_optional_package_are_judged_where_it_is(
    megatron_parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = (probe(extra=f"--export-kv-cache-quant {word}") for word in ("fp8", "fp7"))
    ask([right, wrong])  # where it is not, neither is known
    (tmp_path / "megatron/post_training").mkdir(parents=True)
    (tmp_path / "megatron/post_training/arguments.py").write_text(MODELOPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(BackendError, match="invalid choice: 'fp7'") as error:
        ask([right, wrong])
    assert len(error.value.problems) == 1


FREE: dict[str, tuple[Any, Any]] = {
    **dict.fromkeys(("save", "load", "tensorboard_dir", "data_cache_path", "wandb_save_dir"), ("/a", "b/c")),
    "wandb_exp_name": ("a", "-b"),
    "lr": (1e-3, 7),
    "min_lr": (1e-6, 1e-4),
}


@pytest.mark.parametrize("dest", FREE)
def test_what_differs_in_every_job_makes_no_difference_to_megatron(dest: str, megatron_parser: Parser) -> None:
    questions = [probe(save_interval=10, **{dest: value}) for value in FREE[dest]]
    assert questions[0].shape == questions[1].shape
    for question in questions:
        assert megatron_parser.ask({"validate": {**question.question}})["error"] == ""


def test_jobs_are_reported_apart_by_all_that_megatron_looks_at(megatron_parser: Parser) -> None:
    several = [probe(), probe(num_layers=4), probe(lr=1), probe(seed=7), probe({"A": "1"}), probe(load="/a")]
    assert len({question.shape for question in several}) == len(several) - 1  # lr alone
    answers: list[None] = []
    ask(several, lambda: answers.append(None))
    assert len(answers) == len(several)


def test_there_are_experiments_and_models_to_judge() -> None:
    assert len(EXPERIMENTS) >= 9
    assert {"130M", "300M", "1B", "3B", "8B", "moe_7B_A1B"} == set(MODELS)
