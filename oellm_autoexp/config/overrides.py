"""Overrides of a command line: checked, classified, quoted, and as Hydra gets them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Sweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from oellm_autoexp.config.defaults import is_schema_key
from oellm_autoexp.config.hydra import hydra_keys
from oellm_autoexp.config.hydra.config_file import INDEX_HINT, INDEX_IS_SET
from oellm_autoexp.config.hydra.findings import Findings
from oellm_autoexp.config.hydra.hydra_source import WHOLE
from oellm_autoexp.config.unparsable_overrides import taken_apart, unparsed
from oellm_autoexp.config.values.argument_names import spelled
from oellm_autoexp.config.values.grammar import parses
from oellm_autoexp.config.values.interpolation_syntax import normalise
from oellm_autoexp.config.values.shell_variables import of_a_shell
from oellm_autoexp.config.values.written import mark_override
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import DEEPEST, LONGEST_OVERRIDE, shortened
from oellm_autoexp.core.location import KeyPath
from oellm_autoexp.core.text import in_quotes, is_utf8, scalar
from oellm_autoexp.sbatch import shell_code
from oellm_autoexp.sweep.paths import leaf_paths


@dataclass(frozen=True)
class CheckedOverride:
    """One override: as it was written, as Hydra gets it, and the key or config group that it is about."""

    written: str
    checked: str
    key: str
    in_sweep: bool = False
    """Whether it is about what is in the `sweep` section, which Hydra does not know the keys of."""


NO_SWEEP = "sweep=none"


def checked_overrides(
    texts: tuple[str, ...], opened: tuple[str, ...], found: Findings, tree: Mapping[str, Any] | None = None
) -> list[CheckedOverride]:
    """The overrides that parse, with `++` before keys of `opened` sections and of the schema.

    The schema's keys are those of the classes that `tree` names. The problems of others go to `found`.
    """
    checked: list[CheckedOverride] = []
    whole, cut = taken_apart(texts)
    found.add(cut, *(path_of(problem.where.text) for problem in cut))
    for text in whole:
        key = text.partition("=")[0]
        if hydra_keys.is_hydras(key):
            found.notes[hydra_keys.note(key.lstrip("+~"), f"override {text}")] = None
            continue
        try:
            override = checked_override(text, opened, tree)
        except ConfigError as error:
            found.add(error.problems, path_of(text))
            continue
        if override.key == "index":
            found.add([Problem(INDEX_IS_SET, text, INDEX_HINT)])
        else:
            checked.append(override)
    return checked


def path_of(text: str) -> KeyPath:
    """The path in the config that an override is about, as far as one that is wrong shows it."""
    name = text.partition("=")[0].split(" ")[0].lstrip("+~").split("@")[0].replace("/", ".")
    return tuple(re.split(r"[.\[]", name.replace("]", ""))) if name else ("?",)


def for_hydra(overrides: Sequence[CheckedOverride]) -> list[str]:
    """The overrides that Hydra gets: those that are about more than what is in the `sweep` section."""
    return [override.checked for override in overrides if not override.in_sweep]


def compose_with(overrides: Sequence[CheckedOverride]) -> dict[str, Any]:
    """The whole config as plain data. Raises any exception of Hydra's, and ConfigError for unreadable files."""
    config = compose(WHOLE, overrides=for_hydra(overrides))
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))


def check_override_text(text: str) -> None:
    """Raise ConfigError for an override that no parser should see: too long, too deep, or not UTF-8."""
    if len(text) > LONGEST_OVERRIDE:
        what = f"the override has {len(text)} characters; at most {LONGEST_OVERRIDE}"
        raise ConfigError(Problem(what, shortened(text, 60), "write it into a file"))
    if not text.isascii() and not is_utf8(text):
        raise ConfigError(Problem("the override is not UTF-8 text", text.encode(errors="backslashreplace").decode()))
    if not text.isascii() and shell_code.has_marks(text):
        raise ConfigError(Problem("the override contains reserved characters (U+FDD3, U+FDD4)", shortened(text)))
    written, _, value = text.partition("=")
    if written.count(".") >= DEEPEST or _nested(value) > DEEPEST:
        raise ConfigError(Problem(f"it is nested too deeply: at most {DEEPEST} levels", shortened(text, 60)))


