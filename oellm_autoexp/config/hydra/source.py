"""Reads the YAML of a config: plain numbers, no traps, every key with its line.

Differences to PyYAML's YAML 1.1, all towards what people mean:
- `1e-4` is a number (YAML 1.1 wants `1.0e-4`); `12:30:00` stays text (YAML 1.1 reads 45000); dates stay text;
- an unquoted scalar that others may have meant as text (`no`, `1e3`, `0x1F`, `True`) is kept as it is written until the
  type of its key is known (see `config.values.written` and `config.declared`);
- a key is text where YAML reads a boolean, null, a fraction, or a whole number in another spelling than the usual one:
  `no:`, `on:` and `0x1F:` are the keys `no`, `on` and `0x1F`;
- digits that begin with 0 stay text, as in Hydra's overrides (YAML 1.1 reads `010` as 8, and `0815` as text);
- a key given twice is an error;
- `${oc.eval:int(50e9 / ${b})}` is accepted unquoted: the expression is quoted here, so that OmegaConf's grammar, which
  knows no operators, takes it as one argument;
- the events of `monitoring` are kept by name, also where they are written as a list, so that a file can add to them;
- inside `sweep`, `\\${x}` and `${x}` are the same: a value of the job, resolved per job; and so are, everywhere,
  `\\${sibling.x}` and `${sibling.x}`.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from oellm_autoexp.config.values.written import all_as_written, as_written, decimal, exact, integer, is_marked
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.limits import DEEPEST, MOST_ALIASED, MOST_BYTES, MOST_DIGITS, shortened
from oellm_autoexp.core.location import in_file
from oellm_autoexp.core.text import printable
from oellm_autoexp.storage.files import refuse_named_pipe

if yaml.__with_libyaml__:
    from yaml import CSafeLoader
    from yaml.composer import Composer
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_INT = re.compile(r"^[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_MERGE = "tag:yaml.org,2002:merge"
_REPLACED_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "value"))


if TYPE_CHECKING or not yaml.__with_libyaml__:
    _SafeLoader = yaml.SafeLoader
else:

    class _SafeLoader(Composer, CSafeLoader):
        """libyaml scans; nodes are composed in Python, where nesting without end is an error and no crash."""

        def __init__(self, stream: str) -> None:
            CSafeLoader.__init__(self, stream)
            Composer.__init__(self)


class _Loader(_SafeLoader):
    """PyYAML's safe loader with the scalar rules of the module's docstring."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._text = stream
        self._around: list[str] = []  # the anchors of the nodes that are being read

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._around:
            problem = f"the alias *{event.anchor} stands inside of what it names"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        self._around.append(anchor)
        node = super().compose_mapping_node(anchor)
        self._around.pop()
        if node.flow_style and node.tag == yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG:
            self._check_values(node)
        node.value = [(self._key(key), value) for key, value in node.value]
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if (key.tag, key.value) in seen:
                    problem = f"the key '{key.value}' is given twice"
                    raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def _check_values(self, node: yaml.MappingNode) -> None:
        """Raise ComposerError for a word in braces that is no entry: YAML reads `{a: 1, 2}` as `{a: 1, 2: null}`."""
        for key, value in node.value:
            begin, end = key.end_mark.index, value.start_mark.index  # begin > end: an alias of what stands before
            empty = isinstance(value, yaml.ScalarNode) and value.value == "" and not value.style
            if empty and begin <= end and ":" not in self._text[begin:end]:
                problem = (
                    f"{shortened(key.value, 60)} stands in braces without a value: an entry is 'key: value', several "
                    "values of one key need brackets ([1, 2]), and a text with braces needs quotes"
                )
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)

    def _key(self, key: yaml.Node) -> yaml.Node:
        """A key, as text if it is one by the module's rules. The node itself is kept: an alias may name it."""
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (*_TEXT_AS_KEYS, _INTEGER):
            return key
        if key.tag == _INTEGER and not is_marked(_construct_int(self, key)):
            return key
        return yaml.ScalarNode(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, key.value, key.start_mark, key.end_mark)

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        self._around.append(anchor)
        node = super().compose_sequence_node(anchor)
        self._around.pop()
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (`<<`): what a mapping holds itself wins, then the first of several that are merged.

        PyYAML 6.0.4 lets what is merged into a merged mapping win over that mapping's own keys.
        """
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag != _MERGE:
                own[_identity(key)] = key, value
                continue
            for source in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    problem = f"expected a mapping to merge, found a {source.id}"
                    raise yaml.constructor.ConstructorError(None, None, problem, source.start_mark)
                self.flatten_mapping(source)
                merged |= {_identity(key): (key, value) for key, value in source.value}
        node.value = list((merged | own).values())


_INTEGER = "tag:yaml.org,2002:int"
_TEXT_AS_KEYS = tuple(f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "float"))


def _check_size(root: yaml.Node) -> None:
    """Raise ComposerError where aliases make a few lines a huge value, and where a value is nested too deeply."""
    known: dict[int, tuple[int, int]] = {}
    own = 0

    def measure(node: yaml.Node) -> tuple[int, int]:
        """How many nodes there are, those behind aliases counted each time, and how many levels."""
        nonlocal own
        if (found := known.get(id(node))) is not None:
            return found
        count, depth = 1, 0
        own += 1
        if isinstance(node, yaml.ScalarNode):
            count = 1 + len(node.value) // 64
            own += count - 1
        else:
            for part in node.value:
                for child in part if isinstance(part, tuple) else (part,):
                    more, below = measure(child)
                    count, depth = count + more, max(depth, below)
            depth += 1
        if depth > DEEPEST:
            problem = f"is nested too deeply: at most {DEEPEST} levels"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        known[id(node)] = count, depth
        return count, depth

    count, _ = measure(root)
    if count - own > MOST_ALIASED:
        problem = f"its aliases (*name) come to {count - own} values, and may come to {MOST_ALIASED}"
        raise yaml.composer.ComposerError(None, None, problem, root.start_mark)


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:yes|no|on|off)$", re.I), list("yYnNoO"))


def _construct_int(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    digits = node.value.replace("_", "").lstrip("+-")
    if len(digits) > MOST_DIGITS:
        problem = f"a number of {len(digits)} digits; write it in quotes if it is text"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return _plain(node, integer(node.value))


def _construct_float(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    return _plain(node, decimal(node.value))


def _construct_bool(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    if node.value.lower() not in yaml.SafeLoader.bool_values:
        raise ValueError(f"{node.value!r} is no boolean")
    return _plain(node, yaml.SafeLoader.bool_values[node.value.lower()])


def _plain(node: yaml.ScalarNode, value: bool | int | float) -> Any:
    """The value of a scalar without quotes, which keeps its spelling where it is another than the program's own."""
    return value if node.style else exact(value, node.value)


