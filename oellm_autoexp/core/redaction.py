"""Takes secrets out of what others may read: words of a command, texts, and plain data as in JSON. Pure.

A secret is told by the name that it stands behind (`HF_TOKEN=…`, `--wandb-key …`, `PRIVATE-TOKEN: …`,
`?access_token=…`, a key of a mapping) or by its own form (`hf_…`, `glpat-…`, a private key, a password in a URL).
What only refers to one (`$HF_TOKEN`, `${oc.env:HF_TOKEN}`) tells nothing and stays, as do sizes and choices of a model
(`tokenizer`, `num_tokens`). Each function gives the same for what it has given: redacting twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, count
from operator import is_not, not_
from typing import Any

REDACTED = "***"

# ---------------------------------------------------------------------------------------------------------------------
# Names

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
    r"[_-](format|fields|file|files|path|paths|dir|env|env[_-]var|expiry|expires?|ttl|rotation)$",
    re.IGNORECASE,
)
"""Names of where a secret is, and of what is told of one."""
_HARMLESS_WORDS = re.compile(
    r"(?:^|(?<=[_-]))(pwd[_-]dir|num[_-]key|key[_-](head|layer|size|dim|bits|len|length|values?)|"
    r"token[_-](count|ids?|types?|embeddings?|level|limit|budget)|tokenizer|"
    r"(pad|bos|eod|eos|cls|sep|unk|mask|image|special|max|num|speculative|prefix|middle|suffix|per|generated)[_-]tokens?|"
    r"(extra|added|additional|ignored?)[_-]tokens|"
    r"(json|text|image|audio|video|caption|label|data|column|dict|sort|cache|primary|foreign|partition|public|host|"
    r"state|config|metric|monitor|batch|input|output|group|index|wandb[_-]group)[_-]keys?|"
    r"token[_-](dispatcher|drop)|tokens[_-](per|to)|num[_-]\w+?[_-](key|token)s?|"
    r"(forward|backward|first|second|single|multi|num)[_-]pass|pass[_-](through|rate|count)|"
    r"auth[_-](type|method|mode|mechanism)|check[_-]auth)(?=[_-]|$)",
    re.IGNORECASE,
)
"""Words of a name that tell of sizes and choices of a model: its keys are no keys, its tokens no tokens."""
_ENVIRONMENT = re.compile(r"[A-Z][A-Z0-9_]*")
"""Names of the environment, through which secrets are handed on; options of a model are in small letters."""
_NAMES_A_VARIABLE = re.compile(r"[_-]env(?:[_-]var)?$", re.IGNORECASE)
_NO_VARIABLE = re.compile(r"""[^\w\s\[\]{},'"$.:-]""", re.ASCII)
_COUNTED = re.compile(r"(^|[_\-.])((tokens|keys)($|[_\-.])|(token|key)[_\-])", re.IGNORECASE)
"""What there can be an amount of: `train_tokens: 10B` tells no secret."""
_NUMERIC = re.compile(
    r"pass(word|wd|phrase|[_-]?code)|pwd|secret|api[_-]?key|(^|[_\-.])(token|pin|otp)$", re.IGNORECASE
)
"""What may be a number and yet a secret."""
_URL_NAMES = re.compile(
    r"sig|signature|key|code|awsaccesskeyid|x-(amz|goog)-(signature|credential|security-token)", re.I
)
"""Parameters of URLs that are secrets there and nowhere else."""

# ---------------------------------------------------------------------------------------------------------------------
# Values

_AMOUNT = r"\s*[\d_]+(?:\.\d*)?(?:[eE][-+]?\d+)?[kKMGBT]?\s*"
_AMOUNTS = re.compile(rf"{_AMOUNT}|\[{_AMOUNT}(?:,{_AMOUNT})*\]")
_HARMLESS_VALUES = frozenset(["true", "false", "null", "none", "yes", "no", "on", "off", "auto", "~", "{}", "[]", "()"])
_REFERENCE = re.compile(
    r"\\?\$[A-Za-z_][A-Za-z0-9_]*|\$\(.*\)|`[^`]*`|\$\{\{.*\}\}|\{[A-Za-z_][\w.]*\}|<[/|]?[\w -]+\|?>|\*{3,}",
    re.DOTALL,
)
"""A variable, a command or template that tells it, or what stands in its place."""
_INTERPOLATION = re.compile(  # the innermost ones of another value, of a variable, or that compute with others (\0)
    r"\$\{(?:[A-Za-z_.][\w.]*|oc\.env:\w+|oc\.\w+:"
    r"(?:[\0\s\d.,+*/%()'\"\\-]|(?<=\d)e|\b(?:int|float|round|min|max|abs|sqrt|ceil|floor)\b)*)\}"
)
_CHANGES = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]+")
_BOTH_CASES = re.compile(r"[A-Z].*[a-z]|[a-z].*[A-Z]", re.DOTALL)
_BETWEEN = re.compile(r"[\s,\[\]]+")
_LEAST_CHANGES, _MOST_BETWEEN_CHANGES, _LEAST_RANDOM = 3, 5, 12
"""Of a text that is a secret by its look: how often letters and digits take turns in it at least, after how many of
them on average, and how many there are."""
_PLAIN = frozenset({int, float, bool, type(None)})  # nothing to hide in most of these, and most values are

