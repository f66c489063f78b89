"""Words and templates: shell words that are always quoted, `{key}` look-ups, and near misses."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from oellm_autoexp.core.limits import MOST_DIGITS

CONTROL = re.compile(r"[\x00-\x1f]")
"""A line break, or another control character."""
_INTERPOLATED = re.compile(r"(\\*)\$\{")
FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
"""What fill() replaces: doubled braces, and a key in braces."""


class Raw:
    """A word that goes into a shell script as it is, such as `"$SLURM_PROCID"`; anything else is quoted."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Raw({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Raw) and other.text == self.text

    def __hash__(self) -> int:
        return hash((Raw, self.text))


def shell(words: Sequence[str | Raw]) -> str:
    """One line of shell that runs exactly these words: `shlex.split(shell(w)) == w` for plain words."""
    return " ".join(map(_in_shell, words))


@lru_cache(maxsize=65536)  # the jobs of a sweep share most of their words
def _in_shell(word: str | Raw) -> str:
    return word.text if isinstance(word, Raw) else shlex.quote(word)


def fill(template: str, values: Callable[[str], Any]) -> str:
    """`template` with each `{key}` replaced by `values(key)`; `{{` and `}}` are literal braces.

    A look-up and nothing more: no attribute access, no format fields. Raises KeyError from `values`.
    """

    def field(match: re.Match[str]) -> str:
        if match.group() in ("{{", "}}"):
            return match.group()[0]
        return scalar(values(match.group(1)))

    return FIELD.sub(field, template)


def doubled_braces(value: Any) -> Any:
    """A value whose texts fill() leaves as they are: each of their braces is doubled."""
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}") if "{" in value or "}" in value else value
    if isinstance(value, list):
        return [doubled_braces(item) for item in value]
    return {key: doubled_braces(item) for key, item in value.items()} if isinstance(value, dict) else value


def escaped(value: Any) -> Any:
    """A value in whose texts OmegaConf reads no interpolation: `\\${x}` for `${x}`."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return _INTERPOLATED.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def in_quotes(text: str, quote: str = "'") -> str:
    """A text in quotes as Hydra's grammar of overrides has it (OverrideLexer.g4): read as the same text."""
    return f"{quote}{within_quotes(text, quote, ends=True)}{quote}"


def within_quotes(text: str, quote: str, *, ends: bool) -> str:
    """A part of what stands in quotes; `ends`: the last one. Only backslashes before a quote need another one."""
    inside = re.sub(rf"(\\*){quote}", rf"\1\1\\{quote}", text)
    return inside + (inside[len(inside.rstrip("\\")) :] if ends else "")


def scalar(value: Any) -> str:
    """A config value as one word: numbers as Python writes them, true/false and null as YAML does."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    return "null" if value is None else str(value)


def number(value: Any) -> str:
    """A swept value as people write it: 2.5e-4 rather than 0.00025."""
    if isinstance(value, float) and value != 0 and abs(value) < 1e-2:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return scalar(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known words, or all of them where they are few, or ''."""
    names = sorted(set(known))
    near = [name for name in difflib.get_close_matches(word, names, n=3, cutoff=0.6) if _likeness(word, name) >= _LIKE]
    best = max((_likeness(word, name) for name in near), default=0.0)
    near = [name for name in near if _likeness(word, name) > best - _AS_LIKE]
    if not near:  # the first parts of a dotted key or of a path may be wrong, or missing
        lasts = difflib.get_close_matches(_last(word), {_last(name) for name in names}, n=1, cutoff=0.8)
        near = [name for name in names if _last(name) in lasts][:3]
    if near:
        return f"did you mean {_either(near)}?"
    return f"known: {', '.join(names)}" if names and len(names) <= 12 else ""


_LIKE, _AS_LIKE = 0.5, 0.2
"""A suggestion needs at least this similarity (0 to 1), and may be at most so much worse than the best one."""


def _likeness(word: str, name: str) -> float:
    """Similarity of two dotted keys after their common beginning; 1 means equal."""
    parts, others = re.split(r"[./]", word), re.split(r"[./]", name)
    while len(parts) > 1 and len(others) > 1 and parts[0] == others[0]:
        parts, others = parts[1:], others[1:]
    return difflib.SequenceMatcher(None, ".".join(parts), ".".join(others)).ratio()


def item_hint(tree: Any, name: str) -> str:
    """A hint for a dotted key that leads beyond the items of a list; '' for one that does not."""
    node, parts = tree, name.split(".")
    for depth, part in enumerate(parts):
        if isinstance(node, list):
            if not (part.isdecimal() and len(part) <= MOST_DIGITS and int(part) < len(node)):
                return f"'{'.'.join(parts[:depth])}' is a list of {plural(len(node), 'item')}; set the whole list"
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return ""


def new_key_hint(near: str, key: str) -> str:
    """A hint for a key that does not exist: a similar key (`did_you_mean`), or how to add a new one."""
    if key.startswith("~"):  # nothing new is meant
        return near
    if variable := re.fullmatch(r"\+*([A-Z][A-Z0-9_]*)(=.*)?", key, re.DOTALL):
        return (
            f"to set a variable for this command, write {variable[1]}=VALUE before it; "
            f"to set it for the jobs, write +slurm.env.{variable[1]}=VALUE"
        )
    new = f"'+{key.lstrip('+')}'"
    return f"{near} ({new} adds a new key)" if near else f"write {new} to add a new key"


def _last(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def _either(words: Sequence[str]) -> str:
    return " or ".join(f"'{word}'" for word in words)


def printable(text: str) -> str:
    """A text in which terminal control characters are replaced; line ends and tabs stay."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: one with bytes of another encoding, as Python keeps them, can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable_json(text: str) -> str:
    """An equal JSON document, in which terminal control characters are written as `\\u001b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else json.dumps(c)[1:-1] for c in text)


def plural(count: int, noun: str) -> str:
    """`1 job`, `3 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested mapping by dotted path; lists and empty mappings are leaves."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            leaves.update(dotted(value, f"{path}."))
        else:
            leaves[path] = value
    return leaves


def plain_name(text: str) -> bool:
    """Whether a text can be a file's name in a folder of ours: not empty, hidden or '..', and no path."""
    return text != "" and text[0] not in ".-" and not any(c == "/" or not c.isprintable() for c in text)


def digest(text: str) -> str:
    """The SHA-256, in hexadecimal, of a file with this text as plans write it."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
