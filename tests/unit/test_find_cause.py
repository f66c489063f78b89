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
        ("2026-01-31T12:00:00.123Z stderr F [rank3]:   x", "[rank3]:", "  x", (None, 3, None)),
        ("2026-01-31T12:00:00.123+01:00 n7 stderr F 3: x", "3:", "x", (3, None, None)),
        ("Jan 31 12:00:00 n7 train[4711]: 3: x", "3:", "x", (3, None, None)),
        ("trainer_3  | [rank3]: x", "[rank3]:", "x", (None, 3, None)),
        ("Jan 31 12:00:00 n7 kernel: x", "", "n7 kernel: x", (None, None, None)),
        ("Rank 3: KeyError", "Rank 3:", "KeyError", (None, 3, None)),
        ("python3: can't open file", "", "python3: can't open file", (None, None, None)),
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
    assert expand("r[1-2]n[01,7],x[1]-ib") == ["r1n01", "r1n7", "r2n01", "r2n7", "x1-ib"]
    assert expand("a[b],c]") == expand("") == []
    assert len(expand("n[1-99999][1-99999]")) == 10000
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


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("rank 12 -> n2", "n2"),
        ("rank 12: n2", "n2"),
        ("Rank 12 @ n2.site.org", "n2"),
        ("[n2] rank 12", "n2"),
        ("n2: global rank 12 of 16", "n2"),
        ("global_rank=12 local_rank=0 host=n2", "n2"),
        ("Rank:12, local_rank:0, hostname:n2, world_size = 16", "n2"),
        ("Rank: 12/16 (local=0, host=n2)", "n2"),
        ("Rank 12 has local_rank 0, hostname n2 and port 29500", "n2"),
        ("Hello from rank 12 on n2", "n2"),
        ("Hello from rank 12 out of 16, I am on processor n2, if_init is 1", "n2"),
        ("Hello world from processor n2, rank 12 out of 16 processors", "n2"),
        ("host=n2 rank=12/16 gpu=NVIDIA", "n2"),
        ("INIT DONE: n2 rank 12", "n2"),
        ("rank 12=n2 slot=0:0-3", "n2"),
        ("[PE_0]: rank 12 is on n2", "n2"),
        ("rank=12 local_rank=0 node=n2 master_addr=n1", "n2"),
        ("MASTER_ADDR=n1 RANK=12 WORLD_SIZE=16", ""),
        ("master_node=n1 rank=12 world_size=16", ""),
        ("rendezvous host n1, rank 12 of 16 has joined", ""),
        ("n1: rank 12 failed", ""),
        ("rank 12 lost its connection to host n1", ""),
        ("local_rank 12 on n1", ""),
        ("rank 12 on fire", ""),
    ],
)
def test_where_a_rank_runs_is_read_as_programs_print_it(line: str, place: str) -> None:
    clues = Clues(Nodes(["n1", "n2"]))
    clues.read(split(line))
    assert clues.node_of_rank.get(12, clues.node_of_task.get(12, "")) == place


def test_a_table_of_ranks_is_read_until_something_else_follows() -> None:
    clues = Clues(Nodes(["n1", "n2"]))
    clues.read_table(
        split("| host | global rank | device |"), ["|---|---|---|", "| n2 | 0 | 0 |", "begin", "| n1 | 1 | 0 |"]
    )
    assert clues.node_of_rank == {0: "n2"}
    clues.read_table(split("+ srun --nodes=2 -l hostname"), ["2: n2", "3: n1", "4: other", "5: n1"])
    assert clues.node_of_task == {2: "n2", 3: "n1"}


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


def test_the_message_of_an_exception_that_causes_another_may_have_several_lines() -> None:
    first = raised("CastError: Couldn't cast\nid: int64\ntext: string")
    text = f"{first}\nThe above exception was the direct cause of the following exception:\n\n{raised('ValueError: a')}"
    lines = text.splitlines()
    assert [lines[each.exception] for each in chain(lines, len(lines) - 1)] == [
        "CastError: Couldn't cast",
        "ValueError: a",
    ]


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


def test_the_place_of_an_exception_is_found_behind_labels_without_a_blank() -> None:
    for label in ("[default3]:", "[rank3]: ", "3: ", "[1,3]<stderr>:", "[n1:4711] "):
        assert found(raised("ValueError: x", label=label)).text.startswith("ValueError: x [train.py:7 in train]"), label


