"""Nothing that SLURM, a config or a log may say makes a parser raise anything but what it documents.

All of them share the time of one fuzz test.
"""

import io
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.cli.monitor.restart_jobs import read_overrides
from oellm_autoexp.config import overrides
from oellm_autoexp.config.values import expressions
from oellm_autoexp.core.errors import AutoexpError, ConfigError
from oellm_autoexp.core.text import fill
from oellm_autoexp.rules import progress
from oellm_autoexp.rules.metrics import known_lines
from oellm_autoexp.sbatch import directives, known_options, resources, signals, times
from oellm_autoexp.sbatch.options import node_names
from oellm_autoexp.schedulers import site_limits
from oellm_autoexp.schedulers.site import Site
from oellm_autoexp.schedulers.slurm import error_messages, failed_nodes, parse
from oellm_autoexp.schedulers.slurm import site_answers as answers
from oellm_autoexp.storage.log_tail import Cursor, pieces, read_added
from tests.fuzz.driver import fuzz

ODD = ["", " ", "\n", "\r", "\0", "|", "@", ":", "-", "=", ",", "%", "#", "_", "[", "]", "/", ".", ";", '"', "'", "\\"]
ODD += ["\u0662", "\u00b2", "\u00e9", "\u2028", "\x85", "\x1c", "\ud800", "9" * 400, "9" * 5000, "-1", "1e999", "nan"]
ODD += [
    "Infinity",
    "None",
    "(null)",
    "UNKNOWN",
    "Unknown",
    "N/A",
    "UNLIMITED",
    "0",
    "7_[2-5%2]",
    "$(x)",
    "${a}",
    "{",
    "}",
]


def mutated(source: random.Random, samples: list[str]) -> str:
    """A text like the samples, with some of it lost, doubled, moved, or odd."""
    text = "\n".join(source.choices(samples, k=source.choice([1, 1, 2, 5])))
    for _ in range(source.choice([0, 1, 1, 2, 5])):
        at = source.randrange(len(text) + 1)
        to = min(len(text), at + source.choice([0, 1, 1, 3, 10]))
        text = text[:at] + source.choice([*ODD, text[at:to] * 2, source.choice(samples)]) + text[to:]
    return text


