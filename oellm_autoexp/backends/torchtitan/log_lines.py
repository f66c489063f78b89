"""Lines as torchtitan prints them, by which rules for logs are tried while planning. Pure data.

Formats: components/metrics.py (MetricsProcessor.log, log_validation), trainer.py.
"""

_HEAD = "[rank0]:[titan] 2026-01-31 10:00:00,123 - root - INFO - "
SAMPLE_LINES = (
    f"{_HEAD}Training starts at step 1",
    f"{_HEAD}step: 10  loss:  7.51234  grad_norm:  1.2345  memory:  1.52GiB(1.92%)  tps: 12,345  tflops: 12.34"
    "  mfu: 1.25%",
    f"{_HEAD}validate step: 10  loss:  7.5000  memory:  1.52GiB(1.92%)  tps: 12,345",
)