_Loader.add_constructor(_INTEGER, _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)


def _refuse(_loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    problem = f"a config can't hold a value of YAML's type !!{kind}; write it as text, a number, a list or a mapping"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _kind in ("binary", "omap", "pairs", "set", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _refuse)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, by the rules of this module. Raises ConfigError with file and line.

    What the type of a key is to settle is marked (`config.values.written`).
    """
    text = text_of(path)
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = in_file(str(path), mark.line + 1 if mark else None)
        what = " ".join(part for part in (error.problem, error.context and f"({error.context})") if part)
        raise ConfigError(Problem(what, where, _yaml_hint(text, mark))) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an explicit tag such as `!!int x`
        raise ConfigError(Problem(str(error), in_file(str(path)))) from None
    except RecursionError:
        raise ConfigError(Problem("is nested too deeply", in_file(str(path)))) from None


class _Dumper(yaml.SafeDumper):
    """Quotes each text that one of the readers of such a file takes for something else: PyYAML, Hydra or this one."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if printable(text) == text else '"'  # escapes are known in these alone
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *_Loader.yaml_implicit_resolvers.get(first, ())]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


_Dumper.add_representer(str, _Dumper.represent_text)


def yaml_text(tree: Any) -> str:
    """A tree as a YAML file that is read back as the same values; no character is left that a terminal obeys."""
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\U{ord(c):08X}" for c in text)