SQUEUE = ["7@RUNNING@0@n[1-2]@None@", "7_3@PENDING@0@@Resources@", "8@COMPLETING@65280@n1@a@b@", "CLUSTER: c"]
SACCT = ["7|COMPLETED|0:0|n1", "7_3|CANCELLED by 1000|0:15|None assigned", "7_[4-9%2]|PENDING|0:0|None assigned"]
USAGE = [
    "7|COMPLETED|120|billing=8,cpu=8,gres/gpu=4,node=1",
    "7|REQUEUED|60|gres/gpu:a100=2,gres/gpu:h100=1",
    "8|RUNNING|5|",
]
TOKENS = [
    "7@autoexp:tok1@job.tok1@RUNNING@None",
    "8@@name.tok2@FAILED@BadConstraints",
    "9_[1-3]@autoexp:tok1 x@n@PENDING@x",
]
NODES = [
    "n1 idle*",
    "n2 drained",
    "n3 mixed",
    "7|n1",
    "7|n[1-2]|2026-01-31T10:00:00",
    "n1|2026-01-31T10:00:00",
    "n1|Unknown",
]
NODES += ["n1|2026-01-31T10:00:00+01:00", "7|n1|0001-01-01T00:00:00Z"]
CONFIG = [
    "MaxArraySize            = 1001",
    "SchedulerParameters     = bf_max=1,max_array_tasks=50,x",
    "JobId=7 NodeList=n1 X=(null)",
]
ERRORS = ["sbatch: error: Batch job submission failed: Invalid partition name specified", "ssh: connection refused"]
ERRORS += ["sbatch: fatal: x", "scancel: error: Kill job error on job id 7: Invalid job id specified"]
PARTITIONS = [
    "PartitionName=a Default=YES MaxTime=1-00:00:00 MaxNodes=4 TotalNodes=8 QoS=N/A",
    "PartitionName=b MaxNodes=UNLIMITED",
]
TIMES = ["10", "10:30", "1:02:03", "2-4", "2-04:30", "2-04:30:15", "UNLIMITED", "infinite", "-1", "0"]
HEADS = [
    "#!/bin/bash",
    "#SBATCH --time=1:00:00 --nodes=2-4",
    '#SBATCH -N 2 -n "8" # why',
    "#SBATCH --gpus-per-node=a100:4",
]
HEADS += [
    "#SBATCH --gres=gpu:a100:4,nvme:1 --tres-per-task=gres/gpu=2",
    "#SBATCH --signal=B:USR1@60",
    "#SBATCH --hold",
    "",
]
HEADS += [
    "#SBATCH --exclude=n[1,3-4],m7",
    "#SBATCH -t 5",
    "#SBATCH --ntasks=8 --ntasks-per-node=4",
    "srun x",
    "# words",
]
TERMS = [
    "1",
    "2.5",
    "'a'",
    "[1, 2]",
    "(3,)",
    "{1: 2}",
    "int(50e9 / b)",
    "b",
    "a.b",
    "true",
    "null",
    "not b",
    "b if a else 1",
]
TERMS += [
    "[x for x in range(9)]",
    "max(1, b)",
    "len('abc')",
    "1 < b <= 3",
    "10**9",
    "a.b[0]",
    "round(b, 2)",
    "str(b) + 'x'",
]
TERMS += [
    "-b",
    "b // 3",
    "7 % b",
    "a in [1]",
    "sum([1, 2])",
    "range(3)[1]",
    "1e308 * 10",
    "min([])",
    "b ** -1",
    "x := 1",
]
OVERRIDES = [
    "a.b=1",
    "+a.b=[1,2]",
    "++a={b:1}",
    "~a.b",
    "a='x y'",
    'a="${b}"',
    "a=${oc.eval:int(50e9 / ${b})}",
    "sweep=none",
]
OVERRIDES += [
    "backend@x=y",
    "a=1,2",
    "a=range(1,3)",
    "a=choice(1,2)",
    "slurm.sbatch.time=04:00:00",
    "backend.megatron.train-iters=5",
]
OVERRIDES += ["sweep={grids:[{a:[1,2]}]}", "a=null", "a=1e999", "a=", "=1", "a.=1", "a=\\${b}", "a=glob(*)", "a=int(x)"]
TEMPLATES = ["{a}", "{{a}}", "{a.b}/x", "}{", "{", "{}", "{a!r:>{b}}", "text"]
MEGATRON = " [2026-01-31 10:00:05] iteration 10/ 100 | elapsed time per iteration (ms): 438.8 | lm loss: 9.25E+00 |"
LINES = [MEGATRON, " validation loss at iteration 100 | lm loss value: 2.1E-02 | lm loss PPL: 1.0 |"]
LINES += [
    "  successfully saved checkpoint from iteration 40 to /x [ t 1/1 ]",
    "[titan] x - step: 10  loss: 7.5  grad_norm: 1.2 ",
]
LINES += [
    "[titan] x - Training starts at step 5",
    "[titan] x - Trainer is initialized with 1, total steps 1000 (",
    "| lm loss:",
]


def seconds(text: str) -> None:
    """A time that is read is written and read as the same; or it is refused."""
    with suppress(ConfigError):
        read = times.parse_time(text)
        assert read is None or (read > 0 and times.parse_time(times.format_time(read)) == read)


