"""Evaluates the interpolations of a tree of plain data, in OmegaConf's language. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from oellm_autoexp.config.values.compiled import AbsentError, Path, Reference, compiled, compiled_template
from oellm_autoexp.config.values.resolvers import Resolver, counted
from oellm_autoexp.config.values.shell_variables import of_a_shell
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem
from oellm_autoexp.core.limits import (
    DEEPEST,
    LONGEST_TEXT,
    MOST_CHARACTERS,
    MOST_DIGITS,
    MOST_VALUES,
    shortened,
    size,
)
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.text import did_you_mean, dotted, doubled_braces

SiblingValues = Callable[[Path], Any]
"""Answers `sibling.STAGE.FIELD…` by the path after `sibling`."""
MISSING = "???"

_ABSENT: Any = object()


def where(path: Path) -> Location:
    """The location `$.a.b[0]` for the path ('a', 'b', '0')."""
    return Location(tuple(int(part) if part.isdecimal() and len(part) <= MOST_DIGITS else part for part in path))


def all_paths(tree: Mapping[str, Any]) -> Iterable[str]:
    """Every dotted path of a tree, those of its containers too."""
    for path in dotted(tree):
        parts = path.split(".")
        for count in range(1, len(parts) + 1):
            yield ".".join(parts[:count])


def is_live(text: str) -> bool:
    """Whether a text is more than itself."""
    return "${" in text or text == MISSING


def is_container(value: Any) -> bool:
    """Whether a value holds others."""
    return isinstance(value, dict | list)


LiveKeys = Mapping[int, Collection[Any]]
"""Of containers, by `id`: which of their keys or indices may have something to evaluate."""


def plain_indices(path: Path) -> Path:
    """A path with its numbers as a list knows them: `00` as `0`."""
    return tuple(str(int(part)) if part.isdecimal() and len(part) <= MOST_DIGITS else part for part in path)


class Resolution:
    """The evaluation of one job's tree: each leaf at most once, cycles found, every failure kept."""

    def __init__(
        self,
        tree: dict[str, Any],
        live: Sequence[LiveKeys],
        resolvers: Mapping[str, Resolver],
        siblings: SiblingValues | None = None,
        done: dict[Path, Any] | None = None,
        templates: Collection[Path] = (),
    ) -> None:
        """`live` knows containers, any other is looked through; `done` are values that are known, and is kept up.

        `templates` are the paths, of two parts each, of values that are filled as templates afterwards.
        """
        self._tree = tree
        self._live = live
        self._resolvers = resolvers
        self._siblings = siblings
        self._done = {} if done is None else done
        self._templates = templates
        self._failed: dict[Path, ConfigError] = {}
        self._characters = self._values = 0  # what interpolations have come to so far
        self._exhausted: ConfigError | None = None  # that was more than is allowed
        self._active: dict[Path, None] = {}  # the leaves that are being evaluated
        self._followed: dict[Path, None] = {}  # those that are only followed to a part of what they refer to

    def everything(self) -> dict[str, Any]:
        """The whole tree, evaluated. Raises ConfigError with every failure."""
        resolved, failed = self.mostly()
        if failed:
            raise ConfigError(*dict.fromkeys(problem for error in failed.values() for problem in error.problems))
        return resolved

    def mostly(self) -> tuple[dict[str, Any], dict[Path, ConfigError]]:
        """The whole tree, evaluated but for the leaves that can't be, and these by their paths."""
        failed: dict[Path, ConfigError] = {}
        resolved = self._container(self._tree, (), failed)
        return cast("dict[str, Any]", dict(resolved) if resolved is self._tree else resolved), failed

    def text(self, text: str) -> Any:
        """The value of a text at the top level."""
        try:
            return compiled(text)(self, ("",)) if "${" in text else text
        except RecursionError:
            raise ConfigError(Problem(f"the interpolation {shortened(text)} refers through too many others")) from None

    def at(self, target: Path) -> Any:
        """The value at a path. Raises ConfigError if it can't be evaluated, and AbsentError if there is none."""
        if target[:1] == ("sibling",) and self._siblings is not None and len(target) > 1:
            return self._siblings(target[1:])
        node: Any = self._tree
        try:
            for part in target:  # the usual case, mappings all the way
                node = node[part]
        except (KeyError, TypeError):
            return self._at_carefully(target)
        return self._value(node, target)

    def _at_carefully(self, target: Path) -> Any:
        """As `at`, also through lists and through what other interpolations yield."""
        node: Any = self._tree
        for depth, part in enumerate(target):
            if isinstance(node, str) and "${" in node:
                return self._beyond(node, target[:depth], target[depth:])
            node = _child(node, part)
        return self._value(node, target)

    def _beyond(self, text: str, path: Path, rest: Path) -> Any:
        """What is at `rest` inside of what the interpolation at `path` yields."""
        program = compiled(text)
        if not isinstance(program, Reference):
            node = self._leaf(text, path)
            for part in rest:
                node = _child(node, part)
            return node
        self._enter(self._followed, path)  # only what is asked for is evaluated: the rest of it may refer to us
        try:
            return self.at((*program.target(path), *rest))
        finally:
            del self._followed[path]

    def _value(self, node: Any, path: Path) -> Any:
        if isinstance(node, str):
            return self._leaf(node, path) if is_live(node) else node
        return self._container(node, path) if isinstance(node, dict | list) else node

    def _container(self, node: Any, path: Path, failed: dict[Path, ConfigError] | None = None) -> Any:
        """A container evaluated, or itself if nothing is to be evaluated; what fails is raised or put in `failed`."""
        live = self._live_keys(node)
        if not live:
            return node
        evaluated = node.copy()
        for key in live:
            value, here = node[key], (*path, str(key))
            if failed is not None and isinstance(value, dict | list):
                evaluated[key] = self._container(value, here, failed)
                continue
            whole = failed is not None and here[:2] in self._templates and isinstance(value, str)
            try:
                evaluated[key] = self._template(value, here) if whole else self._value(value, here)
            except ConfigError as error:
                if failed is None:
                    raise
                failed[here] = error
        return evaluated

    def _live_keys(self, node: Any) -> Collection[Any]:
        for known in self._live:
            if (keys := known.get(id(node))) is not None:
                return keys
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [key for key, value in items if (is_live(value) if isinstance(value, str) else is_container(value))]

    def _leaf(self, text: str, path: Path) -> Any:
        if path in self._done:
            return self._done[path]
        if path in self._failed:
            raise self._failed[path]
        if self._exhausted is not None:
            raise self._exhausted
        self._enter(self._active, path)
        try:
            if text == MISSING:
                raise ConfigError(Problem("a value is required here", hint=f"set {'.'.join(path)}=…"))
            value = compiled(text)(self, path)
            self._check_size(value)
            self._done[path] = value
        except ConfigError as error:
            problems = (replace(p, where=p.where or where(path)) for p in error.problems)
            self._failed[path] = ConfigError(*problems)
            if self._characters > MOST_CHARACTERS or self._values > MOST_VALUES:
                self._exhausted = self._exhausted or self._failed[path]
            raise self._failed[path] from None
        except RecursionError:
            self._failed[path] = ConfigError(Problem("refers through too many other values", where(path)))
            raise self._failed[path] from None
        finally:
            del self._active[path]
        return value

    def is_template(self, path: Path) -> bool:
        """Whether the value at a path is filled as a template afterwards."""
        return path[:2] in self._templates

    def template(self, path: Path) -> Any:
        """The value at a path as it is filled afterwards: of what interpolations yield there, braces are doubled.

        Raises as `at`.
        """
        node: Any = self._tree
        for part in path:
            node = _child(node, part)
        return self._template(node, path) if isinstance(node, str) and is_live(node) else self._value(node, path)

    def _template(self, text: str, path: Path) -> Any:
        value = self._leaf(text, path)  # which finds what is wrong
        return value if doubled_braces(value) == value else compiled_template(text)(self, path)

    def spend(self, characters: int) -> None:
        """Count the characters of a text that was made. Raises ConfigError where they are too many."""
        self._characters += characters
        if self._characters > MOST_CHARACTERS:
            what = f"the texts that interpolations produce are too long: at most {MOST_CHARACTERS} characters in all"
            raise ConfigError(Problem(what))

    def as_text(self, value: Any) -> str:
        """A value within a text. Raises ConfigError for one that is too large."""
        if isinstance(value, dict | list):
            self._check_size(value)
        return value if isinstance(value, str) else str(value)

    def _check_size(self, value: Any) -> None:
        """Count what an interpolation has come to. Raises ConfigError where that is too much, or too deep."""
        if not isinstance(value, dict | list):
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise ConfigError(Problem(f"its text is too long: at most {LONGEST_TEXT} characters"))
            return
        count, depth = size(value)
        self._values += count
        if depth > DEEPEST:
            raise ConfigError(Problem(f"its value is nested too deeply: at most {DEEPEST} levels"))
        if self._values > MOST_VALUES:
            raise ConfigError(
                Problem(f"the values that interpolations refer to are too large: at most {MOST_VALUES} values in all")
            )

    def _enter(self, under_way: dict[Path, None], path: Path) -> None:
        """Note that a leaf is under way. Raises ConfigError if it already is."""
        if path in under_way:
            steps = list(under_way)
            loop = " → ".join(str(where(step)) for step in (*steps[steps.index(path) :], path))
            raise ConfigError(Problem(f"values refer to each other in a circle: {loop}", where(path)))
        under_way[path] = None

    def absent(self, key: str, target: Path) -> Problem:
        """The problem of an interpolation that refers to nothing."""
        name = ".".join(target)
        near = did_you_mean(name, all_paths(self._tree))
        hint = near if near.startswith("did you mean") else of_a_shell(f"${{{key}}}") or near
        return Problem(f"${{{key}}} refers to '{name}', which does not exist", hint=hint, about=where(target))

    def call(self, name: str, arguments: Sequence[Any], path: Path) -> Any:
        """The value of a resolver. Raises ConfigError."""
        about_tree = _ABOUT_THE_TREE.get(name)
        resolver = self._resolvers.get(name)
        if about_tree is None and resolver is None:
            known = (*self._resolvers, *_ABOUT_THE_TREE)
            hint = of_a_shell(f"${{{name}:{arguments[0] if arguments else ''}") or did_you_mean(name, known)
            raise ConfigError(Problem(f"there is no resolver '{name}'", hint=hint))
        try:
            value = about_tree(self, path, *arguments) if about_tree else cast("Resolver", resolver)(*arguments)
            if (
                isinstance(value, float)
                and math.isinf(value)
                and not any("inf" in str(each).lower() for each in arguments)
            ):
                raise OverflowError("the number is too large for floating-point arithmetic")
            return value
        except AutoexpError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, OSError, MemoryError) as error:
            raise ConfigError(Problem(f"${{{name}:…}} fails: {error}")) from None


