"""The library that finds the lines which patterns may match: few of them, whatever it is asked for."""

from __future__ import annotations

import re
import signal

import pytest

from oellm_autoexp.search import candidates, widening
from oellm_autoexp.search.candidates import Candidates
from oellm_autoexp.search.patterns import Pattern, scan

pytest.importorskip("hyperscan")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_WORTH", 0)


USUAL = b" [2026-01-31 12:00:00] iteration 7/ 50 | lm loss: 2.1E+00 | grad norm: 0.455 | number of skipped:   0 |\n"


@pytest.mark.parametrize(
    "pattern",
    [
        r"iteration\s+\d+/.* grad norm: (?:nan|inf) .*skipped:\s+0",
        r"iteration\s+(?P<it>\d+)/\s*\d+ \|(?!.* lm loss: \d).*\| number of skipped:\s+0 \|",
        r"(?i)cuda out of memory(?!.*retry)",
        r"^grad norm",
        r"lm loss: 2.1E\+00$",
    ],
)
def test_lines_that_almost_match_are_no_candidates(pattern: str) -> None:
    assert not Candidates(USUAL * 3).of([Pattern.of(pattern).wide])[0]


def test_the_library_is_asked_as_soon_as_that_is_worth_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_WORTH", 3 * len(USUAL))
    wide = Pattern.of("worth its time").wide
    assert [len(Candidates(USUAL).of([wide])[0]) for _ in range(4)] == [1, 1, 0, 0]


def test_a_line_in_which_a_slow_pattern_matches_nothing_takes_no_time() -> None:
    slow = Pattern.of(r"loss: ((?:a|ab|b|ba)+)+$")
    assert not scan(b"loss: " + b"ab" * 400_000 + b"c\n", {"slow": slow}).too_slow


def test_a_pattern_that_the_library_refuses_keeps_it_from_no_other() -> None:
    known = tuple(Pattern.of(text).wide.ways for text in ("error 1", "error 2", "error 3"))
    refused = (*known[:1], (("(",),), *known[2:])
    ends = candidates._Search(refused).ends(b"error 3\n", [(0, 8)], 8)
    assert ends == {0: [], 2: [7]}


def test_an_interrupt_during_a_search_is_not_lost() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    data = b"error 7\n" * 500_000
    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(KeyboardInterrupt):
            Candidates(data).of([Pattern.of("error 7").wide])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert len(Candidates(data[:80]).of([Pattern.of("error 7").wide])[0]) == 10


def test_the_letters_of_ascii_that_have_other_forms_are_known() -> None:
    others = "".join(map(chr, (*range(0x80, 0xD800), *range(0xE000, 0x110000))))
    for letter in map(chr, range(0x80)):
        known = widening.CASELESS.get(letter.lower())
        forms = re.findall(re.escape(letter), others, re.IGNORECASE)
        assert bool(forms) == (known is not None), letter
        assert all(re.fullmatch(known.encode(), form.encode()) for form in forms if known)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("before", [b"", b"x" * 40 + b"\n", b"x\r", b"x\r\n" * 20])
@pytest.mark.parametrize("pattern", ["error$", r"^error\Z", "^^error$$", "(^|no )error($| 7)", "(?:^e|^f)rror"])
def test_the_ends_of_a_line_are_found_wherever_it_stands(pattern: str, before: bytes, end: bytes) -> None:
    found = scan(before + b"error" + end, {"r": Pattern.of(pattern)})
    assert [match.offset for match in found.matches] == [len(before)]
