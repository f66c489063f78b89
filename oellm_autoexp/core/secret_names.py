"""What is a secret: by the name that it has, by the look of its value. Pure.

A name says so (`HF_TOKEN`, `wandb_key`, `db.password`), or a value has the form of a random word. A value that only
refers to a secret (`$HF_TOKEN`, `${oc.env:HF_TOKEN}`) is none; neither are sizes and choices of a model (`tokenizer`,
`num_tokens`).
"""

from __future__ import annotations

import re
from functools import lru_cache

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET_NAME = re.compile(
    r"(^|[_\-.])(api|access|auth|secret|private|ssh|encryption|account|service|signing|master|client|bearer|refresh|"
    r"session|id|hf|db|my|pg|ssh|user|shared)?[_-]?"
    r"(key|keys|token|tokens|secret|secrets|passwd|password|passphrase|pass|pwd|credential|credentials|creds|cookie|"
    r"auth|authorization|apikey|session_id|dsn|webhook|webhook_url|connection_string|access_signature)($|[_\-.])|"
    r"(^|[_\-.])pin$|(^|[_\-.])(bearer|jwt|t?otp|mfa|2fa|mnemonic|session_?id)($|[_\-.])|seed[_-]?phrase|"
    r"((recovery|backup|pass|wallet)[_-]?(codes?|seed))($|[_\-.])|"
    r"(^|[_\-.])(pat|psk|pw|sig|signature)$|passw(or)?d|passphrase|secret(?!ar)|credential|api_?key",
    re.IGNORECASE,
)
_HARMLESS_NAME = re.compile(
    r"^((?-i:PWD|OLDPWD)|SSH_AUTH_SOCK|key|keys|sig|signature)$|"
    r"[_-](format|fields|file|files|path|paths|dir|env|env[_-]var|expiry|expires?|ttl|rotation|"
    r"error|exception)$",
    re.IGNORECASE,
)
"""Names of the place of a secret (`key_file`), of a property of one (`token_ttl`), or of an exception (`KeyError`)."""
_HARMLESS_WORDS = re.compile(
    r"(?:^|(?<=[_.-]))(pwd[_-]dir|num[_-]key|key[_-](head|layer|size|dim|bits|len|length|values?)|"
    r"token[_-](count|ids?|types?|embeddings?|level|limit|budget)|tokenizer|"
    r"(pad|bos|eod|eos|cls|sep|unk|mask|image|special|max|num|speculative|prefix|middle|suffix|per|generated)[_-]tokens?|"
    r"(extra|added|additional|ignored?)[_-]tokens|"
    r"(json|text|image|audio|video|caption|label|data|column|dict|sort|cache|primary|foreign|partition|public|host|"
    r"state|config|metric|iteration|monitor|batch|input|output|group|index|wandb[_-]group)[_-]keys?|"
    r"token[_-](dispatcher|drop)|tokens[_-](per|to)|num[_-]\w+?[_-](key|token)s?|"
    r"(forward|backward|first|second|single|multi|num)[_-]pass|pass[_-](through|rate|count)|"
    r"auth[_-](type|method|mode|mechanism)|check[_-]auth)(?=[_-]|$)",
    re.IGNORECASE,
)
"""Words for sizes and choices of a model (`num_tokens`): they have `key` or `token` in them and mean no secret."""
_ENVIRONMENT = re.compile(r"[A-Z][A-Z0-9_]*")
"""Environment variables, by which secrets are passed on; options of a model are in lower case."""
_PERCENT = re.compile("%([0-7][0-9A-Fa-f])")
_NAMES_A_VARIABLE = re.compile(r"[_-]env(?:[_-]var)?$", re.IGNORECASE)
_NO_VARIABLE = re.compile(r"""[^\w\s\[\]{},'"$.:-]""", re.ASCII)
COUNTED = re.compile(r"(^|[_\-.])((tokens|keys)($|[_\-.])|(token|key)[_\-])", re.IGNORECASE)
"""Names whose value may be an amount, which is no secret: `train_tokens: 10B`."""
_NUMERIC = re.compile(
    r"pass(word|wd|phrase|[_-]?code)|pwd|secret|api[_-]?key|(^|[_\-.])(token|pin|otp)$", re.IGNORECASE
)
"""Names whose value may be a secret although it is a number."""

