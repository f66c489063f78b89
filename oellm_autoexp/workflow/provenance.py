"""Where a plan came from: time, command line, git state and environment, with secrets taken out."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import compress, count
from operator import is_not, not_
from pathlib import Path
from typing import Any

REDACTED = "***"
_SECRET_NAME = re.compile(
    r"(^|[_\-.])(api|access|auth|secret|private|ssh|encryption)?_?"
    r"(key|keys|token|tokens|secret|secrets|passwd|password|passphrase|pass|pwd|credential|credentials|cookie|auth|"
    r"authorization|apikey|session_id|dsn|webhook|webhook_url)($|[_\-.])|(_pat|_psk)$",
    re.IGNORECASE,
)
_HARMLESS_NAME = re.compile(
    r"^(PWD|OLDPWD|SSH_AUTH_SOCK|key|keys)$|(^|[_-])(pwd[_-]dir|num[_-]key|key[_-](head|layer|size|dim)|token[_-]count|tokenizer|"
    r"(pad|bos|eod|eos|special|max|num|speculative|prefix|middle|suffix|per|generated)[_-]tokens?|"
    r"token[_-](dispatcher|drop)|tokens[_-](per|to)|num[_-]\w+[_-](key|token)s?)([_-]|$)",
    re.I,
)
"""Names of sizes and choices of a model: its keys are no keys, and its tokens no tokens."""
_AMOUNT = r"\s*[\d_]+(?:\.\d*)?(?:[eE][-+]?\d+)?[kKMGBT]?\s*"
_AMOUNTS = re.compile(rf"{_AMOUNT}|\[{_AMOUNT}(?:,{_AMOUNT})*\]")
_COUNTED = re.compile(r"(^|[_\-.])((tokens|keys)($|[_\-.])|(token|key)[_\-])", re.IGNORECASE)
"""What there can be an amount of: `train_tokens: 10B` tells no secret."""
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_ASSIGNED = re.compile(r"""([A-Za-z_][\w.\-]*)(\s*[:=]\s*)(\[[^\]]*\]|"[^"]*"|'[^']*'|[^,\]}\s]+)""")
_URL_PASSWORD = re.compile(r"(\b\w+://[^\s:/@]*):[^\s/@]+@")
_INTERPOLATION = re.compile(  # the innermost ones of another value, of a variable, or that compute with others (\0)
    r"\$\{(?:[A-Za-z_.][\w.]*|oc\.env:\w+|oc\.\w+:"
    r"(?:[\0\s\d.,+*/%()'\"\\-]|(?<=\d)e|\b(?:int|float|round|min|max|abs|sqrt|ceil|floor)\b)*)\}"
)
_PLAIN = frozenset({int, float, bool, type(None)})  # nothing to hide in these, and most values are
_DIFF_LIMIT_BYTES = 4 << 20
_GIT_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Circumstances:
    """What planning takes from the world around it; gathered once, so that planning itself is pure."""

    now: datetime
    work_dir: Path
    python: str
    environment: Mapping[str, str]
    command_line: tuple[str, ...]
    user: str
    host: str
    nonce: str
    """Eight hexadecimal digits that tell apart plans made within one second, also by hundreds of people."""
    git: Mapping[str, Any] = field(default_factory=dict)
    git_diff: str = ""


