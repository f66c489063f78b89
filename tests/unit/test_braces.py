"""What braces mean in the places of a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.config.values.braces import as_interpolations, literal


def of(place: str) -> str:
    return str(as_interpolations({"project": {"output_dir": place}})["project"]["output_dir"])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/x/{stage}", "/x/${stage}"),
        ("/x/{{stage}}", "/x/{stage}"),
        ("/x/{{{stage}}}", "/x/{{stage}}"),
        ("/x/${stage}", "/x/${stage}"),
        ("/x/{stage}}", "/x/{stage}}"),
        ("/x/{a b}", "/x/{a b}"),
    ],
)
def test_braces_are_interpolations_and_doubled_ones_are_braces(written: str, meant: str) -> None:
    assert of(written) == meant


@given(st.text(alphabet="{}a.$\\/~,", max_size=12).map("/".__add__))
def test_a_literal_place_is_itself(place: str) -> None:
    assert of(literal(place)) == place