@pytest.mark.parametrize(
    "message",
    [
        "/var/spool/slurmd/job0{}/slurm_script: line 95: torchrunx: command not found",
        "/scratch/state/local/{}.script: line 95: torchrunx: command not found",
        "execve(): /tmp/{}/run.sh: No such file or directory",
        "can't open '/local/{}/train.bin'",
        "can't open '/scratch/job_{}/train.bin'",
        "can't open '/scratch/tmp{}wk2/train.bin'",
        "can't open '/scratch/7f0c2e0a-1b1a-4c11-9a39-{}00aabb/train.bin'",
    ],
)
def test_ids_of_jobs_and_names_of_temporary_files_do_not_count(message: str) -> None:
    assert fingerprint("a", message.format("111111")) == fingerprint("a", message.format("222222"))
    assert fingerprint("a", "can't open '/data/iter_100/a.pt'") != fingerprint("a", "can't open '/data/iter_200/a.pt'")


def test_counts_are_no_paths_and_a_full_file_system_has_one_fingerprint_for_all_its_files() -> None:
    assert fingerprint("a", "3/4 clients joined") == fingerprint("a", "30/32 clients joined")
    full = ("no space: '/scratch/iter_0000100/shard_03.pt'", "no space: '/scratch/iter_0002000/shard_11.pt'")
    assert len({fingerprint("a", message) for message in full}) == 2
    assert len({fingerprint("a", message, of_folder=True) for message in full}) == 1
    assert fingerprint("a", "'/a/b1'", of_folder=True) != fingerprint("a", "'/a/c1'", of_folder=True)


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


@pytest.mark.parametrize(
    "form",
    [
        '{{"step": {0}, "loss": 2.1}}',
        '{{"step": {0}, "tokens_per_second": 3012}}',
        '{{"metrics": {{"train_loss": 2.1}}, "time": {{"s": 1}}, "global_step": "{0}"}}',
        "{{'loss': '2.1', 'grad_norm': '0.4', 'epoch': '0.{0}'}}",
        '| INFO | train_inner | {{"epoch": 1, "update": 0.3, "loss": "9.1", "num_updates": "{0}"}}',
        "Step {0}/400 | Loss: 2.31 | 51.2k tokens/s",
        "Epoch 1 | iter {0} step {0} | loss train: 2.3, val: n/a | iter time: 312.1 ms (step)",
        "11/04/2026 04:54:10 [INFO|DP=0|n1]: iteration: {0} / 400 | consumed_tokens: 1.2M | lm_loss: 3.11",
        "[step={0}/400,epoch=0]",
        "[batch={0}/400]:",
        "completed step: {0}, seconds: 1.213, Tokens/s/device: 3391.2, loss: 8.711",
        "samples/sec: 92.1 | iteration {0:8}/     400 | elapsed time per iteration (ms): 312.1 |",
        "step={0} loss=2.2 lr=0.0001",
        "steps: {0} loss: 2.1171 iter time (s): 0.312",
        "Training epoch 0, iteration {0}/399 | lr: 1e-04 | global_step: {0} | reduced_train_loss: 2.91",
        "Train Epoch: 1 [{0}/60000 (1%)]\tLoss: 2.31",
        "global_step = {0}, loss = 2.3",
    ],
)
def test_lines_of_steps_as_programs_print_them_are_progress(form: str) -> None:
    unreachable = "requests.exceptions.ConnectionError: Max retries exceeded with url: /graphql\n"
    lines = [f"{form.format(number)}\n" for number in (10, 11, 12, 13)]
    survived = found("".join([*lines[:2], unreachable, *lines[2:]]), scheduler_state="TIMEOUT")
    assert survived.category == "time"
    assert found("".join([*lines, unreachable]), scheduler_state="TIMEOUT").category == "network"


def test_two_lines_about_one_iteration_are_not_two_iterations() -> None:
    lines = "{'loss': 2.1, 'epoch': 0.2}\n 20%|##        | 20/100 [00:10<00:40]\n"
    assert found(f"{ECC}\n{lines}").category == "gpu-hardware"


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


def test_why_nodes_were_left_out_is_no_cause_of_what_becomes_of_the_others() -> None:
    left_out = "oellm-autoexp: node n2 is left out: mine: bash: line 1: check: command not found"
    none_passes = "oellm-autoexp: the program is not begun: it needs 1 nodes, 0 pass slurm.preflight"
    ended = found("\n".join((left_out, none_passes, "")), exit_code=75)
    assert (ended.rule, ended.category) == ("nodes_fail_preflight", "node")
    assert found(f"{left_out}\nmy own words\n", exit_code=3).category == "unknown"


