"""Failures whose loudest or first line is not their cause: which line is concluded, and which nodes are at fault."""

from __future__ import annotations

import pytest

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.causes.signs import LogText
from oellm_autoexp.engine.observing.cause_finder import shipped_rules

RULES = combined({}, shipped_rules())
PACKAGES = "/opt/env/lib/python3.12/site-packages"
CAUSED = "\nThe above exception was the direct cause of the following exception:\n"
TRACEBACK = "Traceback (most recent call last):"
LAYOUT = "job 12 on n[1-2]: 2 nodes, 4 GPUs each"


def found(*lines: str, nodes: str = "n[1-2]", **ending: object) -> Cause:
    log = LogText("main.log", "".join(f"{line}\n" for line in lines).encode())
    plain: dict[str, object] = {"scheduler_state": "FAILED", "exit_code": 1, "nodes": nodes}
    return find_cause(Ending(**{**plain, **ending}), [log], RULES)  # type: ignore[arg-type]


def raised(error: str, *frames: str) -> str:
    """A traceback; `frames` are `path:function`."""
    calls = [frame.rpartition(":") for frame in frames or ("/scratch/project/train.py:main",)]
    return "\n".join(
        [TRACEBACK, *(f'  File "{path}", line 7, in {function}\n    go()' for path, _, function in calls), error]
    )


def labelled(text: str, rank: int) -> str:
    return "\n".join(f"[rank{rank}]: {line}" for line in text.splitlines())


BUILDER = f"{PACKAGES}/datasets/builder.py:_prepare_split_single"
WRAPPED = raised("datasets.exceptions.DatasetGenerationError: An error occurred while generating the dataset", BUILDER)
CAST = "CastError: Couldn't cast\nid: int64\ntext: string\nto\n{'id': Value('int64')}\nbecause column names don't match"
CHILD = raised(
    "AssertionError: can only test a child process",
    f"{PACKAGES}/torch/utils/data/dataloader.py:_shutdown_workers",
    "/opt/env/lib/python3.12/multiprocessing/process.py:is_alive",
)
IGNORED = f"Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__ at 0x7f>\n{CHILD}"
IN_WORKER = (
    raised(
        "UnicodeDecodeError: Caught UnicodeDecodeError in DataLoader worker process 0.",
        f"{PACKAGES}/torch/_utils.py:reraise",
    )
    + "\nOriginal "
    + raised("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 3: invalid start byte")
)
OFFLINE = "Cannot reach https://huggingface.co/api/datasets/a/b: offline mode is enabled."
NCCL = "n1:211:877 [0]"
WRAPPER = (
    "torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:268, "
    "invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.21.5\n"
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:"
)
GLOO = "[../third_party/gloo/gloo/transport/tcp"
NO_GPU = "RuntimeError: No HIP GPUs are available"
KERNEL = "n2 kernel: "
KILLED = f"{KERNEL}Out of memory: Killed process 4711 (python) total-vm:91234567kB, anon-rss:61234567kB"
PEERS = (
    "n1:211:877 [0] misc/socket.cc:49 NCCL WARN socketProgress: Connection closed by remote peer n2<41233>",
    "n1:211:877 [0] transport/net_ib.cc:1234 NCCL WARN NET/IB : Got completion from peer 10.0.0.2<1> with error 12",
    "[rank0]: torch.distributed.DistBackendError: NCCL error in: x.cpp:1, remote process exited or there was a network "
    "error, NCCL version 2.21.5\n[rank0]: ncclRemoteError: A call failed possibly due to a network error",
    "[rank1]: RuntimeError: Broken pipe",
)
BIND = "Unable to satisfy cpu bind request"
OUTSIDE = "slurmstepd: error: CPU binding outside of job step allocation, allocated CPUs are: 0x0000FF."


