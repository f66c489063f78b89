"""What a report says: numbers as in the logs, no secret, and nothing that a page could obey."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.cli.reporting.exports import picture
from oellm_autoexp.cli.reporting.sources import assets
from oellm_autoexp.core.nouns import Series
from oellm_autoexp.report import tidy
from oellm_autoexp.report.curves import token_counts
from oellm_autoexp.report.differences import differences
from oellm_autoexp.report.document import Event, Source, document, short_keys
from oellm_autoexp.report.numbers import Packed, corners, extremes
from oellm_autoexp.report.page import ASSETS, page
from oellm_autoexp.report.plot import Line, Plot, as_svg, plot_of
from oellm_autoexp.report.timeline import Span, spans
from oellm_autoexp.session.job_state import HistoryEntry, JobState
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec, manifest
from tests.reports import BEGAN, RUNS, curve, data_of, megatron_session
from tests.secrets import COMMANDS, PRIVATE_KEY, S, T


def html(*sources: Source) -> str:
    return page(document(sources, BEGAN + 600), assets())


# ---- numbers


def test_curves_are_those_of_the_log(tmp_path: Path) -> None:
    data = data_of(html(megatron_session(tmp_path)))
    reported = [
        (int(iteration), float(loss))
        for iteration, loss in re.findall(r"\] iteration +(\d+)/.*lm loss: (\S+)", (RUNS / "success.log").read_text())
    ]
    assert len(reported) > 20
    for job in ("good", "again"):  # the second attempt of `again` began anew, and replaces what the first one reported
        iterations, values = curve(data, job, "loss")
        assert iterations == [at for at, _ in reported]
        assert values == pytest.approx([loss for _, loss in reported], rel=1e-6)
    number = data["jobs"]["name"].index("good")
    assert data["jobs"]["loss"][number] == reported[-1][1]
    assert data["jobs"]["iteration"][number] == reported[-1][0]
    (summary,) = (entry[6:] for entry in data["curves"] if entry[:2] == [number, data["metrics"].index("loss")])
    low = min(loss for _, loss in reported)
    assert summary[:3] == [reported[-1][1], low, next(at for at, loss in reported if loss == low)]


def test_tokens_are_samples_of_the_sequence_length(tmp_path: Path) -> None:
    data = data_of(html(megatron_session(tmp_path)))
    iterations, tokens = curve(data, "good", "@tokens")
    assert (iterations[0], tokens[0]) == (1, 16 * 1024)
    assert (iterations[-1], tokens[-1]) == (100, 1600 * 1024)
    spec = job_spec(argv=("x", "--seq-length=2"))
    points = Series([1, 2], [0.0, 1.0], [8.0, 16.0], [1, 1])
    assert token_counts(spec, {"samples": points}) == ([1, 2], [16.0, 32.0])
    assert token_counts(job_spec(), {"samples": points}) is None
    assert token_counts(job_spec(), {"tokens": points}) == ([1, 2], [8.0, 16.0])


values = st.floats(allow_subnormal=False, width=32)


@given(st.lists(values, min_size=1, max_size=300), st.integers(4, 40))
def test_a_shorter_curve_keeps_its_ends_its_extremes_and_its_gaps(numbers: list[float], most: int) -> None:
    kept = list(extremes(numbers, most))
    assert kept == sorted(set(kept))
    assert {kept[0], kept[-1]} == {0, len(numbers) - 1}
    assert len(kept) <= max(most, len(numbers) if len(numbers) <= most else 0) * 1.5 + 2
    shown = [numbers[index] for index in kept]
    finite = list(filter(math.isfinite, numbers))
    if finite:
        assert (min(finite), max(finite)) == (
            min(filter(math.isfinite, shown)),
            max(filter(math.isfinite, shown)),
        )
    assert any(map(math.isfinite, shown)) == bool(finite)
    assert all(map(math.isfinite, shown)) == (len(finite) == len(numbers))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), min_size=2, max_size=80), st.floats(0.01, 5))
def test_pieces_of_a_line_are_nowhere_further_off_than_they_may_be(
    steps: list[tuple[int, float]], tolerance: float
) -> None:
    xs = [sum(step for step, _ in steps[: index + 1]) for index in range(len(steps))]
    ys = [sum(rise for _, rise in steps[: index + 1]) for index in range(len(steps))]
    kept = corners(xs, ys, tolerance)
    for first, last in pairwise(kept):
        for index in range(first, last + 1):
            line = ys[first] + (ys[last] - ys[first]) * (xs[index] - xs[first]) / (xs[last] - xs[first])
            assert abs(line - ys[index]) <= 2 * tolerance + 1e-6


@pytest.mark.parametrize("exact", [True, False])
@given(numbers=st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=40))
def test_numbers_are_unpacked_as_they_were(numbers: list[float], exact: bool) -> None:
    packed = Packed(exact=exact)
    packed.add([7], [1.0])
    iterations = [3 * index * index + index for index in range(len(numbers))]
    entry = [0, 0, iterations[0], len(numbers), packed.add(iterations, numbers)]
    data = {"jobs": {"name": ["a"]}, "metrics": ["m"], "curves": [entry], "packed": packed.text(), "exact": exact}
    found, values = curve(data, "a", "m")
    assert found == iterations
    for value, packed_value in zip(values, numbers, strict=True):
        largest = not exact and abs(packed_value) > 3.39e38  # may be rounded to infinity
        assert largest or value == pytest.approx(packed_value, rel=0 if exact else 2**-16, abs=0, nan_ok=True)


def test_very_many_curves_have_fewer_points_each_and_the_page_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oellm_autoexp.report.curves._ALL_POINTS", 300)
    monkeypatch.setattr("oellm_autoexp.report.curves._EXACT_POINTS", 10)
    data = data_of(html(megatron_session(tmp_path)))
    assert data["most_points"] < 21
    assert not data["exact"]
    assert len(curve(data, "good", "loss")[0]) <= data["most_points"]


# ---- time lines


def history(*events: tuple[float, str, str]) -> tuple[HistoryEntry, ...]:
    return tuple(HistoryEntry(at=at, event=event, message=message) for at, event, message in events)


def test_a_time_line_tells_of_waits_attempts_and_their_causes() -> None:
    reported = history(
        (10, "submitted", "as 1"),
        (20, "running", ""),
        (50, "crash", "FAILED"),
        (50, "restart", "exit 1"),
        (60, "submitted", "as 2"),
        (70, "running", ""),
        (90, "success", "COMPLETED"),
    )
    job = job_state(state="success", attempt=2, history=reported, started_at=65.0, ended_at=88.0)
    assert spans(job, 0, 100) == [
        Span(0, 10, "waiting", 0),
        Span(10, 20, "pending", 1),
        Span(20, 50, "running", 1),
        Span(50, 50, "crash", 1, "FAILED"),
        Span(50, 60, "waiting", 2),
        Span(60, 70, "pending", 2, "exit 1"),
        Span(70, 88, "running", 2),
        Span(88, 88, "success", 2, "COMPLETED"),
    ]


def test_a_run_that_was_not_seen_to_begin_is_reported_by_its_scheduler() -> None:
    reported = history((10, "submitted", "as 1"), (30, "success", "COMPLETED"))
    job = job_state(state="success", attempt=1, history=reported, started_at=15.0, ended_at=29.0)
    assert spans(job, 10, 100) == [
        Span(10, 15, "pending", 1),
        Span(15, 29, "running", 1),
        Span(29, 29, "success", 1, "COMPLETED"),
    ]
    assert spans(job_state(), 3, 9) == [Span(3, 9, "waiting", 0)]
    assert spans(job_state(state="running", attempt=1, history=reported[:1]), 10, 40) == [Span(10, 40, "pending", 1)]


# ---- hours, rows, differences


def test_gpu_hours_are_those_of_the_session_by_state(tmp_path: Path) -> None:
    source = megatron_session(tmp_path)
    (part,) = document([source], BEGAN).sessions
    assert source.session is not None
    assert {hours.state: (hours.jobs, hours.planned, hours.used) for hours in part.hours} == {
        "success": (3, 6.0, 2.25),
        "crash": (1, 2.0, 0.75),
    }
    assert sum(hours.used for hours in part.hours) == sum(job.past.gpu_hours for job in source.session.jobs.values())


def test_tables_have_a_row_for_each_job_and_each_point(tmp_path: Path) -> None:
    source = megatron_session(tmp_path)
    rows = tidy.job_cells(tidy.rows_of(source))
    read = list(csv.DictReader(io.StringIO(tidy.cells_as_csv(rows))))
    assert [(row["name"], row["backend.megatron.lr"], row["state"]) for row in read] == [
        ("good", "0.001", "success"),
        ("again", "0.0003", "success"),
        ("nan", "10000000.0", "crash"),
        ("decayed", "0.001", "success"),
    ]
    points = [point for point in tidy.point_cells(source) if point[1:3] == ("again", "loss")]
    assert {point[6] for point in points} == {2}
    assert points[-1][5] == float(read[1]["loss"])


def test_differences_are_reported_once_and_own_places_are_none() -> None:
    specs = [
        job_spec("/out", name, argv=("t", "--lr", lr, "--save", f"/out/{name}/x", "--on"), parameters={"a.lr": lr})
        for name, lr in (("x1", "1"), ("x2", "2"))
    ]
    found = differences([(spec, None) for spec in specs])
    assert [(one.key, one.values, one.of) for one in found] == [("a.lr", ("1", "2"), (0, 1))]
    later = changed(JobState(name="x2"), overrides={"a.lr": 3})
    (_, only) = differences([(specs[0], JobState(name="x1")), (specs[1], later)])
    assert (only.key, only.values, only.of) == ("later attempts: a.lr", ("3",), (-1, 0))


def test_keys_are_shortened_as_far_as_they_can_be_told_apart() -> None:
    keys = ["backend.megatron.lr", "backend.options.lr", "slurm.sbatch.time"]
    assert list(short_keys(keys).values()) == ["megatron.lr", "options.lr", "time"]


# ---- what must not get in, and what must not get out


def test_no_secret_gets_into_a_page_a_table_or_a_picture(tmp_path: Path) -> None:
    source = megatron_session(tmp_path)
    assert source.session is not None
    jobs = []
    for number, (spec, words) in enumerate(zip(source.manifest.jobs, COMMANDS, strict=False)):
        swept = {**spec.parameters, "slurm.env.HF_TOKEN": T, "note": f"--api-key {T}{number}"}
        env = {"WANDB_API_KEY": f"{T}{number}", "PLAIN": f"https://me:{T}{number}@host"}
        condition = {"class_name": "CommandCondition", "command": ["x", "--token", T]}
        update = {"parameters": swept, "env": env, "argv": words, "start_conditions": (condition,)}
        jobs.append(spec.model_copy(update=update))
        job = source.session.jobs[spec.name]
        happened = (*job.history, HistoryEntry(at=BEGAN, event="warning", message=f"export HF_TOKEN={T}"))
        source.session.put(
            changed(job, reason=f"password={T}", history=happened, overrides={"x.api_key": T}, problem=f"token={T}")
        )
    plan = source.manifest.model_copy(update={"jobs": tuple(jobs), "overrides": (f"slurm.env.HF_TOKEN={T}",)})
    event = Event(BEGAN, "good", 1, "saved", f"login with --token {T}", (f"RunCommandAction: done (token={T})",))
    reported = replace(source, manifest=plan, events=(event,))
    for text in (
        html(reported),
        html(Source(plan)),
        tidy.cells_as_csv(tidy.job_cells(tidy.rows_of(reported))),
        as_svg(plot_of([reported], "loss", "iteration", log_y=False)),
    ):
        assert S not in text
        assert PRIVATE_KEY not in text


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--\u2028{{data}}"


def test_text_of_a_job_can_not_leave_the_data(tmp_path: Path) -> None:
    spec = job_spec(tmp_path, "a", parameters={"x": HOSTILE, "y": "\udc80"}, stage=HOSTILE)
    text = html(Source(manifest(tmp_path, [spec], project=HOSTILE)))
    assert text.count("<script") == 3
    assert text.count("</script>") == 3
    data = data_of(text)
    assert data["parameters"][0]["values"] == [HOSTILE]
    assert "<" not in document([Source(manifest(tmp_path, [spec]))], 0).as_json()
    assert "<img" not in text


def test_a_page_may_run_what_stands_in_it_and_load_nothing(tmp_path: Path) -> None:
    text = html(Source(manifest(tmp_path, [job_spec(tmp_path)])))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|url\(""", text)


