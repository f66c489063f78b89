"""Which jobs count as equally fast, and automatic time limits, by plans that are compared with made-up earlier runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.core.nouns import JobSpec, Workload
from oellm_autoexp.learning.estimating import Run, is_equal
from oellm_autoexp.learning.measuring import Measured, Spread
from oellm_autoexp.learning.past_runs import PastRuns, text_of
from oellm_autoexp.planning import resuming
from oellm_autoexp.planning.budget import Budget
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.schedulers.site import Partition, Site
from oellm_autoexp.testing.plans import plan_of

MEGATRON = (
    *("slurm=four_gpus", "backend=megatron", "backend/megatron=130M", "project.name=m"),
    *("backend.megatron.train_iters=1000", "backend.megatron.save_interval=100"),
)
TITAN = ("slurm=four_gpus", "backend=torchtitan", "project.name=t", "+backend.torchtitan.training.steps=1000")
TINY = ("backend=tiny_lm", "project.name=n", "slurm=base")
PROGRAM = ("backend.argv=[train]", "+backend.options.size=1", "project.name=p")


def planned(
    folder: Path, *overrides: str, known: Run | None = None, site: Site | None = None, stateful: str = ""
) -> Plan:
    """A plan in a folder, compared with one earlier run."""
    state = Path(stateful or folder / "state")
    if known is not None:
        state.mkdir(exist_ok=True, parents=True)
        (state / "earlier.measured.jsonl").write_text(text_of([known]))
    around = PlanContext(datetime.now(UTC), folder, "python3", {}, ("x",), "me", "here", "00")
    places = (f"project.base_output_dir={folder}", "project.monitoring_state_dir=${project.base_output_dir}/state")
    past = PastRuns(resuming.newest_iteration)
    composed = load(Source(overrides=(*places, *overrides)))
    return plan_of(composed, around, past=past, site=None if site is None else lambda _: site)


def only(plan: Plan) -> JobSpec:
    (job,) = plan.manifest.jobs
    return job


def work(folder: Path, *overrides: str) -> Workload:
    found = only(planned(folder, *overrides)).workload
    assert found is not None
    return found


def took(workload: Workload, pace: float = 3.6, **more: float) -> Run:
    spread = Spread(low=pace, middle=pace, high=pace)
    return Run(workload, Measured(job="a", attempt=1, at=0, iterations=100, pace=spread, **more))


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        (MEGATRON, ["backend.megatron.lr=3e-3", "backend.megatron.seed=7", "project.name=other", "+metadata.a=1"]),
        (MEGATRON, ["backend.megatron.lr_warmup_iters=5", "backend.megatron.weight_decay=0.2"]),
        (MEGATRON, ["backend.megatron.eval_interval=7", "backend.megatron.log_interval=3"]),
        (MEGATRON, ["slurm.sbatch.time=02:00:00", "+slurm.env.X=1", "++slurm.sbatch.account=other"]),
        (TITAN, ["+backend.torchtitan.optimizer.lr=1e-4", "+backend.torchtitan.metrics.log_freq=5"]),
        (TINY, ["backend.options.lr=0.5", "backend.options.seed=1", "backend.options.save_interval=7"]),
        (PROGRAM, ["+backend.options.learning-rate=0.5", "+backend.options.output_dir=/x/y", "project.name=q"]),
        (PROGRAM, ["+backend.options.colour=red", "backend.same_speed=[colour]"]),
    ],
)
def test_jobs_that_differ_in_these_are_equally_fast(tmp_path: Path, first: tuple[str, ...], changes: list[str]) -> None:
    assert is_equal(work(tmp_path, *first), work(tmp_path, *first, *changes))


@pytest.mark.parametrize(
    ("first", "change"),
    [
        (MEGATRON, "backend.megatron.hidden_size=1536"),
        (MEGATRON, "backend.megatron.micro_batch_size=1"),
        (MEGATRON, "+backend.megatron.recompute_granularity=selective"),
        (MEGATRON, "++slurm.sbatch.nodes=2"),
        (MEGATRON, "++slurm.sbatch.partition=fast"),
        (MEGATRON, "backend.version=core_v0_18_0"),
        (TITAN, "backend.config=llama3_8b"),
        (TITAN, "+backend.torchtitan.training.seq_len=64"),
        (TINY, "backend.options.batch_size=7"),
        (TINY, "slurm=local"),
        (PROGRAM, "backend.options.size=2"),
        (PROGRAM, "backend.argv=[train,more]"),
    ],
)
def test_jobs_that_differ_in_one_of_these_are_not(tmp_path: Path, first: tuple[str, ...], change: str) -> None:
    assert not is_equal(work(tmp_path, *first), work(tmp_path, *first, change))


def test_backends_say_how_many_iterations_there_are(tmp_path: Path) -> None:
    megatron = work(tmp_path, *MEGATRON)
    assert (megatron.iterations, megatron.save_interval, megatron.sizes["gpus"]) == (1000, 100, 4)
    assert work(tmp_path, *TITAN).iterations == 1000
    assert (work(tmp_path, *TINY).iterations, work(tmp_path, *TINY).save_interval) == (120, 20)
    assert work(tmp_path, *PROGRAM).iterations is None
    samples = work(
        tmp_path,
        *MEGATRON,
        *("backend.megatron.train_iters=null", "+backend.megatron.train_samples=1001"),
        *("backend.megatron.global_batch_size=64", "+backend.megatron.lr_wsd_decay_samples=200"),
        *("backend.megatron.lr_warmup_iters=null", "backend.megatron.lr_wsd_decay_iters=null"),
    )
    assert samples.iterations == 15  # as update_train_iters of Megatron's training.py: the last 41 are dropped


def test_a_limit_is_what_runs_need_with_a_margin_and_is_recorded_with_its_source(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON), startup=120, save=30)
    seconds = 120 + 1000 * 3.6 + 9 * 30
    plan = planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", known=known)
    job = only(plan)
    assert job.workload is not None
    assert job.workload.estimate is not None
    assert job.workload.estimate.seconds == pytest.approx(seconds)
    assert job.resources.time_limit_seconds == 5100  # 4987.5 in steps of 5 min
    assert job.workload.limit == "auto: 1.25 x 66 min, which is enough for 9 of 10 runs by 1 earlier run"
    assert "#SBATCH --time=0-01:25:00\n" in plan.scripts[0]
    assert job.parameters == {}
    assert not any("on the command line changes nothing" in note for note in plan.notes)
    assert Budget.of(plan.manifest).summary == "at most 5.7 GPU-hours (about 4.4 by earlier runs)"


def test_a_limit_is_never_below_ten_minutes(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON), 0.001)
    assert only(planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", known=known)).resources.time_limit_seconds == 600


def test_a_limit_is_at_most_that_of_the_site_and_a_chain_is_proposed(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON), 36.0, startup=600)
    site = Site({"batch": Partition("batch", True, 4 * 3600)}, complete=True)
    plan = planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", known=known, site=site)
    assert only(plan).resources.time_limit_seconds == 4 * 3600
    assert only(plan).workload.limit.endswith("; the site allows 0-04:00:00")  # type: ignore[union-attr]
    (note,) = [note for note in plan.notes if "job.chain" in note]
    assert note == (
        "needs about 10 h (from 1 run), has 4 h: 3 links; the site allows no longer time limit: "
        "set job.chain.links to so many"
    )
    chained = planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", "job.chain={links: 3}", known=known, site=site)
    assert any(note.endswith("has 3 links of 4 h") for note in chained.notes)
    assert Budget.of(chained.manifest).summary == "at most 48.0 GPU-hours (about 40.7 by earlier runs)"
    short = planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", "job.chain={links: 2}", known=known, site=site)
    assert any("has 2 links of 4 h: 3 links; the site allows no longer time limit" in note for note in short.notes)
    larger = Site({"batch": Partition("batch", True, 48 * 3600)}, complete=True)
    free = planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", known=known, site=larger)
    assert only(free).resources.time_limit_seconds == 45900


@pytest.mark.parametrize(
    ("time", "says"),
    [
        ("auto", "needs an earlier run of this model and these resources"),
        ("auto*0.5", "the factor of an automatic time limit is at least 1"),
        ("AUTO", "'AUTO' is no automatic time limit"),
        ("automatic", "'automatic' is no automatic time limit"),
    ],
)
def test_a_limit_that_cannot_be_found_is_an_error_at_its_place(tmp_path: Path, time: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, *MEGATRON, f"slurm.sbatch.time='{time}'")
    (problem,) = error.value.problems
    assert says in problem.what
    assert "slurm.sbatch.time" in str(problem.where)


def test_other_mistakes_are_reported_beside_a_limit_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        planned(tmp_path, *MEGATRON, "slurm.sbatch.time=auto", "++slurm.sbatch.nodes=many")
    assert any("many" in problem.what for problem in error.value.problems)
    assert not any("is not a time" in problem.what for problem in error.value.problems)


def test_another_size_is_scaled_and_says_so(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON))
    plan = planned(tmp_path, *MEGATRON, "++slurm.sbatch.nodes=2", known=known)
    found = only(plan).workload
    assert found is not None
    assert found.estimate is not None
    assert found.estimate.scaled
    assert found.estimate.seconds == pytest.approx(1800)
    assert any("from 1 run of other sizes, scaled" in note for note in plan.notes)


def test_iterations_that_a_checkpoint_has_are_not_done_again(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON))
    folder = tmp_path / "m" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("900\n")
    load = ("++backend.megatron.load=${project.output_dir}/checkpoints",)
    for more, iterations in (
        ((), 100),
        (("++backend.megatron.finetune=true",), 1000),
        (("++backend.megatron.ckpt_step=750",), 250),
    ):
        job = only(planned(tmp_path, *MEGATRON, *load, *more, known=known))
        assert job.workload is not None
        assert job.workload.estimate is not None
        assert job.workload.estimate.seconds == pytest.approx(iterations * 3.6), more


def test_a_program_without_iterations_is_compared_as_a_whole(tmp_path: Path) -> None:
    known = Run(work(tmp_path, *PROGRAM), Measured(job="p", attempt=1, at=0, whole=3000))
    limit = ("slurm=base", "slurm.sbatch.time=auto")
    known = Run(work(tmp_path, *PROGRAM, limit[0]), known.taken)
    assert only(planned(tmp_path, *PROGRAM, *limit, known=known)).resources.time_limit_seconds == 4500


def test_the_memory_of_a_site_s_gpus_is_shown_beside_what_runs_held(tmp_path: Path) -> None:
    profile = (*MEGATRON, "+slurm.site.gpu_memory_gib=64")
    plan = planned(tmp_path, *profile, known=took(work(tmp_path, *MEGATRON), memory_gib=61.23))
    assert any("at most 61.2 of 64 GiB of GPU memory, needs about 60 min" in note for note in plan.notes)


def test_jobs_of_a_sweep_that_are_equal_have_one_line_and_others_are_counted(tmp_path: Path) -> None:
    known = took(work(tmp_path, *MEGATRON))
    sweep = ("sweep.grids=[{backend.megatron.lr:[1e-4,2e-4,3e-4]}]", "project.name='m${index}'")
    notes = [note for note in planned(tmp_path, *MEGATRON, *sweep, known=known).notes if "needs about" in note]
    assert notes == ["needs about 60 min (from 1 run), has 60 min"]
    longer = ("sweep.grids=[{backend.megatron.train_iters:[1000,1000,2000]}]", "sweep.allow_duplicates=true", sweep[1])
    notes = [note for note in planned(tmp_path, *MEGATRON, *longer, known=known).notes if "needs about" in note]
    assert notes[0] == "needs about 60 min (from 1 run), has 60 min (2 jobs)"
    assert notes[1].startswith("needs about 2 h (from 1 run), has 60 min: 2 links (1 job); the time limit is too short")


def test_sessions_beside_jobs_of_their_own_folders_are_found(tmp_path: Path) -> None:
    own = (f"project.base_output_dir={tmp_path}/m/out", "project.output_dir='${project.base_output_dir}'")
    state = f"{tmp_path}/out/state"
    known = took(work(tmp_path, *MEGATRON))
    plan = planned(tmp_path, *MEGATRON, *own, known=known, stateful=state)
    assert plan.manifest.monitoring_state_dir == state
    assert only(plan).workload.estimate is not None  # type: ignore[union-attr]
