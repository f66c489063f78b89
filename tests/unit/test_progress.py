"""What is read of a training's log: the lines of Megatron-LM from 0.10 on, of torchtitan, and look-alikes."""

from __future__ import annotations

import json
import math

import pytest

from oellm_autoexp.rules.measurements import Measurement
from oellm_autoexp.rules.metrics import known_lines
from oellm_autoexp.rules.progress import Progress, after
from oellm_autoexp.session import records
from oellm_autoexp.testing.jobs import changed, job_state

# training.py: training_log; up to core_v0.14 its time had no fraction of a second
_OLD = "[2025-03-01 10:00:00]"
_NEW = "[2026-01-31 10:00:00.123456]"
_TAIL = "loss scale: 1.0 | grad norm: 0.512 | number of skipped iterations:   0 | number of nan iterations:   0 |"


def iteration(
    number: int, *, at: str = _NEW, loss: str = " lm loss: 2.345600E+00 |", throughput: bool = True, tail: str = _TAIL
) -> str:
    flops = " throughput per GPU (TFLOP/s/GPU): 412.5 |" if throughput else ""
    return (
        f" {at} iteration {number:8d}/{1000:8d} | consumed samples: {number * 64:12d} |"
        f" elapsed time per iteration (ms): 2500.5 |{flops}"
        f" learning rate: 1.000000E-02 | global batch size: {64:5d} |{loss} {tail}"
    )


def reported(*lines: str, before: Progress | None = None) -> Progress:
    return after(before or Progress(), known_lines("".join(f"{line}\n" for line in lines).encode()))


@pytest.mark.parametrize("at", [_OLD, _NEW], ids=["0.10", "0.19"])
def test_an_iteration_of_megatron(at: str) -> None:
    seen = reported(iteration(11), iteration(12, at=at))
    assert seen == Progress(iteration=12, total=1000, loss=2.3456, grad_norm=0.512, throughput=412.5, seconds=2.5005)
    assert seen.seconds_left == pytest.approx(988 * 2.5005)


def test_what_is_not_logged_is_not_known() -> None:
    seen = reported(iteration(12, throughput=False, tail="loss scale: 1.0 | number of skipped iterations:   0 |"))
    assert (seen.throughput, seen.grad_norm, seen.loss) == (None, None, 2.3456)


@pytest.mark.parametrize("norm", ["nan", "inf"])
def test_a_loss_that_megatron_omits_is_nan_and_a_norm_that_is_no_number_is_kept(norm: str) -> None:
    seen = reported(iteration(11), iteration(12, loss="", tail=_TAIL.replace("0.512", norm)))
    assert (seen.iteration, seen.loss, str(seen.grad_norm)) == (12, math.nan, norm)


def test_the_losses_of_other_parts_are_not_the_loss() -> None:
    seen = reported(iteration(12, loss=" lm loss: 2.5E+00 | mtp_1 loss: 9.0E+00 | load_balancing_loss: 1.0E+00 |"))
    assert seen.loss == 2.5


@pytest.mark.parametrize(
    "line",
    [
        "  successfully saved checkpoint from iteration     500 to /out/checkpoints [ t 1/1, p 1/1 ]",
        f"  {_NEW} successfully saved checkpoint from iteration     500 to /out [ t 1/1, gtp_remat 1/1, p 1/1 ]",
        f"  {_NEW} successfully saved local checkpoint from iteration     500",
    ],
    ids=["0.14", "0.19", "local"],
)
def test_a_checkpoint_is_remembered_and_moves_nothing(line: str) -> None:
    seen = reported(iteration(500), line, iteration(501))
    assert (seen.iteration, seen.saved_iteration) == (501, 500)
    assert reported(line, before=Progress(iteration=510)).iteration == 510


def test_a_checkpoint_that_begins_to_be_saved_is_none_yet() -> None:
    line = f"{_NEW} saving checkpoint at iteration     500 to /out/checkpoints in torch_dist format"
    assert reported(line) == Progress()


def test_a_loaded_checkpoint_is_where_it_goes_on() -> None:
    line = "  successfully loaded checkpoint from /out/checkpoints [ t 1/1, p 1/1 ] at iteration 500"
    assert reported(line) == Progress(iteration=500)


