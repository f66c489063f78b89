"""Labels of ranks and nodes before the text of log lines, also in a layout that a log has for itself."""

from __future__ import annotations

import pytest

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.hosts import Nodes, expand
from oellm_autoexp.causes.labels import relabelled, split
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.causes.signs import LogText
from oellm_autoexp.engine.observing.cause_finder import shipped_rules

NODES = "n[1-4],gpu-07.site.org"
ERROR = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


def rewritten(*lines: str, nodes: str = NODES) -> list[str]:
    known = Nodes(expand(nodes))
    data = "".join(f"{line}\n" for line in lines).encode()
    return relabelled(data, known.known, lambda rank, node: None, named=bool(nodes)).data.decode().splitlines()


def concluded(*lines: str, nodes: str = NODES) -> Cause:
    data = "".join(f"{line}\n" for line in lines).encode()
    ending = Ending(scheduler_state="FAILED", exit_code=1, nodes=nodes)
    return find_cause(ending, [LogText("a.log", data, start=100)], combined({}, shipped_rules()))


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("[n2] [rank14]: ", "n2 rank 14: "),
        ("n2 | rank 14 | ", "n2 rank 14: "),
        ("rank 14 (n2, device 3, 0000:83:00.0): ", "n2 rank 14: "),
        ("n2 - rank=14/32 - ", None),  # no sign that it is a label
        ("[n2] rank=14/32: ", "n2 rank 14: "),
        ("2026-12-09T13:22:00+0100 n2 ERROR ", "n2: "),
        ("n2 W1209 13:22:00.123 ", "n2: "),
        ("12/09/2026 13:22:00 [ERROR|DP=1|PP=0|n2]: ", "n2: "),
        ("[2026-12-09 13:22:00,121] [ERROR] [launcher@n2] ", "n2: "),
        ("2026-12-09 13:22:00 | ERROR | train:fit:10 | rank 14 | ", "[rank14]: "),
        ("n2 python: ", "n2: "),
        ("n2 | kernel | ", "n2 kernel: "),
        ("dmesg: n2: ", "n2: "),
        ("[gpu-07] [gpu 3]: ", "[gpu-07.site.org]: [default3]: "),
        ("14> ", "14: "),
        (" 8| ", "8: "),
        ("[14] ", "14: "),
    ],
)
def test_a_label_in_the_layout_of_a_log_gets_the_form_of_a_launcher(written: str, label: str | None) -> None:
    first, second = rewritten(f"{written}Traceback (most recent call last):", f"{written}ValueError: x")
    expected = written if label is None else label
    assert (first, second) == (f"{expected}Traceback (most recent call last):", f"{expected}ValueError: x")
    if label is not None:
        assert split(second).text.removeprefix("n2 kernel: ") == "ValueError: x"


@pytest.mark.parametrize(
    "line",
    [
        "Rank 3, node n2, device 1: Possible transient error!",
        "Rank 3 has failed",
        "n2:4711:4712 [0] NCCL WARN Call to connect failed",
        "[n2:4711] *** Process received signal ***",
        "[rank3]: ValueError: x",
        "3: ValueError: x",
        "srun: error: n2: task 3: Exited with exit code 1",
        "slurmstepd: error: *** STEP 1.0 ON n2 CANCELLED ***",
        "n2 kernel: NVRM: Xid (PCI:0000:3b:00): 79",
        "2026-12-09T13:22:00.1Z n2 stdout F 3: ValueError: x",  # collected, perhaps elsewhere
        "<11>1 2026-01-31T10:00:00.003Z n2 train 4711 - - ValueError: x",
        "2026-12-09 13:22:00 ValueError: x",
        "step 5 | loss 3",
        "note: n2 is slow",
        "ERROR: n2 is slow",
    ],
)
def test_what_is_no_label_or_a_known_one_stays_as_it_is(line: str) -> None:
    assert rewritten(line, line, line) == [line] * 3


def test_one_line_alone_makes_no_layout_and_the_time_stays_where_no_traceback_is() -> None:
    assert rewritten("n2 | rank 3 | ValueError: x", "other") == ["n2 | rank 3 | ValueError: x", "other"]
    first, second = rewritten("2026-12-09T13:22:00 n2 INFO starts", "2026-12-09T13:22:01 n2 ERROR ValueError: x")
    assert (first, second) == ("n2: 2026-12-09T13:22:00 INFO: starts", "n2: ValueError: x")


def test_without_an_allocation_what_looks_like_a_host_is_one() -> None:
    assert rewritten("[cn-b12] [rank3]: a", "[cn-b12] [rank3]: b", nodes="")[0] == "cn-b12 rank 3: a"
    assert rewritten("[worker] [rank3]: a", "[worker] [rank3]: b", nodes="")[0] == "[worker] [rank3]: a"


def test_a_cause_behind_such_labels_has_its_rank_its_node_and_its_place_in_the_file() -> None:
    before = [f"n{number} | rank {number} | starts" for number in (1, 2, 3, 4)]
    found = concluded(*before, f"n2 | rank 2 | {ERROR}", "n3 | rank 3 | Connection reset by peer")
    assert (found.category, found.rank, found.node, found.blamed_nodes) == ("gpu-hardware", 2, "n2", ("n2",))
    assert found.offset == 100 + sum(len(line) + 1 for line in before)
    assert found.line == f"n2 rank 2: {ERROR}"


def test_labels_that_name_both_say_where_a_rank_runs() -> None:
    before = [f"rank {number} (n{number}, gpu 0): starts" for number in (1, 2, 3, 4)]
    found = concluded(*before, "rank 3: silent data corruption, giving up")
    assert (found.category, found.rank, found.blamed_nodes) == ("gpu-hardware", 3, ("n3",))
