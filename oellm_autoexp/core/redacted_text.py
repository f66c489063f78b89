"""Takes secrets out of texts: messages, lines of logs, scripts, commands. Pure.

A secret is recognized by the name before it (`HF_TOKEN=…`, `--wandb-key …`, `PRIVATE-TOKEN: …`, `?access_token=…`) or
by its own form (`hf_…`, `glpat-…`, a private key, a password in a URL). Redacting a redacted text changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from oellm_autoexp.core.secret_names import (
    COUNTED,
    is_random,
    is_secret_value,
    may_be_secret,
    refers_only,
    spelled,
)

REDACTED = "***"
_URL_NAMES = re.compile(
    r"sig|signature|key|code|awsaccesskeyid|x-(amz|goog)-(signature|credential|security-token)", re.I
)
"""Parameters of URLs that are secrets there and nowhere else."""

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
"""A quick first test: a text without any of these has no secret that can be recognized."""


def redact_text(text: str) -> str:
    """`text` without values that look like secrets: assigned to a name, in an option, header or URL, or by its form."""
    return _redact_text(text, prose=False) if _HINT.search(text.lower()) else text


@lru_cache(maxsize=8192)  # the same messages of jobs are printed repeatedly
def redact_message(text: str) -> str:
    """As `redact_text`, for a message to people: `HF_TOKEN: not set` has no secret in it."""
    return _redact_text(text, prose=True) if _HINT.search(text.lower()) else text


_SHELL_QUOTES = {"'\"'\"'": "\0", "'\\''": "\1"}
"""A quote inside of single quotes, as a shell writes it, and a character that replaces it during the search."""


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
    return match[0] if refers_only(match[2]) else f"{match[1]}:{REDACTED}@"


def _without_parameter(match: re.Match[str]) -> str:
    name, value = match.groups()
    if refers_only(value) or not (_URL_NAMES.fullmatch(spelled(name)) or is_secret_value(name, value)):
        return match[0]
    return f"{name}={REDACTED}"


def _without_argument(match: re.Match[str]) -> str:
    option, space, quote, value = match.groups()
    if not is_secret_value(option.lstrip("-"), value) or is_option(value):
        inner = _OPTION.sub(_without_argument, value) if quote else value  # `sh -c 'train --token …'`
        return f"{option}{space}{quote or ''}{inner}"
    return f"{option}{space}{quote or ''}{REDACTED}"


def is_option(word: str) -> bool:
    """Whether a word is an option rather than the value of the one before it."""
    return not is_random(word.lstrip("-")) and bool(re.fullmatch(r"--[A-Za-z][\w.-]*(=.*)?|-[A-Za-z]", word, re.DOTALL))


def _without_spoken(match: re.Match[str]) -> str:
    before, name, space, value = (group or "" for group in next(_by_four(match.groups())))
    if refers_only(value.strip("\"'")) or (name and not is_secret_value(name, value)):
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
        if not may_be_secret(match[1]) or (prose and _is_place(text, match)) or _is_resolver(text, match):
            continue
        begin, end = _value(text, match, prose=prose)
        if text.startswith(REDACTED, begin):  # a redacted text, also where a list was replaced
            continue
        in_code = begin == match.end() and _is_code(match, text, begin, end)
        if is_secret_value(match[1], text[begin:end]) and not in_code:
            pieces += [text[kept_to:begin], REDACTED]
            kept_to = position = end
    return "".join([*pieces, text[kept_to:]]) if pieces else text


def _is_place(text: str, assigned: re.Match[str]) -> bool:
    """Whether a name is that of a file or folder with a message behind it: `/home/me/token: Permission denied`.

    After the colon is a space or the number of a line; `a/password:x` may be a line of a file, with a secret.
    """
    if assigned[2] != ": " and not (assigned[2] == ":" and _LINE_NUMBER.match(text, assigned.end())):
        return False
    return text[assigned.start(1) - 1 : assigned.start(1)] == "/" or bool(_FILE_NAME.search(assigned[1]))


def _is_resolver(text: str, assigned: re.Match[str]) -> bool:
    """Whether a name is that of a resolver with its arguments behind it: `${oc.dict.keys:model}`."""
    return assigned[2] == ":" and assigned[1].startswith("oc.") and text.endswith("${", 0, assigned.start(1))


def _is_code(assigned: re.Match[str], text: str, begin: int, end: int) -> bool:
    """Whether the value is an expression of a program, as in `self.token = read(path)`, or `token=token` in a call."""
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
    """Whether a position is inside of brackets that were opened in its line."""
    before = text[text.rfind("\n", 0, position) + 1 : position]
    return any(before.count(opened) > before.count(closed) for opened, closed in ("{}", "[]", "()"))


def _value(text: str, assigned: re.Match[str], *, prose: bool) -> tuple[int, int]:
    """Begin and end of the value after a name, without its quotes."""
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
        said = prose or COUNTED.search(assigned[1])
        if said and ":" in assigned[2] and match and match[0].isalpha() and match[0].islower():
            return start, start
    return (start, match.end()) if match else (start, start)