def _child(node: Any, part: str) -> Any:
    """A mapping's value or a list's item. Raises AbsentError."""
    if isinstance(node, dict):
        child = node.get(part, _ABSENT)
    elif isinstance(node, list) and part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(node):
        child = node[int(part)]
    else:
        child = _ABSENT
    if child is _ABSENT:
        raise AbsentError
    return child


class Observed(Resolution):
    """An evaluation that notes, of each leaf with an interpolation, the paths that its value was read from.

    What it reads through other leaves counts as read by itself, too.
    """

    def __init__(self, tree: dict[str, Any], live: Sequence[LiveKeys], resolvers: Mapping[str, Resolver]) -> None:
        self.done: dict[Path, Any] = {}
        self.reads: dict[Path, set[Path]] = {}
        super().__init__(tree, live, resolvers, done=self.done)

    def at(self, target: Path) -> Any:
        self._note(target)
        return super().at(target)

    def _beyond(self, text: str, path: Path, rest: Path) -> Any:
        self._note(path)
        return super()._beyond(text, path, rest)

    def _note(self, path: Path) -> None:
        for leaf in self._active:
            self.reads[leaf].update((path, plain_indices(path)))

    def _leaf(self, text: str, path: Path) -> Any:
        reads = self.reads.setdefault(path, {path})
        try:
            return super()._leaf(text, path)
        finally:
            for leaf in self._active:
                self.reads[leaf] |= reads