def checked_override(text: str, opened: tuple[str, ...], tree: Mapping[str, Any] | None = None) -> CheckedOverride:
    check_override_text(text)
    written, equals, value = text.partition("=")
    plain = _plain_value(f"{spelled(written)}{equals}{value}")
    try:
        override = parsed(plain)
    except (HydraException, ValueError, RecursionError):  # ValueError: a number of thousands of digits
        override = None
    if override is None or "[" in (override.key_or_group or ""):  # indices in brackets: Hydra 1.4's, not 1.3's
        problem = unparsed(text, _is_override)
        raise ConfigError(replace(problem, hint=of_a_shell(value) or problem.hint)) from None
    if not override.key_or_group:
        raise ConfigError(Problem("the override names no key", text, "write key=value"))
    if override.is_sweep_override() or _holds_sweep(override.value()):
        hint = "write a list as key=[1,2] and text as 'key=\"1,2\"'; a sweep belongs in the sweep section"
        raise ConfigError(Problem("the override has several values", text, hint))
    key = override.key_or_group
    if key == "sweep" and (override.is_delete() or override.value() in (None, "none")):
        return CheckedOverride(text, NO_SWEEP, key)
    whole_sweep = key == "sweep" and isinstance(override.value(), dict)  # else one of the group's configs
    if not override.is_delete() and ("." in key or key == "stage" or isinstance(override.value(), dict)):
        plain = mark_override(plain, override.value(), value_of_override)
    if whole_sweep or key.startswith("sweep."):
        return CheckedOverride(text, plain, key, in_sweep=True)
    free = f"{key}.".startswith(opened)
    free = free or ("." in key and not override.is_delete() and is_schema_key(key, tree))
    return CheckedOverride(text, f"++{plain}" if free and not text.startswith(("+", "~")) else plain, key)


def _holds_sweep(value: Any) -> bool:
    """Whether one of Hydra's sweeps (`choice(1,2)`, `range(4)`) is somewhere in a value."""
    inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, Sweep | Glob) or any(map(_holds_sweep, inner))


def _nested(value: str) -> int:
    """How deep brackets are within each other, whatever is quoted."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}()]", value):
        depth = depth + 1 if bracket in "[{(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _is_override(text: str) -> bool:
    try:
        parsed(_plain_value(text))
    except (HydraException, ValueError, RecursionError):
        return False
    return True


def parsed(text: str) -> Override:
    return OverridesParser.create().parse_overrides([text])[0]


def value_of_override(text: str) -> Any:
    """The value of an override, by Hydra's grammar. Raises ValueError if it does not parse."""
    try:
        return parsed(text).value()
    except HydraException as error:
        raise ValueError(str(error)) from None


def keys_of_override(text: str) -> list[str]:
    """The dotted keys that an override sets: those of the leaves where its value is a mapping."""
    key = text.partition("=")[0]
    try:
        value = value_of_override(text)
    except ValueError:  # an interpolation that only OmegaConf's grammar knows
        return [key]
    return [".".join(filter(None, path)) for path, _ in leaf_paths(key, value)] if isinstance(value, dict) else [key]


def _plain_value(text: str) -> str:
    """An override whose value holds interpolations in a form that Hydra and OmegaConf accept."""
    key, equals, written = text.partition("=")
    if "${" not in written:
        return text
    try:
        value = parsed(text).value()
    except (HydraException, ValueError, RecursionError):  # Hydra's grammar has no `(`: then the value is one text
        if written[:1] in ("'", '"'):  # in quotes it has one, so that these are wrong
            return text
        value = written
    plain = normalise(value, in_sweep=key.lstrip("+~").startswith("sweep"))
    spellings = [f"{key}{equals}{_as_hydra(plain, quote)}" for quote in "\"'"]
    if plain == value != written:
        spellings.insert(0, text)
    # Hydra keeps the overrides as they are written in a config of its own, so each must parse as a whole as well.
    return next(filter(parses, spellings), spellings[0])


def as_override(key: str, value: str) -> str:
    """The override that sets a key to exactly this text. Raises ConfigError for one with `${`."""
    if "${" in value:
        raise ConfigError(Problem("no override can name this path: it contains '${'", value))
    return "=".join((key, _as_hydra(value, quote="'")))


def _as_hydra(value: Any, quote: str) -> str:
    """A value in Hydra's grammar, such that it is read as the same value."""
    if isinstance(value, dict):
        entries = (f"{_ESCAPED.sub(_escape, str(key))}:{_as_hydra(item, quote)}" for key, item in value.items())
        return "{" + ",".join(entries) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_as_hydra(item, quote) for item in value) + "]"
    if isinstance(value, str):
        return in_quotes(value, quote)
    return scalar(value)


_ESCAPED = re.compile(r"[\\()\[\]{}:=, \t]")


def _escape(match: re.Match[str]) -> str:
    return f"\\{match.group()}"