_AMOUNT = r"\s*[\d_]+(?:\.\d*)?(?:[eE][-+]?\d+)?[kKMGBT]?\s*"
_AMOUNTS = re.compile(rf"{_AMOUNT}|\[{_AMOUNT}(?:,{_AMOUNT})*\]")
_HARMLESS_VALUES = frozenset(["true", "false", "null", "none", "yes", "no", "on", "off", "auto", "~", "{}", "[]", "()"])
_REFERENCE = re.compile(
    r"\\?\$[A-Za-z_][A-Za-z0-9_]*|\$\(.*\)|`[^`]*`|\$\{\{.*\}\}|\{[A-Za-z_][\w.]*\}|<[/|]?[\w -]+\|?>|\*{3,}",
    re.DOTALL,
)
"""A variable, a command or template that prints a value, or a placeholder."""
_INTERPOLATION = re.compile(  # the innermost ones of another value, of a variable, or that compute with others (\0)
    r"\$\{(?:[A-Za-z_.][\w.]*|oc\.env:\w+|oc\.\w+:"
    r"(?:[\0\s\d.,+*/%()'\"\\-]|(?<=\d)e|\b(?:int|float|round|min|max|abs|sqrt|ceil|floor)\b)*)\}"
)
_CHANGES = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_BOTH_CASES = re.compile(r"[A-Z].*[a-z]|[a-z].*[A-Z]", re.DOTALL)
_BETWEEN = re.compile(r"[\s,\[\]]+")
_LEAST_CHANGES, _MOST_BETWEEN_CHANGES, _LEAST_RANDOM = 3, 5, 12
"""A random text has at least so many changes between letter and digit, at most so many characters per change, and at
least so many characters."""


@lru_cache(maxsize=65536)
def is_secret(name: str) -> bool:
    """Whether a variable or key of that name usually holds a secret (`HF_TOKEN`, `WANDB_API_KEY`, `db.password`)."""
    if not may_be_secret(name) or _HARMLESS_NAME.search(words := spelled(name)):
        return False
    if _ENVIRONMENT.fullmatch(words.rpartition(".")[2]):
        return True
    return bool(_SECRET_NAME.search(_HARMLESS_WORDS.sub("", words)))


@lru_cache(maxsize=65536)
def may_be_secret(name: str) -> bool:
    """Whether a name has the word for a secret in it, also a name of the place of one (`API_KEY_ENV`)."""
    return type(name) is str and bool(_SECRET_NAME.search(spelled(name)))


def spelled(name: str) -> str:
    """A name with separators between its words, without escapes of URLs.

    `apiKey` → `api_Key`; `api%5Fkey` → `api_key`; `data[token]`, as in forms of the web, → `data.token.`.
    """
    while "%" in name and (shorter := _PERCENT.sub(_unescaped, name)) != name:
        name = shorter
    return _CAMEL.sub("_", name.replace("[", ".").replace("]", "."))


def _unescaped(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 16))


def is_random(text: str) -> bool:
    """Whether a text looks random: letters and digits alternate in it too often for words and numbers.

    Where all letters are lower case, or all upper case, one piece of the text must be random: `6f1b3c5e8a2d` is,
    `llama3b_lr1e3` is not.
    """
    changes = len(_CHANGES.findall(text))
    if changes < _LEAST_CHANGES or text.startswith(("/", "~/", "./", "../")):
        return False
    if all(_AMOUNTS.fullmatch(part) for part in _BETWEEN.split(text) if part):
        return False
    pieces = _ALPHANUMERIC.findall(text)
    if _BOTH_CASES.search(text):
        return sum(map(len, pieces)) >= _LEAST_RANDOM
    return any(_LEAST_RANDOM <= len(piece) <= _MOST_BETWEEN_CHANGES * len(_CHANGES.findall(piece)) for piece in pieces)


def is_secret_value(name: str, text: str) -> bool:
    """Whether a value of that name is a secret.

    The name says so; or the name is that of the place of a secret, and the value does not look like a place.
    """
    if not text or not may_be_secret(name):
        return False
    if name.lower() in ("pwd", "oldpwd") and text.startswith(("/", "~", "./", "$")):  # the working directory
        return False
    if is_random(text.lstrip("-$")) and not _is_interpolated(text):
        return True
    if text.lower() in _HARMLESS_VALUES or refers_only(text):
        return False
    if _NAMES_A_VARIABLE.search(name):
        return bool(_NO_VARIABLE.search(text))
    return is_secret(name) and not (COUNTED.search(name) and _AMOUNTS.fullmatch(text))


def _is_interpolated(text: str) -> bool:
    return text.startswith(("${", "$(", "`", "{")) and refers_only(text)


def refers_only(text: str) -> bool:
    """Whether a text is only a reference: one variable or one interpolation, without other characters."""
    if _REFERENCE.fullmatch(text):
        return True
    if not text.startswith("${"):
        return False
    while (shorter := _INTERPOLATION.sub("\0", text)) != text:
        text = shorter
    return text == "\0"


def is_numeric_secret(name: str, value: int) -> bool:
    """Whether a number of that name is a secret: a password of digits, and no amount."""
    return value > 999 and is_secret(name) and bool(_NUMERIC.search(name)) and not COUNTED.search(name)
