"""Names that are shortened stay distinct."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.view.jobs.names import short_names

WIDTH = 16
NAMES = st.lists(st.text("ab_1", min_size=1, max_size=40), min_size=1, max_size=8, unique=True)


def test_what_names_have_in_common_gives_way_wherever_it_stands() -> None:
    assert short_names(["dense_300M_fineweb_lr0.1", "dense_300M_fineweb_lr0.3"], WIDTH) == [
        "…M_fineweb_lr0.1",
        "…M_fineweb_lr0.3",
    ]
    assert short_names(["lr0.1_dense_300M_fineweb", "lr0.3_dense_300M_fineweb"], WIDTH) == [
        "…1_dense_300M_f…",
        "…3_dense_300M_f…",
    ]


@given(NAMES)
def test_no_two_shortened_names_are_the_same_and_those_that_fit_stay(names: list[str]) -> None:
    short = short_names(names, WIDTH)
    assert len(set(short)) == len(names)
    assert all(len(made) <= WIDTH or made == name for made, name in zip(short, names, strict=True))
    if max(map(len, names)) <= WIDTH:
        assert short == names
