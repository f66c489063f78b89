"""The signal that a monitor is alive: given as often as asked for, whatever becomes of it, and never waited for."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oellm_autoexp.engine.alive import AliveSignal
from oellm_autoexp.notifiers import alive
from oellm_autoexp.rules.rules import Alive
from tests.hook_server import HookServer, hook_server
from tests.unit.test_queue import make_manifest


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HookServer]:
    monkeypatch.setenv("no_proxy", "*")
    with hook_server() as made:
        monkeypatch.setenv("PING", made.url)
        yield made


def signal_of(folder: Path, said: list[str], **section: Any) -> AliveSignal:
    return AliveSignal(make_manifest(folder, monitoring={"alive": section}), said.append)


def until(holds: Callable[[], object], act: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        act()
        time.sleep(0.02)


def test_the_address_is_fetched_and_the_time_of_the_file_set_at_most_so_often(
    server: HookServer, tmp_path: Path
) -> None:
    said: list[str] = []
    signal = signal_of(tmp_path, said, url="$PING", file="alive", every_seconds=1000)
    for _ in range(3):
        signal.give()
    until(lambda: server.received)
    signal.close(finished=False, wait=True)
    assert (server.received, said) == ([("/s3cr3t-path", None)], [])
    assert time.time() - (tmp_path / "alive").stat().st_mtime < 60
    os.utime(tmp_path / "alive", (1, 1))
    again = signal_of(tmp_path, said, file="alive", every_seconds=0.001)
    until(lambda: (tmp_path / "alive").stat().st_mtime > 1, again.give)
    again.give()
    again.close(finished=True)
    assert not (tmp_path / "alive").exists()
    assert said == []


def test_a_plan_without_a_signal_starts_nothing(tmp_path: Path) -> None:
    signal = AliveSignal(make_manifest(tmp_path), print)
    signal.give()
    signal.close(finished=True, wait=True)
    assert list(tmp_path.iterdir()) == []


def test_failures_in_a_row_are_reported_once_and_that_it_works_again(server: HookServer, tmp_path: Path) -> None:
    said: list[str] = []
    server.answer = 503
    signal = signal_of(tmp_path, said, url="$PING", every_seconds=0.001)
    until(lambda: len(server.received) >= 3, signal.give)
    assert [line.partition(" Service")[0] for line in said] == [
        "session p: the signal that its monitor is alive can't be given: 127.0.0.1 answered 503"
    ]
    server.answer = 200
    until(lambda: len(said) == 2, signal.give)
    assert said[1] == "session p: the signal that its monitor is alive is given again"
    signal.close(finished=False, wait=True)


def test_a_file_that_is_removed_says_nothing_of_a_server(server: HookServer, tmp_path: Path) -> None:
    said: list[str] = []
    server.answer = 503
    signal = signal_of(tmp_path, said, url="$PING", file="alive", every_seconds=1000)
    signal.give()
    until(lambda: server.received)
    signal.close(finished=True)
    assert not (tmp_path / "alive").exists()
    assert [line.partition("503")[2].partition(";")[0] for line in said] == [" Service Unavailable"]


@pytest.mark.slow
def test_a_server_that_never_answers_holds_nothing_up(server: HookServer, tmp_path: Path) -> None:
    said: list[str] = []
    server.answer = 0
    signal = signal_of(tmp_path, said, url="$PING", file="alive", every_seconds=0.001)
    until(lambda: server.received, signal.give)
    began = time.monotonic()
    for _ in range(100):
        signal.give()
    assert time.monotonic() - began < 2
    assert (len(server.received), said) == (1, [])
    signal.close(finished=True)
    assert not (tmp_path / "alive").exists()


def test_a_signal_that_never_ends_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        later = False

        def __init__(self, *_: object, **__: object) -> None:
            """Never ends."""

        def poll(self) -> None:
            """See Subprocess."""

        give_up = poll

    said: list[str] = []
    monkeypatch.setattr("oellm_autoexp.engine.alive.Subprocess", Stuck)
    monkeypatch.setattr("oellm_autoexp.engine.alive._TIMEOUT_SECONDS", 0.01)
    signal = signal_of(tmp_path, said, file="alive", every_seconds=0.001)
    until(lambda: said, signal.give)
    signal.close(finished=False)
    assert [line.rpartition("given: ")[2] for line in said] == ["the last one does not end; it is tried every 0.001 s"]


def test_what_goes_wrong_in_the_process_is_said_a_line_each_without_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PING", "ftp://s3cr3t")
    asked = {"url": "$PING", "file": str(tmp_path / "no" / "alive"), "remove": False, "timeout_seconds": 5}
    assert alive.main(io.StringIO(json.dumps(asked))) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{asked['file']}: No such file or directory", "the address must begin with http:// or https://"]


def test_a_signal_that_can_not_even_be_started_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("x")

    said: list[str] = []
    monkeypatch.setattr("oellm_autoexp.engine.alive.Subprocess", fail)
    signal = signal_of(tmp_path, said, file="alive", every_seconds=0.001)
    signal.give()
    signal.give()
    signal.close(finished=True)
    assert len(said) == 1
    assert "RuntimeError" in said[0]


@pytest.mark.parametrize("section", [{"url": "https://host/s3cr3t"}, {"file": ""}, {"every_seconds": 0}, {"x": 1}])
def test_a_section_that_is_wrong_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Alive.model_validate(section)
