# ruff: noqa: E501  the lines of logs stand here as they are printed
"""The shipped monitoring rules match the real lines that they are for, and none that a healthy job prints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.planning.checks.rule_checks import problems
from oellm_autoexp.rules.actions import CancelAction, RestartAction
from oellm_autoexp.rules.rules import MonitoringSection
from oellm_autoexp.search import candidates
from oellm_autoexp.search.patterns import Pattern, advice, scan

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "config" / "monitoring").glob("*.yaml"))
PRODUCTION = "megatron_production"
EXPECTED = {"checkpoint_saved", "no_progress"}
"""Rules that a healthy job's lines are for."""

ITERATION = (
    " [2026-11-23 13:47:20.794000] iteration      120/   20000 | consumed samples:        15360 | elapsed time per iteration "
    "(ms): 812.4 | throughput per GPU (TFLOP/s/GPU): 412.3 | learning rate: 1.000000E-04 | global batch size:   128 | "
    "lm loss: 3.412345E+00 | loss scale: 1.0 | grad norm: 0.731 | number of skipped iterations:   0 | "
    "number of nan iterations:   0 |"
)
ITERATION_0_12 = (
    " [2025-02-03 04:05:06] iteration       40/     100 | consumed samples:         5120 | elapsed time per iteration "
    "(ms): 1812.4 | learning rate: 1.000000E-04 | global batch size:   128 | lm loss: 9.412345E+00 | loss scale: 1.0 | "
    "grad norm: 11.731 | number of skipped iterations:   0 | number of nan iterations:   0 |"
)
WATCHDOG = "[rank0]:[E1123 13:47:20.794000123 ProcessGroupNCCL.cpp:685] [Rank 0] "
OOM_TAIL = (
    "Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB of which 11.06 MiB is free. Including "
    "non-PyTorch memory, this process has 23.60 GiB memory in use."
)

