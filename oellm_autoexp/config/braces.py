"""What people write for interpolations: `{stage}` and `~` in a place, `{sibling.stable.output_dir}` anywhere. Pure."""

from __future__ import annotations

import re
from typing import Any

_OF_PROJECT = frozenset(
    ("name", "base_output_dir", "output_dir", "log_path", "log_path_current", "monitoring_state_dir")
)
_HOME = re.compile(r"^~(?=/|$)")
_KEY = r"[A-Za-z_][\w-]*(?:\.[\w-]+)*"
_ANY = re.compile(rf"(?<![$\\{{])\{{({_KEY})\}}(?!\}})")
_OF_A_SIBLING = re.compile(rf"(?<![$\\{{])\{{(sibling\.{_KEY})\}}(?!\}})")


def as_interpolations(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """A config, or a sweep, with `${…}` where braces, and `~`, can mean nothing else.

    Names and places of jobs hold no braces, and a sibling is known before anything runs, so that no template is meant.
    """
    if isinstance(tree, dict):
        at = {key: (*path, *str(key).lstrip("+~").split(".")) for key in tree}
        return {key: as_interpolations(value, at[key]) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_interpolations(value, path) for value in tree]
    if not isinstance(tree, str) or ("{" not in tree and "~" not in tree):
        return tree
    of_project = path[-2:-1] == ("project",) and path[-1] in _OF_PROJECT
    if of_project and path[-1] != "name":  # other values are made of these, which no shell and no program expands
        tree = _HOME.sub("${oc.env:HOME}", tree)
    return (_ANY if of_project else _OF_A_SIBLING).sub(r"${\1}", tree)
