"""Takes secrets out of plain data (as in JSON) and out of the words of a command; puts them back at their places. Pure.

A secret is recognized by its name (a key of a mapping, an option, a variable) or by its own form: `secret_names`,
`redacted_text`. Redacting redacted data changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import compress, count
from operator import is_not, not_
from typing import Any

from oellm_autoexp.core.redacted_text import REDACTED, is_option, redact_text
from oellm_autoexp.core.secret_names import is_numeric_secret, is_secret, is_secret_value, may_be_secret, refers_only

_PLAIN = frozenset({int, float, bool, type(None)})  # few of these values are secret, and most values are of these types


@lru_cache(maxsize=8192)  # most texts of a config are the same in every job
def _redact_value(text: str, name: str) -> str:
    return REDACTED if is_secret_value(name, text) else redact_text(text)


def redact(value: Any, name: str = "", secrets: Sequence[str] = ()) -> Any:
    """A copy of plain data (as in JSON) without secrets, judged by key names and by the look of values.

    Texts in a list are the words of a command, unless the list's own name is that of a secret. `secrets` are texts that
    are secrets wherever they stand.
    """
    cleaned = _redact(value, name)
    return _without_secrets(cleaned, secrets) if secrets else cleaned


def _redact(value: Any, name: str) -> Any:
    kind = type(value)
    if kind is dict:
        return _redact_dict(value, name)
    if kind is str:
        return _redact_value(value, name)
    if kind in _PLAIN:
        return REDACTED if kind is int and is_numeric_secret(name, value) else value
    if not is_secret(name) and all(type(item) is str for item in value):
        return redact_words(tuple(value))
    return [_redact(item, name) for item in value]


def _redact_dict(value: dict[Any, Any], name: str) -> dict[Any, Any]:
    cleaned = value.copy()  # to copy all and change a few is three times as fast as to build a new one
    within = f"{name}." if name and is_secret(name) else ""  # all values below `secrets:` are secrets
    for key in compress(value, map(not_, map(_PLAIN.__contains__, map(type, value.values())))):
        item = value[key]
        inner = f"{within}{key}"
        cleaned[key] = _redact_value(item, inner) if type(item) is str else _redact(item, inner)
    for key in compress(value, map(is_secret, value)):
        if type(value[key]) is int and is_numeric_secret(key, value[key]):
            cleaned[key] = REDACTED
    if "value" in value and type(value.get("name")) is str and is_secret(value["name"]):
        cleaned["value"] = _redact(value["value"], value["name"])  # `{name: HF_TOKEN, value: x}`, as in Kubernetes
    return without_secrets(cleaned, secret_texts(value))


LEAST_KNOWN = 8
"""Characters of a secret that is looked for in other texts; a shorter one may be any word."""


def secret_texts(values: Mapping[Any, Any]) -> list[str]:
    """The texts in a mapping that their keys call secrets, and that are secrets under another key as well."""
    named = [(key, values[key]) for key in compress(values, map(may_be_secret, values))]
    texts = [(key, text) for key, text in named if type(text) is str and len(text) >= LEAST_KNOWN]
    return [text for key, text in texts if is_secret_value(key, text)]


def without_texts(text: str, secrets: Iterable[str]) -> str:
    """A text without these secrets."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def without_secrets(values: dict[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Values by key whose texts, however deep they are, are without these secrets."""
    return {key: _without_secrets(value, secrets) for key, value in values.items()} if secrets else values


