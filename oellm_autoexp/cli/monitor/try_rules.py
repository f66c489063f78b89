"""monitor --cmd try: what the rules of a session or of a config find in a log."""

from __future__ import annotations

import argparse
import json
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import ConfigError, Problem, raise_all
from oellm_autoexp.core.text import plural
from oellm_autoexp.storage import trust

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.decisions.trial import RuleTrial, Trial
    from oellm_autoexp.rules.rules import Rules

_COMMANDS = ("try", "why")
"""The commands that read a log."""
_LINES = 5
STDIN = "-"


def add_options(parser: app.Parser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--log",
        metavar="FILE",
        action="append",
        help="--cmd try, why: the log; - is the standard input; --cmd why: once for each file of an attempt",
    )
    parser.add_config("configuration of --cmd try, and of why with --log, unless --session or --manifest is given")
    parser.set_defaults(config_ref=None)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that the command would ignore, or that it lacks."""
    config = {
        "--config-ref": options.config_ref,
        "--config-dir": options.config_dirs,
        "key=value": options.overrides,
    }
    given = [name for name, value in config.items() if value]
    problems: list[Problem] = []
    command = f"--cmd {options.cmd}"
    if options.cmd not in _COMMANDS:
        given += ["--log"] if options.log else []
        problems = [Problem(f"{name} goes with --cmd {' or '.join(_COMMANDS)}", command) for name in given]
    elif options.log is None and options.cmd == "why":
        problems = [Problem(f"{name} goes with --log FILE", command) for name in given]
    elif options.log is None:
        problems = [Problem("which log?", command, "give --log FILE; --log - is the standard input")]
    elif options.all:
        hint = "give --session ID, --manifest PATH or a config"
        problems = [Problem("--all does not go with --log", command, hint)]
    elif options.session or options.manifest:
        problems = [Problem(f"{name} does not go with --session or --manifest", command) for name in given]
    elif options.cmd == "try" and len(options.log) > 1:
        problems = [Problem("one log at a time", " ".join(options.log), "--cmd why reads several")]
    raise_all(ConfigError, problems)


def run(options: argparse.Namespace, manifest: Manifest | None) -> int:
    """Try the rules of a manifest, or of the config that the options ask for. Raises ConfigError."""
    from oellm_autoexp.decisions.trial import facts, try_rules
    from oellm_autoexp.storage.log_tail import pieces

    job, rules = rules_of(options, manifest)
    (log,) = options.log
    with opened(log) as stream:
        trial = try_rules(rules, pieces(stream), _LINES if options.lines is None else max(0, options.lines))
    if options.json:
        print(json.dumps({"log": log, "job": job, **facts(trial, rules)}))
    else:
        _show(job, rules, trial)
    return app.OK


def rules_of(options: argparse.Namespace, manifest: Manifest | None) -> tuple[str, Rules]:
    """A job's name and its rules: of a manifest, or of the config that the options ask for. Raises ConfigError."""
    return _of_config(options) if manifest is None else _of_manifest(options, manifest)


def _of_manifest(options: argparse.Namespace, manifest: Manifest) -> tuple[str, Rules]:
    """The job whose rules are tried, and these: of the first job, or of the first that --job means."""
    from oellm_autoexp.cli.monitor.ask_holder import named
    from oellm_autoexp.decisions.detect import detectors

    names, made = named(options, manifest), detectors(manifest)
    if others := sum(made[name] is not made[names[0]] for name in names):
        text = f"the rules are those of {names[0]}; --job chooses another of {plural(others, 'job')} with other rules"
        app.note(text, on_stderr=True)
    (threshold,) = (job.inactivity_threshold_seconds for job in manifest.jobs if job.name == names[0])
    return names[0], _with_own(made[names[0]].rules, threshold)