_KEY_BLOCK = re.compile(
    r"-----? ?BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)? ?-----?"
    r"(?:(?:(?!BEGIN ).){0,16000}?-----? ?END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)? ?-----?"
    r"|(?:\\n|\s|[+\-]|[A-Za-z0-9/=]{16,})*)"
    r"|(?:^[-+ ]{0,2}[ \t]*[A-Za-z0-9+/=]{16,}[ \t\r]*\n){1,100}+"
    r"[-+ ]{0,2}[ \t]*-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"|PuTTY-User-Key-File-\d.*?Private-Lines: *\d+\s*(?:[-+ ]?[A-Za-z0-9+/=]{16,}\s*)*",
    re.MULTILINE | re.DOTALL,
)
_FORM = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|gl(?:pat|ptt|dt|rt|cbt|oas|soat|ft|imt|agent|ffct)-[\w-]{16,}"
    r"|sk-[\w-]{16,}|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[\w+/=-]{16,}"
    r"|hvs\.[\w-]{20,}|gsk_[A-Za-z0-9]{20,}|shpat_[a-f0-9]{16,}|sbp_[a-f0-9]{20,}|figd_[\w-]{20,}|glsa_\w{20,}"
    r"|ATATT3x[\w=-]{20,}|pul-[a-f0-9]{20,}|xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}|(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{12,}"
    r"|AIza[\w-]{30,}|ya29\.[\w-]{16,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{30,}|dckr_pat_[\w-]{16,}|dop_v1_[a-f0-9]{32,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}|sq0(?:csp|atp)-[\w-]{16,}|(?:AC|SK)[a-f0-9]{32}(?![A-Za-z0-9])"
    r"|[0-9a-f]{32}-us\d{1,2}(?!\w)|\d{8,10}:AA[\w-]{30,}|AKC[A-Za-z0-9]{20,}|nvapi-[\w-]{20,}|r8_[A-Za-z0-9]{30,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)*|tskey-[\w-]{16,}|lin_api_\w{16,}|AGE-SECRET-KEY-1[A-Z0-9]{16,}"
    r"|(?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/-]+|(?<=/api/webhooks/)\d+/[\w-]+"
    r"|(?<=\.webhook\.office\.com/)[\w/@-]+)|(?<=/bot)\d{6,}:[\w-]{16,}"
)
_URL_USER = re.compile(r"""(?<=://)([^\s:/@"'?#]*):([^\s/"'?#]+)@""")
_URL_TOKEN = re.compile(r"""(?<=://)(?=[\w%.~-]*\d)[\w%.~-]{12,}@""")
_PERCENT = re.compile("%([0-7][0-9A-Fa-f])")
_URL_PARAMETER = re.compile(r"""(?<=[?&#;])([\w.~%\[\]-]+)=([^&\s"'<>#\\]+)""")
_SCHEME = re.compile(
    r"""(?i)(?<![\w/.])(bearer|basic|token|apikey|digest|negotiate)([ \t]+|%20)"""
    r"""(?![{$*<]|--)(?=[^\s"']*[\d._~+/=-])[^\s"',;\\]{6,}"""
)
_OPTION = re.compile(
    r"""(?<![\w-])(-{1,2}[A-Za-z][\w.-]*+)([ \t]*\\?\r?\n[-+]?[ \t]*|[ \t]+)"""
    r"""(["'\0\1])?((?(3)[^\n]*?(?=\3)|[^\s"'\0\1]+))"""
)
_SPOKEN = re.compile(
    r"(?im)(\b(?:setenv|set-env|set(?:[ \t]+-\w+)*|ENV|ARG|machine\s+\S+\s+)[ \t]+)([\w.-]+)([ \t]+)(\S+)"
    r"|^([-+ \t]*|.*\blogin[ \t]+\S+[ \t]+)(password|passwd)([ \t]+)(?![=:])(\S+)[ \t]*(?=$|\s)"
    r"|(\b(?:mysql|mariadb)[\w-]*[ \t](?:[^\n;|&]{0,300}?[ \t])?(?-i:-p))()()([^\s-]\S*)"
    r"|(\b(?:mysql|mariadb)[\w-]*[ \t](?:[^\n;|&]{0,300}?[ \t])?[\"'](?-i:-p))()()([^\n\"']+)"
    r"|(\b(?:putenv|setdefault|setenv)\(\s*[\"'])([\w.-]+)([\"']\s*,\s*[\"'])([^\"'\n]+)"
    r"|(\b(?:docker|podman)[ \t]+login\b[^\n;|&]{0,300}?[ \t]-p[ \t]+)()()(\S+)"
    r"|(\bredis-cli\b[^\n;|&]{0,300}?[ \t]-a[ \t]+)()()(\S+)"
    r"|(\bsshpass[ \t]+-p[ \t]*)()()(\S+)|(\b(?:wandb|docker|hf|huggingface-cli)[ \t]+login[ \t]+)()()([\w-]{20,})"
    r"|((?<![\w-])(?:-u|(?:--user|--proxy-user)[ \t=])[ \t=]*[\"']?[^\s:\"'/=]+:)()()((?!\d+\b)[^\s\"'/]+)"
)
_ASSIGNED = re.compile(
    r"""(?:(?<![\w.%-])|(?<=%26|%3D|%20))[-+.$~]*+"""
    r"""((?:[\w.\-]|%(?!(?:25)*(?:3D|26|20))[0-7][0-9A-F])++)(?:\\*["']\]?)?+"""
    r"""([ \t]*(?::=|=>|[:=])[ \t]*|%(?:25)*3D)(?![=:])""",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"""\\*(["'\0\1])(?:(?!\1)[^\\\n]|\\(?!\1).|(?<!^)\\\1(?=[^,\]}:\s]))*+\\*\1""")
