"""What the type of a key makes of an unquoted `no`, `1e3` or `True`: text, a boolean, a number, or an error. Pure.

A key that is declared text keeps the text as it is written; one that is declared a boolean reads yes/no/on/off as YAML
does. Anywhere else (options, environment variables, metadata, axes over these) both readings are somebody's intention:
there an unquoted yes/no/on/off is an error that asks for quotes or for true and false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator

from oellm_autoexp.backends.megatron.arguments import Arguments
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.config.values.written import as_written, is_marked, is_truth, is_word, out_of_range, value_of
from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.fields import Number, Text, Words, directive, listed
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.core.text import scalar
from oellm_autoexp.sbatch.section import LauncherWords
from oellm_autoexp.sweep.expander import ALLOW_DUPLICATES, KINDS
from oellm_autoexp.sweep.paths import plain

Path = tuple[str, ...]


class Declared(Enum):
    """What the type of a key says of an unquoted scalar."""

    TEXT = "text"
    BOOLEAN = "true or false"
    TEXT_OF_OPEN = "text, but whoever wrote yes or no may have meant either"  # environment variables
    DIRECTIVE = "text, or true or false for an option without a value"  # slurm.sbatch, slurm.srun
    OPEN = "anything"
    OTHER = "neither: the schema says what is wrong"


def settle(tree: dict[str, Any], sweep: Any) -> tuple[dict[str, Any], Any, list[Problem]]:
    """A composed config and its sweep with every scalar settled, and the problems, each at its key."""
    settling = _Settling()
    settled = {key: settling.value(value, (key,), CONFIG / key) for key, value in tree.items()}
    return settled, settling.node(sweep, CONFIG / "sweep"), settling.problems


def settle_value(key: str, value: Any) -> tuple[Any, list[Problem]]:
    """The value of one dotted key, as `settle` settles that of a config."""
    settling = _Settling()
    return settling.value(value, _path(key), CONFIG / plain(key)), settling.problems


class _Settling:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def value(self, value: Any, path: Path, where: Location) -> Any:
        """A value whose place in the config is `path`, which was written at `where`."""
        if isinstance(value, dict):
            if path[-1] == "overrides" and path[0] in ("monitoring", "job"):  # of a new attempt: keys of the config
                return {key: self.value(item, _path(key), where / str(key)) for key, item in value.items()}
            return {
                key: self.value(item, (*path, *str(key).split(".")), where / plain(str(key)))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.value(item, (*path, str(index)), where / index) for index, item in enumerate(value)]
        if is_marked(value):
            return self._marked(as_written(value), declared(path), where)
        if path[:2] == _MEGATRON:  # its own table says more
            return value
        if isinstance(value, bool | int | float) and declared(path) is Declared.TEXT:
            return scalar(value)
        if isinstance(value, str) and is_word(value) and declared(path) is Declared.BOOLEAN:  # of the command line
            return value_of(value)
        return value

    def _marked(self, text: str, kind: Declared, where: Location) -> Any:
        if kind is Declared.DIRECTIVE and not is_word(text):
            return value_of(text) if is_truth(text) else text
        if kind in (Declared.TEXT, Declared.OTHER) or (kind is Declared.TEXT_OF_OPEN and not is_word(text)):
            # a number that is out of range is refused as text, too, by whoever wants a number
            return text if kind is not Declared.OTHER or is_word(text) or out_of_range(text) else value_of(text)
        if kind is not Declared.BOOLEAN and is_word(text):
            what = f"unquoted {text} is ambiguous: YAML reads it as true or false"
            meant = scalar(value_of(text))
            self.problems.append(Problem(what, where, f"write '{text}' in quotes if it is text, else {meant}"))
        elif out_of_range(text):
            what = f"{text} is too large for a number"
            self.problems.append(Problem(what, where, f"write '{text}' in quotes if it is text"))
        return value_of(text)

    # ---- the sweep, whose keys are those of the config, below its own

    def node(self, node: Any, where: Location) -> Any:
        """A node of the sweep."""
        if not isinstance(node, dict):
            return self._unknown(node, where)
        return {key: self._entry(key, value, where / plain(str(key))) for key, value in node.items()}

    def _entry(self, key: Any, value: Any, where: Location) -> Any:
        if key == "params" and isinstance(value, dict):
            return {name: self._axis(_path(name), item, where / plain(str(name))) for name, item in value.items()}
        if key == "grids" and isinstance(value, list):
            return [self._entry("params", grid, where / index) for index, grid in enumerate(value)]
        if key in KINDS and isinstance(value, list):
            return [self.node(item, where / index) for index, item in enumerate(value)]
        if key in ("defaults", "base_values"):
            return self.node(value, where)
        if key == ALLOW_DUPLICATES:
            text = as_written(value)
            return value_of(text) if isinstance(text, str) and (is_word(text) or is_truth(text)) else text
        return self._unknown(value, where) if key in ("filter", "type") else self.value(value, _path(key), where)

    def _axis(self, path: Path, values: Any, where: Location) -> Any:
        """The values of a key, one of them for each job."""
        if isinstance(values, dict):
            return {
                key: self._axis((*path, *str(key).split(".")), item, where / str(key)) for key, item in values.items()
            }
        if isinstance(values, list):
            return [self.value(value, path, where / index) for index, value in enumerate(values)]
        return self.value(values, path, where)

    def _unknown(self, value: Any, where: Location) -> Any:
        """What is no value of the config: a filter, a type."""
        return self.value(value, (), where) if is_marked(value) else value


def _path(key: Any) -> Path:
    return tuple(plain(str(key)).split("."))


# ---------------------------------------------------------------------------------------------------------------------
# The type of a key


_MEGATRON = ("backend", "megatron")
_OF_MEGATRON: Mapping[str, Declared] = {"int": Declared.OTHER, "float": Declared.OTHER, "bool": Declared.BOOLEAN}


@lru_cache(maxsize=65536)
def declared(path: Path) -> Declared:
    """What the schema says of the key at a path, of which the indices of lists are parts; `()` is no key of it."""
    if path[:2] == _MEGATRON and len(path) > 2 and path[2] != "aux":
        return _of_megatron(path[2])
    found: list[Any] = [AutoexpConfig] if path else [Any]
    for part in path:
        found = [inner for annotation in found for inner in _below(annotation, part)]
    kinds = {kind for annotation in found for kind in _kinds(annotation)} - {Declared.OTHER}
    if len(kinds) > 1:
        return Declared.OPEN
    return kinds.pop() if kinds else Declared.OTHER


def _of_megatron(dest: str) -> Declared:
    """The same of an argument of Megatron-LM, by its own parser's table, whatever program stands in for it."""
    argument = Arguments.of().dests.get(dest)
    if argument is None:  # misspelt, or of another version
        return Declared.OPEN
    return Declared.BOOLEAN if argument.kind != "store" else _OF_MEGATRON.get(argument.type, Declared.TEXT)