# For each rule: lines that it must match, and what a match must find.
MATCHING: Mapping[str, tuple[tuple[str, Mapping[str, str]], ...]] = {
    "checkpoint_saved": (
        (
            "  [2026-11-23 13:47:20.794000] successfully saved checkpoint from iteration     120 to /scratch/run/checkpoints "
            "[ t 1/1, gtp_remat 1/1, p 1/1 ]",
            {"iteration": "120", "checkpoint_path": "/scratch/run/checkpoints", "path": "/scratch/run/checkpoints"},
        ),
        (
            "  successfully saved checkpoint from iteration    2000 to /p/scratch/a-b/ckpt [ t 4/4, p 2/2 ]",
            {"iteration": "2000", "checkpoint_path": "/p/scratch/a-b/ckpt"},
        ),
        (
            "0:   successfully saved checkpoint from iteration 12345678 to out [ t 1/1, p 1/1 ]",
            {"iteration": "12345678", "checkpoint_path": "out"},
        ),
    ),
    "branch_point": (
        (
            "  [2026-11-23 13:47:20.794000] successfully saved checkpoint from iteration      60 to /scratch/run/checkpoints [ t 1/1, gtp_remat 1/1, p 1/1 ]",
            {"iteration": "60", "path": "/scratch/run/checkpoints"},
        ),
        (
            "  successfully saved checkpoint from iteration      60 to out [ t 1/1, p 1/1 ]",
            {"iteration": "60", "path": "out"},
        ),
    ),
    "no_progress": ((ITERATION, {"iteration": "120"}), (ITERATION_0_12, {"iteration": "40"})),
    "nan_loss": (
        (ITERATION.replace(" lm loss: 3.412345E+00 |", ""), {"iteration": "120"}),
        (ITERATION_0_12.replace(" lm loss: 9.412345E+00 |", ""), {"iteration": "40"}),
        (ITERATION.replace("3.412345E+00", "INF"), {"iteration": "120"}),
        (ITERATION.replace("3.412345E+00", "NAN"), {"iteration": "120"}),
    ),
    "nan_gradient": (
        (ITERATION.replace("grad norm: 0.731", "grad norm: nan"), {"iteration": "120"}),
        (ITERATION_0_12.replace("grad norm: 11.731", "grad norm: inf"), {"iteration": "40"}),
        (
            ITERATION.replace("grad norm: 0.731 |", "grad norm: -nan | num zeros: 0 | params norm: 12.3 |"),
            {"iteration": "120"},
        ),
    ),
    "nan_result": (
        (
            "RuntimeError: Rank 3, node nid005012, device 3, iteration 120: Unexpected result nan "
            "(message='found NaN in local forward loss calculation')",
            {"rank": "3", "node": "nid005012", "iteration": "120"},
        ),
        (
            "[rank11]: RuntimeError: Rank 11, node jwb0017.juwels, device 3, iteration 7: Unexpected result inf "
            "(message='found Inf in local grad norm for bucket #2 in backward pass before data-parallel communication "
            "collective')",
            {"rank": "11", "node": "jwb0017.juwels", "iteration": "7"},
        ),
    ),
    "rerun_begins": (
        (
            "ERROR:megatron.core.rerun_state_machine:Unexpected result nan on rank 3 at iteration #120 invocation #1 "
            "(message='found NaN in local forward loss calculation')",
            {"rank": "3", "iteration": "120"},
        ),
        (
            "Unexpected result inf on rank 0 at iteration #8 invocation #2 (message='found Inf in local grad norm for bucket "
            "#0 in backward pass before data-parallel communication collective')",
            {"rank": "0", "iteration": "8"},
        ),
    ),
    "rerun_blames_gpu": (
        (
            "ERROR:megatron.core.rerun_state_machine:Rank 3, node nid005012, device 3, iteration #120: "
            "Possible transient error!!",
            {"node": "nid005012", "device": "3", "iteration": "120"},
        ),
        ("Rank 12, node n7, device 0, iteration #9: Possible persistent error!!", {"node": "n7", "iteration": "9"}),
    ),
    "rerun_blames_model": (
        (
            "ERROR:megatron.core.rerun_state_machine:Rank 3, node nid005012, device 3, iteration #120: Correct result (but "
            "possible Application error) (found NaN in local forward loss calculation)!",
            {"iteration": "120"},
        ),
        (
            "Rank 0, node n7, device 0, iteration #9: Correct result (but possible Application error) (spiky loss)!",
            {"iteration": "9"},
        ),
    ),
    "gpu_out_of_memory": (
        (f"torch.OutOfMemoryError: CUDA out of memory. {OOM_TAIL}", {}),
        (f"[rank3]: torch.OutOfMemoryError: CUDA out of memory. {OOM_TAIL}", {}),
        (f"3: [rank3]: torch.OutOfMemoryError: HIP out of memory. {OOM_TAIL}", {}),
        (
            "[default2]:torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 2; 39.41 GiB total "
            "capacty of which 1.06 GiB is free.",
            {},
        ),
        ("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 39.59 GiB total capacity)", {}),
        ("[rank0]: torch.AcceleratorError: CUDA error: out of memory", {}),
    ),
    "host_out_of_memory": (
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=123456.0. Some of the step tasks have been OOM Killed.",
            {},
        ),
        (
            "slurmstepd: error: Detected 3 oom-kill event(s) in StepId=123456.batch cgroup. Some of your processes may have "
            "been killed by the cgroup out-of-memory handler.",
            {},
        ),
    ),
    "nccl_watchdog": (
        (
            f"{WATCHDOG}Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1, OpType=BROADCAST, NumelIn=1, "
            "NumelOut=1, Timeout(ms)=600000) ran for 600081 milliseconds before timing out.",
            {},
        ),
        (
            "[E ProcessGroupNCCL.cpp:475] [Rank 7] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1844, "
            "OpType=_REDUCE_SCATTER_BASE, NumelIn=2, NumelOut=1, Timeout(ms)=600000) ran for 600413 milliseconds before "
            "timing out.",
            {},
        ),
        (f"{WATCHDOG}To avoid data inconsistency, we are taking the entire process down.", {}),
        (
            "[rank1]:[E PG ProcessGroupNCCL.cpp:1414] [PG 2 Rank 1] Process group watchdog thread terminated with exception: "
            "CUDA error: an illegal memory access was encountered",
            {},
        ),
        (
            "[E ProcessGroupNCCL.cpp:916] [Rank 1] NCCL watchdog thread terminated with exception: CUDA error: "
            "uncorrectable ECC error encountered",
            {},
        ),
        (
            f"{WATCHDOG}ProcessGroupNCCL's watchdog got stuck for 600 seconds without making progress in monitoring enqueued "
            "collectives.",
            {},
        ),
    ),
    "nccl_error": (
        (
            "[rank13]: torch.distributed.DistBackendError: NCCL error in: /pytorch/torch/csrc/distributed/c10d/"
            "ProcessGroupNCCL.cpp:3780, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9",
            {},
        ),
        (
            "torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:268, remote "
            "process exited or there was a network error, NCCL version 2.21.5",
            {},
        ),
        (
            "RuntimeError: NCCL error in: /opt/conda/conda-bld/pytorch/torch/lib/c10d/ProcessGroupNCCL.cpp:1191, unhandled "
            "system error, NCCL version 2.14.3",
            {},
        ),
    ),
    "gpu_error": (
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", {}),
        ("[rank5]: torch.AcceleratorError: CUDA error: an illegal memory access was encountered", {}),
        ("[rank5]: RuntimeError: HIP error: unspecified launch failure", {}),
        ("2: RuntimeError: CUDA error: misaligned address", {}),
    ),
    "gpu_assert": (
        ("RuntimeError: CUDA error: device-side assert triggered", {}),
        ("[rank0]: torch.AcceleratorError: CUDA error: device-side assert triggered", {}),
    ),
    "node_failed": (
        ("srun: error: Node failure on nid005012", {"nodes_at_fault": "nid005012"}),
        ("srun: error: Node failure on lrdn[0012-0013,0040]", {"nodes_at_fault": "lrdn[0012-0013,0040]"}),
    ),
    "data_exhausted": (
        ("AssertionError: no samples left to consume: 2560000, 2560000", {}),
        ("[rank0]: AssertionError: no samples left to consume: 100, 96", {}),
        ("StopIteration", {}),
        ("[rank7]: StopIteration", {}),
    ),
    "disk_full": (
        ("OSError: [Errno 28] No space left on device", {}),
        ("[rank0]: OSError: [Errno 122] Disk quota exceeded: '/scratch/run/checkpoints/iter_0000120'", {}),
        (
            "[rank3]: RuntimeError: [enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file "
            "data/176: file write failed",
            {},
        ),
    ),
    "missing_checkpoint": (
        (">> '--exit-on-missing-checkpoint' set ... exiting. <<", {}),
        ("0: >> '--exit-on-missing-checkpoint' set ... exiting. <<", {}),
    ),
    "torchrun_ended": (
        ("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", {}),
        ("1: torch.distributed.elastic.multiprocessing.errors.ChildFailedError:", {}),
    ),
    "exit_for_time": (
        (
            "[exiting program after 1430.0412 minutes] datetime: 2026-11-23 13:47:20.794000 ",
            {"why": "1430.0412 minutes"},
        ),
        (
            "[exiting program after receiving SIGTERM.] datetime: 2025-02-03 04:05:06 ",
            {"why": "receiving SIGTERM."},
        ),
    ),
}

