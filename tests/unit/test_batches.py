"""Which jobs go together: every job once, arrays within their size, tasks that correspond to those they wait for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.planning.batches import Ready, batches, submission
from oellm_autoexp.testing.plans import job_spec, manifest


def spec(index: int, group: str | None = None) -> JobSpec:
    name = f"job{index}"
    log_path = f"/o/{name}/logs/%A_%a.out" if group else f"/o/{name}/logs/%j.out"
    return job_spec("/o", name, index=index, log_path=log_path, array_group=group)


def limited(limit: int | None = None) -> Manifest:
    return manifest("/o", slurm={"array_task_limit": limit})


GROUPS = st.lists(st.sampled_from([None, "a", "b"]), max_size=40)


@given(GROUPS, st.integers(0, 7))
def test_every_job_goes_once_and_alike_ones_together_up_to_the_largest_size(
    groups: list[str | None], largest: int
) -> None:
    jobs = [Ready(spec(index, group)) for index, group in enumerate(groups)]
    made = batches(jobs, largest)
    assert sorted(job.index for batch in made for job in batch.jobs.values()) == list(range(len(jobs)))
    for batch in made:
        members = list(batch.jobs.values())
        if not batch.is_array:
            assert len(members) == 1
            assert largest == 0 or members[0].array_group is None
            continue
        assert len({job.array_group for job in members}) == 1
        assert list(batch.jobs) == list(range(len(members)))
        assert 1 <= len(members) <= largest
        assert [job.index for job in members] == sorted(job.index for job in members)
    if largest:
        for group in ("a", "b"):
            arrays = [len(b.jobs) for b in made if b.is_array and next(iter(b.jobs.values())).array_group == group]
            assert len(arrays) == -(-groups.count(group) // largest)


def test_jobs_that_follow_tasks_of_an_array_become_the_same_tasks_of_another() -> None:
    jobs = [Ready(spec(0, "a"), ("7_3",)), Ready(spec(1, "a"), ("7_1",)), Ready(spec(2, "a"), ("8_0",))]
    first, second = batches(jobs, 100)
    assert (first.dependency, {task: job.index for task, job in first.jobs.items()}) == ("aftercorr:7", {3: 0, 1: 1})
    assert (second.dependency, list(second.jobs)) == ("aftercorr:8", [0])
    assert submission(limited(), "t", first).array == (1, 3)


def test_a_job_that_follows_several_others_or_single_ones_goes_alone() -> None:
    jobs = [Ready(spec(0, "a"), ("7_3", "7_4")), Ready(spec(1, "a"), ("9",)), Ready(spec(2), ("7_1",)), Ready(spec(3))]
    made = batches(jobs, 100)
    assert [batch.dependency for batch in made] == ["afterok:7_3:7_4", "afterok:9", "afterok:7_1", ""]
    assert not any(batch.is_array for batch in made)
    assert submission(limited(), "t", made[0]).dependency == "afterok:7_3:7_4"


def test_what_waits_and_what_does_not_are_not_mixed_in_one_array() -> None:
    jobs = [Ready(spec(0, "a")), Ready(spec(1, "a"), ("7_0",)), Ready(spec(2, "a"))]
    free, bound = batches(jobs, 100)
    assert ([job.index for job in free.jobs.values()], free.dependency) == ([0, 2], "")
    assert ([job.index for job in bound.jobs.values()], bound.dependency) == ([1], "aftercorr:7")


def test_an_array_is_handed_over_with_its_limit_and_the_logs_of_its_tasks() -> None:
    (batch,) = batches([Ready(spec(5, "a")), Ready(spec(9, "a"))], 100)
    made = submission(limited(4), "cafe", batch)
    assert (made.array, made.array_limit, made.name) == ((0, 1), 4, "sweep")
    assert made.log_path == "/o/manifests/p.arrays/cafe/%a/logs/%A_%a.out"
