"""What a defaults list of Hydra's may hold, in sentences: some mistakes make Hydra fail without a word. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from oellm_autoexp.config.hydra import hydra_keys
from oellm_autoexp.core.text import did_you_mean

_KEYWORDS = ("optional", "override")
_SELF = "_self_"


@dataclass(frozen=True)
class Mistake:
    """What is wrong with an entry (None: with the list), and what would be right."""

    index: int | None
    what: str
    hint: str


def mistakes(defaults: Any) -> list[Mistake]:
    """What Hydra would not take, or fail on, in the value of `defaults`."""
    if not isinstance(defaults, list):
        return [Mistake(None, "defaults must be a list", "begin each entry with '- '")]
    return [*_each(defaults), *_order(defaults), *_twice(defaults)]


def without_hydras(defaults: list[Any]) -> list[tuple[int, Any]]:
    """The entries of a defaults list with their indices, without choices of Hydra's own groups."""

    def is_hydras(entry: Any) -> bool:
        words = str(next(iter(entry), "")).split() if isinstance(entry, dict) else []
        return bool(words) and hydra_keys.is_hydras(words[-1])

    return [(index, entry) for index, entry in enumerate(defaults) if not is_hydras(entry)]


def right_entries(defaults: list[Any]) -> list[tuple[int, Any]]:
    """The entries that Hydra gets, with their indices: without its own groups', those that are wrong, and `_self_`."""
    kept = without_hydras(defaults)
    wrong = {mistake.index for mistake in mistakes([entry for _, entry in kept])}
    return [one for position, one in enumerate(kept) if position not in wrong and not is_self(one[1])]


def is_misspelt_defaults(key: Any) -> bool:
    """Whether a key was most likely meant as `defaults`."""
    return isinstance(key, str) and key != "defaults" and key.lower().strip("_") in _MISSPELT


_MISSPELT = ("defaults", "default", "defualts", "defauls", "defautls", "defalts")


def _each(defaults: list[Any]) -> Iterator[Mistake]:
    for index, entry in enumerate(defaults):
        if isinstance(entry, dict):
            found = _of_choice(entry)
        elif isinstance(entry, str):
            found = _of_config(entry)
        else:
            found = f"an entry can't be {_kind(entry)}", "write '- config', or '- group: choice'"
        if found is not None:
            yield Mistake(index, *found)


def _of_choice(entry: dict[Any, Any]) -> tuple[str, str] | None:
    if len(entry) != 1:
        return f"an entry names one group; this one names {len(entry)}", "begin each group with '- '"
    ((key, value),) = entry.items()
    if not isinstance(key, str):
        return f"the group {key!r} is not text", f"write '{key}' in quotes"
    if key.strip() in _KEYWORDS and isinstance(value, dict) and len(value) == 1:
        ((group, choice),) = value.items()
        return f"'{key}' is not a group", f"write '- {key} {group}: {choice}'"
    items = value if isinstance(value, list) else [value]
    if wrong := [item for item in items if not isinstance(item, str) and (item is not None or isinstance(value, list))]:
        return f"the choice of a group is a config's name, not {_kind(wrong[0])}", f"write '- {key}: \"NAME\"'"
    if isinstance(value, list) and (filled := [item for item in items if "${" in item]):
        return f"{filled[0]} can't be one of several choices", "name the configs, or choose one"
    *keywords, name = key.split() or [""]
    if not name.partition("@")[0].strip("/"):
        return "the name of the group is empty", "write '- group: choice'"
    if unknown := [word for word in keywords if word not in _KEYWORDS]:
        hint = did_you_mean(unknown[0], _KEYWORDS)
        hint = hint if hint.startswith("did") else f"only {' and '.join(_KEYWORDS)} can"
        return f"{unknown[0]!r} is not allowed before a group", hint
    if name.partition("@")[0] == _SELF:
        return f"{_SELF} is not a group", f"write '- {_SELF}'"
    return None


def _of_config(entry: str) -> tuple[str, str] | None:
    word, *rest = entry.split() or [""]
    if not word.partition("@")[0].strip("/"):
        return "an entry can't be empty", "write '- config', or '- group: choice'"
    if is_self(entry) and entry != _SELF:
        return f"{entry!r} is not a config", f"write '- {_SELF}'"
    if re.search(r":\s", entry) and (meant := choice_meant(entry)):  # YAML takes it for a text in quotes only
        what = f"{entry!r} is one text because of its quotes, not a group and its choice"
        return what, f"write it without quotes: {meant.removeprefix('write ').strip(chr(39))}"
    if rest and word in _KEYWORDS:
        hint = choice_meant(entry) or f"write '- {word} GROUP: choice'"
        return f"{entry!r} names a config; '{word}' is for groups only", hint
    if entry.startswith(f"{_SELF}@"):
        return f"{_SELF} can't have a package", f"write '- {_SELF}'"
    return None


