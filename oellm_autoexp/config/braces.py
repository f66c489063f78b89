"""Braces that people write for interpolations: `{stage}` in a name, `{sibling.stable.output_dir}` anywhere. Pure."""

from __future__ import annotations

import re
from typing import Any

_NAME = ("project", "name")
_KEY = r"[A-Za-z_][\w-]*(?:\.[\w-]+)*"
_ANY = re.compile(rf"(?<![$\\{{])\{{({_KEY})\}}(?!\}})")
_OF_A_SIBLING = re.compile(rf"(?<![$\\{{])\{{(sibling\.{_KEY})\}}(?!\}})")


def as_interpolations(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """A config, or a sweep, with `${…}` where braces can mean nothing else.

    Names of jobs hold no braces, and a sibling is known before anything runs, so that no template is meant.
    """
    if isinstance(tree, dict):
        at = {key: (*path, *str(key).lstrip("+~").split(".")) for key in tree}
        return {key: as_interpolations(value, at[key]) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_interpolations(value, path) for value in tree]
    if not isinstance(tree, str) or "{" not in tree:
        return tree
    return (_ANY if path[-2:] == _NAME else _OF_A_SIBLING).sub(r"${\1}", tree)
