"""--columns, --sort and --filter: what they choose, and what is said of words that choose nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec
from oellm_autoexp.view.jobs.columns import Subject
from oellm_autoexp.view.jobs.selection import chosen, chosen_columns, selection
from oellm_autoexp.view.jobs.table import subjects_of

NOW = 10_000.0
STATES = ("success", "running", "crash", "oom")
LOSSES = (2.5, None, 7.0, 3.0)
DIVERGED = (2.5, math.nan, -math.inf, math.nan)


def subjects(losses: Sequence[float | None] = LOSSES) -> list[Subject]:
    jobs, specs = [], []
    for number, (state, loss) in enumerate(zip(STATES, losses, strict=True)):
        job = job_state(f"lr_1e-{number}", state=state, started_at=NOW - 3600 * number, nodes=f"n{number}")
        jobs.append(changed(job, progress=Progress(loss=loss)))
        parameters = {"backend.options.lr": 10.0**-number, "backend.options.fused": number % 2 == 0}
        specs.append(job_spec(name=job.name, parameters=parameters))
    return subjects_of(jobs, specs, NOW)


def found(*filters: str, sort: str = "", losses: Sequence[float | None] = LOSSES) -> list[int]:
    asked = selection(None, [sort] if sort else [], filters)
    return [int(subject.job.name[-1]) for subject in chosen(asked, subjects(losses))]


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (["state=crash"], [2]),
        (["state == crash"], [2]),
        (["state=crash,oom"], [2, 3]),
        (["state!=crash,oom"], [0, 1]),
        (["loss<3"], [0]),
        (["loss<=3"], [0, 3]),
        (["loss>2.5", "state!=oom"], [2]),
        (["loss!="], [0, 2, 3]),
        (["loss="], [1]),
        (["job=lr_1e-[12]"], [1, 2]),
        (["lr=1e-2"], [2]),
        (["lr=0.01"], [2]),
        (["backend.options.lr>=0.1"], [0, 1]),
        (["fused=true"], [0, 2]),
        (["time>=2h"], [2, 3]),
        (["time<90min"], [0, 1]),
        (["nodes>n1"], [2, 3]),
    ],
)
def test_jobs_pass_that_every_filter_holds_for(filters: list[str], numbers: list[int]) -> None:
    assert found(*filters) == numbers


@pytest.mark.parametrize(
    ("sort", "numbers"),
    [("loss", [0, 3, 2, 1]), ("-loss", [2, 3, 0, 1]), ("state,-lr", [2, 3, 1, 0]), ("lr", [3, 2, 1, 0])],
)
def test_jobs_are_sorted_and_those_without_a_value_come_last(sort: str, numbers: list[int]) -> None:
    assert found(sort=sort) == numbers


def test_a_loss_that_is_no_number_is_shown_found_and_sorted_to_the_end() -> None:
    (column,) = chosen_columns(selection("loss", [], []), subjects(DIVERGED))
    assert [column.shown(subject) for subject in subjects(DIVERGED)] == ["2.5000", "nan", "-inf", "nan"]
    assert found("loss=nan", losses=DIVERGED) == [1, 3]
    assert found("loss!=NaN", losses=DIVERGED) == [0, 2]
    assert found("loss<3", losses=DIVERGED) == [0, 2]
    assert found(sort="loss", losses=DIVERGED) == [2, 0, 1, 3]
    assert found(sort="-loss", losses=DIVERGED) == [0, 2, 1, 3]


def test_columns_are_chosen_by_their_names_or_by_the_whole_key_of_the_sweep() -> None:
    asked = selection("job, lr,backend.options.fused", [], [])
    assert [column.name for column in chosen_columns(asked, subjects())] == ["job", "lr", "fused"]


@pytest.mark.parametrize(
    ("columns", "sort", "filters", "message"),
    [
        (
            "job,los",
            [],
            [],
            "--columns: there is no column 'los'\n    did you mean 'loss' or 'log'? known: job, state,",
        ),
        (None, ["-lss"], [], "--sort: there is no column 'lss'"),
        (None, [], ["learning=1"], "--filter: there is no column 'learning'"),
        (None, [], ["loss<many"], "--filter: 'many' is no number\n    loss wants a number"),
        (None, [], ["time<soon"], "time wants 30s, 5min, 2h or a number of seconds"),
        (None, [], ["loss"], "--filter: 'loss' is no filter\n    write column=value"),
        (",", [], [], "--columns: no column is named"),
    ],
)
def test_a_word_that_chooses_nothing_is_reported_with_what_can_be_written(
    columns: str | None, sort: list[str], filters: list[str], message: str
) -> None:
    def ask() -> None:
        asked = selection(columns, sort, filters)
        chosen(asked, subjects())

    with pytest.raises(ConfigError) as caught:
        ask()
    assert message in "\n".join(map(str, caught.value.problems))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("state=crsh", "did you mean 'crash'?"),
        ("category!=oom_gpu,nan", "did you mean 'oom-gpu'?"),
        ("state=x*", "known:"),
    ],
)
def test_a_word_that_a_column_never_has_is_reported(wanted: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        found(wanted)
    assert words in str(error.value)
    assert "--filter" in str(error.value)


def test_words_that_a_column_may_have_choose_though_no_job_has_them() -> None:
    assert found("state=preempted") == []
    assert found("category=nan") == []
    assert found("category=") == [0, 1, 2, 3]
