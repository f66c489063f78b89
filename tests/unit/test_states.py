"""One table says which states there are, and all that reads states knows them."""

from __future__ import annotations

import pytest

from oellm_autoexp.core.nouns import JobStatus
from oellm_autoexp.core.states import ENDED, FINAL, MEANING, OURS, STOPPED, SUCCEEDED
from oellm_autoexp.rules.conditions import SlurmStateCondition
from oellm_autoexp.schedulers.base import understood


@pytest.mark.parametrize("word", [*MEANING, *OURS])
def test_a_condition_can_name_each_state(word: str) -> None:
    condition = SlurmStateCondition(class_name="SlurmStateCondition", job_name="a", state=(word,))
    assert condition.state == (word,)


@pytest.mark.parametrize("word", MEANING)
def test_each_word_of_slurms_is_understood_and_means_one_of_ours(word: str) -> None:
    assert understood(JobStatus(word)).scheduler_state == word
    assert MEANING[word] in OURS
    assert (MEANING[word] in FINAL) == (word in ENDED)


def test_only_completed_is_a_success_and_a_job_that_stands_still_has_not_ended() -> None:
    assert {"COMPLETED"} == SUCCEEDED
    assert not STOPPED & ENDED
