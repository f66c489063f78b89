"""The house keeps its shape: rooms import downwards, pure rooms stay pure, scripts stay thin, shipped YAML works."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import decode
from oellm_autoexp.workflow.plan import make_plan
from oellm_autoexp.workflow.provenance import Circumstances

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "oellm_autoexp"

# Each room may import the rooms above it in this list, and itself.
FLOORS = [
    ["errors"],
    ["text", "model", "redaction", "places", "monitor.time_limit"],
    ["fields", "monitor.events", "monitor.patterns", "monitor.templates"],
    ["commands", "start", "trust"],
    ["files", "logs", "webhook"],
    ["claims", "monitor.inbox", "monitor.marks"],
    ["slurm", "world", "monitor.conditions", "container"],
    ["monitor.actions"],
    ["monitor.rules"],
    ["config.limits", "config.written", "monitor.plausible"],
    [
        "config.defaults_list",
        "config.expressions",
        "config.findings",
        "config.hydra_keys",
        "config.other_names",
        "config.override_mistakes",
        "config.schema",
        "config.spelling",
        "sweep",
        "backends.base",
    ],
    ["config.defaults"],
    ["backends.megatron.checks.base"],
    ["backends.megatron.checks"],
    ["config.resolvers", "backends"],
    ["config.interpolation", "config.source"],
    ["config.config_file", "config.overlay", "config.sweep_overrides"],
    ["config.hydra_source"],
    ["config"],
    ["scheduler"],
    ["monitor.progress"],
    ["monitor.tracked"],
    ["monitor.confidential"],
    ["monitor.decide", "monitor.facts", "monitor.restarts", "monitor.around", "monitor.silence", "monitor.waits"],
    ["monitor.detect", "monitor.gate", "monitor.session"],
    ["workflow"],
    ["monitor"],
    ["view"],
    ["cli"],
]
PURE = [
    "errors",
    "text",
    "model",
    "redaction",
    "places",
    "slurm",
    "sweep",
    "backends",
    "config.defaults",
    "config.defaults_list",
    "config.expressions",
    "config.findings",
    "config.hydra_keys",
    "config.limits",
    "config.override_mistakes",
    "config.schema",
    "config.spelling",
    "config.written",
    "config.declared",
    "config.resolvers",
    "config.interpolation",
    "config.overlay",
    "container.binds",
    "container.definition",
    "container.failures",
    "container.kinds",
    "container.mounts",
    "container.packages",
    "config.sweep_overrides",
    "fields",
    "monitor.events",
    "monitor.templates",
    "monitor.actions",
    "monitor.rules",
    "monitor.plausible",
    "monitor.trial",
    "monitor.decide",
    "monitor.facts",
    "monitor.restarts",
    "monitor.around",
    "monitor.waits",
    "workflow.watching",
    "monitor.progress",
    "monitor.tracked",
    "monitor.conditions",
    "monitor.detect",
    "monitor.silence",
    "monitor.gate",
    "workflow.batches",
    "workflow.budget",
    "workflow.launching",
    "workflow.job_checks",
    "workflow.plan",
    "workflow.places_checks",
    "workflow.plan_checks",
    "workflow.resolve",
    "workflow.shell_texts",
    "workflow.survey",
    "workflow.twins",
    "workflow.site_checks",
    "view.graph",
    "sweep",
    "scheduler.base",
]
WORLDLY = {"subprocess", "socket", "shutil", "tempfile", "time", "os", "random", "secrets", "requests", "urllib"}
RUNS_PROCESSES = {
    "container.build",
    "container.contents",
    "container.dialogue",
    "container.runtime",
    "container.steps",
    "cli.generate_megatron",
    "cli.run_sweep_entry",
    "scheduler.local",
    "scheduler.slurm",
    "workflow.check",
    "workflow.cluster",  # what a user would ask SLURM and container runtimes
    "workflow.provenance",
    "workflow.snapshot",
    "world",
}


OPENS_FILES = {
    "trust",  # the door
    "files",  # writes, beside and renamed
    "claims",  # /proc
    "logs",  # logs are data, of anybody
    "world",
    "config.source",  # what a person has written and names
    "container.build",  # what a person has written and names, and what builds in the making
    "container.contents",  # this program's own text
    "container.dialogue",  # standard streams
    "container.image",
    "container.inside",  # in an image
    "container.limits",  # /proc, /sys
    "cli.app",
    "cli.steps",
    "cli.generate_megatron",
    "cli.run_sweep_entry",  # /proc
    "backends.megatron.extract",
    "scheduler.local_worker",  # /dev/null
    "scheduler.slurm",  # /proc
    "scheduler.spool",
    "webhook",  # an address
    "workflow.cluster",  # /proc, and whether a file can be written
    "workflow.manifest",  # makes new files
}
"""The rooms that open files by themselves; all others go through the door (trust.py), which asks whose they are."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name without the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py" and name != "__main__":
            found[name] = path
    return found


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; those for type checking only are left out."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def matches(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def floor(name: str) -> int:
    """The number of the most exact room that a module is in."""
    rooms = [(len(room), number) for number, rooms in enumerate(FLOORS) for room in rooms if matches(name, room)]
    assert rooms, f"{name} is in no room of FLOORS"
    return max(rooms)[1]


