"""run-container: plan inside of an image, submit and watch here.

The image has what jobs run with (Megatron-LM, its versions of packages), so that a plan is checked against that; this
machine has SLURM's commands. Both have this program, in one version, and the manifest between them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.cli.monitor import detach
from oellm_autoexp.cli.steps import app, approval, cancelled, facts, hints, plan_steps, session_steps, submit_steps
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.submission import outside

if TYPE_CHECKING:
    from oellm_autoexp.containers.contents import Contents
    from oellm_autoexp.containers.image import Image
    from oellm_autoexp.containers.runtime import Runtime
    from oellm_autoexp.planning.resolving.provenance import PlanContext
    from oellm_autoexp.planning.resolving.survey import Kind, Survey

EXAMPLES = """\
  python scripts/run_autoexp_container.py --config-ref experiments/megatron_jupiter_speed_test container=juwels
  python scripts/run_autoexp_container.py --image ./artifacts/MegatronTraining.sif --no-submit project=default
  python scripts/run_autoexp_container.py --monitor-only --manifest outputs/manifests/demo.json"""
_OWN_EXIT_CODES = (app.USAGE, app.SCHEDULER, app.INTERRUPTED, app.PIPE)
_IMAGE, _RUNTIME, NO_CONTAINER = "image", "runtime", "NoContainer"
_NO_CONTAINER = "container=none: the plan has paths of the image, so slurm.launcher_cmd must run the jobs in it"
_RUN_INSIDE = "container=base (or a site's: container=juwels) runs the jobs in the image, too; --no-submit plans only"
_OF_PYXIS = (
    "container.class_name is PyxisContainer: a plan can't be made in its image",
    "name a SIF with the same content (--image PATH), or plan on the host: run_autoexp.py",
)


def parser() -> app.Parser:
    """The command's options."""
    what = "Plan an experiment inside a container image; submit its jobs and watch them from here."
    made = app.Parser(what, EXAMPLES)
    plan_steps.add_run_options(made)
    made.add_argument("--image", metavar="PATH", type=Path, help="the image (default: the config's container.image)")
    made.add_argument(
        "--container-runtime",
        metavar="PROGRAM",
        help="apptainer or singularity (default: the config's container.runtime, else what is in PATH)",
    )
    made.add_argument(
        "--monitor-only", action="store_true", help="watch what was planned before: --manifest, else the newest plan"
    )
    approval.add_options(made)
    detach.add_option(made)
    made.add_json()
    made.add_config()
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    made = parser()
    options = made.parse_intermixed_args(argv)
    if options.monitor_only:
        return app.run(made, _watch_only, argv)
    return app.run(made, lambda given: facts.in_json(given, lambda: _go(given)), argv)