def listing(text: str) -> None:
    """What SLURM lists."""
    with suppress(ValueError):
        parse.squeue(text)
    wanted = {"7": "tok1", "7_3": "", "7_5": "tok2", "8": ""}
    accounts = parse.sacct(text)
    for job, token in wanted.items():
        accounts.status(job, token)
    assert all(isinstance(array, tuple) for array in parse.known(accounts.arrays()))
    for runs in parse.usage(text, wanted).values():
        assert all(math.isfinite(run.seconds) and run.seconds >= 0 for run in runs)
    for separator in "@|":
        assert set(parse.tokens(text, separator, {"tok1", "tok2"})) <= {"tok1", "tok2"}
    assert "" not in failed_nodes.nodes_out_of_service(text)
    failed_nodes.failed_node(text)
    if (end := failed_nodes.job_end(text)) is not None:
        failed_nodes.nodes_failed_between(text, end[1], end[1])
    failed_nodes.nodes_failed_between(text, datetime(2020, 1, 1), datetime(2030, 1, 1))
    parse.job_field(text, "NodeList")
    size = answers.max_array_size(text)
    assert size is None or size >= 0
    for word in text.split("|"):
        assert (parse.exit_code(word) or 0) >= 0
        assert 0 <= (parse.raw_exit_code(word) or 0) <= 255
    assert parse.submitted_id(text).isdecimal() or not parse.submitted_id(text)


def errors(text: str) -> None:
    """What SLURM says went wrong: one line."""
    for code in (1, 127, 255, -9):
        kind, words = error_messages.refusal(code, text)
        assert issubclass(kind, AutoexpError)
        assert words
        assert len(words.splitlines()) == 1
    error_messages.only_ended_jobs(text)
    error_messages.no_accounting(text)
    error_messages.no_such_field(text)


ACCOUNTS = ("long|PartitionTimeLimit|1-00:00:00|node=8|node=2", "a||normal,long|normal")


def site(text: str) -> None:
    """The limits of partitions and QOS, and a user's accounts."""
    found = Site(
        answers.partitions(text),
        answers.qualities(text),
        answers.associations(text),
        text[:20],
        complete=True,
    )
    asked = {"time": text[:20], "nodes": text[-20:], "partition": ",".join(found.partitions), "account": text[:9]}
    for more in ({}, {"time": "9" * 5000}, {"nodes": "9" * 5000}, *({"qos": name} for name in found.qos)):
        site_limits.problems({**asked, **more}, found)
    known_options.option_problems(known_options.options_in_help(text), known_options.OPTIONS, "x")


def head(text: str) -> None:
    """A script's directives: nothing changes where nothing is asked for; what is set is there, the rest as it was."""
    found = directives.options(text)
    lines = directives.directive_lines(text)
    assert directives.with_options(text, {}) == text
    changed = directives.with_options(text, {"time": "5", "qos": None})
    assert directives.options(changed)["time"] == "5"
    assert "qos" not in directives.options(changed)
    same = {key: value for key, value in found.items() if key not in ("time", "qos")}
    assert {key: value for key, value in directives.options(changed).items() if key != "time"} == same
    with suppress(ConfigError):
        assert "n9" in node_names(directives.options(directives.excluding(text, ["n9"]))["exclude"])
    with suppress(ValueError):
        signals.signal_before_end(lines)
    for extra in ((), lines):
        with suppress(ConfigError):
            nodes, gpus, limit = resources.resources(found, extra)
            assert nodes >= 1
            assert gpus >= 0
            assert limit is None or limit > 0
        with suppress(ConfigError):
            resources.tasks(found, extra)


def expression(text: str) -> None:
    """An expression over values."""
    with suppress(ConfigError):
        expressions.evaluate(text, {"b": 2, "a": [1], "a.b": [3, 4]})


def override(text: str) -> None:
    """An override of a plan, and of a restart."""
    with suppress(ConfigError):
        overrides.checked_override(text, ("slurm.sbatch.",))
    with suppress(ConfigError):
        read_overrides([text])


def template(text: str) -> None:
    """A template is filled by look-ups and nothing else."""
    asked: list[str] = []

    def value(key: str) -> str:
        asked.append(key)
        return "{a}"

    filled = fill(text, value)
    assert all(f"{{{key}}}" in text for key in asked)
    assert fill(text.replace("{", "{{").replace("}", "}}"), value) == text
    assert asked or "{a}" not in filled or "{a}" in text.replace("{{", "{")


