"""From lines to one cause: labels, tracebacks, places, fingerprints, recovered errors, several files, endings."""

from __future__ import annotations

import pytest

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.fingerprint import fingerprint
from oellm_autoexp.causes.hosts import Nodes, expand, numbers
from oellm_autoexp.causes.labels import split, stamp
from oellm_autoexp.causes.places import Clues
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.causes.signs import LogText
from oellm_autoexp.causes.tracebacks import chain
from oellm_autoexp.engine.observing.cause_finder import shipped_rules

RULES = combined({}, shipped_rules())
ECC = "RuntimeError: CUDA error: uncorrectable ECC error encountered"


def found(*logs: str, **ending: object) -> Cause:
    texts = [LogText(f"/log{number}", log.encode()) for number, log in enumerate(logs)]
    return find_cause(Ending(**ending), texts, RULES)  # type: ignore[arg-type]


def iteration(number: int) -> str:
    return f" [2026-01-31 10:00:00] iteration {number:8}/     100 | lm loss: 2.0E+00 | grad norm: 0.9 |\n"


def raised(error: str, *, function: str = "train", label: str = "", line: int = 7) -> str:
    lines = (
        "Traceback (most recent call last):",
        f'  File "/scratch/project/train.py", line {line}, in {function}',
        "    go()",
        error,
    )
    return "".join(f"{label}{line}\n" for line in lines)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "label", "text", "ranks"),
    [
        ("KeyError: 'a'", "", "KeyError: 'a'", (None, None, None)),
        ("3: KeyError", "3:", "KeyError", (3, None, None)),
        ("[rank3]: KeyError", "[rank3]:", "KeyError", (None, 3, None)),
        ("[default1]:KeyError", "[default1]:", "KeyError", (None, None, 1)),
        (" 1: [rank12]: KeyError", "1: [rank12]:", "KeyError", (1, 12, None)),
        ("\x1b[31m2: KeyError\x1b[0m", "2:", "KeyError", (2, None, None)),
        ("10:20:30 KeyError", "", "10:20:30 KeyError", (None, None, None)),
        ("gpu-07: KeyError", "gpu-07:", "KeyError", (None, None, None)),
        ("[n7.site.org]: KeyError", "[n7.site.org]:", "KeyError", (None, None, None)),
        ("[n7:4711] KeyError", "[n7:4711]", "KeyError", (None, None, None)),
        ("[1,12]<stderr>: KeyError", "[1,12]<stderr>:", "KeyError", (None, 12, None)),
        ("[rank: 12] KeyError", "[rank: 12]", "KeyError", (None, 12, None)),
        ("[12] KeyError", "", "[12] KeyError", (None, None, None)),
    ],
)
def test_labels_are_taken_off(line: str, label: str, text: str, ranks: tuple[int | None, ...]) -> None:
    parts = split(line)
    assert (parts.label, parts.text, (parts.task, parts.rank, parts.local_rank)) == (label, text, ranks)


def test_times_of_lines_sort_by_time() -> None:
    lines = ["[2026-01-31 10:00:00] a", "2026-01-31T10:00:01 b", "[rank0]:[E0131 10:00:02.1 x.cpp:1] c"]
    assert [stamp(line) for line in lines] == sorted(stamp(line) for line in lines)
    assert stamp("no time") == ""


def test_lists_of_nodes_and_of_tasks_are_expanded() -> None:
    assert expand("n[1-3,07],login1") == ["n1", "n2", "n3", "n07", "login1"]
    assert expand("") == []
    assert list(numbers("0-2,7")) == [0, 1, 2, 7]


def test_the_node_of_a_rank_is_that_of_srun_of_torchrun_or_of_the_order() -> None:
    clues = Clues(Nodes(["n1", "n2"]), world_size=8)
    assert [clues.node(rank) for rank in (0, 3, 4, 7, 8)] == ["n1", "n1", "n2", "n2", ""]
    clues.read(split("srun: error: n2: task 1: Exited with exit code 1"))
    assert clues.node(None, 1) == "n2"
    for line in ("  host      : n2.site.org", "  rank      : 1 (local_rank: 1)"):
        clues.read(split(line))
    assert clues.node(1) == "n2"
    assert clues.node(4) == "", "rank 1 does not run where it would in order"
    assert Clues(Nodes(["n1"])).node(5) == "n1"
    two = Clues(Nodes(["n1", "n2"]))
    assert (two.node(0), two.node(5)) == ("n1", ""), "how many ranks there are is not known"


