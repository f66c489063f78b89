"""How right the conclusions are, on each half of the corpus: categories, nodes at fault, and the confusion matrix.

python -m tests.causes.score            the tables of docs/causes.md
python -m tests.causes.score --write    put them there
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import CATEGORIES, Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.engine.observing.cause_finder import ends_of_logs, rank_of, shipped_rules
from tests.causes.corpus import Case, Half, cases

HARDWARE = "gpu-hardware"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "causes.md"
BEGINS, ENDS = "<!-- figures: python -m tests.causes.score --write -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Result:
    """A case, and what was concluded from its logs."""

    case: Case
    cause: Cause

    @property
    def right(self) -> bool:
        return self.cause.category == self.case.expect.category


@dataclass(frozen=True)
class Score:
    """Figures of one half: numbers of cases."""

    cases: int
    right: int
    wrong_hardware: int
    nodes: int
    right_nodes: int
    wrong_nodes: int
    groups: int
    """Groups of cases that are one failure."""
    split: int
    """Of them, those with several fingerprints."""
    joined: int
    """Of them, those that share a fingerprint with another group."""

    @property
    def percent(self) -> float:
        """Of the cases with the right category."""
        return 100 * self.right / self.cases


def concluded(case: Case) -> Cause:
    """The cause of a case, as a watch finds it."""
    ending = Ending(
        scheduler_state=case.scheduler_state,
        exit_code=case.exit_code,
        nodes=case.nodes,
        failed_nodes=case.failed_nodes,
        cancelled_by=case.cancelled_by,
    )
    paths = [str(path) for path in case.logs]
    texts = ends_of_logs(dict.fromkeys(paths, ""), {path: rank_of(path) for path in paths})
    return find_cause(ending, texts, combined({}, shipped_rules()))


@cache
def results(half: Half) -> Sequence[Result]:
    """All cases of a half."""
    return [Result(case, concluded(case)) for case in cases(half)]


def score(half: Half) -> Score:
    """The figures of a half."""
    found = results(half)
    named = [each for each in found if each.case.expect.nodes]
    right = [each for each in named if set(each.cause.blamed_nodes) == set(each.case.expect.nodes)]
    wrong = [each for each in found if set(each.cause.blamed_nodes) - set(each.case.expect.nodes)]
    groups: dict[str, set[str]] = {}
    for each in found:
        if each.case.expect.same_as:
            groups.setdefault(each.case.expect.same_as, set()).add(each.cause.fingerprint)
    owners = Counter(fingerprint for own in groups.values() for fingerprint in own)
    return Score(
        cases=len(found),
        right=sum(each.right for each in found),
        wrong_hardware=sum(each.cause.category == HARDWARE and not each.right for each in found),
        nodes=len(named),
        right_nodes=len(right),
        wrong_nodes=len(wrong),
        groups=len(groups),
        split=sum(len(own) > 1 for own in groups.values()),
        joined=sum(any(owners[fingerprint] > 1 for fingerprint in own) for own in groups.values()),
    )


def figures() -> list[str]:
    """The table of the figures, in Markdown."""
    rows = [
        "| half | cases | right category | wrong `gpu-hardware` | a node is at fault | of these, the right one blamed "
        "| wrong node blamed | groups of one failure | of these, several fingerprints | that of another group |",
        f"|{'---|' * 10}",
    ]
    for half in Half:
        own = score(half)
        rows.append(
            f"| `{half}` | {own.cases} | {own.right} ({own.percent:.1f} %) | {own.wrong_hardware} | {own.nodes} | "
            f"{own.right_nodes} | {own.wrong_nodes} | {own.groups} | {own.split} | {own.joined} |"
        )
    return rows


def matrix(half: Half) -> list[str]:
    """The confusion matrix of a half, in Markdown: a row for each right category, a column for each concluded one."""
    count = Counter((each.case.expect.category.value, each.cause.category) for each in results(half))
    rows = [f"| right ↓ concluded → | {' | '.join(CATEGORIES)} |", f"|---|{'---|' * len(CATEGORIES)}"]
    for right in CATEGORIES:
        cells = [str(count[right, concluded] or "") for concluded in CATEGORIES]
        rows.append(f"| {right} | {' | '.join(cells)} |")
    return rows


def tables() -> str:
    """What docs/causes.md has of the corpus."""
    parts = [figures()]
    for half in (Half.HELD_OUT, Half.FRESH, Half.UNSEEN, Half.LATER, Half.LATEST):
        parts += [[f"The half `{half}`, case by case:"], matrix(half)]
    return "\n\n".join("\n".join(part) for part in parts)


def documented(text: str) -> str:
    """The text of docs/causes.md with the tables of today."""
    head, _, rest = text.partition(BEGINS)
    return f"{head}{BEGINS}\n\n{tables()}\n\n{ENDS}{rest.partition(ENDS)[2]}"


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(documented(DOCUMENT.read_text()))
    else:
        sys.stdout.write(f"{tables()}\n")