def _of_config(options: argparse.Namespace) -> tuple[str, Rules]:
    """The rules of a config without its sweep's values, or of the job with the index that --job gives."""
    from oellm_autoexp.config.loader import Source, load
    from oellm_autoexp.planning.checks.rule_checks import Decoder
    from oellm_autoexp.planning.make_plan import job_config
    from oellm_autoexp.planning.resolving.provenance import gather

    index = None
    if options.job:
        word = options.job[0]
        if len(options.job) > 1 or not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise ConfigError(Problem("of a config, a job is chosen by its index", "--job", "write e.g. --job 0"))
        index = int(word)
    config = options.config_ref or "autoexp"
    composed = load(Source(config, tuple(options.config_dirs), tuple(options.overrides)))
    tree = job_config(composed, gather(), index)
    rules = _with_own(Decoder().section(tree), tree["job"]["inactivity_threshold_seconds"])
    return config if index is None else f"{config}, job {index}", rules


def _with_own(rules: Rules, threshold: float | None) -> Rules:
    """The rules of a job with a time of its own for silence."""
    return rules if threshold is None else rules.model_copy(update={"inactivity_threshold_seconds": threshold})


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """The log, to be read by bytes. Raises ConfigError for what is not there, or no file."""
    if name == STDIN:
        yield sys.stdin.buffer
        return
    path = Path(name)
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            what = "is a folder" if stat.S_ISDIR(kind) else "is no regular file"
            hint = "give a log in it" if stat.S_ISDIR(kind) else "--log - reads the standard input"
            raise ConfigError(Problem(f"{name} {what}", "--log", hint))
        stream = trust.open_file(path, most=None, named=True, anyone=True)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(Problem(f"can't read {name}: {why}", "--log")) from None
    with stream:
        yield stream


def _show(job: str, rules: Rules, trial: Trial) -> None:
    """The trial, for people: what was found, then what never was."""
    from rich.text import Text

    from oellm_autoexp.decisions.trial import explained
    from oellm_autoexp.rules import progress
    from oellm_autoexp.view.tables import console

    screen = console()
    screen.print(f"rules of {job}; {plural(trial.lines, 'line')} of log", style="bold")
    if not trial.rules:
        screen.print("no log events are declared (monitoring.log_events)", style="yellow")
    for name, one in sorted(trial.rules.items(), key=lambda item: not item[1].count):
        text = Text(name, style="green" if one.count else "yellow")
        text.append(f"  {one.rule.pattern_type}  ", style="dim")
        text.append(_how_often(one))
        if one.rule.state:
            also = ", also with exit code 0" if one.rule.overrules_success else ""
            text.append(f"  a bad end after it counts as {one.rule.state}{also}", style="red" if one.count else "dim")
        screen.print(text)
        for found in one.shown:
            line = Text(f"  {found.number:>8}  ", style="bold")
            line.append(", ".join(f"{key}={value}" for key, value in found.values.items()), style="cyan")
            line.append(f"{'  ' if found.values else ''}{found.line}", style="dim")
            screen.print(line, soft_wrap=True)
        if one.count > len(one.shown):
            screen.print(Text(f"            and {one.count - len(one.shown)} more", style="dim"))
        if why := explained(one, rules):
            screen.print(Text(f"            {why}", style="dim"))
    numbers = ", ".join(f"{key} {value:g}" for key, value in progress.reported(trial.job.progress).items())
    screen.print(Text(f"progress: {numbers or 'no line has an iteration or a loss'}"))
    for name, values in trial.metrics.items():
        screen.print(Text(f"metric {name}: {plural(len(values), 'point')}, the last {values[-1]:g}", style="dim"))
    declared = [name for rule, one in rules.metrics.items() for name in one.names(rule)]
    for name in dict.fromkeys(name for name in declared if name not in trial.metrics):
        screen.print(Text(f"metric {name}: no line has it", style="yellow"))
    if rules.inactivity_threshold_seconds:
        screen.print(Text(f"a log that is silent for {rules.inactivity_threshold_seconds:g} s is a stall", style="dim"))
    if trial.job.run.verdict:
        also = ", also with exit code 0" if trial.job.run.overrules_success else ""
        state, rule = trial.job.run.verdict, trial.job.run.error_type
        screen.print(Text(f"a job with this log that ends badly counts as {state} ({rule}){also}", style="red"))
    if trial.job.run.complete:
        screen.print(Text("the termination string is there: a job with this log counts as success", style="green"))


def _how_often(one: RuleTrial) -> str:
    if one.rule.pattern is None:
        return "not tried"
    return plural(one.count, "line") if one.count else "never"
