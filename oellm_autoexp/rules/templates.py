"""Templates in the YAML's records: `{key}` in any of their texts, filled by plain look-up. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from oellm_autoexp.core.redacted_text import REDACTED
from oellm_autoexp.core.redaction import secret_texts, without_texts
from oellm_autoexp.core.secret_names import is_secret_value
from oellm_autoexp.core.text import FIELD, fill, scalar

R = TypeVar("R", bound=BaseModel)
Quote = Callable[[str], str]
Fill = Callable[[str, Callable[[str], Any], str], str]
"""Fills one text of a field by a look-up; its third argument is the dotted key below the field."""


def filled(record: R, values: Mapping[str, Any]) -> R:
    """A copy of a record with the templates in its texts filled: word by word, so that no value makes a second word.

    A field for which its class names a way of quoting (`quoted`) gets its values quoted so, one for which it names a
    way of filling (`filled_by`) is filled so, and one that it names in `for_people` gets no value whose key says that
    it is a secret, nor that value under another key. Raises KeyError with the key that `values` lacks.
    """
    secrets = secret_texts(values)

    def change(text: str, way: _Way) -> str:
        return way.fill(text, lambda key: way.of(key, values[key], secrets), way.key)

    return _mapped(record, change)


def used_keys(record: BaseModel) -> Collection[str]:
    """The keys that the templates of a record name, in order."""
    found: dict[str, None] = {}

    def note(text: str, _way: _Way) -> str:
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
    return [match.group(1) for match in FIELD.finditer(text) if match.group(1) is not None]


class _Way(NamedTuple):
    """How values stand in the texts of one field."""

    quote: Quote | None = None
    for_people: bool = False
    fill: Fill = lambda text, look_up, _key: fill(text, look_up)
    key: str = ""

    def below(self, key: str) -> _Way:
        """The same of what is at a key of the field's mapping."""
        return self._replace(key=f"{self.key}.{key}" if self.key else key)

    def of(self, key: str, value: Any, secrets: Sequence[str]) -> Any:
        """A value of this key as it stands there. `secrets`: values that other keys call secrets."""
        if self.for_people and is_secret_value(key, scalar(value)):
            return REDACTED
        if self.for_people and secrets:
            value = without_texts(scalar(value), secrets)
        return value if self.quote is None else self.quote(scalar(value))


_Change = Callable[[str, _Way], str]


def _mapped(record: R, change: _Change) -> R:
    """A record with each of its texts changed, but for those that its class names in `untemplated`."""
    plain = getattr(type(record), "untemplated", frozenset({"class_name"}))
    quoted: Mapping[str, Quote] = getattr(type(record), "quoted", {})
    for_people: Collection[str] = getattr(type(record), "for_people", ())
    filled_by: Mapping[str, Fill] = getattr(type(record), "filled_by", {})

    def way(name: str) -> _Way:
        made = _Way(quoted.get(name), name in for_people)
        return made._replace(fill=filled_by[name]) if name in filled_by else made

    return record.model_copy(
        update={
            name: _changed(getattr(record, name), change, way(name))
            for name in type(record).model_fields
            if name not in plain
        }
    )


def _changed(value: Any, change: _Change, way: _Way) -> Any:
    if isinstance(value, str):
        return change(value, way)
    if isinstance(value, BaseModel):
        return _mapped(value, change)
    if isinstance(value, tuple | list):
        return type(value)(_changed(item, change, way) for item in value)
    if isinstance(value, dict):
        return {key: _changed(item, change, way.below(str(key))) for key, item in value.items()}
    return value
