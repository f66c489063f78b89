"""What templates and conditions may name: the config's values, then the job's, then those of its event."""

from __future__ import annotations

from oellm_autoexp.decisions.template_values import JOB_KEYS, values
from oellm_autoexp.rules.events import Event, event_id, queue_id
from oellm_autoexp.rules.progress import Progress
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.testing.jobs import changed, job_state
from oellm_autoexp.testing.plans import job_spec

SPEC = job_spec(index=3, argv=(), template_values={"backend.lr": 0.1, "name": "shadowed"})
JOB = job_state(name="a", scheduler_id="8", attempt=2, state="crash", exit_code=0, resolved_log_path="/l/8")
EVENT = Event(id="x-1", kind="log", name="x", job="a", attempt=1, job_id="7", log_path="/l/7", at=5.0)


def test_every_key_of_a_job_has_a_value_even_before_anything_has_happened() -> None:
    found = values(SPEC, JobState(name="a"), None, "p")
    assert found.keys() >= JOB_KEYS
    assert None not in [found[key] for key in JOB_KEYS]


def test_the_event_tells_of_the_attempt_that_it_is_of() -> None:
    now, then = values(SPEC, JOB, None, "p"), values(SPEC, JOB, EVENT, "p")
    assert [now[key] for key in ("job_id", "attempt", "log_path", "event_id")] == ["8", 2, "/l/8", ""]
    assert [then[key] for key in ("job_id", "attempt", "log_path", "event_id")] == ["7", 1, "/l/7", "x-1"]
    assert (then["name"], then["stage"], then["index"], then["plan_id"]) == ("a", "", 3, "p")


def test_the_last_wins_the_config_the_job_the_event() -> None:
    event = EVENT.model_copy(update={"metadata": {"backend.lr": "from the log", "line": "l", "exit_code": "x"}})
    found = values(SPEC, JOB, event, "p")
    assert (found["backend.lr"], found["line"], found["exit_code"]) == ("from the log", "l", "x")
    assert values(SPEC, JOB, None, "p")["exit_code"] == 0


def test_progress_is_reported_as_far_as_it_is_known() -> None:
    known = changed(JOB, progress=Progress(iteration=0, loss=None))
    assert [values(SPEC, known, None, "p")[key] for key in ("iteration", "loss")] == [0, ""]


def test_ids_differ_by_each_part_and_are_the_same_for_the_same() -> None:
    parts = [
        ("a", 1, "7", 0),
        ("a", 1, "7", 1),
        ("a", 2, "7", 0),
        ("b", 1, "7", 0),
        ("a", 1, "7#1", 0),
        ("a", 11, "7", 0),
    ]
    assert len({event_id("x", *part) for part in parts}) == len(parts)
    assert event_id("x", "a", 1) == event_id("x", "a", 1) != event_id("y", "a", 1)
    assert event_id("x", "\ud800\x00").startswith("x-")
    made = {queue_id(event, rule, number) for event in "ab" for rule in "xy" for number in (0, 1)}
    assert len(made) == 8