def test_the_loss_on_the_test_set_is_not_that_of_validation() -> None:
    line = " validation loss at iteration 20 on {} set | lm loss value: {}00000E+00 | lm loss PPL: 2.2E+01 | "
    seen = reported(line.format("validation", "3.1"), line.format("test", "9.9"))
    assert (seen.iteration, seen.validation_loss) == (20, 3.1)


@pytest.mark.parametrize("what", [" validation loss", " validation-wiki loss", " validation-0 loss"])
def test_validation_of_megatron(what: str) -> None:
    frame = "-" * 80
    line = f"{what} at iteration 20 on validation set | lm loss value: 3.100000E+00 | lm loss PPL: 2.2E+01 | "
    seen = reported(iteration(20), frame, line, frame)
    assert (seen.iteration, seen.loss, seen.validation_loss) == (20, 2.3456, 3.1)
    assert reported(line.replace("3.100000E+00", f"{float('nan'):.6E}"), before=seen).validation_loss is math.nan


# components/metrics.py colours every field
def titan(step: int, loss: float = 8.12345) -> str:
    return (
        f"[rank0]:[titan] 2026-01-31 10:00:00,123 - root - INFO - \x1b[31mstep: {step:2}  \x1b[32mloss: {loss:8.5f}  "
        "\x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[36mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 12,345  "
        "\x1b[36mtflops: 1,234.56  \x1b[35mmfu: N/A\x1b[39m"
    )


TITAN_START = (
    "[titan] 2026-01-31 10:00:00,123 - root - INFO - Trainer is initialized with 16384 tokens per DP rank, "
    "131072 tokens per train step, gradient accumulation steps 1, "
    "maximum context length 2048, total steps 500 (warmup 2)"
)


def test_a_step_of_torchtitan() -> None:
    seen = reported(TITAN_START, "[titan] 2026-01-31 10:00:01,000 - root - INFO - Training starts at step 101")
    assert (seen.iteration, seen.total) == (100, 500)
    assert reported(titan(101), titan(102), before=seen) == Progress(
        iteration=102, total=500, loss=8.12345, grad_norm=1.2345, throughput=1234.56
    )
    assert reported(titan(103, float("nan")), before=seen).loss is math.nan
    assert reported(titan(103, float("-inf")), before=seen).loss == -math.inf


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_kept_in_files_as_it_is_and_is_null_for_programs(loss: float) -> None:
    job = changed(job_state("a"), progress=Progress(iteration=3, loss=loss, validation_loss=0.5))
    assert records.job_of(json.loads(records.line(job))) == job
    assert records.job_of(records.record(job)) == job
    assert json.loads(json.dumps(records.flat(job), allow_nan=False))["progress"]["loss"] is None


def test_of_a_speed_only_numbers_are_known() -> None:
    seen = after(Progress(), [Measurement(0, {"seconds": math.nan, "throughput": math.inf}, iteration=1)])
    assert (seen.seconds, seen.throughput, seen.seconds_left) == (None, None, None)


def test_validation_of_torchtitan() -> None:
    line = (
        "[titan] 2026-01-31 10:00:00,123 - root - INFO - \x1b[33mvalidate step: 102  \x1b[32mloss:  7.5000  "
        "\x1b[36mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 12,345\x1b[39m"
    )
    seen = reported(titan(102), line)
    assert (seen.iteration, seen.loss, seen.validation_loss) == (102, 8.12345, 7.5)
    assert reported(titan(102), *[line] * 5).loss == 8.12345


@pytest.mark.parametrize(
    "line",
    [
        "step: 5  loss: 1.0 and so on",
        "[titan] a - b - INFO - my step: 5  loss: 1.0  x",
        "my iteration 5/ 10 | lm loss: 1.0 |",
        "the validation loss at iteration 5 is low",
        "Training starts at step 5",
    ],
)
def test_what_only_looks_like_it_tells_nothing(line: str) -> None:
    assert reported(line) == Progress()


def test_a_number_beyond_all_numbers_is_infinite() -> None:
    seen = reported(" [2026-01-31 10:00:05] iteration 10/ 100 | lm loss: 1e9999 | grad norm: 1.0 |")
    assert (seen.loss, seen.grad_norm) == (math.inf, 1.0)
