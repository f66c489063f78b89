"""What the Tab key makes of a line, in real bash, zsh and fish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oellm_autoexp.cli.completion import complete
from oellm_autoexp.cli.completion.command_line import words_of
from oellm_autoexp.nodes.entry import BY_HAND, Entry
from oellm_autoexp.nodes.node_log import NodeLog
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session
from oellm_autoexp.testing.plans import job_spec, manifest
from tests.editor import shells
from tests.editor.shells import Terminal
from tests.unit.test_queue import make_entry

HOSTILE = "hostile $(touch pwned)`touch pwned`;touch pwned #'\""
"""A name that is code to any shell that takes it as it is."""
OF_SESSION = ["monitor", "--session", "plan-1"]
COMPLETED = {
    "vis": ["visualize-plan"],
    "run --config-ref sweeps/multi": ["run", "--config-ref", "sweeps/multi_stage"],
    "run slurm=lo": ["run", "slurm=local"],
    "run +backend.megatron.use_torch_fsdp": ["run", "+backend.megatron.use_torch_fsdp2="],
    "monitor --session=pl": ["monitor", "--session=plan-1"],
    "monitor --session plan-1 --queue-id ": [*OF_SESSION, "--queue-id", "ID"],
    "submit --manifest some": ["submit", "--manifest", "some file.json"],
    "monitor hos": ["monitor", HOSTILE],
    "monitor --session plan-1 --job hos": [*OF_SESSION, "--job", HOSTILE],
}
"""Lines, and their words after the Tab key."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sessions, a queue, a config and a manifest; names of a session and of a job are code to shells."""
    state = tmp_path / "outputs/monitoring_state"
    jobs = [job_spec(tmp_path, name=name) for name in ("lr_1e-3", HOSTILE)]
    session = Session.create(
        manifest(tmp_path, jobs, plan_id="plan-1", monitoring_state_dir=str(state)), tmp_path / "m"
    )
    (state / f"{HOSTILE}.json").write_text("{}")
    Queue(session.path).put(make_entry(tmp_path))
    (tmp_path / "mine/slurm").mkdir(parents=True)
    (tmp_path / "mine/slurm/mine.yaml").touch()
    (tmp_path / "some file.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    shells.need(request.param)
    with shells.terminal(request.param, home) as started:
        yield started


@pytest.mark.slow
def test_a_shell_completes_what_is_typed_and_runs_nothing(terminal: Terminal, home: Path) -> None:
    wanted = {line: ["oellm-autoexp", *words] for line, words in COMPLETED.items()}
    wanted["monitor --session plan-1 --queue-id "][-1] = make_entry(home).id
    assert {line: terminal.words(f"oellm-autoexp {line}") for line in COMPLETED} == wanted
    assert not [*home.rglob("pwned")]


@pytest.mark.slow
def test_fish_is_offered_the_same(home: Path) -> None:
    wanted = {line: words[-1] for line, words in COMPLETED.items()}
    wanted["monitor --session plan-1 --queue-id "] = make_entry(home).id
    found = shells.offered_by_fish([f"oellm-autoexp {line}" for line in COMPLETED], home)
    assert dict(zip(COMPLETED, found, strict=True)) == {line: [word] for line, word in wanted.items()}
    assert not [*home.rglob("pwned")]


def offers(line: str) -> set[str]:
    """What is offered at the end of a line."""
    *before, typed = words_of(line)
    found = complete.offered(before, typed)
    assert found is not None, "files"
    return {each.text for each in found if each.text.startswith(typed)}


def test_words_depend_on_those_before_them(home: Path) -> None:
    assert offers("plan -C mine slurm=min") == {"slurm=mine"}
    assert offers("run backend/megatron=13") == {"backend/megatron=130M"}
    assert offers("run backend.megatron.bf16=") == {"backend.megatron.bf16=true", "backend.megatron.bf16=false"}
    assert offers("monitor --cmd q") == {"queue"}
    assert offers("monitor --session plan-1 --job ") == {"lr_1e-3", HOSTILE}
    assert offers("monitor --session plan-1 --queue-event ") == {"saved"}
    assert offers("monitor --job ") == set()
    assert offers("monitor --cmd try monitoring=megatron_pro") == {"monitoring=megatron_production"}


def test_nodes_that_were_blamed_are_offered(home: Path) -> None:
    log = NodeLog(home / "outputs/monitoring_state")
    log.append(Entry(at=time.time(), kind="blamed", node=node, category=BY_HAND, reason="x") for node in ("n1", "n2"))
    log.append([Entry(at=time.time() + 1, kind="forgiven", node="n1")])
    assert offers("monitor --cmd nod") == {"nodes"}
    assert offers("monitor --cmd nodes --forgive ") == {"n2", "all"}
    assert offers("monitor --cmd nodes --report ") == {"n1", "n2"}


def test_options_are_offered_once_unless_they_may_be_repeated(home: Path) -> None:
    assert offers("run --config-") == {"--config-ref", "--config-dir"}
    assert offers("run --config-ref x -C y --config-") == {"--config-dir"}
    assert offers("run --config-ref=x --config-") == {"--config-dir"}
    assert offers("nonsense --") == set()


def test_keys_are_offered_a_level_at_a_time(home: Path) -> None:
    assert {"backend=", "backend.", "backend/megatron="} <= offers("run back")
    assert {"backend.megatron.", "backend.argv="} <= offers("run backend.")
    assert offers("run ~sta") == {"~stage"}
    assert offers("monitor --cmd restart --override slurm.arr") == {"slurm.array=", "slurm.array_task_limit="}


def test_what_can_not_be_read_offers_nothing(home: Path) -> None:
    assert offers("monitor --session gone --job ") == set()
    assert offers("monitor --session gone --queue-id ") == set()
    assert offers("monitor --monitoring-state-dir /nowhere --session ") == set()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [""]),
        ("a b", ["a", "b"]),
        ("a ", ["a", ""]),
        ("a 'b c", ["a", "b c"]),
        ('a "b c" d\\ ', ["a", "b c", "d "]),
        ("a $(b)", ["a", "$(b)"]),
    ],
)
def test_a_line_is_read_up_to_the_cursor(line: str, words: list[str]) -> None:
    assert words_of(line) == words