def test_a_host_is_called_as_slurm_calls_the_node() -> None:
    nodes = Nodes(["n1", "n2", "ip-10-0-0-7"])
    hosts = ("n2.site.org", "N2", "n2-ib0", "n2_4711_0", "10.0.0.7", "n", "n22", "login")
    assert [nodes.known(host) for host in hosts] == ["n2", "n2", "n2", "n2", "ip-10-0-0-7", "", "", ""]
    assert Nodes(["n1.a.org", "n1.b.org"]).known("n1") == "", "it may be either of them"
    assert Nodes(["n1.a.org"]).known("n1") == "n1.a.org"
    assert nodes.named("n[1-2] and login, /data/n1, n2.site.org:29500") == ["n1", "n2"]


# ---------------------------------------------------------------------------------------------------------------------


def test_of_exceptions_that_cause_each_other_the_first_one_is_the_cause() -> None:
    cause = "The above exception was the direct cause of the following exception:"
    log = raised("KeyError: 'vocab'", function="load") + f"\n{cause}\n\n" + raised("RuntimeError: it failed")
    concluded = found(log, exit_code=1)
    assert concluded.line == "KeyError: 'vocab'"
    assert "train.py:7 in load" in concluded.text


def test_ranks_that_write_at_once_are_kept_apart_by_their_labels() -> None:
    ours = raised("ValueError: wrong shape", label="[rank3]: ", function="ours").splitlines(keepends=True)
    theirs = raised("KeyError: 'x'", label="[rank1]: ", function="theirs").splitlines(keepends=True)
    mixed = [line for pair in zip(theirs, ours, strict=True) for line in pair]
    (traceback,) = chain([line.rstrip("\n") for line in mixed], len(mixed) - 1)
    assert traceback.places == ("/scratch/project/train.py:ours",)
    assert traceback.frame is not None
    assert (traceback.frame.file, traceback.frame.number, traceback.frame.statement) == ("train.py", 7, "go()")


def test_a_line_that_no_traceback_leads_to_has_none() -> None:
    assert chain(["starts", "ValueError: x"], 1) == []


# ---------------------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_equal_for_other_ranks_attempts_numbers_and_folders() -> None:
    logs = [
        raised("ValueError: batch 12 of /scratch/run1/data/part.bin has 7 rows at 0x7ffe12", label="[rank3]: "),
        raised("ValueError: batch 99 of /home/b/data/part.bin has 8 rows at 0x123456", label="7: [rank7]: ", line=9),
    ]
    assert len({found(log, exit_code=1).fingerprint for log in logs}) == 1


@pytest.mark.parametrize(
    "other",
    [
        raised("ValueError: another message"),
        raised("KeyError: batch 1 of /a/part.bin"),
        raised("ValueError: batch 1 of /a/other.bin"),
        raised("ValueError: batch 1 of /a/part.bin", function="evaluate"),
    ],
)
def test_a_fingerprint_differs_for_other_failures(other: str) -> None:
    assert found(raised("ValueError: batch 1 of /a/part.bin")).fingerprint != found(other).fingerprint


def test_the_same_failure_of_another_broken_node_is_another_one() -> None:
    assert fingerprint("a", "b", nodes=["n1"]) != fingerprint("a", "b", nodes=["n2"])


# ---------------------------------------------------------------------------------------------------------------------


def test_an_error_that_the_training_survived_is_no_cause() -> None:
    survived = "ValueError: a sample is broken\n" + iteration(1) + iteration(2) + iteration(3)
    assert found(survived, exit_code=3).category == "unknown"
    assert found(survived + raised("KeyError: 'x'"), exit_code=1).line == "KeyError: 'x'"
    assert found("ValueError: a sample is broken\n" + iteration(1), exit_code=3).line.startswith("ValueError")


def test_progress_bars_are_progress() -> None:
    bars = "".join(f"train: {number}/100 [00:0{number}<01:00,  1.0it/s]\r" for number in (1, 2, 3))
    assert found("ValueError: x\n" + bars + "\n", exit_code=3).category == "unknown"


def test_a_consequence_does_not_count_before_its_cause() -> None:
    timeout = (
        "[rank0]:[E131 10:00:00.1 ProcessGroupNCCL.cpp:616] [Rank 0] Watchdog caught collective operation timeout: x\n"
    )
    reset = "[rank2]: ConnectionResetError: [Errno 104] Connection reset by peer\n"
    concluded = found(reset + timeout, f"[rank1]: {ECC}\n", nodes="n[1-2]", exit_code=1)
    assert (concluded.category, concluded.rank) == ("gpu-hardware", 1)


