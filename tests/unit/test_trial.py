"""A trial of rules finds in a log what a watch would, with the numbers of the lines."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.decisions.trial import Trial, explained, facts, try_rules
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.storage.log_tail import pieces

RULES = Rules.model_validate(
    {
        "inactivity_threshold_seconds": 60,
        "log_events": {
            "saved": {
                "pattern": r"saved (?P<path>\S+)",
                "metadata": {"kind": "checkpoint"},
                "extract_groups": {"checkpoint_path": "path"},
            },
            "oom": {"pattern": "out of memory", "pattern_type": "substring", "state": "oom"},
            "still": {"pattern": r"step (\S+)", "pattern_type": "progress", "stall_seconds": 30},
            "silent": {"pattern_type": "inactivity"},
            "absent": {"pattern": "nowhere"},
        },
    }
)
LOG = b"a\rb\r\nsaved /x\n\nstep 1\nstep nan\nsaved /y\nstep 3\nCUDA out of memory\nsaved /z"


def tried(data: bytes, limit: int = 7, most: int = 2, rules: Rules = RULES) -> Trial:
    return try_rules(rules, pieces(io.BytesIO(data), limit=limit), most)


def test_lines_are_numbered_and_values_are_those_that_templates_see() -> None:
    trial = tried(LOG)
    saved = trial.rules["saved"]
    assert (saved.count, [found.number for found in saved.shown]) == (3, [3, 7])
    assert saved.shown[0].values == {"kind": "checkpoint", "path": "/x", "checkpoint_path": "/x"}
    assert trial.lines == len(LOG.splitlines())


def test_a_rule_that_never_came_and_what_a_log_does_not_show_are_reported() -> None:
    trial = tried(LOG)
    reported = {name: explained(one, RULES) for name, one in trial.rules.items()}
    assert trial.rules["absent"].count == 0
    assert reported["absent"] == reported["saved"] == ""
    assert "silent for 60 s" in reported["silent"]
    assert "not risen for 30 s" in reported["still"]
    assert "1 of the lines hold no number" in reported["still"]
    assert [found.values["counter"] for found in trial.rules["still"].shown] == [1.0, "nan"]


def test_the_state_that_lines_ask_for_is_reported() -> None:
    reported: dict[str, Any] = facts(tried(LOG), RULES)
    assert (reported["state"], reported["state_by"], reported["complete"]) == ("oom", "oom", False)
    assert {rule["name"]: rule["matches"] for rule in reported["rules"]} == {
        "saved": 3,
        "oom": 1,
        "still": 3,
        "silent": 0,
        "absent": 0,
    }


@given(st.lists(st.sampled_from([b"a", b"saved /x", b"\r", b"\n", b"\r\n", b"\x0b", b"\xff"])).map(b"".join), st.data())
def test_a_stream_comes_in_whole_lines_however_it_is_read(log: bytes, drawn: st.DataObject) -> None:
    limit, longest = drawn.draw(st.integers(1, 5)), drawn.draw(st.sampled_from([3, 1000]))
    found = list(pieces(io.BytesIO(log), limit=limit, longest=longest))
    assert b"".join(found) == log
    if longest == 1000:
        assert [line for piece in found for line in piece.splitlines()] == log.splitlines()
    assert all(len(piece) < longest + 2 * limit for piece in found)
