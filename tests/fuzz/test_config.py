"""Whatever an experiment file and the command line hold: planning ends soon, with a plan or with a message."""

from __future__ import annotations

import json
import random
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.core.errors import AutoexpError, Problem
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.storage.files import shipped
from tests.fuzz.driver import fuzz

pytestmark = pytest.mark.slow

SECONDS = 20
"""Far above what any input takes, also on a busy machine, and far below what one without limits takes."""
BYTES = 3 << 30
TEMPLATE = shipped("oellm_autoexp/sbatch/job.sbatch.template").read_text()
AROUND = PlanContext(
    now=datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC),
    work_dir=Path("/somewhere"),
    python="python",
    environment={"HOME": "/home/me", "OUTPUT_DIR": "/out"},
    command_line=(),
    user="me",
    host="here",
    nonce="3f9c2a1b",
)
GROUPS = ["backend", "slurm", "project", "monitoring", "container", "sweep", "job", "scheduler", "backend/megatron"]
CHOICES = [
    "command",
    "tiny_lm",
    "base",
    "local",
    "fake",
    "default",
    "none",
    "megatron_basic",
    "nowhere",
    "",
    "null",
    "1",
]
KEYS = [
    *(
        "project.name",
        "project.output_dir",
        "project.log_path",
        "slurm.sbatch.time",
        "slurm.sbatch.nodes",
        "metadata.x",
    ),
    *("slurm.env.A", "backend.options.lr", "backend.argv", "stage", "index", "sweep", "job.start_conditions", "slurm"),
    *("monitoring.log_events", "monitoring.poll_interval_seconds", "scheduler.max_jobs", "slurm.srun.ntasks", "a.b"),
    *("slurm.sbatch.array", "slurm.sbatch.mem", "slurm.array", "backend", "project", "metadata", "monitoring", "a"),
]
PLAIN = re.compile(r"[\w.+-]+")
WORDS = [
    *(
        "a",
        "b",
        "x",
        "1",
        "-1",
        "1e-4",
        "1e999",
        "nan",
        ".inf",
        "true",
        "null",
        "''",
        "9" * 30,
        "9" * 5000,
        "0x" + "f" * 4000,
    ),
    *(
        "${a}",
        "${metadata.x}",
        "${project.name}",
        "${index}",
        "${.x}",
        "${..x}",
        "${nowhere}",
        "${",
        "}",
        "$",
        "\\${a}",
    ),
    *("${oc.eval:2**2}", "${oc.eval:9**9**9}", "${oc.eval:'a'*10**9}", "${oc.eval:[0]*10**8}", "${oc.env:HOME}"),
    *(
        "${oc.mul:${metadata.x},${metadata.x}}",
        "${oc.concat:${metadata.x},${metadata.x}}",
        "${oc.decode:${metadata.x}}",
    ),
    *(
        "${oc.slurmtime:1e300}",
        "${oc.int:1e308}",
        "${oc.timestring:%}",
        "${now:%Q}",
        "${sibling.a.name}",
        "${oc.if:a,b,c}",
    ),
    *(
        "${metadata.x}${metadata.x}",
        "???",
        "!!set {a}",
        "!!binary aGk=",
        "!!timestamp 2026-01-01",
        "2026-01-01",
        "12:30:00",
    ),
    *(
        "|\n  text\n  more",
        "'it''s'",
        '"\\u001b[31m"',
        '"\\ud800"',
        "é",
        "\u2028",
        "!!python/name:os.system ''",
        "*a",
        "&a x",
    ),
    *(
        "0-99999999999",
        "1-",
        "٣",
        "²",
        "a=b",
        "[a, b]",
        "{a: b}",
        "{<<: {a: 1}}",
        "[[[[a]]]]",
        "/dev/zero",
        "../..",
        "a/b",
    ),
]


USUAL = "defaults: [override /backend: tiny_lm, override /project: default, _self_]\n"


def make(source: random.Random) -> bytes:
    """An experiment file and overrides, as JSON."""
    overrides = [_override(source) for _ in range(source.choice([0, 0, 0, 0, 1, 1, 2]))]
    return json.dumps({"yaml": _experiment(source), "overrides": overrides}).encode()


