"""Is an action to be carried out now? Every step follows from what the conditions say and how long it has waited."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from oellm_autoexp.decisions.decide import USUAL_WAIT_SECONDS, Step, decide
from oellm_autoexp.rules.conditions import CommandCondition, Condition, FileExistsCondition
from tests.unit.test_conditions import Seen


@dataclass(frozen=True)
class World(Seen):
    """Files that are there, and what any command says."""

    says: bool | None = None

    def answer(self, words: tuple[str, ...], interval_seconds: float) -> bool | None:  # noqa: ARG002
        return self.says

    def writer(self, path: str) -> str:  # noqa: ARG002
        return ""

    def dead_end(self, job: str) -> str:  # noqa: ARG002
        return ""


def path(name: str, *, blocking: bool = False, timeout_seconds: float | None = None) -> Condition:
    return FileExistsCondition(
        class_name="FileExistsCondition", path=name, blocking=blocking, timeout_seconds=timeout_seconds
    )


def command(*, blocking: bool = False, timeout_seconds: float | None = None) -> Condition:
    return CommandCondition(
        class_name="CommandCondition", command=("x", "y z"), blocking=blocking, timeout_seconds=timeout_seconds
    )


THERE, GONE = path("a"), path("b")
BLOCKING = path("b", blocking=True)
BRIEF = path("b", blocking=True, timeout_seconds=60)


@pytest.mark.parametrize(
    ("conditions", "waited", "says", "step"),
    [
        ((), 0, None, Step("go")),
        ((THERE,), 0, None, Step("go")),
        ((GONE,), 0, None, Step("skip", "not fulfilled: FileExists: b")),
        ((THERE, GONE), 0, None, Step("skip", "not fulfilled: FileExists: b")),
        ((BLOCKING,), 0, None, Step("wait", "waits for FileExists: b")),
        ((BLOCKING, GONE), 0, None, Step("skip", "not fulfilled: FileExists: b")),
        ((BLOCKING, BRIEF), 0, None, Step("wait", "waits for FileExists: b, FileExists: b")),
        ((BLOCKING, THERE), 0, None, Step("wait", "waits for FileExists: b")),
        ((BRIEF,), 59.9, None, Step("wait", "waits for FileExists: b")),
        ((BRIEF,), 60, None, Step("skip", "waited 60 s for FileExists: b")),
        ((BLOCKING,), USUAL_WAIT_SECONDS - 1, None, Step("wait", "waits for FileExists: b")),
        ((BLOCKING,), USUAL_WAIT_SECONDS, None, Step("skip", "waited 3600 s for FileExists: b")),
        ((path("a", blocking=True, timeout_seconds=1),), 99, None, Step("go")),
        ((command(),), 0, None, Step("wait", "the result of Command: x 'y z'")),
        ((command(),), 0, True, Step("go")),
        ((command(),), 0, False, Step("skip", "not fulfilled: Command: x 'y z'")),
        ((command(blocking=True),), 0, False, Step("wait", "waits for Command: x 'y z'")),
        (
            (command(blocking=True, timeout_seconds=5),),
            5,
            False,
            Step("skip", "waited 5 s for Command: x 'y z'"),
        ),
        ((command(), GONE), 0, None, Step("skip", "not fulfilled: FileExists: b")),
    ],
)
def test_the_step_follows_from_the_conditions(
    conditions: tuple[Condition, ...], waited: float, says: bool | None, step: Step
) -> None:
    found = decide(conditions, World(paths=("a",), says=says), waited)
    assert found.kind == step.kind
    assert step.reason in found.reason


def test_a_command_that_does_not_answer_is_given_up_after_its_timeout() -> None:
    assert decide((command(blocking=True, timeout_seconds=60),), World(says=None), 1000).kind == "skip"