def test_the_offset_in_a_log_with_colours_is_that_of_the_line_in_its_file() -> None:
    before = "\x1b[32mstarted\x1b[0m\n\x1b[1mmodel\x1b[0m built\n"
    log = (
        f"{before}\x1b[31mtorch.OutOfMemoryError\x1b[0m:\x1b[1m CUDA out of memory. Tried to allocate 2.00 GiB\x1b[0m\n"
    )
    cause = found(log + "\x1b[2mend\x1b[0m\n")
    assert (cause.category, cause.offset) == ("oom-gpu", len(before))
    assert cause.line == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_the_offset_of_a_record_is_that_of_its_line() -> None:
    before = '{"level": "error", "rank": 1, "error": "OSError: shorter"}\n{"level": "info", "msg": "ready"}\n'
    record = '{"level": "error", "rank": 3, "exc": "Traceback:\\n  File\\nValueError: loss is nan", "step": "40"}\n'
    cause = found(before.replace("OSError", "Note") + record + '{"level": "info"}\n')
    assert (cause.category, cause.rank, cause.line) == ("nan", 3, "[rank3]: ValueError: loss is nan")
    assert cause.offset == len(before.replace("OSError", "Note"))


@pytest.mark.parametrize(
    "line", ["[" * 20_000, '{"a":' * 20_000 + '"level": "error"' + "}" * 20_000, '{"level": "error"}']
)
def test_lines_that_are_no_records_are_left_as_they_are(line: str) -> None:
    assert found(f"{line}\nKeyError: 'lr'\n").category == "code"


# --------------------------------------------------------------------------------------------------------------------
# What is no cause, and how programs say what is


SURVIVED = raised("ModuleNotFoundError: No module named 'wandb'")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"ERROR:root:no wandb, going on without\n{SURVIVED}", "start\n"),
        (f"--- Logging error ---\n{SURVIVED}", ""),
        (f"Exception ignored in: <function A.__del__ at 0x7f>\n{SURVIVED}", ""),
        ("x: line 1: nvidia-smi: command not found\n", ""),
        ("/etc/bashrc: line 12: PS1: unbound variable\n", ""),
        ("sample 0: user: what is 'NVRM: Xid (PCI:0000:5b:00): 79, GPU has fallen off the bus'?\n", ""),
        ("# GPU has fallen off the bus: then the node is left out\n", ""),
    ],
)
def test_what_a_program_or_a_script_went_on_after_is_no_cause(before: str, after: str) -> None:
    cause = found(before + after + raised("ValueError: an odd size"), exit_code=1)
    assert cause.text.startswith("ValueError: an odd size")
    assert not cause.blamed_nodes


def test_what_a_script_could_not_set_up_comes_before_what_is_absent_then() -> None:
    absent = raised("ModuleNotFoundError: No module named 'torch'")
    assert "module: command not found" in found(f"x: line 1: module: command not found\n{absent}", exit_code=1).text


def test_a_reported_exception_is_the_cause_if_the_same_process_shows_no_other() -> None:
    shown = f"ERROR:root:training has failed\n{raised('ValueError: an odd size')}"
    assert found(shown, exit_code=1).text.startswith("ValueError: an odd size")
    other = raised("KeyError: 'lr'", label="[rank1]: ")
    assert found(shown + other, exit_code=1).text.startswith("ValueError: an odd size")


