"""Templates in the YAML's records: `{key}` in any of their texts, filled by plain look-up. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from oellm_autoexp.core.text import fill, scalar

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
R = TypeVar("R", bound=BaseModel)
Quote = Callable[[str], str]


def filled(record: R, values: Mapping[str, Any]) -> R:
    """A copy of a record with the templates in its texts filled: word by word, so that no value makes a second word.

    A field for which its class names a way of quoting (`quoted`) gets its values quoted so. Raises KeyError with the
    key that `values` lacks.
    """

    def change(text: str, quote: Quote | None) -> str:
        return fill(text, values.__getitem__ if quote is None else lambda key: quote(scalar(values[key])))

    return _mapped(record, change)


def used_keys(record: BaseModel) -> Collection[str]:
    """The keys that the templates of a record name, in order."""
    found: dict[str, None] = {}

    def note(text: str, _quote: Quote | None) -> str:
        found.update(dict.fromkeys(keys_of(text)))
        return text

    _mapped(record, note)
    return list(found)


def looked_up_keys(record: BaseModel) -> Iterator[str]:
    """The keys that stand in a record as they are, in those of its fields that its class names in `looked_up`."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        if name in getattr(type(record), "looked_up", ()):
            yield value
        for inner in value if isinstance(value, tuple | list) else (value,):
            if isinstance(inner, BaseModel):
                yield from looked_up_keys(inner)


def keys_of(text: str) -> Collection[str]:
    """The keys that one template names, in order."""
    return [match.group(1) for match in _FIELD.finditer(text) if match.group(1) is not None]


_Change = Callable[[str, Quote | None], str]


def _mapped(record: R, change: _Change) -> R:
    """A record with each of its texts changed, but for those that its class names in `untemplated`."""
    plain = getattr(type(record), "untemplated", frozenset({"class_name"}))
    quoted: Mapping[str, Quote] = getattr(type(record), "quoted", {})
    return record.model_copy(
        update={
            name: _changed(getattr(record, name), change, quoted.get(name))
            for name in type(record).model_fields
            if name not in plain
        }
    )


def _changed(value: Any, change: _Change, quote: Quote | None) -> Any:
    if isinstance(value, str):
        return change(value, quote)
    if isinstance(value, BaseModel):
        return _mapped(value, change)
    if isinstance(value, tuple | list):
        return type(value)(_changed(item, change, quote) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change, quote) for key, item in value.items()}
    return value