class _OfTheUser:
    """The type of all that is below a mapping whose keys are the user's own."""


class _TextOfTheUser(_OfTheUser):
    """The same where every value is a text."""


class _DirectiveOfTheUser(_OfTheUser):
    """The same where every value is one of an option of SLURM's."""


def _below(annotation: Any, part: str) -> Iterator[Any]:
    """The types of what a type holds under a key or an index."""
    for kind, _ in _members(annotation):
        arguments = get_args(kind)
        if _is_class(kind, _OfTheUser):
            yield kind
        elif kind is Any:
            yield _OfTheUser
        elif _is_class(kind, BaseModel):
            for name, field in kind.model_fields.items():
                if part in (name, field.alias):
                    yield Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        elif get_origin(kind) is dict:
            members = [*_members(arguments[1])]
            values = [inner for inner, _ in members]
            if any(_is_class(inner, BaseModel) for inner in values):
                yield arguments[1]
            elif any(directive in validators for _, validators in members):
                yield _DirectiveOfTheUser
            else:
                yield _TextOfTheUser if values == [str] else _OfTheUser
        elif get_origin(kind) in (tuple, list) and part.isdecimal():
            yield arguments[0]


def _kinds(annotation: Any) -> Iterator[Declared]:
    """What a type says of a scalar, for each of its alternatives."""
    for kind, validators in _members(annotation):
        if _is_class(kind, _TextOfTheUser):
            yield Declared.TEXT_OF_OPEN
        elif _is_class(kind, _DirectiveOfTheUser):
            yield Declared.DIRECTIVE
        elif kind is Any or _is_class(kind, _OfTheUser):
            yield Declared.OPEN
        elif said := [_VALIDATED.get(validator, Declared.OPEN) for validator in validators]:
            yield said[0]
        elif kind is bool:
            yield Declared.BOOLEAN
        elif kind is str or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str)):
            yield Declared.TEXT
        else:
            yield Declared.OTHER


def _validator(annotation: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = next(each.func for each in get_args(annotation) if isinstance(each, BeforeValidator))
    return found


_VALIDATED = {
    _validator(Text): Declared.TEXT,
    _validator(Number): Declared.OTHER,
    _validator(Words): Declared.TEXT_OF_OPEN,  # `launcher_cmd: off` may be meant as none
    _validator(LauncherWords): Declared.TEXT_OF_OPEN,
    listed: Declared.TEXT,
}
"""What a field says that looks at its value before the type does. Any other may make something else of true."""


def _is_class(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _members(annotation: Any, validators: tuple[Callable[..., Any], ...] = ()) -> Iterator[tuple[Any, Any]]:
    """The alternatives of a type but None, each with the functions that look at a value before the type does."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        own = (each.func for each in metadata if isinstance(each, BeforeValidator))
        yield from _members(inner, (*validators, *own))
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _members(each, validators)
    elif annotation is not NoneType:
        yield annotation, validators
