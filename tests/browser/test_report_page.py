"""The page of a report in a real browser: it works, logs no error, and asks nobody for anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from oellm_autoexp.cli.reporting.exports import html, write
from oellm_autoexp.report.document import Source
from oellm_autoexp.testing.plans import job_spec, manifest
from tests.reports import megatron_session

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROWS = "#job-table tbody tr"
PATIENCE = 20_000


@dataclass
class Opened:
    """A page that was opened, and what it has asked for and complained of."""

    page: Page
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """The jobs in the table, in their order."""
        return self.page.locator(f"{ROWS} th").all_inner_texts()

    def filter(self, text: str, count: str) -> None:
        """Filter the jobs, and wait until the page says that so many are shown."""
        self.page.fill("#filter", text)
        self.page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=count)


Open = Callable[..., Opened]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens sources or a page; at the end nothing but the page itself was asked for, and nothing was complained of."""
    pages: list[Opened] = []

    def open_page(*sources: Source, width: int = 1200, dark: bool = False) -> Opened:
        path = write(tmp_path / f"report{len(pages)}.html", html(sources), "--output")
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", offline=True
        )
        found = Opened(context.new_page())
        pages.append(found)
        page = found.page
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: found.asked.append(request.url))
        page.on("console", lambda message: found.complaints.append(message.text))
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        assert found.asked == [path.as_uri()]
        return found

    yield open_page
    for each in pages:
        assert len(each.asked) == 1
        assert each.complaints == []
        each.page.context.close()


@pytest.fixture
def runs(tmp_path: Path) -> Source:
    return megatron_session(tmp_path / "runs")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()


def test_the_table_sorts_by_mouse_and_keyboard(opened: Open, runs: Source) -> None:
    shown = opened(runs)
    assert shown.names() == ["good", "again", "nan", "decayed"]
    by_rate = shown.page.locator("#job-table thead button[data-column=lr]")
    by_rate.click()
    assert shown.names() == ["again", "good", "decayed", "nan"]
    assert shown.page.locator("#job-table thead th[aria-sort=ascending]").inner_text() == "lr ▲"
    by_rate.press("Enter")
    assert shown.names() == ["nan", "good", "decayed", "again"]
    assert shown.page.evaluate("document.activeElement.dataset.column") == "lr"


FILTERS = {
    "goo": ["good"],
    "state=crash": ["nan"],
    "loss<1 lr>5e-4": ["good", "decayed"],
    "lr=0.0003": ["again"],
    "-stable": ["decayed"],
    "stage:dec": ["decayed"],
    "attempt>=2": ["again"],
    "no-such-job": [],
}


def test_the_filter_understands_words_and_comparisons(opened: Open, runs: Source) -> None:
    shown = opened(runs)
    for text, names in FILTERS.items():
        shown.filter(text, f"{len(names)} of 4 jobs")
        assert shown.names() == names, text
        shown.filter("", "4 jobs")


def test_a_filter_by_a_column_that_there_is_not_says_so(opened: Open, runs: Source) -> None:
    shown = opened(runs)
    shown.filter("nosuch=3 stage=stable zzz<1", "0 of 4 jobs; there is no column nosuch, zzz")
    shown.filter("no-such-job", "0 of 4 jobs")


def test_a_swept_value_with_the_name_of_another_column_has_one_by_its_whole_key(opened: Open, runs: Source) -> None:
    keys = ("backend.options.loss", "metadata.name", "backend.options.lr")
    jobs = [
        job.model_copy(update={"parameters": dict.fromkeys(keys, number + 7)})
        for number, job in enumerate(runs.manifest.jobs)
    ]
    page = opened(replace(runs, manifest=runs.manifest.model_copy(update={"jobs": tuple(jobs)})))
    heads = page.page.locator("#job-table thead button").evaluate_all("all => all.map(one => one.dataset.column)")
    assert len(heads) == len(set(heads))
    assert {"loss", "name", "lr", *keys[:2]} <= set(heads)
    page.filter("backend.options.loss=8", "1 of 4 jobs")
    page.filter("lr=9", "1 of 4 jobs")