def test_our_own_scripts_set_text_alone() -> None:
    texts = assets()
    assert set(texts) == set(ASSETS)
    for name, text in texts.items():
        if name.endswith(".js") and not name.startswith("uPlot"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|fetch\(|import\(", text
            ), name
    assert "Leon Sorokin" in html(Source(manifest(jobs=[job_spec()])))


# ---- pictures


def test_a_picture_is_svg_that_names_its_jobs_and_leaves_gaps() -> None:
    lines = (Line("a<b>&", [1, 2, 3, 4], [1.0, math.nan, 3.0, 4.0]), Line("b", [1], [2.0]))
    root = ElementTree.fromstring(as_svg(Plot("plan", "iteration", "loss", lines)))  # noqa: S314  ours
    space = "{http://www.w3.org/2000/svg}"
    paths = root.findall(f"{space}path")
    assert [path.findtext(f"{space}title") for path in paths] == ["a<b>&", "b"]
    assert paths[0].get("d", "").count("M") == 2
    assert as_svg(Plot("p", "x", "y", (), log_y=True))
    assert as_svg(Plot("p", "x", "y", (Line("a", [1, 2], [-1.0, 10.0]),), log_y=True))


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize("ys", [[-1.7e308, 1.7e308], [1e-320, 1e308], [1e199, -1e199], [math.inf, 1.0]])
@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_a_picture_is_drawn_of_numbers_of_any_size(ending: str, ys: list[float], log_y: bool) -> None:
    plot = Plot("p", "x", "y", (Line("a", [0, 1], ys), Line("b", [0, 1], [1.0, 2.0])), log_y)
    data = picture(plot, Path(f"x{ending}"))
    assert data[:4] == (b"\x89PNG" if ending == ".png" else "<svg")


@pytest.mark.parametrize(("axis", "last"), [("iteration", 100), ("tokens", 1600 * 1024)])
def test_a_picture_is_over_what_was_asked_for(tmp_path: Path, axis: str, last: float) -> None:
    plot = plot_of([megatron_session(tmp_path)], "loss", axis, log_y=False)  # type: ignore[arg-type]
    assert plot.lines[0].xs[-1] == last
    assert [line.name for line in plot.lines] == ["good", "again", "nan", "decayed"]


def test_a_session_without_metrics_has_a_page_too(tmp_path: Path) -> None:
    plan = manifest(tmp_path, [job_spec(tmp_path, "a", index=0)])
    (tmp_path / "state").mkdir()
    session = Session.create(plan, tmp_path / "manifest.json")
    data = data_of(html(Source(plan, session)))
    assert (data["metrics"], data["jobs"]["state"]) == ([], ["waiting"])
