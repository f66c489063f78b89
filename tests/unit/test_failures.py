"""Failed attempts in groups, and what a report has of them."""

from __future__ import annotations

from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.report.rows import row
from oellm_autoexp.report.timeline import spans
from oellm_autoexp.session.job_state import Failure, HistoryEntry, JobState
from oellm_autoexp.testing.jobs import job_state
from oellm_autoexp.testing.plans import job_spec
from oellm_autoexp.view.failures import failed_attempts, group_facts, groups


def cause(text: str, **more: object) -> Cause:
    return Cause(category="code", text=text, fingerprint=f"f-{text}", **more)  # type: ignore[arg-type]


def job(name: str, *texts: str, state: str = "crash", at: float = 5, **more: object) -> JobState:
    """A job whose attempts failed for these reasons; the last one is the present one, if its state is a bad end."""
    earlier = texts[:-1] if state == "crash" else texts
    failures = tuple(Failure(attempt=number, cause=cause(text)) for number, text in enumerate(earlier, 1))
    now = cause(texts[-1], **more) if state == "crash" else None
    return job_state(name, state=state, attempt=len(earlier) + 1, ended_at=at, cause=now, failures=failures)


def test_earlier_attempts_count_also_of_jobs_that_have_succeeded() -> None:
    found = failed_attempts("p", [job("a", "x", "y"), job("b", "x", state="success"), job_state("c", state="running")])
    assert [(each.job, each.attempt, each.cause.text, each.state) for each in found] == [
        ("a", 1, "x", "crash"),
        ("a", 2, "y", "crash"),
        ("b", 1, "x", "success"),
    ]


def test_the_kind_of_failure_of_the_most_jobs_comes_first_then_that_of_the_most_attempts() -> None:
    jobs = [job("a", "x", "x", "x", at=1), job("b", "y", at=2), job("c", "y", at=3), job("d", "z", at=9)]
    found = groups(failed_attempts("p", jobs))
    assert [group.newest.cause.text for group in found] == ["y", "x", "z"]
    assert [(len(group.jobs), len(group.attempts)) for group in found] == [(2, 2), (1, 3), (1, 1)]
    assert found[0].jobs == [("p", "c"), ("p", "b")], "the newest first"


def test_a_group_has_the_nodes_at_fault_of_all_and_the_place_of_the_newest() -> None:
    old = job("a", "x", at=1, blamed_nodes=("n2",), path="/a", offset=3)
    new = job("b", "x", at=2, blamed_nodes=("n1",), path="/b", offset=7, line="RuntimeError: x")
    (found,) = groups(failed_attempts("p", [new, old]))
    told = group_facts(found)
    assert told["blamed_nodes"] == ["n1", "n2"]
    assert (told["log_path"], told["offset"], told["line"]) == ("/b", 7, "RuntimeError: x")
    assert told["states"] == {"crash": 2}


def test_a_job_of_the_same_name_in_two_sessions_is_two_jobs() -> None:
    attempts = [*failed_attempts("p", [job("a", "x")]), *failed_attempts("q", [job("a", "x")])]
    (found,) = groups(attempts)
    assert sorted(found.jobs) == [("p", "a"), ("q", "a")]


def test_a_row_of_results_has_category_and_fingerprint() -> None:
    found = row(job_spec("/"), job("a", "x"), "p")
    assert (found.category, found.fingerprint) == ("code", "f-x")
    assert (row(job_spec("/"), job_state("a", state="success"), "p").category) == ""


def test_the_time_line_has_why_each_attempt_ended() -> None:
    events = ("submitted", "crash", "submitted", "crash")
    history = tuple(HistoryEntry(at=at, event=event) for at, event in enumerate(events))
    failures = (Failure(attempt=1, cause=cause("x")),)
    told = job_state("a", state="crash", attempt=2, cause=cause("y"), failures=failures, history=history)
    ends = [(span.attempt, span.cause) for span in spans(told, 0, 9) if span.state == "crash"]
    assert ends == [(1, "code: x"), (2, "code: y")]