def test_a_loss_that_is_no_number_is_shown_sorted_last_and_found(opened: Open, runs: Source) -> None:
    assert runs.session is not None
    for name, loss in (("nan", math.nan), ("again", math.inf)):
        job = runs.session.jobs[name]
        runs.session.put(replace(job, progress=job.progress.model_copy(update={"loss": loss})))
    page = opened(runs)
    shown = {row.locator("th").inner_text(): row.inner_text() for row in page.page.locator(ROWS).all()}
    assert ("NaN" in shown["nan"], "∞" in shown["again"], "NaN" in shown["good"]) == (True, True, False)
    page.page.click("#job-table thead button[data-column=loss]")
    assert page.names()[2:] == ["again", "nan"]
    page.page.click("#job-table thead button[data-column=loss]")
    assert (page.names()[0], page.names()[-1]) == ("again", "nan")
    for text, name in (("loss=nan", "nan"), ("loss=inf", "again")):
        page.filter(text, "1 of 4 jobs")
        assert page.names() == [name]
        page.filter("", "4 jobs")


def test_states_filter_every_part(opened: Open, runs: Source) -> None:
    shown = opened(runs)
    chip = shown.page.locator(".chip[data-state=crash]")
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    assert shown.names() == ["nan"]
    assert shown.page.locator(".time").count() == 1
    assert shown.page.locator("#best tbody tr").count() == 0  # it never reported a validation loss
    chip.click()
    assert len(shown.names()) == 4


def scale(page: Page, axis: str) -> tuple[float, float]:
    """What an axis of the curves spans, by its labels' own numbers."""
    found: list[float] = page.evaluate("axis => [...window.reportChart.scale(axis)]", axis)
    return found[0], found[1]


def test_curves_zoom_by_dragging_and_by_buttons(opened: Open, runs: Source) -> None:
    shown = opened(runs)
    page = shown.page
    assert scale(page, "x") == (1, 100)
    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator("#chart .u-over").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 200, steps=4)
    page.mouse.up()
    low, high = scale(page, "x")
    assert 1 < low < high < 60
    page.click("#zoom-reset")
    assert scale(page, "x") == (1, 100)
    page.click("#zoom-in")
    assert scale(page, "x") == (25.75, 75.25)
    page.click("#zoom-out")
    assert scale(page, "x") == (1, 100)


def test_curves_go_over_tokens_and_time_logarithmic_and_smoothed(opened: Open, runs: Source) -> None:
    page = opened(runs).page
    over = page.locator("#curves select").nth(1)
    over.select_option("tokens")
    assert scale(page, "x") == (16 * 1024, 1600 * 1024)
    over.select_option("elapsed")
    low, high = scale(page, "x")
    assert low == 0
    assert 20 < high < 120
    over.select_option("time")
    assert scale(page, "x")[0] > 1.7e9
    page.get_by_label("log y").check()
    page.locator("#curves input[type=range]").fill("0.9")
    for choice in page.locator("#curves select").first.locator("option").all():
        page.locator("#curves select").first.select_option(choice.get_attribute("value"))
    for choice in page.locator("#curves select").nth(2).locator("option").all():
        page.locator("#curves select").nth(2).select_option(choice.get_attribute("value"))


def test_a_curve_is_read_where_the_pointer_is(opened: Open, runs: Source) -> None:
    page = opened(runs).page
    page.locator("#chart").scroll_into_view_if_needed()
    place = page.evaluate("() => window.reportChart.place('good', 20)")
    page.hover("#chart .u-over", position={"x": place["x"], "y": place["y"]})
    page.wait_for_function("() => document.getElementById('readout').textContent.includes(' at 20')")
    assert page.inner_text("#readout").startswith(("good: ", "again: "))


def test_a_job_opens_with_all_that_is_known_and_closes_by_the_keyboard(opened: Open, runs: Source) -> None:
    page = opened(runs).page
    page.locator(f"{ROWS} button", has_text="again").click()
    reported = page.inner_text("#job")
    for text in ("'crash': exit 137", "killed by SIGKILL", "0.75 used, 2 planned at most", "grad_norm"):
        assert text in reported
    page.keyboard.press("Escape")
    assert not page.locator("#job").is_visible()


