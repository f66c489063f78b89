"""What programs say within JSON records and behind syslog's prefixes is read as what stands in a plain log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from oellm_autoexp.causes.analysis import find_cause
from oellm_autoexp.causes.cause import Cause
from oellm_autoexp.causes.endings import Ending
from oellm_autoexp.causes.rule import combined
from oellm_autoexp.causes.signs import LogText
from oellm_autoexp.engine.observing.cause_finder import shipped_rules

RULES = combined({}, shipped_rules())
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
TRACEBACK = 'Traceback (most recent call last):\n  File "/p/train.py", line 3, in main\n    step()\n'


def found(log: str) -> Cause:
    return find_cause(Ending(), [LogText("x", log.encode())], RULES)


@pytest.mark.parametrize(
    "record",
    [
        {"level": "ERROR", "message": "failed", "exc_info": TRACEBACK + OUT_OF_MEMORY},
        {"severity": "ERROR", "exception": {"type": "OutOfMemoryError", "message": OUT_OF_MEMORY.partition(": ")[2]}},
        {"level": "error", "exception": [{"exc_type": "OutOfMemoryError", "exc_value": "CUDA out of memory."}]},
        {"log.level": "error", "error": {"type": "a", "message": "b", "stack_trace": TRACEBACK + OUT_OF_MEMORY}},
        {"record": {"level": {"name": "ERROR", "no": 40}, "message": "x"}, "text": f"x\n{TRACEBACK}{OUT_OF_MEMORY}\n"},
        {"severityText": "ERROR", "body": "x", "attributes": {"exception.stacktrace": TRACEBACK + OUT_OF_MEMORY}},
        {"stream": "stderr", "message": TRACEBACK + OUT_OF_MEMORY},
        {"log": f"{OUT_OF_MEMORY}\n", "stream": "stderr", "time": "2026-01-31T10:00:00.123456789Z"},
    ],
    ids=["logging", "type", "structlog", "ecs", "loguru", "otel", "fluent-bit", "docker"],
)
def test_an_exception_in_a_record_is_the_cause(record: Mapping[str, Any]) -> None:
    before = '{"level": "info", "message": "ready"}\n'
    cause = found(f"{before}{json.dumps(record)}\n")
    if "error" not in record:
        assert cause.category == "oom-gpu", cause
        assert cause.offset == len(before)
    else:  # the class and the message stand before the traceback
        assert cause.category in ("oom-gpu", "unknown")


@pytest.mark.parametrize(
    "prefix",
    [
        "<11>1 2026-01-31T10:00:00.003Z n3 train 4711 - - ",
        '<11>1 2026-01-31T10:00:00.003+01:00 n3 train 4711 ID47 [ex@32473 iut="3" a="b c"][x@1 y="z"] ',
        "<11>Jan 31 10:00:00 n3 train[4711]: ",
        "2026-01-31T10:00:00.003+01:00 ",
        "2026-01-31T10:00:00.123456789Z ",
    ],
)
def test_a_traceback_behind_prefixes_is_read(prefix: str) -> None:
    cause = found("".join(f"{prefix}{line}\n" for line in f"{TRACEBACK}KeyError: 'lr'".splitlines()))
    assert (cause.category, cause.rule) == ("code", "exception")
    assert "train.py:3 in main" in cause.text


@pytest.mark.parametrize(
    "record",
    [
        {"level": "info", "message": f"the text was: {OUT_OF_MEMORY}"},
        {"sample": 3, "text": TRACEBACK + "KeyError: 5"},
    ],
)
def test_records_of_no_error_are_no_cause(record: Mapping[str, Any]) -> None:
    assert found(f"{json.dumps(record)}\n").category == "unknown"


def test_records_within_records_without_end_are_no_error() -> None:
    record = '{"level": "error", "error": ' + '{"error": ' * 900 + "1" + "}" * 901
    assert found(f"{record}\nKeyError: 'lr'\n").category == "code"


def test_a_kernel_of_a_gpu_is_no_host() -> None:
    cause = found(
        f"{TRACEBACK}XlaRuntimeError: INTERNAL: CUDA error: Failed to launch kernel: CUDA_ERROR_ILLEGAL_ADDRESS\n"
    )
    assert (cause.category, cause.node) == ("code", "")


def test_lines_in_records_of_a_collector_are_of_their_ranks() -> None:
    lines = [f"3: [rank3]: {OUT_OF_MEMORY}", "0: ConnectionResetError: [Errno 104] Connection reset by peer"]
    records = [json.dumps({"log": f"{line}\n", "stream": "stderr", "time": "x"}) for line in lines]
    cause = found("".join(f"{record}\n" for record in records))
    assert (cause.category, cause.rank, cause.offset) == ("oom-gpu", 3, 0)
