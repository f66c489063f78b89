"""Whatever pattern `re` takes, a scan of a log finds the very lines and groups that `re` finds, line by line."""

import json
import random
import re
import time
import warnings

import pytest

from oellm_autoexp.search import candidates, patterns, widening
from oellm_autoexp.search.patterns import Pattern, advice, group_names, scan
from oellm_autoexp.search.time_limit import TimeLimit
from tests.fuzz.driver import fuzz

WORDS = ["error", "nan", "iteration", "loss: ", "k", "i", "s", "ss", "\u0131", "\u0130", "\u017f", "\u212a", "\u00e9"]
WORDS += [
    "\u00df",
    "\u1e9e",
    "a",
    "b",
    "ab",
    " ",
    ": ",
    "7",
    "|",
    "-",
    "\x1c",
    "\x85",
    "\u2028",
    "\x0b",
    "\ufffd",
    "\x00",
]
CLASSES = [".", r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "[a-z]", "[^a-z]", r"[\d:]", r"[^\s]", "[ik]"]
CLASSES += ["[^k]", "[]a]"]
CLASSES += [
    "[[a]",
    "[--a]",
    "[a&&b]",
    "[a||b]",
    "[a~~b]",
    "[\u0131-\u0140]",
    r"[\x00-\x1f]",
    "[^\n]",
    r"[\W\d]",
    "[A-Z]",
]
ANCHORS = ["^", "$", r"\b", r"\B", r"\A", r"\Z", "", "(?:)", "()"]
REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{,2}", "{0}", "{2,}", "{e<=1}"]
LITERALS = [r"\n", r"\r", r"\t", r"\x41", r"\u212a", r"\.", r"\|", r"\N{LATIN SMALL LETTER DOTLESS I}"]
LITERALS += [r"\x1e", r"\0"]
PIECES = [word.encode() for word in WORDS if word != "\ufffd"]
PIECES += [b"\n"] * 6 + [
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\xff",
    b"\xc3",
    b"\xef\xbf\xbd",
    b"\xe2\x80",
    b"\x1c",
    b"\x1e",
    b"\x1f",
]
PIECES += [
    b"\x0c",
    b"ERROR",
    b"Error 7",
    b"nans",
    b"K",
    b"I",
    b"S",
    b"iteration 12",
    b"errors",
    b"done: ok",
    b"done ok",
]


def pattern(source: random.Random, depth: int = 4) -> str:
    """A regular expression, or something that is almost one."""
    if depth == 0:
        return source.choice(source.choice([WORDS, WORDS, CLASSES, ANCHORS, LITERALS]))
    part = pattern(source, depth - source.choice([1, 1, 2]) if depth > 1 else 0)
    kind = source.randrange(14)
    if kind < 4:
        return part + pattern(source, depth - 1)
    if kind == 4:
        return f"({part})"
    if kind == 5:
        branches = [part, *(source.choice(["", pattern(source, depth - 1)]) for _ in range(source.randrange(1, 3)))]
        source.shuffle(branches)
        text = "|".join(branches)
        return source.choice([f"(?:{text})", f"({text})", text])
    if kind in (6, 7):
        atom = part if len(part) == 1 or part in CLASSES else f"(?:{part})"
        return atom + source.choice(REPEATS) + source.choice(["", "", "?", "+"])
    if kind == 8:
        return f"{source.choice(['(?=', '(?!', '(?!.*', '(?<=', '(?<!', '(?>'])}{part})"
    if kind == 9:
        return f"(?P<g>{part}){pattern(source, depth - 1)}{source.choice(['(?P=g)', ''])}"
    if kind == 10:
        return f"({part}){pattern(source, depth - 1)}{source.choice([chr(92) + '1', '(?(1)a|b)', '(?(1)nan)', ''])}"
    if kind == 11:
        return f"(?{source.choice(['i', '-i', 's', 'm', 'a', 'x', 'is-m', 'u'])}:{part})"
    if kind == 12:
        return source.choice(WORDS) + part
    return part


USUAL = [
    ".",
    r"\s+",
    r"\s*",
    r"\d+",
    r"(\d+)",
    ".*",
    ".+?",
    " ",
    ": ",
    "k",
    "7",
    r"(?P<g>\S+)",
    "(?:s|)",
    "$",
    r"[^a]*",
    r"[^\n]*",
]
LOOKS = ["(?!{})", "(?={})", "(?<!{})", "(?<={})", "(?!.*{})", "(?!.*?{}).*", "(?=.*{})"]