# What healthy jobs print: none of these may have consequences.
HARMLESS = rf"""
using world size: 8, data-parallel size: 8, context-parallel size: 1, tensor-model-parallel size: 1, pipeline-model-parallel size: 1
WARNING: Setting args.check_for_nan_in_loss_and_grad to False since dynamic loss scaling is being used
WARNING: Setting args.overlap_p2p_comm to False since non-interleaved schedule does not support overlapping p2p communication
WARNING: one_logger package is required to enable e2e metrics tracking. please go to https://confluence.nvidia.com for details
using torch.bfloat16 for parameters ...
------------------------ arguments ------------------------
  accumulate_allreduce_grads_in_fp32 .............. True
  check_for_large_grads ........................... False
  check_for_nan_in_loss_and_grad .................. True
  check_for_spiky_loss ............................ False
  distributed_timeout_minutes ..................... 10
  error_injection_rate ............................ 0
  error_injection_type ............................ transient_error
  exit_duration_in_mins ........................... 1430
  exit_interval ................................... None
  exit_on_missing_checkpoint ...................... False
  exit_on_missing_checkpoint ...................... True
  exit_signal ..................................... 15
  exit_signal_handler ............................. True
  inprocess_hard_timeout .......................... 90
  loss_scale ...................................... None
  max_tokens_to_oom ............................... 12000
  nccl_communicator_config_path ................... None
  record_memory_history ........................... False
  rerun_mode ...................................... validate_results
  result_rejected_tracker_filename ................ None
-------------------- end of arguments ---------------------
> building GPT2BPETokenizer tokenizer ...
 > padded vocab (size: 50257) with 47 dummy tokens (new size: 50304)
Token indices sequence length is longer than the specified maximum sequence length for this model (9212 > 8192). Running this sequence through the model will result in indexing errors
You are using the default legacy behaviour of the <class 'transformers.models.llama.tokenization_llama.LlamaTokenizer'>.
> initializing torch distributed ...
> setting random seeds to 1234 ...
WARNING: TensorBoard writing requested but is not available (are you using PyTorch 1.1.0 or later?), no TensorBoard logs will be written.
> compiling dataset index builder ...
make: Nothing to be done for 'default'.
>>> done with dataset index builder. Compilation time: 0.045 seconds
> compiling and loading fused kernels ...
 > number of parameters on (tensor, pipeline) model parallel rank (0, 0): 354871296
INFO:megatron.core.distributed.distributed_data_parallel:Setting up DistributedDataParallel with config DistributedDataParallelConfig(grad_reduce_in_fp32=True, check_for_nan_in_grad=True, check_for_large_grads=False, nccl_ub=False)
INFO:megatron.core.optimizer:Setting up optimizer with config OptimizerConfig(optimizer='adam', lr=0.0001, hysteresis=2, log_num_zeros_in_grad=False)
WARNING:megatron.core.rerun_state_machine:RerunStateMachine initialized in mode RerunMode.VALIDATE_RESULTS
WARNING:megatron.core.rerun_state_machine:Result validation enabled
WARNING: could not find the metadata file /scratch/run/checkpoints/latest_checkpointed_iteration.txt
    will not load any checkpoints and will start from random
 loading checkpoint from /scratch/run/checkpoints at iteration 100
  successfully loaded checkpoint from /scratch/run/checkpoints [ t 1/1, p 1/1 ] at iteration 100
could not find arguments in the checkpoint ...
(min, max) time across ranks (ms):
    load-checkpoint ................................: (812.25, 813.01)
> building train, validation, and test datasets for GPT ...
 > datasets target sizes (minimum size):
    train:      2560000
INFO:megatron.core.datasets.indexed_dataset:Load the _IndexReader from /data/nemotron/error_messages_text_document.idx
INFO:megatron.core.datasets.gpt_dataset:> total number of samples: 2560001
INFO:megatron.core.datasets.gpt_dataset:> total number of epochs: 1
WARNING:megatron.core.datasets.gpt_dataset:The _IndexReader failed to load the cached index, rebuilding
done with setup ...
training ...
Setting rerun_state_machine.current_iteration to 0...
[before the start of training step] datetime: 2026-11-23 13:47:20.794000
{ITERATION}
{ITERATION_0_12}
{ITERATION.replace(" lm loss: 3.412345E+00 |", "").replace(" grad norm: 0.731 |", "").replace("skipped iterations:   0", "skipped iterations:   1")}
{ITERATION.replace("loss scale: 1.0", "loss scale: 4294967296.0").replace("skipped iterations:   0", "skipped iterations:   3")}
{ITERATION.replace("lm loss: 3.412345E+00", "load_balancing_loss: 1.000001E+00 | lm loss: 0.000000E+00 | mtp_1 loss: 4.1E+00")}
{ITERATION.replace("number of nan iterations:   0", "number of nan iterations:   2")}
Number of parameters in transformer block in billions:  0.30
Theoretical memory footprints: weight and optimizer=6010.33 MB
[Rank 0] (after 1 iterations) memory (MB) | allocated: 5411.3 | max allocated: 9811.9 | reserved: 10422.0 | max reserved: 10422.0
--------------------------------------------------------------------------------------------
 validation loss at iteration 1000 | lm loss value: 3.112345E+00 | lm loss PPL: 2.247000E+01 |
 validation loss at iteration 20000 on validation set | lm loss value: 3.112345E+00 | lm loss PPL: 2.247000E+01 |
Evaluating on 1280 samples
Evaluating iter 10/10
[2026-11-23 13:47:20.794000] saving checkpoint at iteration     120 to /scratch/run/checkpoints in torch_dist format
saving checkpoint at iteration     120 to /scratch/run/checkpoints in torch format
  [2026-11-23 13:47:20.794000] successfully saved local checkpoint from iteration     120
WARNING:megatron.core.dist_checkpointing.strategies.filesystem_async:Storing distributed optimizer sharded state of type dp_zero_gather_scatter
[after training is done] datetime: 2026-11-23 13:47:20.794000
[exiting program at iteration 20000] datetime: 2026-11-23 13:47:20.794000
nid005012:12345:12345 [0] NCCL INFO Bootstrap : Using hsn0:10.253.4.12<0>
nid005012:12345:12345 [0] NCCL INFO NET/Plugin: Failed to find ncclNetPlugin symbol, using internal network
nid005012:12345:12399 [0] NCCL INFO NCCL_IB_TIMEOUT set by environment to 22.
nid005012:12345:12399 [0] NCCL INFO comm 0x55d0 rank 0 nranks 8 cudaDev 0 nvmlDev 0 busId 1000 - Init COMPLETE
nid005012:12345:12399 [0] NCCL INFO misc/socket.cc:535 -> 6
nid005012:12345:12399 [0] NCCL INFO [Service thread] Connection closed by localRank 0
nid005012:12345:12399 [0] transport/net_ib.cc:94 NCCL WARN NET/IB : Got async event : client reregistration
NCCL version 2.21.5+cuda12.4
NCCL_TIMEOUT=1800
TORCH_NCCL_ASYNC_ERROR_HANDLING=1
export TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC=600 NCCL_DEBUG=WARN
[rank0]:[W1123 13:47:20.794000123 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called before program exit, which can leak resources. For more info, please see https://pytorch.org/docs/stable/distributed.html#shutdown (function operator())
[rank0]:[W1123 13:47:20.794000123 ProcessGroupNCCL.cpp:4115] [PG ID 0 PG GUID 0 Rank 0]  using GPU 0 to perform barrier as devices used by this process are currently unknown. This can potentially cause a hang if this rank to GPU mapping is incorrect.
[rank0]:[I1123 13:47:20.794000123 ProcessGroupNCCL.cpp:1538] [PG ID 0 PG GUID 0(default_pg) Rank 0] ProcessGroupNCCL heart beat monitor thread joined.
[W socket.cpp:464] [c10d] The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).
W1123 13:47:20.794000 8256 torch/distributed/run.py:793] Setting OMP_NUM_THREADS environment variable for each process to be 1 in default
FutureWarning: `torch.cuda.amp.custom_fwd(args...)` is deprecated. Please use `torch.amp.custom_fwd(args..., device_type='cuda')` instead.
UserWarning: c10d::broadcast_: an autograd kernel was not registered to the Autograd key(s) (errors may follow)
wandb: Tracking run with wandb version 0.18.7
wandb: W&B syncing is set to `offline` in this directory.
wandb: WARNING Unable to render progress bar: Error communicating with wandb process
wandb: ERROR Error while calling W&B API: timed out
wandb: Network error (ConnectTimeout), entering retry loop.
wandb: ERROR OSError: [Errno 28] No space left on device
wandb:                             grad-norm ▁▂nan▃
wandb:                            lm loss: NaN
  --exit-on-missing-checkpoint  If '--load' is set, but checkpoint is not found (e.g., path typo), then exit instead of random initialization.
  --micro-batch-size  Batch size per model instance; lower it if you see "CUDA out of memory".
hint: if reserved but unallocated memory is large, an out of memory error is avoided by PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
warning: autotuning: candidate 3 ran out of memory, trying the next one
INFO: caught torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB; trying again with a smaller block
triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 262144, Hardware limit: 232448.
slurmstepd: info: Setting TaskPlugin to task/affinity, OOM killer adjusted
srun: warning: can't run 1 processes on 2 nodes, setting nnodes to 1
srun: Job 123456 step creation temporarily disabled, retrying (Requested nodes are busy)
srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
libibverbs: Warning: no userspace device-specific driver found for /sys/class/infiniband_verbs/uverbs0
sample 17: "My training dies with RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB, what can I do?"
sample 18: "> Process group watchdog thread terminated with exception: CUDA error: device-side assert triggered"
sample 19: "error: RuntimeError: NCCL error in: ProcessGroupNCCL.cpp:1331, unhandled system error"
sample 20: "def __next__(self): raise StopIteration"
sample 21: "srun: error: Node failure on node7"
sample 22: "OSError: [Errno 28] No space left on device" means that the disk is full
sample 23: "AssertionError: no samples left to consume: what does it mean?"
sample 24: "the loss became NaN at iteration 100/ 200 | grad norm: nan |"
prompt: Explain 'StopIteration' and 'Unexpected result nan' to a child.
nan_policy=omit; inf checks: off; "nan" tokens in the vocabulary: 3
saved the preview of ChildFailedError: see notes.txt
"""