def test_parts_tell_of_stages_time_hours_events_and_the_best(opened: Open, runs: Source) -> None:
    page = opened(runs).page
    assert page.locator(".stage").count() == 2
    assert page.locator(".arrows path").count() == 1
    page.locator(".stage button", has_text="decay").click()
    page.wait_for_function("() => document.getElementById('shown').textContent === '1 of 4 jobs'")
    page.fill("#filter", "")
    page.wait_for_function("() => document.getElementById('shown').textContent === '4 jobs'")
    assert "all\t4\t8\t3" in page.inner_text("#hours")
    assert "LogAction: done (iteration 40)" in page.inner_text("#events")
    best = page.inner_text("#best tbody tr:first-child").split()
    assert best[0] == "1"
    titles = page.locator("#times i").evaluate_all("items => items.map((item) => item.title)")
    assert any("ended as crash, attempt 1" in title and "killed by SIGKILL" in title for title in titles)
    assert any("pending, attempt 2" in title and "'crash': exit 137" in title for title in titles)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_the_screen_and_has_the_colours_of_the_system(
    opened: Open, runs: Source, width: int, dark: bool
) -> None:
    page = opened(runs, width=width, dark=dark).page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = "getComputedStyle(document.body).backgroundColor"
    colours = ["rgb(255, 255, 255)", "rgb(18, 23, 29)"]
    assert page.evaluate(background) == colours[dark]
    page.click("#theme")
    assert page.evaluate(background) == colours[not dark]
    assert page.evaluate("document.getElementById('chart').querySelector('canvas').width > 200")


def test_several_sessions_are_compared(opened: Open, runs: Source) -> None:
    other = replace(runs, manifest=runs.manifest.model_copy(update={"plan_id": "other"}))
    shown = opened(runs, other)
    assert len(shown.names()) == 8
    shown.filter("session=other state:crash", "1 of 8 jobs")
    shown.page.locator("#curves select").nth(2).select_option("session")
    assert shown.page.locator("#hours tbody tr").count() == 6


def test_a_plan_is_shown_before_anything_runs(opened: Open, tmp_path: Path) -> None:
    swept: list[dict[str, Any]] = [{"lr": rate, "size": size} for rate in (1, 2) for size in ("a", "b")]
    specs = [job_spec(tmp_path, f"j{n}", parameters=each, coords=each, gpu_hours=1.5) for n, each in enumerate(swept)]
    shown = opened(Source(manifest(tmp_path, specs)))
    assert shown.page.inner_text("h1") == "Plan: sweep"
    assert "planned\t4\t6\t0" in shown.page.inner_text("#hours")
    assert shown.page.locator("#curves").count() == 0


def test_a_hostile_name_is_shown_as_it_is(opened: Open, tmp_path: Path) -> None:
    name = "</script><script>document.title='x'</script><b onclick=x>"
    spec = job_spec(tmp_path, "a").model_copy(update={"name": name, "stage": name, "parameters": {name: name}})
    shown = opened(Source(manifest(tmp_path, [spec], project=name)))
    assert shown.names() == [name]
    assert shown.page.title().startswith(name)


def test_thousands_of_jobs_open_sort_and_filter(opened: Open, tmp_path: Path) -> None:
    specs = [
        job_spec(tmp_path, f"job{number:05}", index=number, parameters={"lr": number % 7, "seed": number})
        for number in range(10_000)
    ]
    shown = opened(Source(manifest(tmp_path, specs)))
    assert len(shown.names()) == 100
    shown.page.locator("#job-table thead button[data-column=seed]").click()
    shown.page.locator("#job-table thead button[data-column=seed]").click()
    assert shown.names()[0] == "job09999"
    shown.filter("lr=3 seed<50", "7 of 10,000 jobs")
    assert shown.names()[0] == "job00045"
