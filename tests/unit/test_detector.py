"""What a detector makes of logs, silence and states: each thing that is seen makes one event, however it is seen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.decisions.lifecycle import see_status
from oellm_autoexp.rules.events import Event
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.search import patterns
from oellm_autoexp.session import records
from oellm_autoexp.session.job_state import JobState, Restarting
from oellm_autoexp.storage.log_tail import Cursor
from oellm_autoexp.testing.jobs import changed, job_state

JOB = job_state(name="a", state="running", scheduler_id="7", attempt=1, started_at=1000.0, resolved_log_path="/l/7")
LOG = {"class_name": "LogAction", "message": "x"}


def detector(threshold: float | None = None, **rules: Any) -> Detector:
    return Detector(Rules.model_validate(rules), threshold)


def job(**update: Any) -> JobState:
    return changed(JOB, **update)


def see(
    watch: Detector, data: bytes, seen: JobState = JOB, at: int = 0, identity: str = "i"
) -> tuple[JobState, list[Event]]:
    return watch.lines(seen, data, Cursor(identity, at + len(data)), 1000.0)


# ---- the log

TWO_RULES = detector(
    log_events={
        "saved": {
            "pattern": r"saved (?P<path>\S+)",
            "actions": [LOG, LOG],
            "metadata": {"kind": "c"},
            "extract_groups": {"p": "path", "q": "1"},
        },
        "error": {"pattern": "(?i)error", "state": "crash", "actions": [LOG]},
    }
)
LINES = st.lists(
    st.sampled_from(
        [b"saved /x\n", b"saved /x error\n", b"ERROR\r\n", b"noise\r", b"\n", b"\xff saved \xff\n", b"a\x00error\n"]
    ),
    max_size=12,
)


@given(LINES, st.lists(st.integers(0, 12), max_size=4))
def test_each_matching_line_makes_one_event_with_the_same_id_however_the_log_is_cut(
    lines: list[bytes], cuts: list[int]
) -> None:
    whole, events = see(TWO_RULES, b"".join(lines))
    edges = [0, *sorted(min(cut, len(lines)) for cut in cuts), len(lines)]
    pieces = [b"".join(lines[a:b]) for a, b in pairwise(edges)]
    seen, found, offset = JOB, [], 0
    for piece in pieces:
        seen, more = see(TWO_RULES, piece, seen, offset)
        offset += len(piece)
        found += more
    assert [event.id for event in found] == [event.id for event in events]
    assert seen == whole
    assert len({event.id for event in events}) == len(events)
    text = b"".join(lines).decode(errors="replace")
    assert len([event for event in events if event.name == "error"]) == text.lower().count("error")
    assert len(seen.actions.pending) == sum(2 if event.name == "saved" else 1 for event in events)
    assert len({pending.id for pending in seen.actions.pending}) == len(seen.actions.pending)


def test_the_id_of_an_event_tells_its_place_file_attempt_job_and_name_apart() -> None:
    line = b"saved /x\n"
    found = [
        see(TWO_RULES, line),
        see(TWO_RULES, line, at=1),
        see(TWO_RULES, line, identity="j"),
        see(TWO_RULES, line, identity="i#1"),
        see(TWO_RULES, line, job(attempt=2)),
        see(TWO_RULES, line, job(name="b")),
        see(detector(log_events={"other": {"pattern": "saved"}}), line),
    ]
    assert len({events[0].id for _, events in found}) == len(found)
    assert see(TWO_RULES, line, job(resolved_log_path="/moved"))[1][0].id == found[0][1][0].id


def test_an_event_tells_what_the_line_says_and_where_it_is_from() -> None:
    _, [event] = see(TWO_RULES, b"saved /x\n")
    assert event.metadata == {"kind": "c", "path": "/x", "p": "/x", "q": "/x", "line": "saved /x"}
    assert (event.kind, event.job, event.attempt, event.job_id, event.log_path) == ("log", "a", 1, "7", "/l/7")


def test_a_long_line_is_kept_only_in_part() -> None:
    _, [event] = see(TWO_RULES, b"error" + b"x" * 100_000 + b"\n")
    assert len(event.metadata["line"]) == 500


def test_the_first_line_with_a_state_decides_what_a_bad_end_counts_as() -> None:
    watch = detector(log_events={"a": {"pattern": "A", "state": "oom"}, "b": {"pattern": "B", "state": "node_fail"}})
    seen, _ = see(watch, b"x\nB\nA\n")
    seen, _ = see(watch, b"A\n", seen, 6)
    assert (seen.run.verdict, seen.run.error_type) == ("node_fail", "b")
    assert see_status(seen, JobStatus("FAILED", exit_code=1), 5.0).state == "node_fail"
    assert see_status(seen, JobStatus("COMPLETED", exit_code=0), 5.0).state == "success"
    assert see_status(seen, JobStatus("TIMEOUT"), 5.0).state == "timeout"


@pytest.mark.parametrize("state", ["success", "running"])
def test_a_line_of_a_good_state_makes_nothing_good_of_a_bad_end_and_hides_no_later_cause(state: str) -> None:
    rules = {
        "saved": {"pattern": "saved", "state": state, "overrules_success": True},
        "memory": {"pattern": "memory", "state": "oom"},
    }
    watch = detector(log_events=rules)
    seen, _ = see(watch, b"saved\n")
    assert see_status(seen, JobStatus("FAILED", exit_code=1), 1010.0).state == "crash"
    assert see_status(seen, JobStatus("COMPLETED", exit_code=0), 1010.0).state == "success"
    of_an_older_version = job(verdict="success", error_type="saved")
    assert see_status(of_an_older_version, JobStatus("FAILED", exit_code=1), 1010.0).state == "crash"
    seen, _ = see(watch, b"memory\n", seen, 6)
    assert see_status(seen, JobStatus("FAILED", exit_code=1), 1010.0).state == "oom"


def test_a_job_that_is_cancelled_for_a_line_of_success_has_succeeded() -> None:
    watch = detector(log_events={"enough": {"pattern": "enough", "state": "success"}})
    seen, _ = see(watch, b"enough\n")
    assert watch.cause(seen, "enough", {}) == seen.run  # of a job that is to begin anew, or is given up
    ended = changed(seen, run=watch.cause(seen, "enough", {}, for_good=True), cancelled_by="enough", end_asked_at=1.0)
    assert see_status(ended, JobStatus("CANCELLED"), 1010.0).state == "success"


def test_a_line_that_overrules_success_counts_also_with_exit_code_0_and_after_another_one() -> None:
    rules = {"a": {"pattern": "A", "state": "oom"}, "b": {"pattern": "B", "state": "crash", "overrules_success": True}}
    seen, _ = see(detector(log_events=rules), b"A\nB\nA\n")
    assert (seen.run.verdict, seen.run.error_type) == ("crash", "b")
    assert see_status(seen, JobStatus("COMPLETED", exit_code=0), 5.0).state == "crash"


def test_the_termination_string_makes_a_success_of_a_bad_end() -> None:
    watch = detector(termination_string="größe done")
    seen, _ = see(watch, "x größe done y\n".encode())
    assert seen.run.complete
    assert see_status(seen, JobStatus("FAILED", exit_code=1), 5.0).state == "success"
    assert not see(watch, "größe\ndone\n".encode())[0].run.complete


def test_a_stall_that_a_line_tells_of_is_one_at_once() -> None:
    watch = detector(
        log_events={"hang": {"pattern": "watchdog", "state": "stall"}}, state_events={"stall": {"actions": [LOG]}}
    )
    seen, events = see(watch, b"watchdog\nwatchdog\n")
    assert [event.name for event in events] == ["hang", "stall", "hang", "stall"]
    assert events[1].metadata["error_type"] == "hang"
    assert len({event.id for event in events}) == 4
    assert len(seen.actions.pending) == 2


def test_a_pattern_that_is_too_slow_is_reported_in_the_history() -> None:
    watch = detector(log_events={"slow": {"pattern": "((?:a|ab|b|ba)+)+$"}, "r": {"pattern": "error"}})
    seen, events = see(watch, b"ab" * 60 + b"c\nerror\n")
    assert [event.name for event in events] == ["r"]
    assert "slow took too long" in seen.history[-1].message


def test_a_rule_that_is_too_slow_for_one_job_is_switched_off_for_that_job_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.01)
    watch = detector(log_events={"ends": {"pattern": "((?:a|ab|b|ba)+)+$"}})
    line, slow = b"ab" * 60 + b"c\n", job()
    for _ in range(3):
        slow, _ = see(watch, line, slow)
    assert [entry.message.endswith("switched off for this job") for entry in slow.history] == [False, False, True]
    assert slow.run.switched_off == ("ends",)
    assert see(watch, b"ab\n", slow)[1] == []
    other, events = see(watch, b"ab\n")
    assert (len(events), other.run.switched_off) == (1, ())
    assert records.job_of(records.record(slow)).run.switched_off == ("ends",)


def test_a_rule_that_was_too_slow_is_tried_again_in_the_next_run() -> None:
    seen = changed(job(), slow={"ends": 3})
    again = see_status(seen, JobStatus("PENDING"), 5.0)
    assert again.run.switched_off == ()


# ---- silence


def looks(watch: Detector, seen: JobState, *times: float) -> tuple[JobState, list[Event]]:
    """Looks of a monitor that was there when the job did something last."""
    found: list[Event] = []
    did = [
        seen.newest.started_at,
        seen.run.last_activity,
        seen.run.resumed_at,
        *(number.since for number in seen.run.readings.values()),
    ]
    last = max(filter(None, did))
    seen_till = max((still.since for still in seen.logs.still.values()), default=0.0)
    for now in (*([last] if last > seen_till else []), *times):
        seen, events = watch.quiet(seen, now)
        found += events
    return seen, found


STALLS = detector(inactivity_threshold_seconds=60, startup_seconds=300, state_events={"stall": {"actions": [LOG]}})
ACTIVE = job(last_activity=2000.0)


def test_silence_takes_three_looks_and_the_seconds_and_comes_once() -> None:
    seen, events = looks(STALLS, ACTIVE, 2059, 2060, 2061)
    assert events == []
    seen, events = looks(STALLS, seen, 2062)
    assert [(event.name, event.kind, event.metadata["silent_seconds"]) for event in events] == [("stall", "state", 62)]
    assert len(seen.actions.pending) == 1
    assert looks(STALLS, seen, *range(2063, 2100))[1] == []


def test_a_job_whose_script_has_died_with_its_node_has_stalled_at_once() -> None:
    seen = see_status(ACTIVE, JobStatus("RUNNING", nodes="n[1-3]", batch_host="n1"), 2001.0)
    seen = see_status(seen, JobStatus("RUNNING", nodes="n[1,3]", batch_host="n1"), 2002.0)
    assert not seen.answer.script_lost
    assert looks(STALLS, seen, 2003, 2004, 2005)[1] == []
    lost = see_status(seen, JobStatus("RUNNING", nodes="n3", batch_host="n1"), 2006.0)
    assert (lost.state, lost.answer.script_lost) == ("running", True)
    assert see_status(lost, JobStatus("RUNNING", nodes="n3", batch_host="n1"), 2007.0) == lost
    assert [event.name for event in looks(STALLS, lost, 2007, 2008, 2009)[1]] == ["stall"]
    again = see_status(lost, JobStatus("RUNNING", nodes="n[2-4]", batch_host="n2"), 2010.0)
    assert not again.answer.script_lost


def test_a_monitor_that_was_away_for_long_looks_three_times_before_it_judges() -> None:
    seen, events = looks(STALLS, ACTIVE, 9000, 9001)
    assert events == []
    awake = changed(seen, last_activity=9001.5)
    assert looks(STALLS, awake, 9002, 9003, 9004)[1] == []


def test_time_that_nobody_has_watched_is_no_silence() -> None:
    seen, events = looks(STALLS, ACTIVE, 2030)
    for number in range(100):  # the time of day goes on, the session's clock does not
        seen, more = STALLS.quiet(seen, 9000.0 + number, 2030.0)
        events += more
    assert events == []
    for clock in (2060.0, 2061.0, 2062.0):
        seen, more = STALLS.quiet(seen, 9200.0, clock)
        events += more
    assert [(event.name, event.metadata["silent_seconds"]) for event in events] == [("stall", 62)]


@pytest.mark.parametrize("now", [-1e6, 0.0, 1e6])
def test_a_time_of_day_that_is_set_makes_nothing_silent_and_nothing_lively(now: float) -> None:
    seen, events = STALLS.quiet(ACTIVE, 2000.0, 0.0)
    for clock in range(1, 63):
        seen, more = STALLS.quiet(seen, now + clock, float(clock))
        events += more
    assert [event.name for event in events] == ["stall"]


def test_a_session_of_an_older_version_is_watched_from_the_first_look_on() -> None:
    old = records.job_of({**records.flat(job(last_activity=2000.0)), "overdue": {"stall": 2}})
    seen, events = STALLS.quiet(old, 9000.0, 0.0)
    assert (events, seen.logs.still[""].since) == ([], 0.0)


def test_silence_is_watched_for_again_after_a_new_line() -> None:
    first, [event] = looks(STALLS, ACTIVE, 2100, 2101, 2102)
    wrote = changed(first, last_activity=2103.0, cursor=Cursor("i", 99))
    again, events = looks(STALLS, wrote, 2104, 2200, 2201, 2202)
    assert len(events) == 1
    assert events[0].id != event.id
    assert again.actions.events["stall"].count == 2


def test_silence_that_comes_again_after_a_line_in_a_further_file_is_another_event() -> None:
    first, [event] = looks(STALLS, ACTIVE, 2100, 2101, 2102)
    wrote = changed(first, last_activity=2103.0, cursors={"/f": Cursor("f", 5)})
    _, [later] = looks(STALLS, wrote, 2104, 2200, 2201, 2202)
    assert later.id != event.id


def test_until_the_first_line_the_start_up_has_its_own_limit() -> None:
    assert looks(STALLS, JOB, 1100, 1101, 1102, 1299)[1] == []
    assert len(looks(STALLS, JOB, 1300, 1301, 1302)[1]) == 1
    usual = detector(inactivity_threshold_seconds=60)
    assert looks(usual, JOB, 1177, 1178, 1179)[1] == []
    assert len(looks(usual, JOB, 1180, 1181, 1182)[1]) == 1


@pytest.mark.parametrize("state", ["pending", "waiting", "submitting", "crash", "success"])
def test_only_a_job_that_runs_can_be_silent(state: str) -> None:
    assert looks(STALLS, changed(ACTIVE, state=state), 9000, 9001, 9002)[1] == []


def test_the_jobs_own_threshold_goes_before_that_of_the_section() -> None:
    watch = detector(10, inactivity_threshold_seconds=1000)
    assert len(looks(watch, ACTIVE, 2010, 2011, 2012)[1]) == 1


def test_an_undeclared_stall_is_an_event_all_the_same() -> None:
    seen, [event] = looks(detector(inactivity_threshold_seconds=60), ACTIVE, 2100, 2101, 2102)
    assert (event.name, seen.actions.events["stall"].count, seen.actions.pending) == ("stall", 1, ())


def test_a_rule_of_inactivity_has_its_own_limits_and_name() -> None:
    rule = {
        "pattern_type": "inactivity",
        "inactivity_threshold_seconds": 30,
        "startup_seconds": 500,
        "actions": [LOG],
        "metadata": {"k": 1},
    }
    watch = detector(log_events={"quiet": rule})
    _, [event] = looks(watch, ACTIVE, 2030, 2031, 2032)
    assert (event.name, event.kind, event.metadata) == ("quiet", "log", {"k": 1, "silent_seconds": 32})
    assert looks(watch, JOB, 1497, 1498, 1499)[1] == []


def test_a_silent_job_of_a_rule_with_a_state_counts_as_that_when_it_is_ended() -> None:
    rule = {"pattern_type": "inactivity", "inactivity_threshold_seconds": 30, "state": "timeout"}
    seen, _ = looks(detector(log_events={"quiet": rule}), ACTIVE, 2030, 2031, 2032)
    assert (seen.run.verdict, seen.run.error_type) == ("timeout", "quiet")


def test_a_look_at_which_the_scheduler_says_nothing_is_none_of_the_three() -> None:
    seen, events = looks(STALLS, ACTIVE, 2100, 2101)
    seen, more = STALLS.quiet(seen, 2102, known=False)
    assert (events, more, seen.run.overdue) == ([], [], {})
    seen, events = looks(STALLS, seen, 2103, 2104)
    assert events == []
    seen, events = looks(STALLS, seen, 2105)
    assert [event.name for event in events] == ["stall"]
    seen, more = STALLS.quiet(seen, 2106, known=False)
    assert looks(STALLS, seen, 2107, 2108, 2109, 2110)[1] == []  # it has been reported


@pytest.mark.parametrize("word", ["SUSPENDED", "STOPPED"])
def test_a_suspended_job_is_not_silent_and_has_its_whole_time_when_it_goes_on(word: str) -> None:
    seen = see_status(ACTIVE, JobStatus(word), 2010)
    seen, events = looks(STALLS, seen, 2100, 2200, 2300, 2400)
    assert events == []
    seen = see_status(seen, JobStatus("RUNNING"), 2500)
    seen, events = looks(STALLS, seen, 2500, 2510, 2520, 2559)
    assert events == []
    assert len(looks(STALLS, seen, 2560, 2561, 2562)[1]) == 1


# ---- progress

COUNTS = detector(
    log_events={
        "it": {"pattern": r"iteration (\d+)", "pattern_type": "progress", "stall_seconds": 60, "actions": [LOG]}
    }
)


def reads(seen: JobState, number: str, now: float) -> JobState:
    data = f"noise\niteration {number}\n".encode()
    return COUNTS.lines(seen, data, Cursor("i", int(now)), now)[0]


def test_a_counter_that_rises_is_no_event() -> None:
    seen, found = JOB, []
    for step in range(20):
        seen = reads(seen, str(step), 2000 + 50 * step)
        seen, events = looks(COUNTS, seen, 2000 + 50 * step)
        found += events
    assert found == []
    assert seen.run.readings["it"].value == 19


def test_a_log_that_loops_is_no_progress_though_it_grows() -> None:
    seen, found = JOB, []
    for step in range(20):
        seen = reads(seen, str(step % 3), 2000 + 10 * step)
        seen, events = looks(COUNTS, seen, 2000 + 10 * step)
        found += events
    assert [event.metadata["counter"] for event in found] == [2]
    assert len(seen.actions.pending) == 1


def counted(*numbers: int, every: float = 10) -> list[Event]:
    seen, found = JOB, []
    for step, number in enumerate(numbers):
        seen = reads(seen, str(number), 2000 + every * step)
        seen, events = looks(COUNTS, seen, 2000 + every * step)
        found += events
    return found


def test_a_training_that_goes_on_from_a_checkpoint_within_its_job_makes_progress_though_it_has_been_further() -> None:
    assert counted(*range(100), *range(50, 150)) == []
    assert counted(*range(100), *range(50, 80), *range(60, 95), *range(90, 150)) == []


def test_a_training_that_falls_back_to_the_same_checkpoint_again_and_again_does_not() -> None:
    assert [event.metadata["counter"] for event in counted(*range(100), *[*range(50, 70)] * 4)] == [99]
    assert len(counted(*range(100), *[*range(50, 70)] * 2, *range(50, 200))) == 1


def test_a_counter_that_stands_still_after_it_fell_is_reported() -> None:
    assert len(counted(*range(10), *[5] * 20)) == 1


def test_a_suspended_job_makes_no_progress_and_need_not() -> None:
    seen = see_status(reads(JOB, "5", 2000), JobStatus("SUSPENDED"), 2010)
    seen, events = looks(COUNTS, seen, 2100, 2200, 2300)
    seen = see_status(seen, JobStatus("RUNNING"), 2400)
    assert events + looks(COUNTS, seen, 2400, 2410, 2459)[1] == []
    assert len(looks(COUNTS, seen, 2460, 2461, 2462)[1]) == 1


def test_a_counter_that_rises_after_an_event_is_watched_for_again() -> None:
    seen, [first] = looks(COUNTS, reads(JOB, "5", 2000), 2060, 2061, 2062)
    seen, [second] = looks(COUNTS, reads(seen, "6", 2063), 2100, 2123, 2124, 2125)
    assert first.id != second.id


def test_a_counter_that_never_comes_is_reported_after_the_start_up() -> None:
    assert looks(COUNTS, JOB, 1177, 1178, 1179)[1] == []
    _, [event] = looks(COUNTS, JOB, 1180, 1181, 1182)
    assert "counter" not in event.metadata


def test_what_is_not_a_number_is_no_reading() -> None:
    watch = detector(log_events={"it": {"pattern": r"it (\S+)", "pattern_type": "progress", "stall_seconds": 60}})
    assert watch.lines(JOB, b"it 1/2\nit x\n", Cursor("i", 9), 5.0)[0].run.readings == {}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_what_is_not_finite_is_no_reading(number: str) -> None:
    watch = detector(log_events={"it": {"pattern": r"it (\S+)", "pattern_type": "progress", "stall_seconds": 60}})
    assert watch.lines(JOB, f"it {number}\n".encode(), Cursor("i", 9), 5.0)[0].run.readings == {}


def test_the_time_that_a_requeued_job_waits_in_the_queue_is_not_counted_against_its_progress() -> None:
    seen = reads(JOB, "500", 2000)
    again = changed(seen, started_at=20_000.0)  # preempted, and begun again from a checkpoint
    assert looks(COUNTS, again, 20_010, 20_020, 20_030)[1] == []


def test_what_the_log_of_a_run_said_is_not_true_of_the_run_after_slurm_has_requeued_it() -> None:
    rules = {"end": {"pattern": "SIGTERM", "state": "timeout", "overrules_success": True}}
    watch = detector(60, log_events=rules, termination_string="all done")
    seen, _ = see(watch, b"SIGTERM\nall done\n", ACTIVE)
    seen, _ = looks(watch, seen, 2100, 2101, 2102)
    assert (seen.run.verdict, seen.run.complete, seen.run.overdue) == ("timeout", True, {"stall": -1})
    seen = see_status(see_status(seen, JobStatus("PENDING", "BeginTime"), 3000), JobStatus("RUNNING"), 3100)
    assert (seen.run.verdict, seen.run.error_type, seen.run.overrules_success, seen.run.complete) == (
        "",
        "",
        False,
        False,
    )
    assert (seen.run.readings, seen.run.overdue) == ({}, {})
    assert see_status(seen, JobStatus("COMPLETED", exit_code=0), 3200).state == "success"
    assert see_status(seen, JobStatus("FAILED", exit_code=1), 3200).state == "crash"


def test_a_requeued_job_counts_from_where_it_begins() -> None:
    seen = reads(JOB, "500", 2000)
    seen = see_status(see_status(seen, JobStatus("PENDING"), 3000), JobStatus("RUNNING"), 3010)
    seen = reads(seen, "100", 3020)
    assert seen.run.readings["it"].value == 100


# ---- states


STATES = detector(state_events={"crash": {"actions": [LOG], "metadata": {"k": 1}}, "timeout": {}, "running": {}})


def ended(state: str, watch: Detector = STATES, **update: Any) -> tuple[JobState, list[Event]]:
    return watch.state(JOB, job(state=state, **update), 5.0)


@pytest.mark.parametrize(
    ("state", "name"),
    [
        ("crash", "crash"),
        ("node_fail", "crash"),
        ("oom", "crash"),
        ("cancelled", "crash"),
        ("preempted", "crash"),
        ("timeout", "timeout"),
        ("success", None),
        ("pending", None),
    ],
)
def test_a_state_makes_its_event_or_that_of_crash_with_its_error_type(state: str, name: str | None) -> None:
    seen, events = ended(state)
    assert [event.name for event in events] == ([name] if name else [])
    assert [event.metadata.get("error_type") for event in events] == ([state] if name else [])
    assert len(seen.actions.pending) == (name == "crash")


def test_the_most_specific_declared_state_wins() -> None:
    watch = detector(state_events={"crash": {}, "died": {"state": "node_fail"}})
    _, [event] = ended("node_fail", watch, failed_nodes="n7", nodes="n[6-7]")
    assert (event.name, event.metadata["nodes_at_fault"], event.metadata["nodes"]) == ("died", "n7", "n[6-7]")


def test_a_state_event_tells_reason_exit_code_and_what_the_log_said() -> None:
    _, [event] = ended("crash", exit_code=7, reason="NonZeroExitCode", error_type="nccl")
    reported = event.metadata
    assert (reported["exit_code"], reported["reason"], reported["error_type"], reported["k"]) == (
        7,
        "NonZeroExitCode",
        "nccl",
        1,
    )


def test_no_change_is_no_event() -> None:
    assert STATES.state(JOB, JOB, 5.0) == (JOB, [])


def test_what_was_ended_on_purpose_is_no_crash() -> None:
    assert ended("cancelled", cancelled_by="enough")[1] == []
    own = detector(state_events={"cancelled": {}})
    assert len(ended("cancelled", own, cancelled_by="enough")[1]) == 1


def test_a_job_that_we_end_to_begin_it_anew_makes_no_event_unless_it_succeeds() -> None:
    coming = Restarting(attempt=1, cause="c")
    watch = detector(state_events={"crash": {}, "cancelled": {}, "success": {}})
    assert [len(ended(state, watch, restart=coming)[1]) for state in ("cancelled", "crash", "success")] == [0, 0, 1]


def test_each_run_of_a_requeued_job_makes_its_own_event() -> None:
    waits = job(state="pending")
    _, [first] = STATES.state(waits, job(), 5.0)
    _, [second] = STATES.state(waits, job(runs=2), 5.0)
    _, [again] = STATES.state(waits, job(), 50.0)
    assert (first.id == again.id, first.id == second.id) == (True, False)