def choice_meant(text: str) -> str:
    """What to write for a choice of a group that is written as a config's name (`/backend command`); '' for others."""
    words = re.split(r"[\s:=]+", text.strip())
    keywords = []
    while words and (near := get_close_matches(words[0], _KEYWORDS, n=1, cutoff=0.8)):
        keywords += near
        words.pop(0)
    if keywords and len(words) == 1 and "/" in words[0].strip("/"):
        words = [*words[0].rsplit("/", 1)]
    if len(words) != 2 or not all(words):
        return ""
    return f"write '- {' '.join([*keywords, words[0]])}: {words[1]}'"


def joined(defaults: list[Any]) -> list[Any]:
    """A right defaults list with each group once: several choices of one are a list, where the last of them stood."""
    chosen: dict[str, list[Any]] = {}
    places: dict[str, int] = {}
    for index, entry in enumerate(defaults):
        if isinstance(entry, dict) and "override" not in (key := next(iter(entry))).split()[:-1]:
            choices = entry[key] if isinstance(entry[key], list) else [entry[key]]
            chosen[key] = [*chosen.get(key, []), *choices]
            places[key] = index
    several = {places[key]: {key: choices} for key, choices in chosen.items() if len(choices) > 1}
    once = [
        several.get(index, entry)
        for index, entry in enumerate(defaults)
        if not isinstance(entry, dict) or places.get(next(iter(entry)), index) == index
    ]
    return _inner_last(once)


def _inner_last(defaults: list[Any]) -> list[Any]:
    """A defaults list in which a group within another (`backend/megatron`) stands behind the outer one.

    Before it, the choices of the inner group that the outer one's config makes would be applied over it.
    """
    words = [next(iter(entry)).split() if isinstance(entry, dict) else [""] for entry in defaults]
    groups = ["" if "override" in keywords else group.strip("/") for *keywords, group in words]
    order = list(range(len(defaults)))
    for index, group in enumerate(groups):
        outer = [at for at, other in enumerate(groups) if other and group.startswith(f"{other}/") and at > index]
        if outer:
            order.remove(index)
            order.insert(order.index(outer[-1]) + 1, index)
    return [defaults[index] for index in order]


def self_first(defaults: Any) -> int | None:
    """The index of a `_self_` before groups that are chosen: what the file itself says gives way to these."""
    if not isinstance(defaults, list):
        return None
    index = next((at for at, entry in enumerate(defaults) if entry == _SELF), None)
    behind = (
        [] if index is None else [entry for entry in defaults[index:] if isinstance(entry, dict) and len(entry) == 1]
    )
    return index if any("override" not in str(next(iter(entry))).split() for entry in behind) else None


def is_self(entry: Any) -> bool:
    """Whether an entry means the file itself, however it is written (`/_self_`, `optional _self_`)."""
    return isinstance(entry, str) and bool(re.fullmatch(rf"(.*[/ ])?{_SELF}\s*", entry))


def _order(defaults: list[Any]) -> Iterator[Mistake]:
    overriding = False
    seen_self = False
    for index, entry in enumerate(defaults):
        if is_self(entry):
            if seen_self:
                yield Mistake(index, f"{_SELF} is in the defaults list twice", "keep one")
            seen_self = True
        elif isinstance(entry, dict) and any("override" in str(key).split()[:-1] for key in entry):
            overriding = True
        elif overriding:
            yield Mistake(index, "an entry with 'override' is before this one", "move those with 'override' to the end")


def _twice(defaults: list[Any]) -> Iterator[Mistake]:
    """Groups that are chosen twice where it is not clear which choice counts.

    Of two that override, Hydra would take the first, and the command line the last; null beside another choice would
    be none, or that one.
    """
    overridden: dict[str, Any] = {}
    chosen: dict[str, list[Any]] = {}
    for index, entry in enumerate(defaults):
        if not (isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry)), str)):
            continue
        ((key, choice),) = entry.items()
        *keywords, name = key.split() or [""]
        group, _, package = name.lstrip("/").partition("@")
        if package not in ("", group.replace("/", ".")):
            group = f"{group}@{package}"
        if "override" not in keywords:
            if any((choice is None) != (other is None) for other in chosen.setdefault(group, [])):
                yield Mistake(index, f"'{group}' is chosen beside null in this list", "keep one of the two entries")
            chosen[group].append(choice)
            continue
        if group in overridden:
            what = f"the choice of '{group}' is overridden twice in this list: by {overridden[group]} and by {choice}"
            yield Mistake(index, what, "keep one of the two entries")
        overridden.setdefault(group, choice)


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", type(None): "empty", bool: f"the word {str(value).lower()}"}
    return kinds.get(
        type(value), f"the number {value}" if isinstance(value, int | float) else f"a {type(value).__name__}"
    )
