"""Lines as known programs print them, by which rules for logs are tried while planning. Pure data."""

MEGATRON_TRACKER = "latest_checkpointed_iteration.txt"
"""Where Megatron-LM keeps the iteration of its newest checkpoint (megatron/training/checkpointing.py)."""

_MEGATRON = (
    " [2026-01-31 10:00:05.396272] iteration       10/     100 | consumed samples:          160 |"
    " elapsed time per iteration (ms): 438.8 | throughput per GPU (TFLOP/s/GPU): 26.6 | learning rate: 1.500000E-04 |"
    " global batch size:    16 | lm loss: 9.250137E+00 | loss scale: 1.0 | grad norm: 19.242 |"
    " number of skipped iterations:   0 | number of nan iterations:   0 |",
    " [2026-01-31 10:00:05] iteration       10/     100 | consumed samples:          160 |"
    " elapsed time per iteration (ms): 438.8 | learning rate: 1.500000E-04 | global batch size:    16 |"
    " lm loss: 9.250137E+00 | loss scale: 1.0 | grad norm: 19.242 |"
    " number of skipped iterations:   0 | number of nan iterations:   0 |",
    " iteration       10/     100 | consumed samples:          160 | elapsed time per iteration (ms): 438.8 |"
    " learning rate: 1.500000E-04 | global batch size:    16 | lm loss: 9.250137E+00 | loss scale: 1.0 |"
    " grad norm: 19.242 | number of skipped iterations:   0 | number of nan iterations:   0 |",
    " validation loss at iteration 100 on validation set | lm loss value: 2.181957E+00 | lm loss PPL: 8.863620E+00 | ",
    "[2026-01-31 10:00:09.123456] saving checkpoint at iteration      40 to /scratch/out/checkpoints in torch_dist"
    " format",
    "  [2026-01-31 10:00:10.178929] successfully saved checkpoint from iteration      40 to /scratch/out/checkpoints"
    " [ t 1/1, gtp_remat 1/1, p 1/1 ]",
    "  successfully saved checkpoint from iteration      40 to /scratch/out/checkpoints [ t 1/1, p 1/1 ]",
    "  [2026-01-31 10:00:10.178929] successfully saved local checkpoint from iteration      40",
    "  successfully loaded checkpoint from /scratch/out/checkpoints [ t 1/1, p 1/1 ] at iteration 40",
    "[exiting program after receiving SIGTERM.] datetime: 2026-01-31 10:00:11.000000 ",
    "[exiting program after 60.5 minutes] datetime: 2026-01-31 10:00:11.000000 ",
    "[exiting program at iteration 40] datetime: 2026-01-31 10:00:11.000000 ",
    "[after training is done] datetime: 2026-01-31 10:00:11.000000 ",
    "ERROR:megatron.core.rerun_state_machine:Unexpected result nan on rank 3 at iteration #4 invocation #1"
    " (message='found NaN in local forward loss calculation')",
)
"""Formats: training.py (training_log, evaluate_and_print_results, print_datetime), checkpointing.py (save_checkpoint,
load_checkpoint), core/rerun_state_machine.py; of core_v0.16.1 and newer, and of core_v0.10 to 0.14."""
_HEAD = "[rank0]:[titan] 2026-01-31 10:00:00,123 - root - INFO - "
_TORCHTITAN = (
    f"{_HEAD}Training starts at step 1",
    f"{_HEAD}step: 10  loss:  7.51234  grad_norm:  1.2345  memory:  1.52GiB(1.92%)  tps: 12,345  tflops: 12.34"
    "  mfu: 1.25%",
    f"{_HEAD}validate step: 10  loss:  7.5000  memory:  1.52GiB(1.92%)  tps: 12,345",
)
"""Formats: components/metrics.py (MetricsProcessor.log, log_validation), trainer.py."""
PRINTED = {"megatron": _MEGATRON, "torchtitan": _TORCHTITAN}
"""The lines by the program's name."""
