"""Names of rules that come with the program, which a config may switch off."""

from __future__ import annotations

from functools import cache

from oellm_autoexp.rules.rules import SHIPPED_CAUSES
from oellm_autoexp.storage.files import parsed_yaml, shipped_text


@cache
def cause_names() -> frozenset[str]:
    """The names of the shipped rules of causes. Raises OSError."""
    return frozenset(parsed_yaml(shipped_text(SHIPPED_CAUSES))["causes"])