def gather(argv: list[str] | None = None) -> Circumstances:
    """The circumstances of this process, now."""
    work_dir = Path.cwd()
    git, diff = _git(work_dir)
    return Circumstances(
        now=datetime.now(UTC),
        work_dir=work_dir,
        python=sys.executable,
        environment=dict(os.environ),
        command_line=tuple(argv if argv is not None else sys.argv),
        user=_user(),
        host=socket.gethostname(),
        nonce=secrets.token_hex(4),
        git=git,
        git_diff=diff,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no passwd entry
        return str(os.getuid())


def _git(directory: Path) -> tuple[dict[str, Any], str]:
    """Commit, branch and whether the tree is clean, and the diff to the commit; both empty outside a checkout."""
    program = shutil.which("git")
    if program is None:
        return {}, ""

    def git(*words: str) -> str:
        result = subprocess.run(
            [program, "-C", str(directory), *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return result.stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        branch = git("rev-parse", "--abbrev-ref", "HEAD").strip()
        diff = git("diff", "HEAD", "--no-ext-diff", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return {}, ""
    if len(diff) > _DIFF_LIMIT_BYTES:
        diff = f"{diff[:_DIFF_LIMIT_BYTES]}\n[cut: the diff has {len(diff)} characters]\n"
    return {"commit": commit, "branch": branch, "clean": not diff}, redact_text(diff)


@lru_cache(maxsize=65536)
def is_secret(name: str) -> bool:
    """Whether a variable or key of that name usually holds a secret (`HF_TOKEN`, `WANDB_API_KEY`, `db.password`)."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS_NAME.search(name)


def redact_text(text: str) -> str:
    """`text` without what looks like a secret: known token forms, private keys, passwords in URLs."""
    return _URL_PASSWORD.sub(rf"\1:{REDACTED}@", _SECRET_VALUE.sub(REDACTED, text))


@lru_cache(maxsize=8192)  # most texts of a config are the same in every job
def _redact_value(text: str, name: str) -> str:
    return REDACTED if _hides(name, text) and not _refers_only(text) else redact_text(text)


def _hides(name: str, text: str) -> bool:
    """Whether a value of that name is a secret."""
    return bool(text) and is_secret(name) and not (_COUNTED.search(name) and _AMOUNTS.fullmatch(text))


def _refers_only(text: str) -> bool:
    """Whether a text is one variable or one interpolation without any words of its own, which tells nothing."""
    if _VARIABLE.fullmatch(text):
        return True
    if not text.startswith("${"):
        return False
    while (shorter := _INTERPOLATION.sub("\0", text)) != text:
        text = shorter
    return text == "\0"


def redact(value: Any, name: str = "") -> Any:
    """A copy of plain data (as in JSON) without secrets, judged by key names and by the look of values."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        cleaned = value.copy()  # copying all and then looking for the few is three times as fast as building anew
        for key in compress(value, map(not_, map(_PLAIN.__contains__, map(type, value.values())))):
            item = value[key]
            cleaned[key] = _redact_value(item, str(key)) if type(item) is str else redact(item, str(key))
        return cleaned
    if kind is str:
        return _redact_value(value, name)
    return [redact(item, name) for item in value]


def _without_assigned(text: str) -> str:
    """`text` without the values of secrets assigned anywhere in it, as in `sweep.grids=[{env.HF_TOKEN: [x, y]}]`."""
    position = 0
    while match := _ASSIGNED.search(text, position):
        position = match.end(2)
        if _hides(match[1], match[3]):
            text = f"{text[:position]}{REDACTED}{text[match.end() :]}"
            position += len(REDACTED)
    return text


@lru_cache(maxsize=65536)  # jobs of a sweep share most of their words
def _redact_word(word: str) -> tuple[str, bool]:
    """A word without secrets, and whether the next one may be a secret."""
    name, equals, value = word.partition("=")
    if equals and _hides(name.lstrip("-+"), value):
        return f"{name}={REDACTED}", False
    announces = not equals and word.startswith("--") and is_secret(word.lstrip("-"))
    return redact_text(_without_assigned(word)), announces


def redact_words(words: tuple[str, ...]) -> list[str]:
    """A command line without secrets: also the value after `--api-key` or in `api_key=…`."""
    looked_at = [*map(_redact_word, words)]
    cleaned = [clean for clean, _ in looked_at]
    for number in compress(count(1), [announces for _, announces in looked_at[:-1]]):
        if _hides(words[number - 1].lstrip("-"), words[number] or REDACTED):
            cleaned[number] = REDACTED
    return cleaned


class Redactor:
    """Redacts one after another what is mostly the same, such as the jobs of a sweep: looks only at what is not.

    What it was given and what it gave must not be changed afterwards.
    """

    def __init__(self) -> None:
        self._mappings: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}  # by path: given, cleaned
        self._words: tuple[tuple[str, ...], list[str]] = ((), [])

    def redact(self, value: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
        """As the function `redact`, of a mapping at `path`."""
        last, cleaned = self._mappings.get(path, ({}, {}))
        if last is value:
            return cleaned
        changed: Iterable[str]
        if [*last] == [*value]:
            cleaned = cleaned.copy()
            changed = compress(value, map(is_not, value.values(), last.values()))
        else:
            cleaned = value.copy()
            changed = value
        for key in changed:
            item = value[key]
            cleaned[key] = self.redact(item, (*path, key)) if type(item) is dict else redact(item, str(key))
        self._mappings[path] = value, cleaned
        return cleaned

    def words(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """As the function `redact_words`."""
        last, cleaned = self._words
        if len(last) != len(words):
            cleaned = redact_words(words)
        else:
            cleaned = cleaned.copy()
            for index in compress(count(), map(is_not, words, last)):
                before = max(index - 1, 0)  # a word may announce a secret: look at it with its neighbours
                cleaned[index : index + 2] = redact_words(words[before : index + 2])[index - before :]
        self._words = words, cleaned
        return tuple(cleaned)
