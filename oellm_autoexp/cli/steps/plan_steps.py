"""The steps of planning that commands share: make a plan, write it, show it."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import app
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.core.errors import (
    Collector,
    ConfigError,
    Problem,
    raise_all,
)
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.text import printable
from oellm_autoexp.submission import outside

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.planning.plan import Plan
    from oellm_autoexp.planning.resolving.provenance import PlanContext


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of planning."""
    parser.add_argument("--manifest", metavar="PATH", type=Path, help="also write the manifest to this path")
    parser.add_argument("--plan-id", metavar="ID", help="the plan's id (default: config name and time)")
    parser.add_argument("--array-subset", metavar="0,3-5", help="plan only the jobs with these indices")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of planning, and of how far to go then."""
    add_plan_options(parser)
    parser.add_argument("--no-submit", action="store_true", help="plan only")
    parser.add_argument("--no-monitor", action="store_true", help="plan and submit, and return at once")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the plan and the first script; write and submit nothing"
    )


@contextmanager
def _loading() -> Iterator[None]:
    """What is loaded here stays: the garbage collector would look through it again and again, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def plan(
    options: argparse.Namespace,
    context: PlanContext | None = None,
    *,
    judged: bool = True,
    machine: outside.Machine | None = None,
) -> Plan:
    """Compose the config and plan its jobs, in memory; a command without planning options plans them all.

    `context`: the circumstances of the plan (default: those of this process). `judged`: what the jobs
    ask for is compared with what their site allows. `machine`: where they are submitted from (default: here). A
    container in which jobs could not run is refused where the command goes on to submit them, else noted.
    """
    with _loading():
        from oellm_autoexp.config.loader import load_mostly
        from oellm_autoexp.core.redacted_text import redact_message
        from oellm_autoexp.learning.past_runs import PastRuns
        from oellm_autoexp.planning import followups, lacking, resuming
        from oellm_autoexp.planning.checks import likely_mistakes
        from oellm_autoexp.planning.checks.plan_checks import check_plan_id
        from oellm_autoexp.planning.make_plan import make_plan, with_locations
        from oellm_autoexp.planning.programs import absent, of_other_versions
        from oellm_autoexp.planning.resolving.provenance import gather

    elsewhere, machine = machine is not None, machine or outside.here()
    found, past = Collector(), PastRuns(resuming.newest_iteration)
    plan_id, subset = getattr(options, "plan_id", None), None
    with found.step():
        if plan_id is not None:
            check_plan_id(plan_id)
    with found.step():
        subset = indices(getattr(options, "array_subset", None))
    with found.step():
        with _loading():
            composed = load_mostly(app.source(options))
        made = make_plan(
            composed,
            context or gather(),
            plan_id=None if len(found) else plan_id,
            subset=subset,
            site=machine.site if judged else None,
            past=past,
            read_template=read_template,
        )
    found.raise_all()
    earlier = resuming.earlier(made.checkpoints)
    with with_locations(composed):
        raise_all(ConfigError, [*resuming.problems(earlier), *followups.problems(made.manifest, composed)])
        raise_all(ConfigError, [] if elsewhere else lacking.problems(made.manifest))
        _ask(made)
        unready = machine.container_problems(made.manifest)
        if getattr(options, "no_submit", True) is False and not options.dry_run:
            raise_all(ConfigError, unready)
    odd = likely_mistakes.notes(
        made.manifest.jobs, {**composed.base, "sweep": composed.sweep}, os.environ, made.scripts
    )
    notes = (
        *made.notes,
        *map(redact_message, (*odd, *likely_mistakes.of_sweep(composed))),
        *resuming.notes(earlier),
        *absent(made.needs, made.manifest.provenance.get("image", {}).get("path", "")),
        *of_other_versions(made.versions),
        *(str(problem).partition("\n")[0] for problem in unready),
        *past.notes,
    )
    return replace(made, notes=notes)


def _ask(made: Plan) -> None:
    """Put the plan's questions to the programs, with a progress bar where there are several."""
    from oellm_autoexp.planning.programs import ask
    from oellm_autoexp.view.tables import console

    screen = console(stderr=True)
    if len(made.probes) < 2 or not screen.is_terminal:
        ask(made.probes)
        return
    from rich.progress import Progress

    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task("asking the program itself", total=len(made.probes))
        ask(made.probes, lambda: bar.advance(task))


