"""What is promised of conclusions holds on each half of the corpus; rules are written from `seen` alone.

Rules were mended by the kinds of failures that were missed in the others, without their logs.
"""

from __future__ import annotations

import pytest

from tests.causes.corpus import Half
from tests.causes.score import BEGINS, DOCUMENT, documented, results, score

pytestmark = pytest.mark.xdist_group("score")  # each half is concluded once


@pytest.mark.parametrize(
    ("half", "percent"),
    [
        (Half.SEEN, 100),
        (Half.HELD_OUT, 100),
        (Half.FRESH, 100),
        (Half.UNSEEN, 100),
        (Half.LATER, 95),
        (Half.LATEST, 94),
    ],
)
def test_most_categories_are_right(half: Half, percent: int) -> None:
    assert score(half).percent >= percent


@pytest.mark.parametrize("half", Half)
def test_nothing_is_called_broken_hardware_that_is_not(half: Half) -> None:
    assert score(half).wrong_hardware == 0


@pytest.mark.parametrize(
    ("half", "share", "wrong"),
    [
        (Half.SEEN, 1.0, 0),
        (Half.HELD_OUT, 0.96, 0),
        (Half.FRESH, 1.0, 0),
        (Half.UNSEEN, 1.0, 0),
        (Half.LATER, 0.9, 3),
        (Half.LATEST, 0.7, 0),
    ],
)
def test_few_wrong_nodes_are_blamed_and_most_of_the_right_ones_are(half: Half, share: float, wrong: int) -> None:
    found = score(half)
    assert found.wrong_nodes <= wrong
    assert found.right_nodes >= share * found.nodes


@pytest.mark.parametrize(
    ("half", "split"),
    [(Half.SEEN, 0), (Half.HELD_OUT, 0), (Half.FRESH, 0), (Half.UNSEEN, 0), (Half.LATER, 1), (Half.LATEST, 1)],
)
def test_fingerprints_are_equal_for_one_failure_and_differ_for_others(half: Half, split: int) -> None:
    found = score(half)
    assert found.groups >= 3
    assert found.split <= split, "as where ranks are refused different files by the same quota"
    assert found.joined <= 2, "as where a message does not say which file it is about"


def test_the_document_has_the_figures_of_today() -> None:
    text = DOCUMENT.read_text()
    assert BEGINS in text
    assert text == documented(text), "python -m tests.causes.score --write"


def test_every_line_of_a_root_cause_that_was_seen_is_quoted() -> None:
    wrong = [
        each.case.name for each in results(Half.SEEN) if each.right and each.case.expect.line not in each.cause.line
    ]
    assert len(wrong) <= 0.05 * score(Half.SEEN).cases, wrong