_BLOCK = re.compile(r"[|>][-+\d]*[ \t]*\n([-+]?[ \t]+)[^\n]*(?:\n\1[^\n]*)*")  # also of a diff
_COMMAND = re.compile(r"\$\([^()\n]*\)|`[^`\n]*`")
_LIST = re.compile(r"""\[[^\]]*\](?![^\s,;}\])"'\0\1])""")
_INSIDE = re.compile(r"""[^,\]}\s"'\0\1]+""")
_OUTSIDE = re.compile(r"""(?:[^\s;&|,"'`\0\1]|,(?!\s*["']?[\w.\-]+["']?\s*[:=]))+""")
_CODE = re.compile(r"[A-Za-z_]+\d{0,3}(\.[A-Za-z_]+\d{0,3})*[(\[].*|[A-Za-z_]+(\.[A-Za-z_]+)+")
"""What a program assigns to a name: a call, an attribute."""
_TYPE = re.compile(r"(str|int|bool|bytes|float|Any|Path|object)(\W.*)?|[A-Z]\w+\[[A-Z\w., |\[\]]*")
_FILE_NAME = re.compile(r"\.(ya?ml|json|toml|txt|log|py|sh|sbatch|def|sif|sqsh)$", re.IGNORECASE)
_LINE_NUMBER = re.compile(r"\d{1,6}(?![\w.-])")
_REST = re.compile(r"[^\n]*")
_HINT = re.compile(  # of a text in lower case, which is three times as fast as ignoring the case
    r"key|tok(?!enizer)|secr|pass|pwd|pw\b|cred|cooki|auth|dsn|hook|sig|sess|psk|pin\b|jwt|otp|mfa|2fa|mnemon|phrase|"
    r"wallet|recovery|backup|mysql|mariadb|bear|basic|digest|negot|apik|://|%[0-7][0-9a-f]|"
    r"begin|priv|-u[ =s]|-u[^\s:]+:|-proxy-u|login|"
    r"conn|hf_|api_o|gh[a-z]+_|gith|gl[a-z]+-|[sr]k[-_]|x[oa][xp]|a[ks]ia|ab[ic]a|acca|a3t|aiza|ya29|npm_|pypi|_pat|"
    r"dop_|sg\.|sq0|[as][ck][a-f0-9]{9}|-us\d|:aa|akc|nvapi|r8_|eyj|lin_a|puttyu|putty|hvs\.|gsk_|shpat|sbp_|figd_|glsa_|atatt3|pul-|redis"
)
"""A quick look: what has none of these holds no secret that could be told."""