def indices(text: str | None) -> frozenset[int] | None:
    """The jobs that `--array-subset` names (None: all): `0,3-5` → {0, 3, 4, 5}. Raises ConfigError."""
    from oellm_autoexp.sweep.expander import MOST_POINTS

    if text is None:
        return None
    numbers: set[int] = set()
    named, hint = 0, "write e.g. 0,3-5"
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        bounds = (first, last) if dash else (first, first)
        if not all(bound.isascii() and bound.isdecimal() for bound in bounds):
            raise ConfigError(Problem(f"{part[:40]!r} is not an index or a range", "--array-subset", hint))
        if any(len(bound) > len(str(MOST_POINTS)) or int(bound) >= MOST_POINTS for bound in bounds):
            what = f"no plan has a job {bounds[1][:40]}"
            raise ConfigError(Problem(what, "--array-subset", f"a plan has at most {MOST_POINTS} jobs"))
        if int(bounds[0]) > int(bounds[1]):
            raise ConfigError(Problem(f"{part[:40]!r} is not an index or a range", "--array-subset", hint))
        named += int(bounds[1]) - int(bounds[0]) + 1
        if named > MOST_POINTS:
            raise ConfigError(Problem(f"it selects more than {MOST_POINTS} jobs", "--array-subset"))
        numbers.update(range(int(bounds[0]), int(bounds[1]) + 1))
    return frozenset(numbers)


def read_template(path: Path | None) -> str:
    """The sbatch template at a path (None: the shipped one). Raises ConfigError."""
    from oellm_autoexp.storage.files import read_text, shipped

    try:
        return read_text(path or shipped("oellm_autoexp/sbatch/job.sbatch.template"))
    except (OSError, UnicodeDecodeError) as error:
        why = f"{path}: {error.strerror}" if isinstance(error, OSError) else error
        raise ConfigError(Problem(f"can't read the template: {why}", CONFIG / "slurm.template_path")) from None


def check_writable(made: Plan) -> None:
    """Raise ConfigError if the plan could not be written."""
    from oellm_autoexp.planning import manifest

    manifest.check_writable(made)


def write_plan(made: Plan, extra: Path | None) -> Path:
    """Write a plan, with a progress bar where that takes a while; returns the manifest's path.

    A plan that can't be written for a moment takes back what it made, and is written once more.
    """
    from oellm_autoexp.planning import manifest
    from oellm_autoexp.view.tables import console

    screen = console(stderr=True)
    jobs = len(made.manifest.jobs)
    if jobs < 200 or not screen.is_terminal:
        return with_backoff(lambda: manifest.write(made, extra))
    from rich.progress import Progress

    with Progress(console=screen, transient=True) as bar:
        task = bar.add_task("writing scripts", total=jobs)
        return with_backoff(lambda: manifest.write(made, extra, lambda done: bar.update(task, completed=done)))


def show_plan(made: Plan, path: Path) -> None:
    """Print what was planned, and where it is."""
    from oellm_autoexp.planning.snapshot import summary

    show_planned(made.manifest, path, (*made.notes, *([summary(made.snapshot)] if made.snapshot else [])))


def show_planned(manifest: Manifest, path: Path, notes: Iterable[str]) -> None:
    """The same, of a plan that another process has made."""
    from oellm_autoexp.planning.budget import Budget
    from oellm_autoexp.view.tables import console, plan_summary

    screen = console()
    screen.print(plan_summary(manifest))
    if budget := Budget.of(manifest).summary:
        screen.print(budget)
    for note in notes:
        screen.print(f"note: {note}")
    screen.print(f"plan {manifest.plan_id}: {path}", soft_wrap=True)


def read_script(manifest: Manifest) -> str:
    """The script of a plan's first job. Raises ConfigError."""
    from oellm_autoexp.storage import trust

    path = manifest.jobs[0].script_path
    try:
        return trust.read_script(Path(path), manifest.jobs[0].script_digest, Path(manifest.base_output_dir))
    except OSError as error:
        hint = "plan again" if isinstance(error, FileNotFoundError) else ""
        raise ConfigError(Problem(f"can't read the script: {error.strerror}", path, hint)) from None


def show_dry_run(manifest: Manifest, script: str, notes: tuple[str, ...] = ()) -> int:
    """Print what would be submitted: the plan's summary, its jobs, and the first job's whole script."""
    from oellm_autoexp.core.redacted_text import redact_text
    from oellm_autoexp.core.redaction import secret_texts, without_texts
    from oellm_autoexp.planning.budget import Budget
    from oellm_autoexp.view.tables import console, plan_summary

    screen = console()
    screen.print(plan_summary(manifest))
    if budget := Budget.of(manifest).summary:
        screen.print(budget)
    for note in notes:
        screen.print(f"note: {note}")
    for job in manifest.jobs:
        screen.print(f"{job.index:>5}  {job.name}", soft_wrap=True)
    screen.print(f"\n--- {manifest.jobs[0].script_path}")
    print(printable(without_texts(redact_text(script), secret_texts(os.environ))))
    screen.print("--- dry run: nothing was submitted")
    return app.OK
