"""A job's record in the files of a session: its parts, and what an earlier version wrote flat."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oellm_autoexp.session import records
from oellm_autoexp.session.job_state import JobState
from oellm_autoexp.testing.jobs import changed, job_state

FLAT: dict[str, Any] = json.loads((Path(__file__).resolve().parents[1] / "golden" / "job_record_v1.json").read_text())
"""A job's record as version 1 wrote it, with a value of its own in each of its 66 fields."""


def test_a_flat_record_of_an_earlier_version_is_read_whole_and_told_as_before() -> None:
    job = records.job_of(FLAT)
    later: dict[str, Any] = {"series": {"size": 0, "points": {}}, "cause": None, "failures": [], "log_starts": {}}
    later |= {"chain_end": "", "last_link": None, "steps": 0, "left_out": {}, "sick_nodes": {}}
    later |= {"steps_left": 0, "script_lost": False, "by_hand": False}
    found = records.flat(job)
    for restarting in (found["restart"], found["before"]["restart"]):
        assert restarting.pop("max_same_failures") is None
    later["history"] = [{**entry, "rule": ""} for entry in FLAT["history"]]
    assert found == {**FLAT, **later}
    assert records.job_of(json.loads(records.line(job))) == job


def test_the_recorded_job_has_a_value_of_its_own_in_each_field_of_each_part() -> None:
    job, fresh = records.flat(records.job_of(FLAT)), records.flat(JobState(name="b"))
    assert len(FLAT) == 66
    assert {name for name in FLAT if job[name] == fresh[name]} == set()


def test_no_name_is_that_of_two_fields_and_none_that_of_a_part() -> None:
    names = [field.name for field in fields(JobState)] + [name for part in records.parts().values() for name in part]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert records.parts().keys() == {field.name for field in fields(JobState) if is_dataclass(field.default)}


@pytest.mark.parametrize("odd", [{"x": 1}, {"run": {"x": 1}}, {"run": 5, "slow": {}}, {"slow": 3}, {"newest": []}])
def test_a_record_with_what_no_version_wrote_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        records.job_of({"name": "a", **odd})


@pytest.mark.parametrize("odd", ["", "abc", [], [["name", "a"]], None, 5])
def test_what_is_no_record_is_refused(odd: object) -> None:
    with pytest.raises(ValidationError):
        records.job_of(odd)


def test_a_copy_shares_the_parts_that_it_does_not_change() -> None:
    job = records.job_of(FLAT)
    later = changed(job, exit_code=2)
    assert later.answer.exit_code == 2
    assert all(getattr(later, part) is getattr(job, part) for part in records.parts() if part != "answer")


def test_a_field_that_is_misspelt_is_no_field_of_a_job() -> None:
    with pytest.raises(TypeError, match="exit_cod"):
        job_state("a", exit_cod=1)