# Printed around an end that has another cause (a person, a time limit, another rank): nobody's restart or cancellation.
FALLOUT = """
E1123 13:47:20.794000 8256 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 8273) of binary: /usr/bin/python3
W1123 13:47:20.794000 8256 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 8272 closing signal SIGTERM
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
train.py FAILED
Failures:
[1]:
  host      : nid005012
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 8272)  (SIGTERM)
  exitcode  : -9 (pid: 8272)  (SIGKILL)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 8272
Root Cause (first observed failure):
W1123 13:47:20.794000 8256 torch/distributed/elastic/agent/server/api.py:753] Received 15 death signal, shutting down workers
torch.distributed.elastic.multiprocessing.api.SignalException: Process 8286 got signal: 15
slurmstepd: error: *** JOB 123456 ON nid005012 CANCELLED AT 2026-11-23T13:47:20 DUE TO TIME LIMIT ***
slurmstepd: error: *** STEP 123456.0 ON nid005012 CANCELLED AT 2026-11-23T13:47:20 DUE TO PREEMPTION ***
slurmstepd: error: *** STEP 123456.0 ON nid005012 CANCELLED AT 2026-11-23T13:47:20 DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***
slurmstepd: error: *** STEP 123456.0 ON nid005012 CANCELLED AT 2026-11-23T13:47:20 ***
slurmstepd: error: *** JOB 123456 ON nid005012 CANCELLED AT 2026-11-23T13:47:20 DUE to SIGNAL Terminated ***
srun: error: nid005012: task 3: Exited with exit code 1
srun: error: nid005012: tasks 0-3: Terminated
srun: error: nid005012: task 0: Segmentation fault (core dumped)
srun: Force Terminated StepId=123456.0
Termination requested. Performing orderly shutdown.
Some NCCL operations have failed or timed out. Due to the asynchronous nature of CUDA kernels, subsequent GPU operations might run on corrupted/incomplete data.
"""


