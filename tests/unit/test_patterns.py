"""Patterns in logs: the fast way finds the very lines that `re` finds, and no pattern can stall the watch."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.search import candidates, patterns, time_limit, widening
from oellm_autoexp.search.candidates import Candidates
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.search.patterns import Match, Pattern, Search, advice, group_names, scan


@pytest.fixture(scope="module", autouse=True, params=["hyperscan", "re alone"])
def library(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the library, used for the least, and without."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "re alone":
            patch.setattr(candidates, "_library", lambda: None)
        else:
            pytest.importorskip("hyperscan")
        patch.setattr(candidates, "_WORTH", 0)
        patch.setattr(widening, "LEAST_FIXED", 0)
        yield request.param


POOL = [
    "error",
    "loss: nan",
    r"(?i)error",
    r"(?i)out of memory|oom",
    r"CUDA error|NCCL (?:WARN|INFO)|Traceback",
    r"iteration\s+(?P<it>\d+)",
    r"(?:fatal )?error",
    r"(?<=loss: )nan",
    r"(?<!no )error",
    r"error(?=: 7)",
    r"error(?! ok)",
    r"^error",
    r"nan$",
    r"\berror\b",
    r"[eE]rror [0-9]+",
    r"über|größe",
    r"(?i:error): 7",
    r"er{2}or",
    r"(?:nan){1,3}",
    r"(?>err)or",
    r"(err)or.*\1",
    r"x*",
    r"^$",
    r"\d",
    "(?x) e r r o r  # spaced",
    r"(a|b)?error",
    "\ufffd",
    r"a\x00b",
    r"(?s)error.7",
    r"error(?!.*ok)",
    r"error: (?!.*nan)\d.*",
    r"nan.*error|loss: .*x",
    r"(?i)Error.*(?P<n>[0-9]{1,40}).* ok$",
    r"^(?:fatal |no )+error\s*$",
    r"^(?:error.* ok|nan|loss: .*x)",
    r"(?:error(?!.*ok)|nan.*x)",
    r"loss: (?:.*nan |x)?error",
    r"(?i:error.*OOM|NAN) ok",
    r"no (?:fatal .*error|no )+nan",
    r"[eE]rror(?: |.*[: ]+)7|[ax]{1,3}.*nan",
    r"^(?:\w+ ){0,9}\w*error",
    r"^(?:(?:no )?error|(?:fatal ?)+nan)$",
    r"(?i)[kx].*nan|[ao]om",
]
COLOUR = b"\x1b[31m"
PIECES = [
    *(b"error", b"Error", b"ERROR", b" ", b": 7", b" ok", b"no ", b"fatal ", b"loss: ", b"nan", b"iteration  12"),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\x00", b"a\x00b", b"\xff", b"\xc3", "über".encode(), "größe".encode()),
    *(
        b"Out Of Memory",
        b"oom",
        b"OOM",
        b"CUDA error",
        b"NCCL INFO",
        b"Traceback",
        b"a",
        b"x",
        COLOUR,
        b"\xef\xbf\xbd",
    ),
]
LOGS = st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)


def lines_of(data: bytes) -> list[tuple[int, str]]:
    """Every line without colours, with its byte offset, by the plainest means."""
    found, start = [], 0
    places = [len(data[:end].replace(COLOUR, b"")) for end in range(len(data) + 1)]
    for line in data.replace(COLOUR, b"").splitlines(keepends=True):
        found.append((places.index(start), line.rstrip(b"\r\n").decode(errors="replace")))
        start += len(line)
    return found


@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=4, unique=True), LOGS)
def test_a_scan_finds_exactly_the_lines_that_re_finds_at_their_offsets(chosen: list[str], data: bytes) -> None:
    found = scan(data, {text: Pattern.of(text) for text in chosen})
    wanted = {(text, at, line) for text in chosen for at, line in lines_of(data) if re.search(text, line)}
    assert {(match.rule, match.offset, match.line) for match in found.matches} == wanted
    assert len(found.matches) == len(wanted)
    assert [match.offset for match in found.matches] == sorted(match.offset for match in found.matches)
    assert not found.too_slow


@pytest.mark.parametrize("escape", ["\x1b[1;31m", "\x1b[K", "\x1b[38:2::1:2:3m", "\x1b(B", "\x1b]8;;x:y\x1b\\"])
def test_escape_sequences_of_a_terminal_are_no_part_of_a_line(escape: str) -> None:
    data = f"{escape}a\n{escape}step{escape} 1{escape}\n\x1b alone\n".encode()
    (match,) = scan(data, {"r": Pattern.of("^step (1)$")}).matches
    assert (match.offset, match.line, match.groups) == (len(escape) + 2, "step 1", {"1": "1"})
    assert [match.line for match in scan(data, {"r": Pattern.of("alone")}).matches] == ["\x1b alone"]


@given(st.sampled_from(POOL), LOGS)
def test_the_search_for_candidates_never_loses_a_line(text: str, data: bytes) -> None:
    data = without_escapes(data)
    wide = Pattern.of(text).wide
    looked_at = Candidates(data).of([wide])[0]
    assert {at for at, line in lines_of(data) if re.search(text, line)} <= {start for start, _ in looked_at}
    assert list(Candidates(data).newest_of(wide)) == [*reversed(looked_at)]
    assert set(looked_at) <= set(Candidates(data).of([widening.Wide()])[0])


WORDS = st.sampled_from(["error", "nan", "a", "no ", "K"]).map(lambda word: (word, word))
GAPS = st.sampled_from(["error", "", "no a", "x7 "]).map(lambda text: (".*", text))
Written = tuple[str, str]


@pytest.mark.parametrize(
    ("pattern", "expressions"),
    [
        (r"^(?:\w+\.){0,9}FooError", {("FooError",)}),
        (r"^(?:(?:\w+\.)*FooError|Killed)", {("(?:FooError|Killed)",)}),
        (r"^(?:FooError|Killed)", {(r"[\n\r](?:FooError|Killed)",)}),
    ],
)
def test_what_need_not_be_there_at_the_beginning_of_a_line_is_not_searched_for(
    pattern: str, expressions: set[tuple[str, ...]]
) -> None:
    assert {*Pattern.of(pattern).wide.ways} == expressions


def _larger(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    several = st.lists(inner, min_size=2, max_size=3)
    chosen = st.tuples(several, st.integers(0, 1))
    return st.one_of(
        several.map(lambda parts: ("".join(part[0] for part in parts), "".join(part[1] for part in parts))),
        chosen.map(lambda given: (f"(?:{'|'.join(part[0] for part in given[0])})", given[0][given[1]][1])),
        several.map(lambda parts: (f"({'|'.join(part[0] for part in parts)})+", "".join(part[1] for part in parts))),
        inner.map(lambda part: (f"(?i:{part[0]})", part[1].swapcase())),
        st.tuples(inner, st.sampled_from("?*")).map(lambda given: (f"(?:{given[0][0]}){given[1]}", given[0][1])),
        inner.map(lambda part: (f"(?:{part[0]})?", "")),
        inner.map(lambda part: (f"(?>{part[0]})", part[1])),
    )


@given(st.recursive(st.one_of(WORDS, GAPS), _larger, max_leaves=12))
def test_branches_that_hold_gaps_lose_no_line(written: Written) -> None:
    pattern, text = written
    data = f"{text}\nx {text} 7\nno\n".encode()
    looked_at = {start for start, _ in Candidates(data).of([Pattern.of(pattern).wide])[0]}
    assert {at for at, line in lines_of(data) if re.search(pattern, line)} <= looked_at


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("error (?:no .*nan|x )*7", "error x x no nan7"),
        ("(?i:error.*OOM|NAN) ok", "ERROR oom ok"),
        ("(?i)[kx]elvin", "\u212aelvin"),
    ],
)
def test_repeats_flags_and_other_cases_lose_no_line(pattern: str, line: str) -> None:
    assert Candidates(line.encode()).of([Pattern.of(pattern).wide])[0]


@pytest.mark.parametrize(
    ("pattern", "ways"),
    [
        ("no (?:error.*nan|loss)s", 2),
        ("(?:error.*nan|loss|oom)", 2),  # those without a gap are one
        ("(?:error.*nan|loss: .*(?:memory|failed.*broken))", 3),
        ("error(?:.*nan)?", 1),
        ("(?:error.*nan|loss){2}x", 1),
        ("".join(f"(?:word {number}.*text {number}|none {number})" for number in range(6)), 16),
    ],
)
def test_a_branch_that_holds_a_gap_is_a_way_of_its_own(pattern: str, ways: int) -> None:
    assert len(Pattern.of(pattern).wide.ways) == ways


@given(st.sampled_from([*POOL, r"error\s+\d", r"(?!.*ok)error", r"no (?!\s)error", r"error(?!\n)"]), LOGS)
def test_blocks_of_few_lines_are_searched_as_one_of_many(text: str, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_BLOCK", 24)
        found = scan(data, {"r": Pattern.of(text)})
    assert [match.offset for match in found.matches] == [at for at, line in lines_of(data) if re.search(text, line)]


TOO_LARGE = "(?i)" + "kiss " * 1000
REFUSED = "fatal" + "(?:a.?b){0,16}" * 30 + "foo|" + "|".join(f"no {number}[a-z0-9]{{16}}z" for number in range(99))


@pytest.mark.parametrize("pattern", [TOO_LARGE, REFUSED])
def test_patterns_that_the_library_does_not_take_are_matched_by_re(pattern: str) -> None:
    data = b"error\n" + b"kiss " * 1000 + b"\nfatalfoo\n"
    found = scan(data, {"r": Pattern.of(pattern), "e": Pattern.of("error")})
    assert [match.rule for match in found.matches] == ["e", "r"]


@pytest.mark.parametrize(
    ("pattern", "line", "groups"),
    [
        (r"(iter|iteration) (\d+)", "iteration 12", {"1": "iteration", "2": "12"}),
        ("error|errors", "two errors", {}),
        ("(nan|nans)", "nans", {"1": "nan"}),
        ("done(:|) ok", "done ok", {"1": ""}),
        ("(|x)", "", {"1": ""}),
        ("(?:)+error", "error", {}),
    ],
)
def test_a_pattern_may_have_an_empty_branch(pattern: str, line: str, groups: dict[str, str]) -> None:
    match = scan(f"before\n{line}\n".encode(), {"r": Pattern.of(pattern)}).matches[-1]
    assert (match.line, match.groups) == (line, groups)
    advice(pattern)
    group_names(pattern)


@pytest.mark.parametrize("lines", [1, 100])
def test_what_counts_as_blank_does_not_depend_on_the_number_of_lines(lines: int) -> None:
    found = scan(b"error\x1c7\n" * lines, {"r": Pattern.of(r"error\s7"), "not": Pattern.of(r"error(?!\s)")})
    assert [match.rule for match in found.matches] == ["r"] * lines


@pytest.mark.parametrize("before", ["", "x" * 2000])
@pytest.mark.parametrize("pattern", ["[[a]error", "[--a]error", "[a||b]error", "(?i)\u0130rror", "(?:x*)[[]{0}error"])
def test_long_lines_and_short_ones_are_matched_by_the_same_rules(pattern: str, before: str) -> None:
    for line in (f"{before}[error", f"{before}berror", f"{before}|error", f"{before}irror", f"{before}error"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = re.search(pattern, line) is not None
        assert bool(scan(line.encode(), {"r": Pattern.of(pattern)}).matches) == wanted


@pytest.mark.parametrize("pattern", ["x{99999999999999999999}", "(" * 4000 + ")" * 4000])
def test_numbers_and_depths_that_re_does_not_take_are_errors_of_the_pattern(pattern: str) -> None:
    for refuses in (Pattern.of, group_names, advice):
        with pytest.raises(re.error):
            refuses(pattern)


def test_a_pattern_that_warns_of_a_nested_set_is_taken_in_silence() -> None:
    assert advice("[[a]error") is None
    assert group_names("([[a])error") == ("1",)


@given(st.sampled_from(["error", ".*", "a\x00b", "größe", "(", "[31m"]), LOGS)
def test_a_substring_is_a_plain_text(text: str, data: bytes) -> None:
    found = scan(data, {"r": Pattern.of(text, substring=True)})
    assert [match.offset for match in found.matches] == [at for at, line in lines_of(data) if text in line]


@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=3, unique=True), LOGS)
def test_of_newest_only_rules_just_the_last_matching_line_counts(chosen: list[str], data: bytes) -> None:
    compiled = {text: Pattern.of(text) for text in chosen}
    every = scan(data, compiled).matches
    newest = scan(data, compiled, newest_only=frozenset(chosen[:1])).matches
    last = [match for match in every if match.rule == chosen[0]][-1:]
    others = [match for match in every if match.rule != chosen[0]]
    assert sorted(map(repr, newest)) == sorted(map(repr, last + others))


@given(st.lists(st.sampled_from(POOL), min_size=1, max_size=3, unique=True), LOGS, st.integers(1, 9))
def test_the_newest_matches_are_shown_first_until_there_are_enough(chosen: list[str], data: bytes, enough: int) -> None:
    search = Search(data, {text: Pattern.of(text) for text in chosen})
    shown: list[Match] = []

    def is_last(match: Match) -> bool:
        shown.append(match)
        return len(shown) == enough

    search.newest_first(chosen, is_last)
    assert shown == search.matches().matches[::-1][:enough]


def test_the_search_for_lines_is_no_rules_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    of = Candidates.of

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.4)
        return of(*arguments)

    monkeypatch.setattr(Candidates, "of", slowly)
    monkeypatch.setattr(patterns, "SCAN_SECONDS", 0.2)
    found = scan(b"a\nb\n", {"a": Pattern.of("a"), "b": Pattern.of("b")})
    assert ([match.rule for match in found.matches], found.too_slow) == (["a", "b"], frozenset())


def test_of_newest_first_a_rule_that_is_too_slow_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.2)
    search = Search(b"a 1\n" + b"a" * 60 + b"b\na 2\n", {"slow": Pattern.of("(?:a|a)*$"), "r": Pattern.of(r"^a \d")})
    shown: list[str] = []

    def is_last(match: Match) -> bool:
        shown.append(match.rule)
        return False

    search.newest_first(["slow", "r"], is_last)
    assert shown == ["r", "slow", "r"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("(?i)ÉCHEC", "échec"),
        ("(?i)échec", "ÉCHEC"),
        ("(?i)kill", "\u212aill"),
        ("(?i)disk", "di\u017fk"),
    ],
)
def test_ignoring_case_is_right_for_letters_beyond_ascii(pattern: str, line: str) -> None:
    assert re.search(pattern, line)
    assert len(scan(line.encode() + b"\n", {"r": Pattern.of(pattern)}).matches) == 1


@pytest.mark.parametrize("pattern", [r"\nerror", "\r", r"\n"])
def test_a_pattern_that_begins_with_a_line_end_matches_no_line(pattern: str) -> None:
    assert not scan(b"a\nerror\r\nb\n", {"r": Pattern.of(pattern)}).matches


def test_an_empty_substring_is_in_each_line() -> None:
    assert len(scan(b"a\n\nb\n", {"r": Pattern.of("", substring=True)}).matches) == 3


def test_braces_that_re_takes_as_text_are_text() -> None:
    pattern = "(?:error){e<=2}"
    assert re.search(pattern, "error{e<=2}")
    assert not re.search(pattern, "errxx")
    found = scan(b"errxx\nerror{e<=2}\n", {"r": Pattern.of(pattern)})
    assert [match.line for match in found.matches] == ["error{e<=2}"]


def test_a_surrogate_in_a_pattern_is_an_error_of_the_pattern_or_none() -> None:
    with contextlib.suppress(re.error):
        Pattern.of(r"\ud800x")


def test_a_pattern_that_backtracks_without_end_is_cut_off_told_and_stalls_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.05)
    data = b"ab" * 40 + b"c\nerror\n"
    found = scan(data, {"slow": Pattern.of(r"((?:a|ab|b|ba)+)+\bc"), "r": Pattern.of("error")})
    assert found.too_slow == {"slow"}
    assert [(match.rule, match.line) for match in found.matches] == [("r", "error")]


def test_a_long_line_is_under_the_time_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.05)
    found = scan(b"x" * 1_000_000 + b"8\n", {"slow": Pattern.of(r"\w+\b8")})  # a short while at each letter
    assert found.too_slow == {"slow"}


def test_after_a_scan_the_signal_and_the_timer_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 0.05)
    former, rang = signal.getsignal(signal.SIGALRM), threading.Event()
    try:
        signal.signal(signal.SIGALRM, lambda *_: rang.set())
        signal.setitimer(signal.ITIMER_REAL, 600)
        assert scan(b"a" * 60 + b"!\n", {"slow": Pattern.of(r"(a+)+\B!")}).too_slow
        assert 590 < signal.setitimer(signal.ITIMER_REAL, 0)[0] <= 600
        signal.raise_signal(signal.SIGALRM)
        assert rang.is_set()
    finally:
        signal.signal(signal.SIGALRM, former)


def test_a_time_limit_that_is_over_is_reported_once_where_it_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "_TICK_SECONDS", 0.001)
    with time_limit.TimeLimit() as limit:
        limit.deadline = time.monotonic()
        with pytest.raises(TimeoutError):
            time.sleep(5)
        time.sleep(0.05)  # many ticks


@pytest.mark.slow
def test_a_time_limit_that_is_over_as_its_block_ends_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "_TICK_SECONDS", 3e-5)
    over = 0
    former = signal.getsignal(signal.SIGALRM)
    try:
        for number in range(50_000):
            try:
                with time_limit.TimeLimit() as limit:
                    limit.deadline = time.monotonic() + 3e-5
                    until = time.monotonic() + number % 100 * 1e-6
                    while time.monotonic() < until:
                        pass
            except TimeoutError:
                over += 1
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert over


def test_a_time_limit_is_reported_in_code_of_its_own_module_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_a_moment() -> None:
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            pass

    # such as a callback of the collector
    elsewhere: Callable[[], None] = types.FunctionType(wait_a_moment.__code__, {"time": time})
    monkeypatch.setattr(time_limit, "_TICK_SECONDS", 0.001)
    with time_limit.TimeLimit() as limit:
        limit.deadline = time.monotonic() + 0.01
        elsewhere()
        with pytest.raises(TimeoutError):
            wait_a_moment()


def test_a_tick_that_is_delivered_after_its_block_does_nothing() -> None:
    former = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        with time_limit.TimeLimit():
            pass
        signal.raise_signal(signal.SIGALRM)  # its default action ends the process
    finally:
        signal.signal(signal.SIGALRM, former)


def test_another_thread_finds_the_same() -> None:
    found: list[patterns.Scan] = []
    thread = threading.Thread(target=lambda: found.append(scan(b"x\nerror 7\n", {"r": Pattern.of(r"error (\d)")})))
    thread.start()
    thread.join()
    assert [match.groups for match in found[0].matches] == [{"1": "7"}]


def test_many_lines_that_each_take_almost_too_long_do_not_stall_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MATCH_SECONDS", 60.0)
    monkeypatch.setattr(patterns, "SCAN_SECONDS", 0.2)
    line = b"abababababababab!\n"  # some milliseconds: far below the limit for a line
    assert scan(line * 100_000, {"slow": Pattern.of(r"((?:a|ab|b|ba)+)+\B!")}).too_slow == {"slow"}


def test_ten_megabytes_without_a_line_end_are_one_line() -> None:
    data = b"x" * 10_000_000 + b"error"
    found = scan(data, {"r": Pattern.of("error"), "s": Pattern.of("(?i)absent|nowhere")})
    assert [match.offset for match in found.matches] == [0]


def test_groups_that_took_no_part_are_left_out() -> None:
    match = scan(b"b=2\n", {"r": Pattern.of(r"(?:a=(?P<a>\d)|b=(?P<b>\d))")}).matches[0]
    assert dict(match.groups) == {"2": "2", "b": "2"}


def test_group_names_are_numbers_then_names() -> None:
    assert group_names(r"(x)(?P<y>z)") == ("1", "2", "y")
    with pytest.raises(re.error):
        group_names("(")


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (".*error", "begins with '.*'"),
        (".+error", "begins with '.*'"),
        ("^.*error", "begins with '.*'"),
        (".*?error", "begins with '.*'"),
        ("error (a+)+$", "repeat inside"),
        ("error (?:a|b*)*x", "repeat inside"),
        (r"\d+", "no fixed text"),
        ("[eE]", "no fixed text"),
        ("error|\\d", "no fixed text"),
        ("error", None),
        (r"(?i)iteration\s+(\d+)", None),
        ("(?:error )+", None),
        ("(?:ab{2,3})+", None),
    ],
)
def test_advice_is_given_for_slow_forms_only(pattern: str, words: str | None) -> None:
    reported = advice(pattern)
    assert reported is None if words is None else reported is not None and words in reported
