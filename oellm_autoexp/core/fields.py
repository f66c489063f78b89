"""The kinds of values that the YAML's typed sections share: words of a command, numbers, texts, flags. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError

from oellm_autoexp.core.text import scalar

Scalar = str | int | float | bool | None


class Section(BaseModel):
    """One section: frozen, and strict about its keys."""

    # defer_build: most processes need few of the sections by themselves, and to build all takes a tenth of their start
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


@dataclass(frozen=True)
class AlsoWritten:
    """What YAML may hold beside the type itself, in JSON Schema, where a BeforeValidator makes the type of it."""

    schema: Mapping[str, Any]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """See pydantic's documentation of annotated types."""
        return {"anyOf": [handler(core), dict(self.schema)]}


class MappingOrList:
    """The same of a mapping by name that may be written as a list, and whose null entries are left out."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """See AlsoWritten."""
        item = {"anyOf": [handler(core)["additionalProperties"], {"type": "null"}]}
        return {"type": ["object", "array"], "additionalProperties": item, "items": item}


def _one_of_text(value: Any) -> Any:
    """A scalar as text; anything else as it is, to be refused."""
    return scalar(value) if isinstance(value, int | float) else value


@lru_cache(maxsize=4096)  # jobs of a sweep share most of their commands
def _split(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def command_words(value: Any) -> Any:
    """A command as words: a list as it is, a string split as a shell would (no shell ever runs it), null as none."""
    if value is None:
        return []
    if not isinstance(value, str):
        return [_one_of_text(word) for word in value] if isinstance(value, list) else value
    try:
        return _split(value)
    except ValueError as error:
        raise PydanticCustomError("words", "can't be split into words: {why}", {"why": str(error).lower()}) from None


def splits(text: str) -> str:
    """A text that splits into words as a shell would do it."""
    command_words(text)
    return text


def _texts(value: Any) -> Any:
    """A mapping to environment values: null entries are left out, and scalars become text."""
    if not isinstance(value, dict):
        return value
    return {key: _one_of_text(item) for key, item in value.items() if item is not None}


def _flag(value: Any) -> Any:
    """One value of a flag, or several."""
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(item, list | dict):
            within = (index,) if isinstance(value, list) else ()
            raise PydanticCustomError("flag", "must be one value or a list of values", {"within": within})
    return value


def directive(value: Any) -> Any:
    """One value of an option of SLURM's commands, or several: as of a flag, but a number keeps the text it is."""
    return _flag(value)


def _number(value: Any) -> Any:
    """A number; pydantic would take true for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "must be a number")
    return value


def listed(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


WORDS_IN_YAML = WithJsonSchema({"type": ["array", "string", "null"], "items": {"type": "string"}})
TEXTS_IN_YAML = WithJsonSchema({"type": ["array", "string"], "items": {"type": "string"}})
"""What YAML may hold where a command, or one text or several, is wanted."""

Words = Annotated[tuple[str, ...], BeforeValidator(command_words), WORDS_IN_YAML]
Environment = Annotated[
    dict[str, str],
    BeforeValidator(_texts),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "null"]}}),
]
Text = Annotated[str, BeforeValidator(_one_of_text)]
Flags = dict[str, Annotated[Scalar | list[Scalar], BeforeValidator(_flag)]]
Directives = dict[str, Annotated[Scalar | list[Scalar], BeforeValidator(directive)]]
Count = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
MOST_SECONDS = 1e9
"""About 31 years: more means "without limit", and system calls do not accept later times."""
Seconds = Annotated[Number, Field(gt=0, le=MOST_SECONDS)]
Pause = Annotated[Number, Field(ge=0, le=MOST_SECONDS)]
"""Seconds; zero is allowed."""