@lru_cache(maxsize=65536)
def is_secret(name: str) -> bool:
    """Whether a variable or key of that name usually holds a secret (`HF_TOKEN`, `WANDB_API_KEY`, `db.password`)."""
    if not _may_be_secret(name) or _HARMLESS_NAME.search(spelled := _spelled(name)):
        return False
    if _ENVIRONMENT.fullmatch(spelled.rpartition(".")[2]):
        return True
    return bool(_SECRET_NAME.search(_HARMLESS_WORDS.sub("", spelled)))


@lru_cache(maxsize=65536)
def _may_be_secret(name: str) -> bool:
    """Whether a name speaks of a secret at all, also one that usually tells where it is (`API_KEY_ENV`)."""
    return type(name) is str and bool(_SECRET_NAME.search(_spelled(name)))


def _spelled(name: str) -> str:
    """A name with signs between its words, without the escapes of a URL: `apiKey` → `api_Key`, `api%5Fkey` → `api_key`.

    `data[token]` → `data.token.`, as forms spell what is within another.
    """
    while "%" in name and (shorter := _PERCENT.sub(_unescaped, name)) != name:
        name = shorter
    return _CAMEL.sub("_", name.replace("[", ".").replace("]", "."))


def _unescaped(escaped: re.Match[str]) -> str:
    return chr(int(escaped[1], 16))


def _is_random(text: str) -> bool:
    """Whether a text is none that people make up of words and numbers: letters and digits take turns in it.

    In small letters or capitals alone, within one piece: `llama3b_lr1e3` is a name, `6f1b3c5e8a2d` is none.
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


def _hides(name: str, text: str) -> bool:
    """Whether a value of that name is a secret.

    By the name, or, where the name says that it only tells of a secret, as the value is not what the name says.
    """
    if not text or not _may_be_secret(name):
        return False
    if _is_random(text.lstrip("-$")) and not _is_interpolated(text):
        return True
    if text.lower() in _HARMLESS_VALUES or _refers_only(text):
        return False
    if _NAMES_A_VARIABLE.search(name):
        return bool(_NO_VARIABLE.search(text))
    return is_secret(name) and not (_COUNTED.search(name) and _AMOUNTS.fullmatch(text))


def _is_interpolated(text: str) -> bool:
    return text.startswith(("${", "$(", "`", "{")) and _refers_only(text)


def _refers_only(text: str) -> bool:
    """Whether a text is one variable or one interpolation without any words of its own, which tells nothing."""
    if _REFERENCE.fullmatch(text):
        return True
    if not text.startswith("${"):
        return False
    while (shorter := _INTERPOLATION.sub("\0", text)) != text:
        text = shorter
    return text == "\0"


# ---------------------------------------------------------------------------------------------------------------------
# Texts


def redact_text(text: str) -> str:
    """`text` without what looks like a secret: assigned to a name, in an option, header or URL, or by its form."""
    return _redact_text(text, prose=False) if _HINT.search(text.lower()) else text


@lru_cache(maxsize=8192)  # what is told of jobs is told again and again
def redact_message(text: str) -> str:
    """As `redact_text`, of a message for people: `HF_TOKEN: not set` tells nothing of the token."""
    return _redact_text(text, prose=True) if _HINT.search(text.lower()) else text


_SHELL_QUOTES = {"'\"'\"'": "\0", "'\\''": "\1"}
"""A quote inside of single quotes, as a shell's words have it, and a sign that stands for it while we look."""


