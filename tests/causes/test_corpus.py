"""What every user of the corpus may rely on."""

import re
from collections import Counter

import pytest

from tests.causes.corpus import FOLDER, Case, Category, Half, cases

MACHINE_PATHS = re.compile(rb"/(?:work/[A-Za-z]|(?:root|home|tmp)/[a-z])")
ALL = {half: cases(half) for half in Half}
EACH = [pytest.param(case, id=f"{half}-{case.name}") for half in Half for case in ALL[half]]


def expand(nodes: str) -> set[str]:
    """Names of a SLURM node list with at most one bracket per part: `n[1-2,4],m1`."""
    found = set()
    for part in re.findall(r"[^,\[]+(?:\[[^\]]*\])?", nodes):
        prefix, _, numbers = part.rstrip("]").partition("[")
        for interval in numbers.split(",") if numbers else [""]:
            first, _, last = interval.partition("-")
            ends = range(int(first), int(last or first) + 1) if first else [""]
            found |= {f"{prefix}{str(number).zfill(len(first))}" for number in ends}
    return found


def test_a_node_list_is_expanded() -> None:
    assert expand("n[1-2,4],m1") == {"n1", "n2", "n4", "m1"}
    assert expand("nid[000098-000100]") == {"nid000098", "nid000099", "nid000100"}
    assert expand("") == set()


def test_there_are_enough_cases_and_none_is_in_both_halves() -> None:
    names = Counter(case.name for half in Half for case in ALL[half])
    assert len(names) >= 300
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("half", Half)
def test_every_category_is_in_both_halves(half: Half) -> None:
    count = Counter(case.expect.category for case in ALL[half])
    assert {category: count[category] for category in Category if count[category] < 3} == {}


@pytest.mark.parametrize("half", Half)
def test_every_folder_is_a_case_with_a_main_log_and_nothing_else(half: Half) -> None:
    folders = {path.name for path in (FOLDER / half).iterdir()}
    assert folders == {case.name for case in ALL[half]}
    for case in ALL[half]:
        assert (case.folder / "main.log").is_file()
        assert {path.name for path in case.folder.iterdir()} == {"case.yaml", *(log.name for log in case.logs)}


@pytest.mark.parametrize("case", EACH)
def test_the_line_of_the_root_cause_is_in_a_log(case: Case) -> None:
    line = case.expect.line.encode()
    assert any(line in log.read_bytes() for log in case.logs)
    assert b"\n" not in line


@pytest.mark.parametrize("case", EACH)
def test_blamed_and_failed_nodes_are_in_the_allocation(case: Case) -> None:
    assert set(case.expect.nodes) <= expand(case.nodes)
    assert expand(case.failed_nodes) <= expand(case.nodes)


@pytest.mark.parametrize("case", EACH)
def test_no_path_of_a_private_machine_is_in_a_case(case: Case) -> None:
    for path in case.folder.iterdir():
        assert MACHINE_PATHS.search(path.read_bytes()) is None, path


@pytest.mark.parametrize("half", Half)
def test_a_group_has_several_cases_of_one_category_in_one_half(half: Half) -> None:
    groups: dict[str, list[Case]] = {}
    for case in ALL[half]:
        groups.setdefault(case.expect.same_as, []).append(case)
    groups.pop("", None)
    assert len(groups) >= 3
    for group, members in groups.items():
        assert len(members) >= 2, group
        assert len({case.expect.category for case in members}) == 1, group
    others = {case.expect.same_as for other in Half if other != half for case in ALL[other]}
    assert not set(groups) & others


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 6_000_000