@cache
def shipped(name: str) -> MonitoringSection:
    """A shipped file, composed."""
    composed = load(Source(overrides=(f"monitoring={name}", "backend=tiny_megatron")))
    return MonitoringSection.model_validate(composed.base["monitoring"])


@cache
def patterns(name: str) -> Mapping[str, Pattern]:
    """The patterns of a shipped file, by rule."""
    return {key: Pattern.of(event.pattern) for key, event in shipped(name).log_events.items() if event.pattern}


def matches(name: str, lines: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """What the rules of a file find in lines: by rule, what each match finds. As the monitor searches."""
    rules = shipped(name)
    result = scan("".join(f"{line}\n" for line in lines).encode(), patterns(name))
    assert not result.too_slow
    found: dict[str, list[dict[str, str]]] = {}
    for match in result.matches:
        found.setdefault(match.rule, []).append(rules.log_events[match.rule].extracted(match.groups))
    return found


def all_rules() -> list[tuple[str, str]]:
    return [(name, rule) for name in NAMES for rule in shipped(name).log_events]


def ends_jobs(rule: str) -> bool:
    """Whether a match of a production rule ends the job."""
    bindings = shipped(PRODUCTION).log_events[rule].bindings
    return any(isinstance(binding.action, RestartAction | CancelAction) for binding in bindings)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_file_is_right_for_a_plan(name: str) -> None:
    composed = load(Source(overrides=(f"monitoring={name}", "backend=tiny_megatron")))
    assert problems(shipped(name), composed.base) == []


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_the_order_of_a_list(name: str) -> None:
    raw = load(Source(overrides=(f"monitoring={name}",))).base["monitoring"]
    assert isinstance(raw["log_events"], dict)
    assert isinstance(raw["state_events"], dict)


def test_the_default_has_every_key_and_no_rules() -> None:
    raw = load(Source()).base["monitoring"]
    assert set(raw) == set(MonitoringSection.model_fields) - {"class_name"}
    raw["nodes"] = {**raw["nodes"], "folder": None}  # of the environment
    assert MonitoringSection.model_validate(raw) == MonitoringSection()


@pytest.mark.parametrize(("name", "rule"), all_rules())
def test_no_pattern_is_slow(name: str, rule: str) -> None:
    pattern = shipped(name).log_events[rule].pattern
    assert pattern is not None
    assert advice(pattern) is None


@pytest.mark.parametrize(("name", "rule"), all_rules())
def test_a_rule_matches_its_real_lines_and_tells_what_is_in_them(name: str, rule: str) -> None:
    assert len(MATCHING.get(rule, ())) >= 2, "a rule without two real lines"
    for line, reported in MATCHING[rule]:
        found = matches(name, [line])
        assert rule in found, line
        assert reported.items() <= found[rule][0].items()


def test_every_rule_with_lines_is_shipped() -> None:
    assert set(MATCHING) == {rule for _, rule in all_rules()}


@pytest.mark.parametrize("rule", sorted(MATCHING))
def test_a_failure_has_one_rule_that_ends_the_job(rule: str) -> None:
    for line, _ in MATCHING[rule]:
        others = {other for other in matches(PRODUCTION, [line]) if other != rule and ends_jobs(other)}
        assert not others, line


@pytest.mark.parametrize("name", NAMES)
def test_nothing_follows_from_what_healthy_jobs_print(name: str) -> None:
    corpus = lines(HARMLESS)
    assert len(corpus) >= 100
    for line in corpus:
        assert set(matches(name, [line])) <= EXPECTED, line
        for label in ("3: ", "[default3]:", "[rank3]: ", "3: [rank3]: "):
            assert set(matches(name, [label + line])) <= EXPECTED, label + line


def test_no_job_is_ended_by_what_is_printed_around_another_end() -> None:
    for line in lines(FALLOUT):
        assert not [rule for rule in matches(PRODUCTION, [line]) if ends_jobs(rule)], line


def test_a_job_that_somebody_cancelled_is_not_begun_anew() -> None:
    for name in ("megatron_basic", PRODUCTION, "megatron_followup"):
        event = shipped(name).for_state("cancelled")
        assert event is not None
        assert event.name == "cancelled"
        assert not [b for b in event.bindings if isinstance(b.action, RestartAction)]


def test_one_event_is_changed_or_left_out_by_its_name() -> None:
    overrides = (
        f"monitoring={PRODUCTION}",
        "monitoring.log_events.gpu_assert=null",
        "monitoring.state_events.stall.actions.0.max_attempts=7",
    )
    rules = MonitoringSection.model_validate(load(Source(overrides=overrides)).base["monitoring"])
    assert set(rules.log_events) == set(shipped(PRODUCTION).log_events) - {"gpu_assert"}
    (stall,) = rules.state_events["stall"].bindings
    assert isinstance(stall.action, RestartAction)
    assert stall.action.max_attempts == 7


def test_what_would_fail_again_is_ended_before_the_restart_is_thought_of() -> None:
    rules = shipped(PRODUCTION)
    first, second = rules.state_events["crash"].bindings
    assert isinstance(first.action, CancelAction)
    assert isinstance(second.action, RestartAction)
    (condition,) = first.conditions
    named = set(getattr(condition, "one_of", ()))
    assert named
    assert {rules.log_events[name].state for name in named} == {"crash"}


def test_a_branch_is_made_at_its_own_iteration_only() -> None:
    line = "  successfully saved checkpoint from iteration {:7d} to out [ t 1/1, p 1/1 ]"
    for iteration in (6, 160, 600, 60000, 1060):
        assert set(matches("megatron_followup", [line.format(iteration)])) == {"checkpoint_saved"}


# ---- the tiny trainer, which prints what Megatron prints


def trained(folder: Path, *words: str) -> list[str]:
    """The lines of a short run of the tiny trainer."""
    argv = [sys.executable, str(ROOT / "examples" / "tiny_lm" / "train.py"), "--train-iters=6", "--save-interval=2"]
    small = ["--hidden-size=8", "--embedding-size=4", "--context=2", "--batch-size=8", "--log-interval=1"]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("RANK", "WORLD_SIZE", "SLURM_"))}
    done = subprocess.run(
        [*argv, *small, f"--save={folder}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        timeout=60,
        check=False,
    )
    return done.stdout.splitlines()


def test_a_healthy_run_of_the_tiny_trainer_has_checkpoints_and_progress_and_nothing_else(tmp_path: Path) -> None:
    found = matches(PRODUCTION, trained(tmp_path))
    assert set(found) == EXPECTED
    assert [reported["iteration"] for reported in found["checkpoint_saved"]] == ["2", "4", "6"]
    assert {reported["checkpoint_path"] for reported in found["checkpoint_saved"]} == {str(tmp_path)}
    assert [reported["iteration"] for reported in found["no_progress"]] == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    ("misbehaviour", "wanted"),
    [
        ("nan@3", {"nan_loss", "nan_gradient"}),
        ("oom@3", {"gpu_out_of_memory"}),
        ("nccl@3", {"nccl_watchdog"}),
        ("crash@3", set()),
        ("segv@3", set()),
    ],
)
def test_a_misbehaving_run_is_noticed_by_the_rule_for_it(misbehaviour: str, wanted: set[str], tmp_path: Path) -> None:
    found = matches(PRODUCTION, trained(tmp_path, f"--misbehave={misbehaviour}"))
    assert set(found) - EXPECTED == wanted


USUAL = (
    " [2026-03-01 12:00:07.919] iteration        7/   50000 | consumed samples:         3584 | elapsed time per iteration"
    " (ms): 2891.9 | throughput per GPU (TFLOP/s/GPU): 491.9 | learning rate: 2.990810E-04 | global batch size:   512 |"
    " lm loss: 2.919000E+00 | loss scale: 1.0 | grad norm: 0.919 | number of skipped iterations:   0 | number of nan"
    " iterations:   0 |\n"
)


@pytest.mark.parametrize("name", NAMES)
def test_a_usual_line_costs_a_rule_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hyperscan")
    monkeypatch.setattr(candidates, "_WORTH", 0)
    rules = shipped(name).log_events
    wides = {rule: each.wide for rule, each in patterns(name).items() if rules[rule].pattern_type != "progress"}
    lines = candidates.Candidates(USUAL.encode() * 3).of(list(wides.values()))
    assert [rule for rule, found in zip(wides, lines, strict=True) if found] == []
