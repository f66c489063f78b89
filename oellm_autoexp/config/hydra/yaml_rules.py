"""YAML as configs have it: which scalars are numbers and which are text, read and written by the same rules. Pure.

Differences to PyYAML's YAML 1.1, all towards what people mean:
- `1e-4` is a number (YAML 1.1 wants `1.0e-4`); `12:30:00` stays text (YAML 1.1 reads 45000); dates stay text;
- an unquoted scalar that others may have meant as text (`no`, `1e3`, `0x1F`, `True`) is kept as it is written until the
  type of its key is known (see `config.values.written` and `config.declared`);
- a key is text where YAML reads a boolean, null, a fraction, or a whole number in another spelling than the usual one:
  `no:`, `on:` and `0x1F:` are the keys `no`, `on` and `0x1F`;
- digits that begin with 0 stay text, as in Hydra's overrides (YAML 1.1 reads `010` as 8, and `0815` as text);
- a key given twice is an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from oellm_autoexp.config.values.written import decimal, exact, integer, is_marked
from oellm_autoexp.core.limits import DEEPEST, MOST_ALIASED, MOST_DIGITS, shortened
from oellm_autoexp.core.text import printable

if yaml.__with_libyaml__:
    from yaml import CSafeLoader
    from yaml.composer import Composer
if TYPE_CHECKING:
    pass

_INT = re.compile(r"^[-+]?(?:0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
MERGE = "tag:yaml.org,2002:merge"
_REPLACED_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp", "value"))


if TYPE_CHECKING or not yaml.__with_libyaml__:
    _SafeLoader = yaml.SafeLoader
else:

    class _SafeLoader(Composer, CSafeLoader):
        """libyaml scans; nodes are composed in Python, where nesting without end is an error and no crash."""

        def __init__(self, stream: str) -> None:
            CSafeLoader.__init__(self, stream)
            Composer.__init__(self)


class Loader(_SafeLoader):
    """PyYAML's safe loader with the scalar rules of the module's docstring."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._text = stream
        self._open_anchors: list[str] = []  # the anchors of the nodes that are being read

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_size(node)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open_anchors:
            problem = f"the alias *{event.anchor} refers to a value that contains it"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)  # type: ignore[arg-type]
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        self._open_anchors.append(anchor)
        node = super().compose_mapping_node(anchor)
        self._open_anchors.pop()
        if node.flow_style and node.tag == yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG:
            self._check_values(node)
        node.value = [(self._key(key), value) for key, value in node.value]
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
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
                    f"{shortened(key.value, 60)} is in braces without a value: an entry is 'key: value', several "
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
        self._open_anchors.append(anchor)
        node = super().compose_sequence_node(anchor)
        self._open_anchors.pop()
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge keys (`<<`): what a mapping holds itself wins, then the first of several that are merged.

        PyYAML 6.0.4 lets what is merged into a merged mapping win over that mapping's own keys.
        """
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        own: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag != MERGE:
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
        problem = f"its aliases (*name) expand to {count - own} values; at most {MOST_ALIASED} are allowed"
        raise yaml.composer.ComposerError(None, None, problem, root.start_mark)


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:yes|no|on|off)$", re.I), list("yYnNoO"))


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
        raise ValueError(f"{node.value!r} is not a boolean")
    return _plain(node, yaml.SafeLoader.bool_values[node.value.lower()])


def _plain(node: yaml.ScalarNode, value: bool | int | float) -> Any:
    """The value of a scalar without quotes, which keeps its spelling where it is another than the program's own."""
    return value if node.style else exact(value, node.value)


Loader.add_constructor(_INTEGER, _construct_int)
Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)


def _refuse(_loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    problem = f"a config can't hold a value of YAML's type !!{kind}; write it as text, a number, a list or a mapping"
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _kind in ("binary", "omap", "pairs", "set", "timestamp"):
    Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _refuse)


class _Dumper(yaml.SafeDumper):
    """Quotes each text that one of the readers of such a file takes for something else: PyYAML, Hydra or this one."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = None if printable(text) == text else '"'  # escapes are known in these alone
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *Loader.yaml_implicit_resolvers.get(first, ())]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *Loader.yaml_implicit_resolvers}
}


_Dumper.add_representer(str, _Dumper.represent_text)


def yaml_text(tree: Any) -> str:
    """A tree as a YAML file that is read back as the same values; no character is left that a terminal obeys."""
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\U{ord(c):08X}" for c in text)