def _experiment(source: random.Random) -> str:
    parts = [
        source.choice(["# @package _global_\n", "# @package _global_\n", "", "# @package a.b\n", "%YAML 1.1\n---\n"])
    ]
    parts.append(source.choice([USUAL, USUAL, USUAL, f"defaults: {_defaults(source)}\n", ""]))
    kinds = [_section, _section, _section, _bomb, _sweep, _sweep, _nested]
    sections = (source.choice(kinds)(source) for _ in range(source.randint(0, 4)))
    parts += {section.partition(":")[0]: section for section in sections}.values()
    text = "".join(parts)
    if source.random() < 0.05:  # damage
        at = source.randrange(len(text) + 1)
        text = text[:at] + source.choice(["\t", "\0", "\x1b", ":", "- ", "'", "{", "&a ", "*a", "\ufeff"]) + text[at:]
    return text


def _defaults(source: random.Random) -> str:
    entries = []
    for _ in range(source.randint(0, 5)):
        group, choice = source.choice(GROUPS), source.choice(CHOICES)
        prefix = source.choice(["", "override ", "optional ", "override optional ", "overide ", "override  ", " "])
        slash = source.choice(["", "/", "/", "//"])
        package = source.choice(["", "", "", "@", "@_global_", "@a.b", "@_here_", "@:", "@a@b", "@_group_", "@a..b"])
        value = source.choice(
            [choice, choice, f"[{choice}, {source.choice(CHOICES)}]", "1", "{a: b}", "${a}", "???", "~"]
        )
        entries += [
            source.choice(
                [
                    f"{prefix}{slash}{group}{package}: {value}",
                    f"{prefix}{slash}{group}{package}: {value}",
                    "_self_",
                    *("/autoexp", "_self_@x", "experiments/sweeps/grid", "me", "../x", "", "1", "[]", "{}", "~", "''"),
                    *(
                        "override /slurm",
                        "/slurm/base",
                        "{a: b, c: d}",
                        "_self_: x",
                        "/: x",
                        "'': x",
                        "override: x",
                        "? [a]\n: b",
                    ),
                ]
            )
        ]
    if source.random() < 0.1:
        return source.choice(WORDS)
    return "\n" + "".join(f"  - {entry}\n" for entry in entries) if entries else "[]"


def _section(source: random.Random) -> str:
    return f"{source.choice(KEYS)}: {_value(source)}\n"


def _value(source: random.Random, depth: int = 0) -> str:
    pick = source.random()
    if depth > 2 or pick < 0.6:
        word = source.choice(WORDS)
        safe = depth > 0 or source.random() < 0.5
        return word if not safe or PLAIN.fullmatch(word) or source.random() < 0.03 else json.dumps(word)
    if pick < 0.8:
        return "[" + ", ".join(_value(source, depth + 1) for _ in range(source.randint(0, 3))) + "]"
    entries = {source.choice(KEYS): _value(source, depth + 1) for _ in range(source.randint(0, 3))}
    return "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"


def _bomb(source: random.Random) -> str:
    """Values that are twice as large as the one before, by aliases, lists, texts, numbers or merging."""
    link = source.choice(
        [
            *(
                "[*x{0}, *x{0}, *x{0}]",
                "['${{metadata.x{0}}}', '${{metadata.x{0}}}']",
                "{{a: '${{metadata.x{0}}}', b: '${{metadata.x{0}}}'}}",
            ),
            *(
                "'${{metadata.x{0}}}${{metadata.x{0}}}'",
                "'${{oc.concat:${{metadata.x{0}}},${{metadata.x{0}}}}}'",
                "{{<<: [*x{0}, *x{0}], a{0}: *x{0}}}",
            ),
            *(
                "'${{oc.mul:${{metadata.x{0}}},${{metadata.x{0}}}}}'",
                "'${{oc.eval:${{metadata.x{0}}}*${{metadata.x{0}}}}}'",
                "['${{metadata.x{0}}}']",
            ),
            *(
                "'${{oc.dict_merge:${{metadata.x{0}}},${{metadata.x{0}}}}}'",
                "'${{metadata.x{1}}}'",
                "'${{oc.eval:[${{metadata.x{0}}},${{metadata.x{0}}}]}}'",
            ),
        ]
    )
    first = source.choice(["12345", "abcdefgh", "[1, 2]", "{a: 1}"])
    size = source.randint(2, 60)
    lines = [f"  x0: &x0 {first}\n", *(f"  x{n}: &x{n} {link.format(n - 1, (n + 1) % size)}\n" for n in range(1, size))]
    return "metadata:\n" + "".join(lines)