def escaped(tree: Any) -> Any:
    """A resolved tree whose texts with a literal `${` are written so that no interpolation is read in them."""
    if isinstance(tree, dict):
        return {key: escaped(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [escaped(value) for value in tree]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", tree) if isinstance(tree, str) else tree


def text_of(path: Path) -> str:
    try:
        if (bytes_ := path.stat().st_size) > MOST_BYTES:
            what = f"has {bytes_} bytes; a config file has at most {MOST_BYTES}"
            raise ConfigError(Problem(what, in_file(str(path))))
        refuse_named_pipe(path)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(Problem(f"can't read it: {error.strerror}", in_file(str(path)))) from None
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(f"is not UTF-8 text (byte {error.start})", in_file(str(path)))) from None


def _yaml_hint(text: str, mark: yaml.Mark | None) -> str:
    lines = text.splitlines()
    if not mark or mark.line >= len(lines):
        return ""
    line = lines[mark.line]
    if line[: mark.column + 1].strip(" ").startswith("\t"):
        return "YAML is indented by spaces, and this line by a tab"
    line = line.strip()
    return f"the line reads: {line}" if len(line) <= 200 else f"the line begins: {line[:200]}…"


def read_mapping(path: Path) -> dict[Any, Any]:
    """The content of a config file, which is a mapping (an empty file: an empty one). Raises ConfigError."""
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(Problem("must hold keys and values", in_file(str(path)), "a config file is a YAML mapping"))
    if "defaults" in content:  # the names of configs
        content["defaults"] = all_as_written(content["defaults"])
    return content


def key_lines(path: Path) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key of a YAML file, by its path from the file's root; list items by their index."""
    lines: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node, prefix: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in sorted(node.value, key=lambda entry: entry[0].tag != _MERGE):
                if key.tag == _MERGE:  # its keys are written where the anchor is; the mapping's own come later
                    for source in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                        walk(source, prefix)
                    continue
                here = (*prefix, *str(key.value).split("."))
                lines[here] = key.start_mark.line + 1
                walk(value, here)
        elif isinstance(node, yaml.SequenceNode):
            indices = map(str, range(len(node.value)))
            names = distinct(map(_name_of, node.value)) if prefix[-1:] in _NAMED else indices
            for name, value in zip(names, node.value, strict=True):
                here = (*prefix, name)
                lines[here] = value.start_mark.line + 1
                walk(value, here)

    root = yaml.compose(text_of(path), Loader=_Loader)
    if root is not None:
        walk(root, ())
    return lines


_NAMED = {("log_events",), ("state_events",)}
"""Lists of named things, which are kept by name."""


def _name_of(node: yaml.Node) -> str:
    entries = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(value.value) for key, value in entries if key.value == "name"), "")


def by_name(monitoring: Any) -> Any:
    """The `monitoring` section with its lists of events as mappings by name, so that Hydra merges them one by one."""
    if not isinstance(monitoring, dict):
        return monitoring
    found = dict(monitoring)
    for (key,) in _NAMED:
        events = found.get(key)
        if isinstance(events, list) and all(isinstance(event, dict) and event.get("name") for event in events):
            names = distinct(as_written(event["name"]) for event in events)
            found[key] = {name: {**event, "name": name} for name, event in zip(names, events, strict=True)}
    return found


def distinct(names: Iterable[Any]) -> list[Any]:
    """The names of a list, where one that is there already is followed by a number: `a, a` becomes `a, a_2`."""
    found: list[Any] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        found.append(name if name not in found else next(text for text in numbered if text not in found))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Interpolations as people write them


def normalise(tree: Any, *, in_sweep: bool = False) -> Any:
    """`tree` with every interpolation in a form that OmegaConf's grammar accepts (see the module's docstring)."""
    if isinstance(tree, dict):
        return {key: normalise(value, in_sweep=in_sweep) for key, value in tree.items()}
    if isinstance(tree, list):
        return [normalise(value, in_sweep=in_sweep) for value in tree]
    if isinstance(tree, str) and "${" in tree:
        return quote_expressions((_ESCAPED if in_sweep else _ESCAPED_SIBLING).sub("${", tree))
    return tree


_ESCAPED = re.compile(r"\\+\$\{")  # however many backslashes
_ESCAPED_SIBLING = re.compile(r"\\+\$\{(?=sibling\.)")


_EVAL = re.compile(r"\s*oc\.eval\s*:")