def _without_secrets(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return without_secrets(value, secrets)
    if isinstance(value, list):
        return [_without_secrets(item, secrets) for item in value]
    return without_texts(value, secrets) if type(value) is str else value


_NOTHING, _SECRET, _USER, _LOGIN, _SSHPASS, _MYSQL = range(6)
"""What a word says of the words after it: the next one is a secret, is `user:password`, is a secret if it is long, is
`-p` before a secret; or a later word is `-p` with a secret."""
_OF_MYSQL = re.compile(r"(?:.*/)?(?:mysql|mariadb)[\w-]*")
_LONG_OPTION = re.compile(r"--?\w[\w.-]+")
_LONG = re.compile(r"(?=\D*\d)[\w-]{20,}")


@lru_cache(maxsize=65536)  # jobs of a sweep share most of their words
def _redact_word(word: str) -> tuple[str, int]:
    """A word without secrets, and what it says of the next one."""
    name, equals, value = word.partition("=")
    if equals and is_secret_value(name.lstrip("-+"), value):
        return f"{redact_text(name)}={REDACTED}", _NOTHING
    announces = _NOTHING
    if equals and not value and word.startswith("--") and may_be_secret(name.lstrip("-")):
        return word, _SECRET
    if not equals and word.startswith("-"):
        if word in ("-u", "--user", "--proxy-user"):
            announces = _USER
        elif _LONG_OPTION.fullmatch(word) and may_be_secret(word.lstrip("-")):
            return word, _SECRET
    elif word == "login":
        announces = _LOGIN
    elif word.endswith("sshpass"):
        announces = _SSHPASS
    elif _OF_MYSQL.fullmatch(word):
        announces = _MYSQL
    return redact_text(word), announces


def redact_words(words: tuple[str, ...]) -> list[str]:
    """A command line without secrets: also the value after `--api-key` or in `api_key=…`."""
    looked_at = [*map(_redact_word, words)]
    cleaned = [clean for clean, _ in looked_at]
    for number in compress(count(1), [announces for _, announces in looked_at[:-1]]):
        announces, word = looked_at[number - 1][1], words[number]
        if announces == _SECRET:
            if not is_option(word) and is_secret_value(words[number - 1].strip("-="), word or REDACTED):
                cleaned[number] = REDACTED
        elif announces == _LOGIN:
            cleaned[number] = REDACTED if _LONG.fullmatch(word) else cleaned[number]
        elif announces == _MYSQL:
            for at in range(number, len(words)):
                if words[at].startswith("-p") and words[at] != "-p":
                    cleaned[at] = f"-p{REDACTED}"
        elif announces == _USER:
            user, colon, password = word.partition(":")
            if colon and password and not password.isdecimal() and "/" not in user and not refers_only(password):
                cleaned[number] = f"{user}:{REDACTED}"
        elif word.startswith("-p"):
            at = number if len(word) > 2 else number + 1
            if at < len(words):
                cleaned[at] = REDACTED if at > number else f"-p{REDACTED}"
    return cleaned


_Redacted = tuple[dict[str, Any], dict[str, Any], bool]
"""A mapping, that without secrets, and whether what is a secret in it depends on its other keys."""
_NOTHING_YET: _Redacted = ({}, {}, False)


class Redactor:
    """Redacts data that are mostly equal, such as the jobs of a sweep: only values that differ are checked.

    Its arguments and results must not be changed afterwards.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        """`secrets`: as for the function `redact`."""
        self._secrets = secrets
        self._mappings: dict[tuple[str, ...], _Redacted] = {}  # by path
        self._words: tuple[tuple[str, ...], list[str]] = ((), [])
        self._tells_of_all = False
        """Whether one of the last words says something of all words after it."""

    def redact(self, value: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
        """As the function `redact`, of a mapping at `path`."""
        last, cleaned, was_whole = self._mappings.get(path, _NOTHING_YET)
        if last is value:
            return cleaned
        same = [*last] == [*value]
        changed = [*compress(value, map(is_not, value.values(), last.values()))] if same else [*value]
        whole = was_whole
        if not same or any(map(may_be_secret, changed)):
            whole = "value" in value or bool(secret_texts(value))
        if whole or was_whole:
            cleaned = without_secrets(_redact_dict(value, ""), self._secrets)
            self._mappings[path] = value, cleaned, whole
            return cleaned
        cleaned = (cleaned if same else value).copy()
        for key in changed:
            item = value[key]
            if type(item) is dict and not is_secret(key):
                cleaned[key] = self.redact(item, (*path, key))
            else:
                cleaned[key] = redact(item, str(key), self._secrets)
        self._mappings[path] = value, cleaned, whole
        return cleaned

    def words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """As the function `redact_words`."""
        last, cleaned = self._words
        changed = [*compress(count(), map(is_not, words, last))] if len(last) == len(words) else []
        if len(last) != len(words) or any(_OF_MYSQL.fullmatch(words[index]) for index in changed):
            self._tells_of_all = any(map(_OF_MYSQL.fullmatch, words))
            cleaned = redact_words(words)
        elif self._tells_of_all:
            cleaned = redact_words(words)
        else:
            cleaned = cleaned.copy()
            for index in changed:
                before = max(index - 2, 0)  # a word may say something of the next two: check it with its neighbours
                cleaned[index : index + 3] = redact_words(words[before : index + 3])[index - before :]
        self._words = words, cleaned
        return tuple(without_texts(word, self._secrets) for word in cleaned) if self._secrets else tuple(cleaned)


# ---------------------------------------------------------------------------------------------------------------------
# Places: JSON pointers (RFC 6901)


def taken_out(clear: Any, cleaned: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The places (JSON pointers) where `cleaned`, made of `clear` by `redact`, differs, and the values of `clear`."""
    if clear is cleaned:
        return
    if isinstance(clear, Mapping) and isinstance(cleaned, Mapping):
        for key, item in clear.items():
            yield from taken_out(item, cleaned[key], f"{place}/{_escaped(key)}")
    elif isinstance(clear, list | tuple) and isinstance(cleaned, list | tuple):
        for number, (item, other) in enumerate(zip(clear, cleaned, strict=True)):
            yield from taken_out(item, other, f"{place}/{number}")
    elif clear != cleaned:
        yield place, clear


def _escaped(key: object) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def put_back(cleaned: Any, places: Mapping[str, Any]) -> Any:
    """A copy of plain data with values put at their places (see `taken_out`); places that do not exist are skipped."""
    return _put_back(cleaned, {place: item for place, item in places.items() if place.startswith("/")})


def _put_back(cleaned: Any, places: Mapping[str, Any]) -> Any:
    below: dict[str, dict[str, Any]] = {}
    for place, item in places.items():
        if not place:
            return item
        first, slash, rest = place[1:].partition("/")
        below.setdefault(first.replace("~1", "/").replace("~0", "~"), {})[f"{slash}{rest}"] = item
    if isinstance(cleaned, dict):
        return {**cleaned, **{key: _put_back(cleaned[key], items) for key, items in below.items() if key in cleaned}}
    if isinstance(cleaned, list):
        made = cleaned.copy()
        for number, items in below.items():
            if number.isdecimal() and len(number) < 10 and int(number) < len(made):
                made[int(number)] = _put_back(made[int(number)], items)
        return made
    return cleaned