def _select(resolution: Resolution, path: Path, key: Any, default: Any = None) -> Any:
    """OmegaConf's `oc.select`: the value at a key, or the default where there is none."""
    try:
        return resolution.at(_reference("oc.select", key).target(path))
    except AbsentError:
        return default


def _deprecated(resolution: Resolution, path: Path, key: Any, message: Any = None) -> Any:  # noqa: ARG001
    """OmegaConf's `oc.deprecated`: the value at the key that has replaced this one."""
    return _reference("oc.deprecated", key)(resolution, path)


def _keys(resolution: Resolution, path: Path, key: Any) -> list[Any]:
    return [*_mapping("oc.dict.keys", resolution, path, key)]


def _values(resolution: Resolution, path: Path, key: Any) -> list[Any]:
    return [*_mapping("oc.dict.values", resolution, path, key).values()]


def _mapping(resolver: str, resolution: Resolution, path: Path, key: Any) -> dict[Any, Any]:
    """A mapping, or the one at a key. Raises ConfigError."""
    if isinstance(key, dict):
        return key
    value = _reference(resolver, key, "a mapping or the key of one")(resolution, path)
    if not isinstance(value, dict):
        raise ConfigError(Problem(f"{resolver} needs a mapping; '{key}' is none"))
    return value


def _reference(resolver: str, key: Any, needs: str = "the key of a value") -> Reference:
    """What a resolver's argument refers to. Raises ConfigError if that is no key: `model.lr`, or a number in a list."""
    if not isinstance(key, str | int) or isinstance(key, bool):
        hint = f"write the key itself: ${{{resolver}:a.b}}, without ${{…}} around it"
        raise ConfigError(Problem(f"{resolver} needs {needs}, not {shortened(key)}", hint=hint))
    return Reference(str(key))


_ABOUT_THE_TREE: Mapping[str, Callable[..., Any]] = {
    name: counted(name, function, own=2)
    for name, function in {
        "oc.select": _select,
        "oc.deprecated": _deprecated,
        "oc.dict.keys": _keys,
        "oc.dict.values": _values,
    }.items()
}
"""OmegaConf's resolvers that look up other values of the config."""