def metrics(text: str) -> None:
    """Numbers in a log: those of the whole are those of its parts, one after another."""
    data = text.encode(errors="surrogatepass")
    whole = progress.after(progress.Progress(), known_lines(data))
    diverge = {"loss", "grad_norm", "validation_loss"}
    assert all(math.isfinite(value) for key, value in progress.reported(whole).items() if key not in diverge)
    parts = progress.Progress()
    for line in data.splitlines(keepends=True):
        parts = progress.after(parts, known_lines(line))
    if b"\r" not in data and data.count(b"iteration") + data.count(b"titan") <= 3:
        assert parts == whole
    json.dumps(whole.model_dump(mode="json"))


@dataclass(frozen=True)
class Parser:
    """What is fuzzed: texts like these samples, and what has to hold."""

    samples: list[str]
    check: Callable[[str], None]


PARSERS = {
    "times": Parser(TIMES, seconds),
    "listing": Parser([*SQUEUE, *SACCT, *USAGE, *TOKENS, *NODES, *CONFIG], listing),
    "errors": Parser(ERRORS, errors),
    "site": Parser(
        [
            *PARTITIONS,
            "long|PartitionTimeLimit|1-00:00:00|node=8|node=2",
            "a||normal,long|normal",
            "--time=x",
            "  -N, --nodes=N",
        ],
        site,
    ),
    "head": Parser(HEADS, head),
    "expression": Parser(
        [*TERMS, *(f"({a}) {op} ({b})" for a, op, b in zip(TERMS, "+-*/%<|", TERMS[3:], strict=False))], expression
    ),
    "override": Parser(OVERRIDES, override),
    "template": Parser(TEMPLATES, template),
    "metrics": Parser(LINES, metrics),
}


@contextmanager
def share(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each of the parsers, and the reader of logs, gets its part of the time."""
    given = float(os.environ.get("AUTOEXP_FUZZ_SECONDS") or 4)
    monkeypatch.setenv("AUTOEXP_FUZZ_SECONDS", str(given / (len(PARSERS) + 1)))
    yield


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_raises_only_what_it_documents(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = PARSERS[name]

    def make(source: random.Random) -> bytes:
        return mutated(source, parser.samples).encode(errors="surrogatepass")

    with share(monkeypatch):
        assert fuzz(f"parsers-{name}", make, lambda data: parser.check(data.decode(errors="surrogatepass")))


def growth(source: random.Random) -> bytes:
    """A log in pieces as its writer adds them, and what else becomes of it."""
    steps: list[Any] = []
    for number in range(source.randrange(1, 12)):
        text = "".join(
            source.choices(["a", "bc", "\n", "\r", "\r\n", "\xff", "\0", f"<{number}>\n"], k=source.randrange(8))
        )
        steps.append([source.choice(["add", "add", "add", "add", "move", "look"]), text])
    return json.dumps({"steps": steps, "limit": source.randrange(1, 9)}).encode()


def read_all(data: bytes) -> None:
    """Every line comes once, in order, whenever it is looked for; a stream gives the same."""
    given = json.loads(data)
    with tempfile.TemporaryDirectory() as name:
        path, moved, written, got, cursor = Path(name, "x.log"), 0, b"", b"", Cursor()

        def look(cursor: Cursor, *, final: bool = False) -> tuple[bytes, Cursor]:
            found = b""
            while True:
                added, cursor = read_added(path, cursor, final=final, limit=given["limit"])
                if not added:
                    return found, cursor
                found += added

        for kind, text in given["steps"]:
            piece = text.encode("latin-1")
            if kind == "move" and written.endswith(b"\n") and path.exists():
                added, cursor = look(cursor)
                got += added
                for number in range(moved, 0, -1):
                    Path(name, f"x.log.{number}").rename(Path(name, f"x.log.{number + 1}"))
                path.rename(Path(name, "x.log.1"))
                moved += 1
            with path.open("ab") as file:
                file.write(piece)
            written += piece
            if kind == "look":
                added, cursor = look(cursor)
                got += added
                assert written.startswith(got)
                assert got == b"" or got[-1:] in b"\r\n"
        got += look(cursor, final=True)[0]
        assert got == written
    assert b"".join(pieces(io.BytesIO(written), limit=given["limit"])) == written


def test_a_log_that_grows_is_read_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with share(monkeypatch):
        assert fuzz("logs", growth, read_all)