@pytest.mark.parametrize(
    ("log", "category", "text"),
    [
        (raised("Exception: no pad token"), "code", "Exception: no pad token"),
        (raised("_queue.Empty"), "code", "_queue.Empty"),
        (raised("zipfile.BadZipFile: File is not a zip file"), "code", "zipfile.BadZipFile: File is not a zip file"),
        (
            f"Exception in thread saver:\n{raised('OSError: [Errno 28] No space left on device')}",
            "filesystem",
            "OSError",
        ),
        (
            "torch.multiprocessing.spawn.ProcessRaisedException: \n-- Process 1 terminated with the following error:\n"
            + raised("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
            "oom-gpu",
            "CUDA out of memory",
        ),
        (
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  bad header\n",
            "code",
            "what():  bad header",
        ),
        ("train: a.cc:3: int f(): Assertion `x' failed.\n", "code", "train: a.cc:3: int f(): Assertion `x' failed."),
        (
            "python: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by /x/y.so)\n",
            "config",
            "python: /lib64",
        ),
        (
            raised("AssertionError: bad").replace("go()", "assert 'cudaErrorMemoryAllocation' not in x"),
            "code",
            "Assertion",
        ),
        (
            "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
            "  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n"
            '    |   File "a.py", line 2, in bad\n    |     raise KeyError("lr")\n    | KeyError: \'lr\'\n'
            "    +------------------------------------\n",
            "code",
            "KeyError: 'lr'",
        ),
    ],
)
def test_what_ends_a_program_is_found_however_it_is_written(log: str, category: str, text: str) -> None:
    cause = found(log, exit_code=1)
    assert (cause.category, cause.text[: len(text)]) == (category, text)


def test_a_lost_node_is_at_fault_and_not_the_one_that_tells_of_the_end() -> None:
    log = (
        "srun: error: Node failure on n2\n"
        "slurmstepd: error: *** JOB 9 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO NODE FAILURE, SEE LOG ***\n"
    )
    assert found(log, nodes="n[1-3]", exit_code=1).blamed_nodes == ("n2",)


# ---------------------------------------------------------------------------------------------------------------------
# What is said of a node that is well, and what comes after the end

_TIME_LIMIT = "slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-05-12T06:00:00 DUE TO TIME LIMIT ***\n"


@pytest.mark.parametrize(
    "record",
    [
        "n2 kernel: mce: [Hardware Error]: Machine check events logged",
        "n2 kernel: mce: [Hardware Error]: Corrected error, no action required.",
        "n2:     Remapped Rows",
        "n2:         Remapping Failure Occurred            : No",
        "n2: SRAM Correctable: 12, DRAM Uncorrectable: 0, Remapped Rows: Pending: No",
    ],
)
def test_records_of_corrected_or_absent_errors_blame_no_node(record: str) -> None:
    error = raised("RuntimeError: CUDA error: an illegal memory access was encountered", label="[rank5]: ")
    cause = found(f"{record}\n{error}{record}\n", nodes="n[1-2]", exit_code=1)
    assert (cause.category, cause.blamed_nodes) == ("code", ())


@pytest.mark.parametrize("state", ["TIMEOUT", ""])
@pytest.mark.parametrize("error", ["KeyError: 'optimizer'", "EOFError", "OSError: [Errno 28] No space left on device"])
def test_what_a_program_raises_after_the_time_limit_is_not_the_cause(error: str, state: str) -> None:
    assert found(iteration(7) + _TIME_LIMIT + raised(error), scheduler_state=state, exit_code=143).category == "time"
    before = found(iteration(7) + raised("KeyError: 'lr'") + _TIME_LIMIT + raised(error), scheduler_state=state)
    assert (before.category, "lr" in before.text) == ("code", True)


def test_a_step_that_is_cancelled_as_a_task_failed_hides_no_error_below() -> None:
    cancelled = "slurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026-05-12T06:00:00 ***\n"
    error = raised("KeyError: 'lr'")
    assert found(cancelled + error, scheduler_state="FAILED", exit_code=1).category == "code"
    assert found(cancelled + error, scheduler_state="CANCELLED by 1000").category == "killed"


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("Tried to allocate {}", ["2.00 GiB", "516.00 MiB", "12 bytes"]),
        ("worker gone at {}", ["2026-01-31T10:00:00Z", "2026-02-01 11:00:00+01:00"]),
        ("id {}", ["3f2504e0-4f89-11d3-9a0c-0305e82c3301", "a8098c1a-f86e-11da-bd1a-00112444be1e"]),
        ("device {}", ["GPU-3f2504e0-4f89-11d3-9a0c-0305e82c3301", "GPU-a8098c1a-f86e-11da-bd1a-00112444be1e"]),
        ("peer {}", ["fe80:0:0:0:202:b3ff:fe1e:8329", "fe80:0:0:0:aaaa:b3ff:fe1e:1"]),
        ("ranks [{}] are silent", ["1", "1, 2", "1, 2, 3"]),
    ],
)
def test_units_times_ids_and_lengths_of_lists_make_no_other_failure(message: str, values: list[str]) -> None:
    assert len({fingerprint("a", message.format(value)) for value in values}) == 1


def test_bare_assertions_of_one_function_are_told_apart_by_their_statements() -> None:
    def bare(statement: str) -> str:
        lines = ("Traceback (most recent call last):", '  File "/a/arguments.py", line 7, in validate_args')
        return "\n".join((*lines, f"    {statement}", "AssertionError", ""))

    sizes, places = bare("assert args.hidden_size % args.heads == 0"), bare("assert args.save is not None")
    assert found(sizes).fingerprint != found(places).fingerprint
    assert found(sizes).fingerprint == found(sizes.replace("line 7", "line 9")).fingerprint


@pytest.mark.parametrize(
    ("line", "category"),
    [
        ("torch._C._LinAlgError: linalg.cholesky: the input is not positive-definite", "code"),
        ("lmdb.Error: /data/x: damaged", "code"),
        ("socket.timeout: timed out", "code"),
        (
            "job/slurm_script: line 14: /env/bin/torchrun: /old/python3: bad interpreter: No such file or directory",
            "config",
        ),
        ("srun: fatal: SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU, and SLURM_MEM_PER_NODE are mutually exclusive.", "config"),
        ('docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].', "config"),
        ("slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-05-12T06:00:00 DUE TO JOB REQUEUE ***", "killed"),
    ],
)
def test_failures_that_were_not_known(line: str, category: str) -> None:
    assert found(f"{line}\n", exit_code=1).category == category