def usual(source: random.Random) -> str:
    """A regular expression as people write them for logs: a word, and what follows."""
    parts = [source.choice(["error", "nan", "iteration", "a"])]
    for _ in range(source.randrange(5)):
        part = source.choice([*USUAL, *WORDS[:10]])
        parts.append(source.choice(LOOKS).format(part) if source.random() < 0.3 else part)
    return "".join(parts)


def make(source: random.Random) -> bytes:
    """A pattern, and a log."""
    text = usual(source) if source.random() < 0.4 else pattern(source)
    if source.random() < 0.3:
        text = f"(?{source.choice(['i', 'i', 'm', 's', 'a', 'ia', 'x', 'im', 'u'])}){text}"
    elif source.random() < 0.3:
        text = source.choice(WORDS) + text
    own = [word.encode() for word in re.split(r"[^\w \x80-\U0010ffff]+", text) if word]  # so that something matches
    few = source.sample(PIECES, 6)
    known = source.choice([PIECES, [*few, b"\n", b"7", *own], [b"\n", b" ", b"a", *own]])
    pieces = source.choices(known, k=source.choice([0, 1, 5, 20, 60]))
    if source.random() < 0.1:
        pieces.append(source.choice(known) * source.choice([100, 2000]))
    if source.random() < 0.5:
        pieces = [piece for piece in pieces if piece.isascii() and b"\r" not in piece]
    data = b"".join(pieces) * source.choice([1, 1, 1, 40])
    given = {"pattern": text, "log": data.decode("latin-1"), "small": source.random() < 0.7}
    return json.dumps(given, sort_keys=True).encode()


def lines_of(data: bytes) -> list[tuple[int, str]]:
    """Every line with its byte offset, by the plainest means."""
    found, start = [], 0
    for line in data.splitlines(keepends=True):
        found.append((start, line.rstrip(b"\r\n").decode(errors="replace")))
        start += len(line)
    return found


def by_re(text: str, data: bytes) -> list[tuple[int, str, dict[str, str]]] | None:
    """What `re` finds; None if that takes long. Raises what re.compile raises."""
    compiled = re.compile(text)
    found = []
    try:
        with TimeLimit() as limit:
            limit.deadline = time.monotonic() + 0.2
            for at, line in lines_of(data):
                if match := compiled.search(line):
                    named = {str(number): value for number, value in enumerate(match.groups(), 1)} | match.groupdict()
                    found.append((at, line, {name: value for name, value in named.items() if value is not None}))
    except TimeoutError:
        return None
    return found


def check(data: bytes) -> None:
    """Compare, with the library and without; with `small`, what is little counts as much, so that each way is taken."""
    given = json.loads(data)
    text, log = given["pattern"], given["log"].encode("latin-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_WORTH", 0)
        if given["small"]:
            patch.setattr(patterns, "_SHORT_LINE", 4)
            patch.setattr(candidates, "_BLOCK", 24 if len(log) % 2 else 400)
            patch.setattr(widening, "LEAST_FIXED", 0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = by_re(text, log)
        except (re.error, OverflowError, RecursionError):
            for refuses in (Pattern.of, group_names, advice):
                with pytest.raises(re.error):
                    refuses(text)
            return
        advice(text)
        assert set(group_names(text)) >= {name for _, _, groups in wanted or () for name in groups}
        compiled = Pattern.of(text)
        if wanted is None:
            return
        holding = [(at, line) for at, line in lines_of(log) if text in line]
        for library in dict.fromkeys([candidates._library(), None]):
            patch.setattr(candidates, "_library", lambda library=library: library)
            found = scan(log, {"r": compiled})
            newest = scan(log, {"r": compiled}, newest_only=frozenset("r"))
            plain = scan(log, {"r": Pattern.of(text, substring=True)})
            if found.too_slow or newest.too_slow:
                continue
            assert [(match.offset, match.line, match.groups) for match in found.matches] == wanted, "each line"
            assert [(match.offset, match.line, match.groups) for match in newest.matches] == wanted[-1:], (
                "the newest line"
            )
            assert [(match.offset, match.line) for match in plain.matches] == holding, "as a substring"


@pytest.mark.slow
def test_a_scan_finds_for_any_pattern_what_re_finds_line_by_line() -> None:
    assert fuzz("patterns", make, check)