def test_of_several_files_the_earliest_time_counts_and_not_the_order() -> None:
    late = "[2026-01-31 10:05:00] starts\n" + raised("ValueError: late")
    early = "[2026-01-31 10:01:00] starts\n" + raised("ValueError: early")
    assert found(late, early).line == "ValueError: early"
    assert found(early, late).line == "ValueError: early"


def test_a_text_that_a_model_is_trained_on_is_no_cause() -> None:
    log = "sample 7: she said that ValueError: x is raised when CUDA out of memory comes\n"
    assert found(log, exit_code=5).category == "unknown"


def test_a_secret_in_a_line_is_not_shown() -> None:
    secret = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ12345678"
    concluded = found(f"ValueError: refused: token={secret}\n")
    assert concluded.category == "code"
    assert secret not in concluded.text + concluded.line


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "category"),
    [
        ({"scheduler_state": "TIMEOUT"}, "time"),
        ({"scheduler_state": "PREEMPTED"}, "preempted"),
        ({"scheduler_state": "NODE_FAIL", "failed_nodes": "n2"}, "node"),
        ({"scheduler_state": "OUT_OF_MEMORY"}, "oom-host"),
        ({"scheduler_state": "FAILED", "exit_code": 137}, "killed"),
        ({"scheduler_state": "FAILED", "exit_code": 139}, "code"),
        ({"scheduler_state": "FAILED", "exit_code": 127}, "config"),
        ({"scheduler_state": "FAILED", "exit_code": 3}, "unknown"),
        ({"scheduler_state": "CANCELLED by 1000"}, "killed"),
        ({"scheduler_state": "CANCELLED", "cancelled_by": "the log is silent"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_without_a_line_the_end_itself_says_why(ending: dict[str, object], category: str) -> None:
    concluded = found("starts\n", nodes="n[1-2]", **ending)
    assert concluded.category == category
    assert concluded.blamed_nodes == (("n2",) if category == "node" else ())


def test_a_cause_in_the_log_goes_before_the_time_limit_but_a_consequence_does_not() -> None:
    assert found(f"{ECC}\n", scheduler_state="TIMEOUT").category == "gpu-hardware"
    assert found("Connection reset by peer\n", scheduler_state="TIMEOUT").category == "time"
    assert found("ValueError: x\n", scheduler_state="PREEMPTED").category == "preempted"


@pytest.mark.parametrize(
    ("verdict", "category", "blamed"),
    [
        ("Correct result (but possible Application error) (found NaN in local forward loss calculation)!", "nan", ()),
        ("Possible persistent error!!", "gpu-hardware", ()),  # of the GPU of the attempt before
        ("Possible transient error!!", "gpu-hardware", ("n1",)),
    ],
)
def test_exit_code_17_of_megatron_is_as_its_verdict_line_says(
    verdict: str, category: str, blamed: tuple[str, ...]
) -> None:
    line = f"ERROR:megatron.core.rerun_state_machine:Rank 0, node n1, device 0, iteration #4: {verdict}\n"
    concluded = found(iteration(3) + line, exit_code=17, nodes="n[1-2]")
    assert (concluded.category, concluded.blamed_nodes) == (category, blamed)


def test_no_log_at_all_is_no_error() -> None:
    assert found().category == "unknown"
    assert found("").category == "unknown"


@pytest.mark.parametrize(
    "line",
    [
        "step {0} loss 1.0",
        "{0}/{0} [00:01<00:02]",
        "world size: {0}",
        "srun: error: n1: task {0}: Killed",
        "  rank      : {0} (local_rank: {0})",
        "ERROR:x:Unexpected result nan on rank {0} at iteration #4 invocation #1 (message='found NaN')",
        "n1:1:1 [{0}] NCCL WARN NET/IB : Got async event : port error",
        "RuntimeError: rank {0} is lost",
    ],
)
def test_numbers_that_python_refuses_to_read_are_no_numbers(line: str) -> None:
    log = f"{line.format('9' * 5000)}\nValueError: x\n".encode()
    found = find_cause(Ending(scheduler_state="FAILED", exit_code=1, nodes="n[1-2]"), [LogText("a", log)], RULES)
    assert found.category != ""