def _go(options: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    detach.check(options)
    code, planned = _plan_inside(options)
    if planned is None:
        return code, {}
    path = Path(planned["path"])
    if options.dry_run:
        from oellm_autoexp.core.nouns import Manifest

        manifest = Manifest.model_validate_json(planned["manifest"])
        code = plan_steps.show_dry_run(manifest, planned["script"], tuple(planned["notes"]))
        return code, facts.plan_facts(manifest, path)
    manifest = session_steps.load_manifest(path)
    plan_steps.show_planned(manifest, path, planned["notes"])
    if options.no_submit:
        hints.show([f"submit and watch  {hints.command('submit', '--manifest', str(path))}"])
        return app.OK, facts.plan_facts(manifest, path)
    detach.check(options, manifest)
    approval.approve(manifest, options)
    cancelled.see_to_their_end(manifest)
    with session_steps.session(manifest, path, patient=True) as monitor:
        code = submit_steps.submit_and_watch(monitor, watch=not options.no_monitor, detach=bool(options.detach))
    code = detach.hand_over(options, manifest, path, code)
    return code, facts.recorded_facts(manifest)


def _plan_inside(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    """Plan in the image: the exit code there, and what was planned (None: it was ended before). Raises its errors."""
    from oellm_autoexp.containers import dialogue, runtime
    from oellm_autoexp.containers.contents import check_same_version, look_into
    from oellm_autoexp.containers.image import check_image
    from oellm_autoexp.planning.resolving.provenance import gather

    context = gather()
    seen = _survey(options, context)
    place, where = _image(options, seen)
    runs_inside = all(kind.container_class != NO_CONTAINER for kind in seen.kinds)
    if not (options.no_submit or options.dry_run or all(map(_hands_on, seen.kinds))):
        raise ConfigError(Problem(_NO_CONTAINER, CONFIG / "container", _RUN_INSIDE))
    chosen = _chosen(options, seen)
    program = options.container_runtime or _first(seen, _RUNTIME)
    found = runtime.find(
        program, "--container-runtime" if options.container_runtime else CONFIG / "container" / _RUNTIME
    )
    image = check_image(place, where)
    contents = look_into(found, image)
    for text in check_same_version(contents, image):
        app.note(f"note: {text}", on_stderr=True)
    given = {
        "command_line": list(context.command_line),
        "git": dict(context.git),
        "git_diff": context.git_diff,
        "notes": list(context.notes),
        "image": _facts(image, found, contents),
    }
    words = found.exec_words(
        str(image.path),
        dialogue.program("cli.container.plan_inside", _words(options, chosen)),
        binds=_binds(options, seen),
        cwd=str(context.work_dir),
    )
    try:
        code, planned = dialogue.talk(words, given, outside.answers())
    except OSError as error:
        raise ConfigError(Problem(f"can't run {found}: {error.strerror}", str(image.path))) from None
    if code and code not in _OWN_EXIT_CODES:
        what = f"planning inside the image ended with exit code {code}"
        raise ConfigError(Problem(what, str(image.path), f"see the output of {found} above"))
    if code or planned is None:
        return code, None
    outside.raise_problems(planned)
    if not options.dry_run and not runs_inside:
        planned["notes"].append(_NO_CONTAINER)
    return code, planned


def _survey(options: argparse.Namespace, context: PlanContext) -> Survey:
    """What the jobs of the config need, each kind once. Raises ConfigError, also what planning them would."""
    from oellm_autoexp.config.loader import load_mostly
    from oellm_autoexp.planning.make_plan import expanded_jobs, with_locations
    from oellm_autoexp.planning.resolving.survey import survey

    composed = load_mostly(app.source(options))
    with with_locations(composed):
        jobs = expanded_jobs(composed, context, plan_steps.read_template)
        try:
            wanted = plan_steps.indices(options.array_subset)
        except ConfigError:  # planning reports it, with all else
            wanted = None
        return survey(jobs, [index for index in range(len(jobs)) if wanted is None or index in wanted])


def _hands_on(kind: Kind) -> bool:
    """Whether programs of such jobs are handed on to another one, which starts them in an image. Raises ConfigError."""
    from oellm_autoexp.config.schema import decode_section
    from oellm_autoexp.sbatch.launch import Launcher

    if kind.container_class != NO_CONTAINER:
        return True
    slurm = decode_section("slurm", {"client": {"class_name": "SlurmClient"}, "launcher_cmd": kind.launcher})
    launcher = Launcher.of(slurm.launcher_cmd, {})
    return bool(launcher.wrapper) or (bool(launcher.start) and not launcher.calls_srun)


def _image(options: argparse.Namespace, seen: Survey) -> tuple[str, Location | str]:
    """The image's path, and where it was named. Raises ConfigError if it is not, or several are."""
    if options.image is not None:
        return str(options.image), "--image"
    for kind in seen.kinds:
        for error in kind.failed.values():
            raise error
    if any(kind.container_class == "PyxisContainer" for kind in seen.kinds):
        what, hint = _OF_PYXIS
        raise ConfigError(Problem(what, CONFIG / "container", hint))
    where = CONFIG / "container" / _IMAGE
    named = list(dict.fromkeys(str(image) for kind in seen.kinds if (image := kind.container.get(_IMAGE))))
    if len(named) > 1:
        hint = "name the one to plan in: --image PATH; or plan the jobs of each by themselves: --array-subset"
        raise ConfigError(Problem(f"a plan is made in one image, but the jobs use {', '.join(named)}", where, hint))
    if named:
        return named[0], where
    hint = "choose a container (container=juwels), or name an image: --image PATH; without one, use run_autoexp.py"
    raise ConfigError(Problem("no image is named", where, hint))


def _first(seen: Survey, key: str) -> str | None:
    """The first value that the containers of jobs have of a key."""
    return next((str(value) for kind in seen.kinds if (value := kind.container.get(key))), None)


def _facts(image: Image, found: Runtime, contents: Contents) -> dict[str, Any]:
    """What the manifest records of the image."""
    built = {key: contents.build[key] for key in ("name", "built_at", "git", "base") if key in contents.build}
    return {"path": str(image.path), "runtime": str(found), "python": contents.python_version, "build": built}


def _chosen(options: argparse.Namespace, seen: Survey) -> list[str]:
    """The overrides by which jobs, too, run in what the options name. Raises ConfigError where only some could."""
    from oellm_autoexp.config.overrides import as_override

    named = {_IMAGE: options.image and str(options.image.absolute()), _RUNTIME: options.container_runtime}
    of_jobs = {key: value for key, value in named.items() if value}
    classes = sorted({kind.container_class for kind in seen.kinds})
    if not of_jobs or "ApptainerContainer" not in classes:
        return []
    if len(classes) > 1:
        what = f"the jobs run in containers of several kinds ({', '.join(classes)}), of which not all have an image"
        hint = "name it in the config instead, or plan the jobs of each kind by themselves: --array-subset"
        raise ConfigError(Problem(what, " and ".join(map(_option, of_jobs)), hint))
    return [as_override(f"++container.{key}", value) for key, value in of_jobs.items()]


def _option(key: str) -> str:
    return {_IMAGE: "--image", _RUNTIME: "--container-runtime"}[key]


def _words(options: argparse.Namespace, chosen: Sequence[str]) -> list[str]:
    """The words for the program inside: those of planning, with this checkout's configs before the image's."""
    from oellm_autoexp.storage.files import shipped

    words = [f"--{name}" for name in ("verbose", "debug", "dry_run", "no_submit") if getattr(options, name)]
    words = [word.replace("_", "-") for word in words]
    for option, value in (
        ("--manifest", options.manifest),
        ("--plan-id", options.plan_id),
        ("--array-subset", options.array_subset),
        ("--config-ref", options.config_ref),
        ("--overrides-from", options.overrides_from),
    ):
        words += [f"{option}={value}"] if value is not None else []
    words += [f"--config-dir={folder}" for folder in (*options.config_dirs, shipped("config"))]
    return [*words, "--", *options.overrides, *chosen]


def _binds(options: argparse.Namespace, seen: Survey) -> list[str]:
    """The folders of this machine that planning reads and writes, and those that jobs see."""
    from oellm_autoexp.storage.files import shipped

    files = [options.manifest, options.overrides_from, *seen.templates]
    if options.config_ref.endswith((".yaml", ".yml")):
        files.append(options.config_ref)
    folders = [Path.cwd(), shipped("config"), *options.config_dirs, *(Path(file).parent for file in files if file)]
    folders += map(Path, seen.folders)
    folders += [place for kind in seen.kinds for place in _of_jobs(kind.container) if place.exists()]
    return list(_outermost(dict.fromkeys(_existing(folder.expanduser().absolute()) for folder in folders)))


def _of_jobs(section: Mapping[str, Any]) -> Iterator[Path]:
    """What jobs see at the same place, of what is here."""
    from oellm_autoexp.config.schema import decode_parts
    from oellm_autoexp.containers.binds import fixed

    container = decode_parts({"container": dict(section)})[0].get("container")
    for bind in fixed(getattr(container, "binds", {}).values()):
        if bind.place == bind.source:
            yield Path(bind.source)


def _existing(path: Path) -> Path:
    """A folder, or the nearest one above it that is there: it will be made in that."""
    return next(place for place in (path, *path.parents) if place.exists())


def _outermost(folders: Iterable[Path]) -> Iterator[str]:
    """Folders that are not inside of another one of them, by their real places; never the root."""
    wanted = sorted({folder for folder in folders if folder != Path("/")}, key=lambda folder: len(folder.parts))
    kept: list[Path] = []
    for folder in wanted:
        real = folder.resolve()
        if not any(folder.is_relative_to(above) and real.is_relative_to(above.resolve()) for above in kept):
            kept.append(folder)
            yield str(folder)


def _watch_only(options: argparse.Namespace) -> int:
    """Watch a plan that was submitted before, without the image."""
    from oellm_autoexp.cli import monitor_autoexp

    if given := [
        f"--{word}" for word in ("no-submit", "no-monitor", "dry-run") if vars(options)[word.replace("-", "_")]
    ]:
        raise ConfigError(Problem(f"{' and '.join(given)} can't be combined with it", "--monitor-only"))
    path = options.manifest or _newest(options)
    words = ["--manifest", str(path), *(["--json"] if options.json else [])]
    words += ["--detach", options.detach] if options.detach else []
    words += [f"--{name}" for name in ("verbose", "debug") if getattr(options, name)]
    return monitor_autoexp.main(words)


def _newest(options: argparse.Namespace) -> Path:
    """The manifest of the newest plan in the config's output root. Raises ConfigError."""
    from oellm_autoexp.config.loader import load
    from oellm_autoexp.planning.resolving.provenance import gather
    from oellm_autoexp.planning.resolving.resolve import without_sweep

    config, _ = without_sweep(load(app.source(options)), gather())
    root = Path(str(config.get("project", {}).get("base_output_dir") or hints.output_root()))
    try:
        plan_id = os.path.basename(os.readlink(root / "sweep.json")).removesuffix(".sweep.json")  # noqa: PTH115, PTH119
    except OSError:
        hint = "name its manifest: --manifest PATH"
        raise ConfigError(Problem("no plan was made here", str(root.absolute()), hint)) from None
    return root / "manifests" / f"{plan_id}.json"