KINDS: dict[str, tuple[list[str], str, str]] = {
    # ---- chains: what the library of data sets raises is about the data, and so is what its builder meets
    "cast": ([raised(f"datasets.table.{CAST}", BUILDER), CAUSED, WRAPPED], "data", "CastError: Couldn't cast"),
    "schema": (
        [
            raised(
                "datasets.arrow_writer.SchemaInferenceError: Please pass `features` or at least one example",
                f"{PACKAGES}/datasets/arrow_writer.py:finalize",
            ),
            CAUSED,
            WRAPPED,
        ],
        "data",
        "SchemaInferenceError",
    ),
    "arrow": (
        [raised("pyarrow.lib.ArrowTypeError: Expected bytes, got a 'int' object", BUILDER), CAUSED, WRAPPED],
        "data",
        "ArrowTypeError",
    ),
    "types": (
        [raised("TypeError: Couldn't cast array of type string to null", BUILDER), CAUSED, WRAPPED],
        "data",
        "TypeError: Couldn't cast",
    ),
    "splits": (
        [raised("datasets.exceptions.NonMatchingSplitsSizesError: [{'expected': 1, 'recorded': 2}]")],
        "data",
        "NonMatchingSplitsSizesError",
    ),
    "no data below a map": ([raised("TypeError: f() takes 1 argument", "/a/datasets/fingerprint.py:f")], "code", "f()"),
    # ---- what Python ignored
    "ignored before": (["world size: 8", IGNORED, IN_WORKER], "data", "UnicodeDecodeError: 'utf-8' codec"),
    "ignored behind a bar": (
        [f"  0%|          | 0/10 [00:00<?, ?it/s]{IGNORED}", IN_WORKER],
        "data",
        "UnicodeDecodeError: 'utf-8' codec",
    ),
    "ignored by two at once": (
        [
            line
            for pair in zip(CHILD.splitlines(), CHILD.splitlines(), strict=True)
            for line in pair  # of two workers
        ]
        + [IN_WORKER],
        "data",
        "UnicodeDecodeError: 'utf-8' codec",
    ),
    "ignored, any": (
        ["world size: 8", f"Exception ignored in: <function A.__del__>\n{raised('KeyError: 1')}", "Killed"],
        "killed",
        "Killed",
    ),
    "ignored of another rank": (
        [
            labelled(f"Exception ignored in: <function A.__del__>\n{raised('KeyError: 1')}", 1),
            labelled(raised("ValueError: an odd size"), 0),
        ],
        "code",
        "ValueError: an odd size",
    ),
    # ---- the library of Hugging Face without a network
    "offline": ([raised(f"huggingface_hub.errors.OfflineModeIsEnabled: {OFFLINE}")], "data", "OfflineModeIsEnabled"),
    "offline, data set": (
        [
            raised(f"huggingface_hub.errors.OfflineModeIsEnabled: {OFFLINE}"),
            CAUSED,
            raised("ConnectionError: Couldn't reach 'allenai/c4' on the Hub (OfflineModeIsEnabled)"),
        ],
        "data",
        "OfflineModeIsEnabled: Cannot",
    ),
    "offline, the wrapper alone": (
        [raised("ConnectionError: Couldn't reach 'allenai/c4' on the Hub (OfflineModeIsEnabled)")],
        "data",
        "Couldn't reach",
    ),
    "offline, a script": (
        [raised("ConnectionError: Couldn't reach https://raw.example.org/a.py (offline mode is enabled)")],
        "data",
        "Couldn't reach",
    ),
    "offline, a model": (
        [
            raised(
                "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files in the disk cache and "
                "outgoing traffic has been disabled."
            ),
            CAUSED,
            raised(
                "OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them"
            ),
        ],
        "data",
        "LocalEntryNotFoundError",
    ),
    "offline, no cache": ([raised("ValueError: Couldn't find cache for allenai/c4 for config 'en'")], "data", "cache"),
    "a network was tried": (
        [
            raised(
                "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): "
                "Max retries exceeded with url: /a"
            ),
            CAUSED,
            raised("huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate the file"),
        ],
        "network",
        "Max retries",
    ),
    # ---- steps that can't be as they are asked for
    "binding": (
        [
            OUTSIDE,
            OUTSIDE,
            f"srun: error: Task launch for StepId=12.0 failed on node n2: {BIND}",
            f"srun: error: Task launch for StepId=12.0 failed on node n1: {BIND}",
            f"srun: error: Application launch failed: {BIND}",
        ],
        "config",
        "CPU binding outside of job step allocation",
    ),
    "binding, one node is named": (
        [f"srun: error: Task launch for StepId=12.0 failed on node n2: {BIND}"],
        "config",
        BIND,
    ),
    "binding, the summary": ([f"srun: error: Application launch failed: {BIND}"], "config", BIND),
    "generic resources": (
        ["srun: error: Task launch for StepId=12.0 failed on node n1: Invalid generic resource (gres) specification"],
        "config",
        "gres",
    ),
    "tasks refused": (
        ["srun: error: task 0 launch failed: Unable to layout tasks on given cpus"],
        "config",
        "Unable to layout",
    ),
    # ---- GPUs that a step did not get
    "no GPU anywhere": (
        [LAYOUT, *(f"[rank{rank}]: {NO_GPU}" for rank in range(8))],
        "config",
        "No HIP GPUs are available",
    ),
    "no GPU, one rank is seen": (
        [LAYOUT, labelled(raised(NO_GPU), 0), "srun: error: n1: task 0: Exited with exit code 1"],
        "config",
        "No HIP GPUs are available",
    ),
    "no GPU, one rank without a label": (
        [
            LAYOUT,
            raised("RuntimeError: No CUDA GPUs are available"),
            "srun: error: n1: task 0: Exited with exit code 1",
        ],
        "config",
        "No CUDA GPUs are available",
    ),
    "no driver": (
        [LAYOUT, *(f"[rank{rank}]: RuntimeError: Found no NVIDIA driver on your system." for rank in range(8))],
        "config",
        "Found no NVIDIA driver",
    ),
    "no GPU for NCCL": (
        [raised("ValueError: ProcessGroupNCCL is only supported with GPUs, no GPUs found!")],
        "config",
        "no GPUs found",
    ),
    # ---- memory, and the loud end of the peers
    "killed before": ([KILLED, *PEERS], "oom-host", "Out of memory: Killed process"),
    "killed after": ([*PEERS, KILLED], "oom-host", "Out of memory: Killed process"),
    "killed, SLURM": (
        [
            *PEERS,
            "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.",
        ],
        "oom-host",
        "oom_kill",
    ),
    "a peer ended, for what its own rank shows": (
        [PEERS[0], "[rank5]: Fatal Python error: Segmentation fault"],
        "code",
        "Segmentation fault",
    ),
    # ---- connections of Gloo and c10d
    "full mesh": (
        [raised(f"RuntimeError: Gloo connectFullMesh failed with {GLOO}/pair.cc:144] no error")],
        "network",
        "Full",
    ),
    "refused": (
        [raised(f"RuntimeError: {GLOO}/pair.cc:799] connect [127.0.1.1]:36881: Connection refused")],
        "network",
        "Connection refused",
    ),
    "timed out": ([raised(f"RuntimeError: {GLOO}/pair.cc:799] Connect timeout [10.0.0.2]:3688")], "network", "timeout"),
    "store": ([raised("torch.distributed.DistStoreError: Socket Timeout")], "network", "Socket Timeout"),
    "client of the store": (
        ["[rank1]:[W TCPStore.cpp:1] [c10d] TCP client failed to connect/validate to host n1:1 - timed out (try=1)"],
        "network",
        "TCP client failed",
    ),
    "older client of the store": (
        [raised("RuntimeError: connect() timed out. Original timeout was 1800000 ms.")],
        "network",
        "connect() timed out",
    ),
    # ---- what NCCL says beside its general words
    "versions": (
        [WRAPPER, "Mismatched NCCL version detected : rank 1 version 22105 rank 0 version 21903"],
        "config",
        "Mismatched NCCL version",
    ),
    "versions, behind labels": (
        [f"[rank0]: {line}" for line in f"{WRAPPER}\nMismatched NCCL version detected : rank 1 version 1".splitlines()],
        "config",
        "Mismatched NCCL version",
    ),
    "collectives": (
        [f"{NCCL} NCCL WARN Message truncated : received 1024 bytes instead of 256", WRAPPER],
        "code",
        "bytes instead of",
    ),
    "a network of another name": (
        [f"{NCCL} NCCL WARN Error: network OFI not found.", WRAPPER],
        "config",
        "network OFI",
    ),
    "an error of CUDA": (
        [WRAPPER.replace("Usage", "SystemError"), "Cuda failure 700 'an illegal memory access was encountered'"],
        "code",
        "illegal memory access",
    ),
    "no connection": (
        [WRAPPER.replace("Usage", "SystemError"), "socketStartConnect: Connect to 10.0.0.2<41233> failed : Refused"],
        "network",
        "socketStartConnect",
    ),
    # ---- interfaces that settings name
    "interface": (
        [f"{NCCL} bootstrap.cc:45 NCCL WARN Bootstrap : no socket interface found", WRAPPER],
        "config",
        "no socket interface found",
    ),
    "interface of Gloo": (
        [
            raised(
                f"RuntimeError: [enforce fail at {GLOO}/device.cc:83] ifa != nullptr. Unable to find address for: ib0"
            )
        ],
        "config",
        "Unable to find address for: ib0",
    ),
    # ---- tokenizers, as settings name them; files of the data set
    "tokenizer": (
        [raised("FileNotFoundError: [Errno 2] No such file or directory: '/scratch/project/llama/tokenizer.json'")],
        "config",
        "tokenizer.json",
    ),
    "vocabulary": (
        [raised("FileNotFoundError: [Errno 2] No such file or directory: '/scratch/project/gpt2/vocab.json'")],
        "config",
        "vocab.json",
    ),
    "merges": (
        [raised('OSError: Not found: "/scratch/project/gpt2/merges.txt": No such file or directory Error #2')],
        "config",
        "m",
    ),
    "folder of a tokenizer": (
        [raised("OSError: Incorrect path_or_model_id: '/scratch/tokenizers/de'. Please provide either the path")],
        "config",
        "Incorrect path",
    ),
    "tokenizer without a name": (
        [
            raised(
                "Exception: No such file or directory (os error 2)", f"{PACKAGES}/transformers/tokenizer_fast.py:init"
            )
        ],
        "config",
        "os error 2",
    ),
    "tokenized data": (
        [raised("FileNotFoundError: [Errno 2] No such file or directory: '/data/tokenized/de_0.bin'")],
        "data",
        "de_0.bin",
    ),
    "tokenized data of a tokenizer": (
        [raised("FileNotFoundError: [Errno 2] No such file or directory: '/data/tokenizer_v2/de_text_document.idx'")],
        "data",
        "de_text_document.idx",
    ),
    # ---- which line is quoted
    "corrupted memory": (
        [
            f"{KERNEL}mce: [Hardware Error]: Machine check events logged",
            f"{KERNEL}Memory failure: 0x3f2a1: Sending SIGBUS to python3:4711 due to hardware memory corruption",
            "srun: error: n2: task 5: Bus error (core dumped)",
        ],
        "node",
        "Sending SIGBUS to python3",
    ),
    "machine check alone": (
        [
            "srun: error: n2: task 5: Bus error (core dumped)",
            f"{KERNEL}mce: [Hardware Error]: Uncorrected error, processor context corrupt",
        ],
        "node",
        "processor context corrupt",
    ),
    "machine checks that may be of corrected errors": (
        [
            "srun: error: n2: task 5: Bus error (core dumped)",
            f"{KERNEL}mce: [Hardware Error]: Machine check events logged",
        ],
        "code",
        "Bus error",
    ),
    "module of Environment Modules": (
        ["ERROR: Unable to locate a modulefile for 'PyTorch/2.9'", "x.sbatch: line 9: torchrun: command not found"],
        "config",
        "Unable to locate a modulefile",
    ),
    "module of Lmod": (
        [
            'Lmod has detected the following error: The following module(s) are unknown: "PyTorch/2.9"',
            "x.sbatch: line 9: torchrun: command not found",
        ],
        "config",
        "PyTorch/2.9",
    ),
    "terminated, then killed": (
        ["srun: error: n1: tasks 0-3: Terminated", "srun: error: n2: tasks 4-7: Killed"],
        "killed",
        "tasks 0-3: Terminated",
    ),
    "killed, then terminated": (
        ["srun: error: n2: task 4: Killed", "srun: error: n1: tasks 0-3: Terminated"],
        "killed",
        "task 4: Killed",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_that_shows_the_cause_is_concluded_and_no_node_is_blamed_for_the_workload(kind: str) -> None:
    lines, category, quoted = KINDS[kind]
    cause = found(*lines)
    assert (cause.category, quoted in cause.line) == (category, True), cause
    assert cause.blamed_nodes == (("n2",) if category == "node" else ()), cause


@pytest.mark.parametrize(
    "lines",
    [
        [f"[rank{rank}]: {NO_GPU}" for rank in (4, 5, 6, 7)],
        [f"[rank5]: {NO_GPU}", "[rank0]: torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /0//cpu"],
    ],
)
def test_a_node_without_gpus_is_at_fault_where_those_of_another_node_work(lines: list[str]) -> None:
    cause = found(LAYOUT, *lines)
    assert (cause.category, cause.blamed_nodes) == ("node", ("n2",))
