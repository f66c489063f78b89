"""Problems of one kind, which many jobs have, are reported once, and those of others beside them."""

from __future__ import annotations

from oellm_autoexp.core.errors import Collector, Problem, of_each_kind


def many(where: str = "f:1") -> list[Problem]:
    return [Problem(f"'x_{number}' is {number}.5, which is too much", where, f"take {number}") for number in range(7)]


def test_of_problems_with_other_values_at_one_place_the_first_are_reported_and_how_many_more_there_are() -> None:
    other = Problem("is no number", "f:1")
    reported = of_each_kind([*many(), other, *many("f:2")[:2]], 2)
    assert [(problem.what, str(problem.where), problem.hint) for problem in reported] == [
        ("'x_0' is 0.5, which is too much", "f:1", "take 0"),
        ("'x_1' is 1.5, which is too much (and 5 more like this, with other values)", "f:1", "take 1"),
        ("is no number", "f:1", ""),
        ("'x_0' is 0.5, which is too much", "f:2", "take 0"),
        ("'x_1' is 1.5, which is too much", "f:2", "take 1"),
    ]


def test_a_hint_that_is_right_for_one_of_the_jobs_says_so_and_one_for_all_does_not() -> None:
    jobs = [Problem(f"{size} is too much", "f:1", f"take {size - 1}", job=index) for index, size in enumerate((5, 7))]
    reported = [problem.hint for problem in of_each_kind(jobs, 2)]
    assert reported == ["for job 0, for example: take 4", "for job 1, for example: take 6"]
    same = [Problem(f"{size} is too much", "f:1", "take 4", job=index) for index, size in enumerate((5, 7))]
    assert [problem.hint for problem in of_each_kind(same, 2)] == ["take 4", "take 4"]
    assert [problem.hint for problem in of_each_kind(jobs[:1], 2)] == ["take 4"]


def test_a_collector_counts_kinds_beside_problems() -> None:
    found = Collector()
    found.add([*many(), Problem("is no number", "f:1")])
    assert (len(found), found.kinds) == (8, 2)


def test_a_file_whose_name_holds_line_ends_is_reported_in_one_line() -> None:
    assert str(Problem("no session", "a\nerror: b.json")) == "a\\nerror: b.json: no session"