def _nested(source: random.Random) -> str:
    depth = source.choice([10, 50, 59, 60, 100, 300, 2000])
    begin, end = source.choice(
        [("[", "]"), ("{a: ", "}"), ("${", "}"), ("${oc.eval:(", ")}"), ("(", ")"), ("${oc.if:", "}")]
    )
    quote = "" if begin[0] in "[{" else "'"
    return f"metadata.deep: {quote}{begin * depth}1{end * source.choice([depth, depth, 1])}{quote}\n"


def _sweep(source: random.Random, depth: int = 0) -> str:
    def node(depth: int) -> str:
        kind = source.choice(["grids", "params", "configs", "groups", "gruops"])
        grid = (
            "{"
            + ", ".join(
                f"{json.dumps(source.choice(['', '', '', '+', '++', '~']) + source.choice(KEYS))}: {_value(source, 2)}"
                for _ in range(2)
            )
            + "}"
        )
        many = "{" + ", ".join(f"metadata.x{n}: [{', '.join('1' * 10)}]" for n in range(source.choice([2, 9]))) + "}"
        inner = node(depth + 1) if depth < 3 else grid
        value = {
            "params": source.choice([grid, grid, many]),
            "grids": f"[{grid}, {source.choice([grid, many])}]",
            "configs": f"[{grid}, {inner}]",
        }.get(kind, f"[{inner}, {inner}]")
        more = source.choice(
            ["", "", ", type: list", ", type: x", f", filter: {_value(source, 3)}", f", defaults: {grid}"]
        )
        return "{" + f"{kind}: {value}{more}" + "}"

    return f"sweep: {source.choice([node(0), node(0), _value(source)])}\n"


def _override(source: random.Random) -> str:
    key = source.choice([*KEYS, *GROUPS, "", ".".join("a" * 300), "metadata." + ".".join("a" * 50)])
    sign = source.choice(["", "", "", "+", "++", "~"])
    equals = source.choice(["=", "=", "=", "=", ""])
    text = source.choice(WORDS)
    value = source.choice(
        [
            text,
            f"'{text}'",
            f'"{text}"',
            f"[{text}]",
            f"{{a:{text}}}",
            *CHOICES,
            "[" * 500,
            "{a:" * 100,
            "choice(a,b)",
            "range(1,10**9)",
            "glob(*)",
            "a,b",
        ]
    )
    return f"{sign}{key}{equals}{value}"


class TooLong(BaseException):
    """Nothing that is tested catches this."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise from a block that takes too long, or too much memory."""

    def too_long(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, too_long)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of processor time: other work on the machine does not count
    try:
        yield
    except TooLong:
        raise AssertionError(f"it takes more than {SECONDS} s of processor time") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def check(folder: Path, data: bytes) -> None:
    """Plan an input: it becomes a plan, or an error whose sentences name more than an exception's class."""
    made: dict[str, Any] = json.loads(data)
    (folder / "exp.yaml").write_text(made["yaml"], encoding="utf-8", errors="surrogatepass")
    problems: tuple[Problem, ...] = ()
    with bounded():
        try:
            composed = load(Source(str(folder / "exp.yaml"), (), tuple(made["overrides"])))
            plan = make_plan(composed, AROUND, read_template=lambda _: TEMPLATE, plan_id="K")
            for number in range(min(3, len(plan.manifest.jobs))):
                plan.job_files(number)
            plan.sweep_file()
            plan.manifest.model_dump_json()
        except AutoexpError as error:
            problems = error.problems or (Problem(""),)
    for problem in problems:
        assert " " in problem.what.strip(), problem
        assert len(problem.what) < 5000, problem.what[:200]


def test_any_experiment_and_any_override_end_in_a_plan_or_in_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fuzz("config", make, lambda data: check(tmp_path, data)) > 0