@pytest.mark.parametrize("name", modules())
def test_a_room_imports_only_rooms_above_it(name: str) -> None:
    known = modules()
    for imported in imports(known[name]):
        inner = imported.removeprefix("oellm_autoexp.")
        if inner != imported and inner in known:
            assert floor(inner) <= floor(name), f"{name} imports {inner}, which is further down"


PROGRAMS = {"backends.megatron.parser_check"}
"""What another Python runs and nothing imports; it lies beside what it belongs to."""


@pytest.mark.parametrize(
    "name", [name for name in modules() if any(matches(name, room) for room in PURE) and name not in PROGRAMS]
)
def test_a_pure_room_imports_nothing_that_touches_the_world(name: str) -> None:
    worldly = {imported.split(".")[0] for imported in imports(modules()[name])} & WORLDLY
    assert not worldly, f"{name} is meant to be pure"


@pytest.mark.parametrize("name", [name for name in modules() if name not in RUNS_PROCESSES])
def test_only_the_named_rooms_start_processes(name: str) -> None:
    assert "subprocess" not in {imported.split(".")[0] for imported in imports(modules()[name])}


@pytest.mark.parametrize("name", [name for name in modules() if name not in OPENS_FILES])
def test_only_the_named_rooms_open_files_by_themselves(name: str) -> None:
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("open", "read_text", "read_bytes"), f"line {node.lineno}"
        elif isinstance(node, ast.Name):
            assert node.id != "open", f"line {node.lineno}"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_thin_and_call_their_command(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 15
    assert f"from oellm_autoexp.cli.{path.stem} import main" in text


@pytest.mark.parametrize("name", modules())
def test_no_evaluation_of_text_as_code_and_no_shell(name: str) -> None:
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("eval", "exec", "os.system", "os.popen"), f"line {node.lineno}"
            assert not any(word.arg == "shell" for word in node.keywords), f"line {node.lineno}"


def configs(below: str) -> list[str]:
    """Shipped YAML files below a folder of config/, as names."""
    folder = ROOT / "config"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in (folder / below).rglob("*.yaml"))


VARIABLES = {"DATA_DIR": "/data"}
"""What profiles that need a variable get."""


def choosing(name: str) -> tuple[str, ...]:
    """The overrides that choose a config; that of an inner group needs its outer one (`backend/megatron`)."""
    group, choice = name.rsplit("/", 1)
    outer = group.split("/")
    return (*([f"{outer[0]}={outer[1]}"] if len(outer) > 1 else []), f"{group}={choice}")


@pytest.mark.parametrize("name", [name for name in configs("") if "/" in name and not name.startswith("experiments/")])
def test_every_shipped_group_choice_composes_and_decodes(name: str) -> None:
    composed = load(Source(overrides=choosing(name)))
    overlay = composed.overlay(VARIABLES, datetime.now(UTC), "python3")
    decode(overlay.resolve(overlay.lay({"index": 0})))


@pytest.mark.parametrize("name", configs("experiments"))
def test_every_shipped_experiment_plans(name: str, tmp_path: Path) -> None:
    around = Circumstances(datetime.now(UTC), tmp_path, "python3", VARIABLES, ("plan",), "me", "here", "00")
    template = (PACKAGE / "slurm/job.sbatch.template").read_text()
    assert make_plan(load(Source(config_ref=name)), around, read_template=lambda _: template).manifest.jobs
