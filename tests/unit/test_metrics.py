"""The numbers in log lines: of known programs, and of `monitoring.metrics`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from oellm_autoexp.rules.metrics import MetricReader, known_lines, with_iterations
from oellm_autoexp.rules.rules import Rules

MEGATRON = (
    b" [2026-11-26 00:48:17.799543] iteration        5/     100 | consumed samples:           80 | elapsed time per"
    b" iteration (ms): 1054.6 | throughput per GPU (TFLOP/s/GPU): 11.1 | learning rate: 7.500000E-05 | global batch"
    b" size:    16 | lm loss: 1.040022E+01 | mtp_1 loss: 2.0E+00 | loss scale: 1.0 | grad norm: nan | number of skipped"
    b" iterations:   0 | number of nan iterations:   2 |\n"
)


def reported(data: bytes, **rules: Any) -> list[tuple[int | None, dict[str, float]]]:
    reader = MetricReader(Rules.model_validate({"metrics": rules}).metrics)
    found, too_slow = reader.read(data, known=True)
    assert not too_slow
    return [(iteration, dict(one.values)) for one, iteration in with_iterations(found, None)]


def test_every_number_of_an_iteration_of_megatron() -> None:
    ((iteration, values),) = reported(MEGATRON)
    assert iteration == 5
    assert math.isnan(values.pop("grad_norm"))
    assert values == {
        "samples": 80,
        "seconds": pytest.approx(1.0546),
        "throughput": 11.1,
        "learning_rate": 7.5e-5,
        "global_batch_size": 16,
        "loss": 10.40022,
        "mtp_1_loss": 2.0,
        "loss_scale": 1.0,
        "number_of_skipped_iterations": 0,
        "number_of_nan_iterations": 2,
    }


def test_validation_sets_and_memory_of_megatron() -> None:
    data = (
        b" validation loss at iteration 20 on validation set | lm loss value: 3.1E+00 | lm loss PPL: 2.2E+01 | \n"
        b" validation-wiki loss at iteration 20 on validation set | lm loss value: 3.5E+00 | lm loss PPL: 2E+01 | \n"
        b"[Rank 0] (after 20 iterations) memory (MB) | allocated: 100.0 | max allocated: 900.5 | reserved: 1000.0 |"
        b" max reserved: 2048.0\n"
    )
    assert reported(data) == [
        (20, {"validation_loss": 3.1}),
        (20, {"validation_wiki_loss": 3.5}),
        (20, {"memory": 2.0}),
    ]


def test_every_number_of_a_step_of_torchtitan() -> None:
    data = (
        b"[rank0]:[titan] 2026-01-31 10:00:00,123 - root - INFO - \x1b[31mstep:  7  \x1b[32mloss:  8.50000  "
        b"\x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[36mmemory: 12.34GiB(15.43%)  \x1b[34mtps: 12,345  "
        b"\x1b[36mtflops: 1,234.56  \x1b[35mmfu: 41.25%\x1b[39m\n"
    )
    values = {"grad_norm": 1.2345, "memory": 12.34, "tokens_per_second": 12345, "throughput": 1234.56, "mfu": 41.25}
    assert reported(data) == [(7, {"loss": 8.5, **values})]


def test_a_rule_of_ones_own_names_the_iteration_and_its_number() -> None:
    data = b"step 5/40 loss 1.2\nacc=0.5\nstep 6/40 loss nan\n"
    seen = reported(
        data, loss=r"step (?P<iteration>\d+)/(?P<total>\d+) loss (?P<value>\S+)", accuracy={"pattern": r"acc=([\d.]+)"}
    )
    assert seen[:2] == [(5, {"loss": 1.2}), (5, {"accuracy": 0.5})]
    assert math.isnan(seen[2][1]["loss"])


def test_one_pattern_tells_several_metrics_by_the_names_of_its_groups() -> None:
    seen = reported(
        b"step 5 loss 1.2 lr 1e-4\n", line=r"step (?P<iteration>\d+) loss (?P<loss>\S+) lr (?P<learning_rate>\S+)"
    )
    assert seen == [(5, {"loss": 1.2, "learning_rate": 1e-4})]


def test_json_lines() -> None:
    data = b'{"step": 3, "loss": 1.5, "eval": {"acc": "0.5"}}\n{"loss": true}\n{"loss": NaN, "step": 4}\n{oh\n'
    seen = reported(data, loss={"json": "loss"}, accuracy={"json": "eval.acc", "iteration_key": "step"})
    assert seen[:2] == [(3, {"loss": 1.5}), (3, {"accuracy": 0.5})]
    assert len(seen) == 3
    assert math.isnan(seen[2][1]["loss"])


def test_colours_in_a_line_hide_no_number() -> None:
    data = b'\x1b[32mstep 3/40\x1b[0m \x1b[1mloss\x1b[0m \x1b[31m2.5\x1b[0m\n\x1b[2m{"step": 4, "reward": 1}\x1b[0m\n'
    rules = {
        "loss": r"^step (?P<iteration>\d+)/\d+ loss (?P<value>\S+)$",
        "reward": {"json": "reward", "iteration_key": "step"},
    }
    assert reported(data, **rules) == [(3, {"loss": 2.5}), (4, {"reward": 1.0})]


def test_what_is_not_a_number_is_passed_over() -> None:
    assert reported(b"loss: high\nloss: 1.5\n", loss=r"loss: (\S+)") == [(None, {"loss": 1.5})]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "needs one of"),
        ({"pattern": "a(b)", "json": "c"}, "needs one of"),
        ("loss", "needs a group for the number"),
        (r"(?P<iteration>\d+)", "needs a group for the number"),
        ("(", "no regular expression"),
        ({"json": ""}, "is not empty"),
        ({"json": "a", "iteration_key": ""}, "is not empty"),
        ({"pattern": "(a)", "iteration_key": "x"}, "iteration_key goes with"),
    ],
)
def test_a_rule_that_reads_no_number_is_refused(rule: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Rules.model_validate({"metrics": {"loss": rule}})


@pytest.mark.parametrize("name", ["", " ", "@time", "@tokens", "../../evil", "a/../b", "/a", "a\nb", "a ", "\x1b[31m"])
def test_a_name_that_no_metric_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="can't name a metric"):
        Rules.model_validate({"metrics": {name: "loss (a)"}})


@pytest.mark.parametrize("name", ["loss", "eval/acc.top-1", "lm loss (val)", "hits@10", "größe", "7", "acc%", "a..b"])
def test_names_of_metrics_may_be_as_programs_write_them(name: str) -> None:
    assert list(Rules.model_validate({"metrics": {name: "loss (a)"}}).metrics) == [name]


def test_a_rule_is_switched_off_by_null() -> None:
    assert Rules.model_validate({"metrics": {"loss": None}}).metrics == {}


def test_a_line_without_a_time_or_with_an_odd_one_has_none() -> None:
    line = MEGATRON.replace(b"[2026-11-26 00:48:17.799543]", b"[2026-99-26 00:48:17.799543]")
    assert [one.at for one in known_lines(line)] == [None]


REAL = Path(__file__).parents[1] / "real_logs"


@pytest.mark.parametrize("name", sorted(path.name for path in REAL.glob("*.log")))
def test_the_series_of_real_runs_are_what_their_lines_say(name: str) -> None:
    data = (REAL / name).read_bytes()
    expected = []
    for line in data.decode(errors="replace").split("\n"):
        if "] iteration " in line and "/ " in line:
            fields = dict(part.rsplit(":", 1) for part in line.split("|")[1:] if ":" in part)
            loss = {key.strip(): value.strip() for key, value in fields.items()}.get("lm loss", "nan")
            expected.append((int(line.split("] iteration ")[1].split("/")[0]), float(loss)))
    found = [(one.iteration, one.values["loss"]) for one in known_lines(data) if "loss" in one.values]
    assert [str(pair) for pair in found] == [str(pair) for pair in expected]
    assert all(one.at is not None for one in known_lines(data) if one.whole)


def test_a_run_that_goes_on_from_a_checkpoint_tells_where_it_begins() -> None:
    found = known_lines((REAL / "decay_from_sibling.log").read_bytes())
    first = next(one for one in found if one.iteration is not None)
    assert (first.iteration, dict(first.values)) == (80, {})
    assert {one.iteration for one in found if "validation_loss" in one.values} == {100}