def quote_expressions(text: str) -> str:
    """`text` with the argument of each `${oc.eval:…}` quoted, unless it already is; an escaped `\\${` is left alone."""
    return "".join(literal + _interpolation(inside) for literal, inside in _pieces(text))


def _interpolation(inside: str | None) -> str:
    if inside is None:
        return ""
    call = _EVAL.match(inside)
    if call is None:
        return f"${{{quote_expressions(inside)}}}"
    argument = _without_blanks(inside[call.end() :])
    return f"${{oc.eval:{quote_expressions(argument) if _is_quoted(argument) else _quote(argument)}}}"


def _without_blanks(argument: str) -> str:
    """An argument without the blanks around it, but for those at its end that OmegaConf keeps.

    It keeps one that is escaped, and all behind a colon (OmegaConfGrammarLexer.g4: a colon has its blanks with it).
    """
    argument = argument.lstrip()
    kept = argument.rstrip()
    blanks = argument[len(kept) :]
    before = kept.removesuffix(":")
    escaped = (len(before) - len(before.rstrip("\\"))) % 2
    if before == kept:
        return kept + blanks[:escaped]
    return kept if escaped else kept + blanks


def _pieces(text: str, *, unquoted: bool = False) -> Iterator[tuple[str, str | None]]:
    """The literal parts of a text, each with the inside of the interpolation behind it (None: there is none).

    In an `unquoted` argument, outside of its own quotes, no backslash keeps an interpolation from being one.
    """
    begin = position = 0
    while (start := text.find("${", position)) >= 0:
        backslashes = start - len(text[:start].rstrip("\\"))
        end = _closing(text, start + 2)
        escaped = backslashes % 2 and not (unquoted and not _unescaped(text[:start], "")[1])
        if escaped or end < 0:
            position = start + 2
            continue
        yield text[begin:start], text[start + 2 : end]
        begin = position = end + 1
    yield text[begin:], None


def _closing(text: str, index: int) -> int:
    """The index of the brace that closes the interpolation whose inside begins at `index`, or -1."""
    depth, quote = 1, ""
    while 0 <= index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif text.startswith("${", index):
            index = _closing(text, index + 2)
            if index < 0:
                return -1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return index
        index += 1
    return -1


def _is_quoted(argument: str) -> bool:
    """Whether an argument is one quoted text from its first character to its last."""
    if argument[:1] not in ("'", '"'):
        return False
    index = 1
    while index < len(argument):
        if argument[index] == "\\":
            index += 1
        elif argument.startswith("${", index):
            index = _closing(argument, index + 2)
            if index < 0:
                return False
        elif argument[index] == argument[0]:
            return index == len(argument) - 1
        index += 1
    return False


def _quote(argument: str) -> str:
    """An argument without quotes as OmegaConf's quoted text, in which nothing but a quote is escaped."""
    quoted, inside_of = "", ""
    for literal, interpolation in _pieces(argument, unquoted=True):
        plain, inside_of = _unescaped(literal, inside_of)
        quoted += re.sub(r"(\\*)'", r"\1\1\\'", plain)
        if not inside_of or interpolation is None:  # backslashes before an interpolation, or at the end, count half
            quoted += plain[len(plain.rstrip("\\")) :]
        quoted += _interpolation(interpolation)
    return f"'{quoted}'"


_ESCAPES = re.compile(r"\\.|['\"]|[^\\'\"]+|\\", re.DOTALL)
_ESCAPABLE = "\\()[]{}:=, \t"  # OmegaConfGrammarLexer.g4, ESC


def _unescaped(literal: str, quote: str) -> tuple[str, str]:
    """A part of an argument with OmegaConf's escapes resolved, but for those in quotes.

    `quote` is the sign that stands around the beginning of the part; the one around its end is returned, too.
    """
    text = ""
    for token in _ESCAPES.findall(literal):
        if quote:
            quote = "" if token == quote else quote
        elif token in ("'", '"'):
            quote = token
        elif len(token) == 2 and token[0] == "\\" and token[1] in _ESCAPABLE:
            token = token[1]
        text += token
    return text, quote


def shown(file: Path) -> str:
    """A file as a person would name it: from here if it is below, else with its whole path."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)