def _redact_text(text: str, *, prose: bool) -> str:
    if "'" in text and not ("\0" in text or "\1" in text):
        for quote, sign in _SHELL_QUOTES.items():
            if quote in text:
                inner = _redact_text(text.replace(quote, sign), prose=prose)
                return inner.replace(sign, quote)
    if "PRIVATE KEY" in text or "PuTTY" in text:
        text = _KEY_BLOCK.sub(REDACTED, text)
    text = _FORM.sub(REDACTED, text)
    if "://" in text:
        text = _URL_USER.sub(_without_password, text)
        text = _URL_TOKEN.sub(f"{REDACTED}@", text)
        text = _URL_PARAMETER.sub(_without_parameter, text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    text = _OPTION.sub(_without_argument, text)
    text = _SPOKEN.sub(_without_spoken, text)
    return _without_assigned(text, prose=prose)


def _without_password(match: re.Match[str]) -> str:
    return match[0] if _refers_only(match[2]) else f"{match[1]}:{REDACTED}@"


def _without_parameter(match: re.Match[str]) -> str:
    name, value = match.groups()
    if _refers_only(value) or not (_URL_NAMES.fullmatch(_spelled(name)) or _hides(name, value)):
        return match[0]
    return f"{name}={REDACTED}"


def _without_argument(match: re.Match[str]) -> str:
    option, space, quote, value = match.groups()
    if not _hides(option.lstrip("-"), value) or _is_option(value):
        inner = _OPTION.sub(_without_argument, value) if quote else value  # `sh -c 'train --token …'`
        return f"{option}{space}{quote or ''}{inner}"
    return f"{option}{space}{quote or ''}{REDACTED}"


def _is_option(word: str) -> bool:
    """Whether a word is an option rather than the value of the one before it."""
    return not _is_random(word.lstrip("-")) and bool(
        re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?|-[A-Za-z]", word, re.DOTALL)
    )


def _without_spoken(match: re.Match[str]) -> str:
    before, name, space, value = (group or "" for group in next(_by_four(match.groups())))
    if _refers_only(value.strip("\"'")) or (name and not _hides(name, value)):
        return match[0]
    return f"{before}{name}{space}{REDACTED}"


def _by_four(groups: Sequence[str | None]) -> Iterator[Sequence[str | None]]:
    return (groups[start : start + 4] for start in range(0, len(groups), 4) if groups[start + 3] is not None)


def _without_assigned(text: str, *, prose: bool) -> str:
    """`text` without the values of secrets assigned anywhere in it, as in `sweep.grids=[{env.HF_TOKEN: [x, y]}]`."""
    pieces: list[str] = []
    kept_to = position = 0
    while match := _ASSIGNED.search(text, position):
        position = match.end()
        if not _may_be_secret(match[1]) or (prose and _is_place(text, match)):
            continue
        begin, end = _value(text, match, prose=prose)
        if text.startswith(REDACTED, begin):  # what this function gave, and what stood behind a list that it hid
            continue
        if _hides(match[1], text[begin:end]) and not (begin == match.end() and _is_code(match, text, begin, end)):
            pieces += [text[kept_to:begin], REDACTED]
            kept_to = position = end
    return "".join([*pieces, text[kept_to:]]) if pieces else text


def _is_place(text: str, assigned: re.Match[str]) -> bool:
    """Whether a name is that of a file or folder, and what follows is told of it: `/home/me/token: Permission denied`.

    Behind its colon is a blank or the number of a line; `a/password:x` may be what a program found in a file.
    """
    if assigned[2] != ": " and not (assigned[2] == ":" and _LINE_NUMBER.match(text, assigned.end())):
        return False
    return text[assigned.start(1) - 1 : assigned.start(1)] == "/" or bool(_FILE_NAME.search(assigned[1]))


def _is_code(assigned: re.Match[str], text: str, begin: int, end: int) -> bool:
    """Whether a program says what the value is, as in `self.token = read(path)`; `token=token` in a call."""
    separator, value = assigned[2], text[begin:end]
    if separator == ": " and _TYPE.fullmatch(value):
        return True
    if ":" in separator or not (separator.startswith(" ") or _is_inside(text, assigned.start(1))):
        return False
    line = _REST.match(text, begin)
    rest = line[0].rstrip() if line else value
    whole = rest.endswith(("(", "[", ",")) or all(rest.count(o) <= rest.count(c) for o, c in ("()", "[]"))
    own = assigned[1].lower().rpartition(".")[2].strip("_")
    return (whole and bool(_CODE.fullmatch(value))) or value.lower().strip("_") == own


def _is_inside(text: str, position: int) -> bool:
    """Whether a place is inside of brackets that its line has opened."""
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return any(before.count(opened) > before.count(closed) for opened, closed in ("{}", "[]", "()"))


def _value(text: str, assigned: re.Match[str], *, prose: bool) -> tuple[int, int]:
    """Where the value behind a name stands, without its quotes."""
    start = assigned.end()
    if match := _QUOTED.match(text, start):
        mark = match[0].index(match[1]) + 1
        end = len(match[0]) - mark
        return (start + mark, start + end) if end > mark else (start, start)
    if text[start : start + 1] in "|>" and (match := _BLOCK.match(text, start)):
        return match.end(1), match.end()
    name = assigned.start(1)
    quote = text[assigned.start() - 1 : assigned.start()]  # before the signs of an override: `'+name=two words'`
    if quote and quote in "\"'\0\1" and text[assigned.end(1) : assigned.end(1) + 1] != quote:  # `'name=two words'`
        end = text.find(quote, start)
        if end > 0 and "\n" not in text[start:end]:
            return start, end
    if match := _COMMAND.match(text, start):
        return start, match.end()
    if (match := _LIST.match(text, start)) or text[start : start + 1] in "{":
        return (start, match.end()) if match else (start, start)
    before = text[text.rfind("\n", 0, start) + 1 : name]
    if _is_inside(text, name):
        match = _INSIDE.match(text, start)
    elif ":" in assigned[2] and not before.strip(" \t+-\"'\\$."):
        match = _REST.match(text, start)
        rest = match[0].rstrip(" \t\r,") if match else ""
        if prose and " " in rest:
            return start, start
        return start, start + len(rest)
    else:
        match = _OUTSIDE.match(text, start)
        said = prose or _COUNTED.search(assigned[1])
        if said and ":" in assigned[2] and match and match[0].isalpha() and match[0].islower():
            return start, start
    return (start, match.end()) if match else (start, start)


# ---------------------------------------------------------------------------------------------------------------------
# Plain data


@lru_cache(maxsize=8192)  # most texts of a config are the same in every job
def _redact_value(text: str, name: str) -> str:
    return REDACTED if _hides(name, text) else redact_text(text)


def redact(value: Any, name: str = "") -> Any:
    """A copy of plain data (as in JSON) without secrets, judged by key names and by the look of values.

    Texts in a list are the words of a command, unless the list's own name is that of a secret.
    """
    kind = type(value)
    if kind is dict:
        return _redact_dict(value, name)
    if kind is str:
        return _redact_value(value, name)
    if kind in _PLAIN:
        return REDACTED if kind is int and _is_numeric_secret(name, value) else value
    if not is_secret(name) and all(type(item) is str for item in value):
        return redact_words(tuple(value))
    return [redact(item, name) for item in value]


def _redact_dict(value: dict[Any, Any], name: str) -> dict[Any, Any]:
    cleaned = value.copy()  # copying all and then looking for the few is three times as fast as building anew
    within = f"{name}." if name and is_secret(name) else ""  # all that is below `secrets:` is one
    for key in compress(value, map(not_, map(_PLAIN.__contains__, map(type, value.values())))):
        item = value[key]
        inner = f"{within}{key}"
        cleaned[key] = _redact_value(item, inner) if type(item) is str else redact(item, inner)
    for key in compress(value, map(is_secret, value)):
        if type(value[key]) is int and _is_numeric_secret(key, value[key]):
            cleaned[key] = REDACTED
    if "value" in value and type(value.get("name")) is str and is_secret(value["name"]):
        cleaned["value"] = redact(value["value"], value["name"])  # `{name: HF_TOKEN, value: x}`, as in Kubernetes
    return cleaned


def _is_numeric_secret(name: str, value: int) -> bool:
    return value > 999 and is_secret(name) and bool(_NUMERIC.search(name)) and not _COUNTED.search(name)


# ---------------------------------------------------------------------------------------------------------------------
# Words

_NOTHING, _SECRET, _USER, _LOGIN, _SSHPASS, _MYSQL = range(6)
"""What a word announces: the next one is a secret, is `user:password`, is a long secret, is `-p` before one; some word
behind it is `-p` and a secret in one."""
_OF_MYSQL = re.compile(r"(?:.*/)?(?:mysql|mariadb)[\w-]*")
_LONG_OPTION = re.compile(r"--?\w[\w.-]+")
_LONG = re.compile(r"(?=\D*\d)[\w-]{20,}")


@lru_cache(maxsize=65536)  # jobs of a sweep share most of their words
def _redact_word(word: str) -> tuple[str, int]:
    """A word without secrets, and what it says of the next one."""
    name, equals, value = word.partition("=")
    if equals and _hides(name.lstrip("-+"), value):
        return f"{redact_text(name)}={REDACTED}", _NOTHING
    announces = _NOTHING
    if equals and not value and word.startswith("--") and _may_be_secret(name.lstrip("-")):
        return word, _SECRET
    if not equals and word.startswith("-"):
        if word in ("-u", "--user", "--proxy-user"):
            announces = _USER
        elif _LONG_OPTION.fullmatch(word) and _may_be_secret(word.lstrip("-")):
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
            if not _is_option(word) and _hides(words[number - 1].strip("-="), word or REDACTED):
                cleaned[number] = REDACTED
        elif announces == _LOGIN:
            cleaned[number] = REDACTED if _LONG.fullmatch(word) else cleaned[number]
        elif announces == _MYSQL:
            for at in range(number, len(words)):
                if words[at].startswith("-p") and words[at] != "-p":
                    cleaned[at] = f"-p{REDACTED}"
        elif announces == _USER:
            user, colon, password = word.partition(":")
            if colon and password and not password.isdecimal() and "/" not in user and not _refers_only(password):
                cleaned[number] = f"{user}:{REDACTED}"
        elif word.startswith("-p"):
            at = number if len(word) > 2 else number + 1
            if at < len(words):
                cleaned[at] = REDACTED if at > number else f"-p{REDACTED}"
    return cleaned


class Redactor:
    """Redacts one after another what is mostly the same, such as the jobs of a sweep: looks only at what is not.

    What it was given and what it gave must not be changed afterwards.
    """

    def __init__(self) -> None:
        self._mappings: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}  # by path: given, cleaned
        self._words: tuple[tuple[str, ...], list[str]] = ((), [])
        self._tells_of_all = False
        """Whether one of the last words tells of all that are behind it."""

    def redact(self, value: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
        """As the function `redact`, of a mapping at `path`."""
        last, cleaned = self._mappings.get(path, ({}, {}))
        if last is value:
            return cleaned
        changed: Iterable[str]
        if "value" in value:  # how it is judged may hang on another key
            return redact(value)  # type: ignore[no-any-return]
        if [*last] == [*value]:
            cleaned = cleaned.copy()
            changed = compress(value, map(is_not, value.values(), last.values()))
        else:
            cleaned = value.copy()
            changed = value
        for key in changed:
            item = value[key]
            if type(item) is dict and not is_secret(key):
                cleaned[key] = self.redact(item, (*path, key))
            else:
                cleaned[key] = redact(item, str(key))
        self._mappings[path] = value, cleaned
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
                before = max(index - 2, 0)  # a word may tell of the next two: look at it with its neighbours
                cleaned[index : index + 3] = redact_words(words[before : index + 3])[index - before :]
        self._words = words, cleaned
        return tuple(cleaned)
