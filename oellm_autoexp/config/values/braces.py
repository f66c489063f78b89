"""What people write for interpolations: `{stage}` and `~` in a place, `{sibling.stable.output_dir}` anywhere. Pure."""

from __future__ import annotations

import re
from typing import Any

_OF_PROJECT = frozenset(
    ("name", "base_output_dir", "output_dir", "log_path", "log_path_current", "monitoring_state_dir")
)
_HOME = re.compile(r"^~(?=/|$)")
_KEY = r"[A-Za-z_][\w-]*(?:\.[\w-]+)*"
_ANY = re.compile(rf"(?<![$\\{{])(\{{+)({_KEY})(\}}+)(?!\}})")
_OF_A_SIBLING = re.compile(rf"(?<![$\\{{])\{{(sibling\.{_KEY})\}}(?!\}})")


def as_interpolations(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """A config, or a sweep, with `${…}` where braces, and `~`, can mean nothing else.

    Names and places of jobs hold no braces, but for doubled ones, which are braces. A sibling is known before anything
    runs. In both no template is meant.
    """
    if isinstance(tree, dict):
        at = {key: (*path, *str(key).lstrip("+~").split(".")) for key in tree}
        return {key: as_interpolations(value, at[key]) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_interpolations(value, path) for value in tree]
    if not isinstance(tree, str) or ("{" not in tree and "~" not in tree):
        return tree
    of_project = _is_of_project(path)
    if of_project and path[-1] != "name":  # other values are made of these, which no shell and no program expands
        tree = _HOME.sub("${oc.env:HOME}", tree)
    return _ANY.sub(_of_project, tree) if of_project else _OF_A_SIBLING.sub(r"${\1}", tree)


def literal(place: str) -> str:
    """What to write for a place whose braces are its own: as_interpolations() makes `place` of it."""
    return _ANY.sub(lambda found: f"{{{found[0]}}}" if _is_a_pair(found) else found[0], place)


def with_literal_braces(tree: Any, path: tuple[str, ...] = ()) -> Any:
    """What to write for a config whose braces are their own: as_interpolations() makes `tree` of it."""
    if isinstance(tree, dict):
        at = {key: (*path, *str(key).lstrip("+~").split(".")) for key in tree}
        return {key: with_literal_braces(value, at[key]) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_literal_braces(value, path) for value in tree]
    return literal(tree) if isinstance(tree, str) and _is_of_project(path) else tree


def _is_of_project(path: tuple[str, ...]) -> bool:
    return path[-2:-1] == ("project",) and path[-1] in _OF_PROJECT


def _of_project(found: re.Match[str]) -> str:
    """Doubled braces are braces, as in the templates of actions."""
    if not _is_a_pair(found):
        return found[0]
    return "$" + found[0] if len(found[1]) == 1 else found[0][1:-1]


def _is_a_pair(found: re.Match[str]) -> bool:
    return len(found[1]) == len(found[3])
