"""The window of a session, driven by keys: what it shows, and what it does when the person is sure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oellm_autoexp.cli.main import main
from oellm_autoexp.cli.monitor.session_names import recorded
from oellm_autoexp.cli.steps.session_steps import load_manifest
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.session import requests
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import User
from tests.flow.single import planned
from tests.flow.terminal import at_terminal

pytest.importorskip("textual", reason="needs textual (pip install 'oellm-autoexp[tui]')")

from textual.widgets import DataTable, Static
from textual.widgets._footer import FooterKey

from oellm_autoexp.cli.screens.window import Window

FAILS = ["sh", "-c", "echo ' [x] iteration 3/ 9 | lm loss: 2.5E+00 | x'; echo 'ValueError: \x1b[31mred'; exit 3"]
MANY = f"""\
# @package _global_
defaults: [override /backend: command]
project: {{name: "j${{stage}}"}}
backend: {{argv: ["true"]}}
scheduler: {{max_jobs: 1}}
sweep: {{params: {{stage: {[f"x{number}" for number in range(60)]}}}}}
"""


@pytest.fixture
def failed(user: User) -> Path:
    """The manifest of a session `x` whose only job has failed."""
    planned(user, "x", {"log_events": {"wrong": {"pattern": "ValueError", "state": "crash"}}}, argv=FAILS)
    assert user.run("monitor", "--session", "x").returncode == 1
    return user.outputs / "manifests" / "x.json"


def text(window: Window, name: str) -> str:
    shown = window.query_one(f"#{name}", Static)
    return str(getattr(shown, "content", None) or getattr(shown, "renderable", ""))


def driven(manifest: Path, keys: str, look: Callable[[Window], None], until: Callable[[Window], bool] | None) -> None:
    """Press keys in the window of a session, wait for something, and look at it."""

    async def go() -> None:
        window = Window(load_manifest(manifest), manifest)
        async with window.run_test(size=(100, 40)) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
                await pilot.pause()
            for _ in range(300):
                if until is None or until(window):
                    break
                await asyncio.sleep(0.1)
            await pilot.pause()
            look(window)

    # in a thread of its own: tests of pages in the same process keep an event loop running in this one
    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, go()).result()


@pytest.mark.slow
def test_the_window_shows_jobs_why_one_failed_its_log_events_curves_and_the_queue(failed: Path) -> None:
    def first(window: Window) -> None:
        assert text(window, "summary") == "1 job: 1 crash"
        table = window.query_one(DataTable)
        assert [str(cell) for cell in table.get_row_at(0)][:2] == ["x", "crash"]
        assert text(window, "about").startswith("x: crash: wrong, exit 3: ValueError: red")
        assert "iteration 3/ 9" in text(window, "log-text")
        assert "ValueError: red" in text(window, "log-text").splitlines()

    driven(failed, "ff", first, None)
    seen: dict[str, str] = {}
    for key, name in (("e", "events"), ("p", "curves"), ("u", "queue")):
        driven(failed, key, lambda window, name=name: seen.update({name: text(window, f"{name}-text")}), None)  # type: ignore[misc]
    assert "wrong-" in seen["events"]
    assert seen["curves"].startswith("loss over iterations (m: the next of 1)")
    assert seen["queue"] == "nothing waits in the queue"


@pytest.mark.slow
def test_a_restart_is_asked_for_once_the_person_is_sure_as_the_command_does(failed: Path) -> None:
    path = SessionFiles.named(failed.parents[1] / "monitoring_state", "x").path

    def attempts() -> int:
        job = Session.load(path).jobs["x"]
        return job.attempt + (job.restart is not None)

    def nothing(window: Window) -> None:
        assert attempts() == 1
        assert requests.waiting(path) == []
        assert text(window, "messages") == ""

    driven(failed, "rn", nothing, None)

    def begun(window: Window) -> None:
        assert attempts() == 2
        assert "to begin anew: x" in text(window, "messages")

    driven(failed, "ry", begun, lambda window: "begin anew" in text(window, "messages"))


@pytest.mark.slow
def test_keys_go_to_the_first_and_the_last_job_all_are_shown_at_80_columns_and_nothing_is_read_twice(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    (user.home / "x.yaml").write_text(MANY)
    words = ("run", "--config-ref", "./x.yaml", "--plan-id", "x", "--no-monitor")
    assert user.run(*words).returncode == 0
    manifest = user.outputs / "manifests" / "x.json"
    reads: list[str] = []

    def counted(plan: Manifest) -> Session:
        reads.append(plan.plan_id)
        return recorded(plan)

    monkeypatch.setattr("oellm_autoexp.cli.screens.window.recorded", counted)

    async def go() -> None:
        window = Window(load_manifest(manifest), manifest)
        async with window.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            table = window.query_one(DataTable)
            for key, row in (("end", 59), ("home", 0), ("up", 0)):
                await pilot.press(key)
                await pilot.pause()
                assert table.cursor_row == row
            shown = [key.region for key in window.query(FooterKey)]
            assert len(shown) == 9
            assert all(region.right <= 80 for region in shown)
            for _ in range(3):
                window._refresh()
            assert len(reads) == 2, "when it was opened, and at the first tick"
        window._refresh()  # a tick that comes while the window is closed

    with ThreadPoolExecutor(1) as threads:
        threads.submit(asyncio.run, go()).result()


@pytest.mark.slow
def test_without_a_terminal_or_the_package_the_way_out_is_reported(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failed: Path
) -> None:
    piped = user.run("monitor", "--session", "x", "--cmd", "browse")
    assert (piped.returncode, "this is no terminal" in piped.stderr) == (2, True), piped.stderr
    as_json = user.run("monitor", "--session", "x", "--cmd", "browse", "--json")
    assert (as_json.returncode, "--cmd status --json is for programs" in as_json.stderr) == (2, True)
    code, said = at_terminal(user, "monitor", "--session", "x", "--cmd", "browse", term="dumb")
    assert (code, "this terminal can't draw a window" in said) == (2, True), said
    monkeypatch.setattr("oellm_autoexp.cli.screens.browse.find_spec", lambda _name: None)
    assert main(["monitor", "--manifest", str(failed), "--cmd", "browse"]) == 2
    assert "install it: pip install 'oellm-autoexp[tui]'" in capsys.readouterr().err
