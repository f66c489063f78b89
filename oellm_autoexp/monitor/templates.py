"""Templates in the YAML's records: `{key}` in any of their texts, filled by plain look-up. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from oellm_autoexp.text import fill

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
R = TypeVar("R", bound=BaseModel)


def filled(record: R, values: Mapping[str, Any]) -> R:
    """A copy of a record with the templates in its texts filled: word by word, so that no value makes a second word.

    Raises KeyError with the key that `values` lacks.
    """
    return _mapped(record, lambda text: fill(text, values.__getitem__))


def used_keys(record: BaseModel) -> Collection[str]:
    """The keys that the templates of a record name, in order."""
    found: dict[str, None] = {}

    def note(text: str) -> str:
        found.update(dict.fromkeys(keys_of(text)))
        return text

    _mapped(record, note)
    return list(found)


def keys_of(text: str) -> Collection[str]:
    """The keys that one template names, in order."""
    return [match.group(1) for match in _FIELD.finditer(text) if match.group(1) is not None]


def _mapped(record: R, change: Callable[[str], str]) -> R:
    """A record with each of its texts changed, but for those that its class names in `untemplated`."""
    plain = getattr(type(record), "untemplated", frozenset({"class_name"}))
    return record.model_copy(
        update={
            name: _changed(getattr(record, name), change) for name in type(record).model_fields if name not in plain
        }
    )


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, BaseModel):
        return _mapped(value, change)
    if isinstance(value, tuple | list):
        return type(value)(_changed(item, change) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change) for key, item in value.items()}
    return value
