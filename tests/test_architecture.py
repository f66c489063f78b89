"""The house keeps its shape: folders import downwards, pure ones stay pure, scripts stay thin, shipped YAML works."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import decode
from oellm_autoexp.core.commands import COMMANDS
from oellm_autoexp.planning.make_plan import make_plan
from oellm_autoexp.planning.resolving.provenance import PlanContext

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "oellm_autoexp"

MAY_IMPORT = {
    "": "",
    "core": "",
    "storage": "core",
    "sbatch.chains": "core",
    "sbatch": "core sbatch.chains",
    "notifiers": "core storage",
    "exporters": "core storage",
    "search": "",
    "causes": "core search",
    "nodes": "core storage sbatch causes rules session schedulers",
    "rules": "core exporters notifiers search causes",
    "sbatch.in_job": "core sbatch",
    "session": "core storage causes rules",
    "learning": "core storage",
    "config.values": "core sbatch backends",
    "sweep": "core config.values",
    "config.hydra": "core storage sbatch config.values",
    "containers": "core sbatch",
    "backends": "core sbatch",
    "backends.megatron.generated": "",
    "schedulers": "core sbatch",
    "backends.megatron.checks": "core backends",
    "backends.megatron": "core backends backends.megatron.checks",
    "backends.torchtitan": "core backends",
    "config": "core storage sbatch rules config.values sweep config.hydra containers backends schedulers "
    "backends.megatron",
    "decisions": "core storage sbatch search causes rules session nodes",
    "planning.resolving": "core storage sbatch config.values sweep config",
    "planning.record": "core storage sbatch config.values config.hydra backends config planning.resolving",
    "planning.checks": "core sbatch sbatch.in_job search causes rules config.values sweep config.hydra containers "
    "backends schedulers config decisions planning.resolving",
    "planning.jobs": "core learning sbatch sbatch.in_job containers backends schedulers config planning.resolving "
    "planning.checks",
    "planning": "core storage learning sbatch exporters notifiers rules sweep config.values config.hydra backends "
    "backends.megatron containers schedulers config decisions planning.resolving planning.record planning.checks "
    "planning.jobs",
    "schedulers.local": "core storage sbatch schedulers",
    "schedulers.slurm": "core storage sbatch schedulers",
    "submission": "core storage sbatch rules session schedulers config decisions planning.record planning.checks "
    "planning",
    "engine.observing": "core storage learning sbatch search causes rules session schedulers decisions submission",
    "engine.executing": "core storage sbatch notifiers rules session config.values schedulers decisions "
    "planning.record submission",
    "engine": "core storage sbatch exporters rules session nodes schedulers decisions schedulers.local "
    "schedulers.slurm submission engine.observing engine.executing",
    "view.curves": "",
    "view.jobs": "core storage search causes rules session",
    "view": "core storage learning rules session nodes decisions planning view.curves view.jobs",
    "report": "core exporters session view view.jobs",
    "cli.steps": "core storage learning session sweep schedulers config decisions planning.resolving planning.checks "
    "planning submission engine view view.jobs",
    "cli.monitor": "core storage sbatch search rules session config.values schedulers config decisions "
    "planning.resolving planning.checks planning submission engine view view.jobs cli.steps",
    "cli.screens": "core session storage causes rules nodes sbatch schedulers engine.observing view view.curves "
    "view.jobs cli.steps cli.monitor",
    "cli": "core storage sbatch session config.hydra schedulers config planning.resolving planning "
    "schedulers.slurm submission view view.jobs report cli.steps cli.monitor cli.screens cli.reporting "
    "config.json_schema cli.completion",
    "cli.reporting": "core storage exporters session planning report cli.steps cli.monitor view.jobs",
    "containers.building": "core storage containers",
    "cli.container": "core storage sbatch containers config planning.resolving planning submission cli.steps "
    "cli.monitor cli containers.building",
    "testing": "core storage sbatch session schedulers config planning.resolving planning",
    "cli.megatron": "core storage backends.megatron cli.steps",
    "config.json_schema": "backends.megatron config",
    "cli.completion": "core storage session nodes cli.steps",
}
"""What the modules of a folder may import besides each other: modules of these folders."""
PURE = {
    "config.json_schema",
    *("core", "sbatch", "sweep", "config", "config.values", "decisions", "planning.checks", "planning.jobs", "rules"),
    *("search", "causes", "nodes", "sbatch.chains", "sbatch.in_job"),
    *("backends", "backends.megatron", "backends.megatron.checks", "backends.torchtitan", "view.curves", "report"),
}
"""Folders that touch nothing of the world: all that they know is handed to them."""
NOT_PURE = {
    "core.commands": "how this program was called",
    "backends.megatron.parser_check": "a program that Megatron's own Python runs",
    "nodes.node_log": "files, and whose they are",
    "nodes.reputation": "a clock, and variables of the environment",
    "search.time_limit": "a clock",
    "search.patterns": "a clock",
}
"""Modules of pure folders that touch the world, and what of it."""
WORLDLY = {"subprocess", "socket", "shutil", "tempfile", "time", "os", "random", "secrets", "requests", "urllib"}
RUNS_PROCESSES = {
    "containers.building.steps",
    "containers.building.wheels",
    "containers.building.workspace",
    "containers.contents",
    "containers.dialogue",
    "containers.runtime",
    "cli.megatron.generate_megatron",
    "cli.run_sweep_entry",
    "notifiers.sendmail",
    "schedulers.local.scheduler",
    "schedulers.slurm.commands",
    "schedulers.slurm.cluster",  # what a user would ask SLURM and container runtimes
    "submission.check",
    "planning.programs",
    "planning.resolving.provenance",
    "planning.resolving.code_files",
    "storage.world",
}
OPENS_FILES = {
    "storage.trust",  # the door
    "storage.files",  # writes, beside and renamed
    "storage.lock",  # /proc
    "storage.log_tail",  # logs are data, of anybody
    "storage.world",
    "storage.http",  # an address
    "config.hydra.yaml_files",  # what a person has written and names
    "containers.building.assemble",  # in an image
    "containers.building.build",  # the log of a build
    "containers.building.files",  # what a person has written and names
    "containers.building.wheels",  # what pip has reported
    "containers.building.workspace",  # results of stages
    "containers.contents",  # this program's own text
    "containers.dialogue",  # standard streams
    "containers.image",
    "containers.inside",  # in an image
    "containers.limits",  # /proc, /sys
    "cli.steps.app",
    "cli.steps.plan_steps",
    "cli.megatron.generate_megatron",
    "cli.run_sweep_entry",  # /proc
    "backends.megatron.extract",
    "schedulers.local.worker",  # /dev/null
    "schedulers.local.processes",  # /proc
    "schedulers.slurm.sbatch_call",  # /proc
    "schedulers.slurm.cluster",  # /proc, and whether a file can be written
    "planning.manifest",  # makes new files
    "testing.scheduler_contract",  # scripts and logs of tests
}
"""The modules that open files by themselves; all others go through the door (trust.py), which asks whose they are."""
MOST_MODULES, MOST_LINES, MOST_FIELDS = 12, 400, 25
"""Aims of size: modules of a folder, lines of a module, fields of a class."""
LARGER: dict[str, int] = {}
"""Figures of today that are beyond the aims. They may shrink; nothing else may get here."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name without the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if path.name != "__init__.py" and name != "__main__":
            found[name] = path
    return found


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, also inside functions; those for type checking only are left out."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def folder(name: str) -> str:
    """The folder of a module, '' at the package's top."""
    return name.rpartition(".")[0]


@cache
def inner_imports() -> dict[str, set[str]]:
    """Our modules that each of our modules imports."""
    known = modules()
    found = {}
    for name, path in known.items():
        inner = {imported.removeprefix("oellm_autoexp.") for imported in imports(path)}
        found[name] = {one for one in inner if one in known and one != name}
    return found


def in_order(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes of a graph, each behind those that it leads to. Raises CycleError."""
    return list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_what_its_folder_may(name: str) -> None:
    own = folder(name)
    allowed = {own, *MAY_IMPORT[own].split()} - ({""} if own else set())
    found = {one for one in inner_imports()[name] if folder(one) not in allowed}
    assert found <= {"start"}, f"{name} may import of {' '.join(sorted(allowed))} alone"


def test_every_folder_says_what_it_may_import_and_nothing_more() -> None:
    used: dict[str, set[str]] = {folder(name): set() for name in modules()}
    for name, imported in inner_imports().items():
        used[folder(name)] |= {folder(one) for one in imported} - {folder(name), ""}
    assert {name: " ".join(sorted(words)) for name, words in used.items()} == {
        name: " ".join(sorted(words.split())) for name, words in MAY_IMPORT.items()
    }


def test_neither_modules_nor_folders_import_in_a_circle() -> None:
    found = inner_imports()
    assert in_order(found)
    folders: dict[str, set[str]] = {}
    for name, imported in found.items():
        folders.setdefault(folder(name), set()).update(folder(one) for one in imported)
    assert in_order({name: ones - {name} for name, ones in folders.items()})


@pytest.mark.parametrize("name", [name for name in modules() if folder(name) in PURE and name not in NOT_PURE])
def test_a_pure_module_imports_nothing_that_touches_the_world(name: str) -> None:
    worldly = {imported.split(".")[0] for imported in imports(modules()[name])} & WORLDLY
    assert not worldly, f"{name} is meant to be pure"


def fields(tree: ast.ClassDef) -> int:
    """How many fields a class declares."""
    return sum(isinstance(node, ast.AnnAssign) for node in tree.body)


def sizes() -> dict[str, tuple[int, int]]:
    """What has a size, with it and with the most that it should have."""
    found = {}
    known = {name: path for name, path in modules().items() if ".generated." not in name}
    for name, count in Counter(map(folder, known)).items():
        found[name or "."] = (count, MOST_MODULES)
    for name, path in known.items():
        text = path.read_text()
        found[f"{name}.py"] = (len(text.splitlines()), MOST_LINES)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                found[f"{name}.{node.name}"] = (fields(node), MOST_FIELDS)
    return found


def test_sizes_are_within_their_aims_or_no_larger_than_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    beyond = {name: size for name, (size, most) in sizes().items() if size > most}
    with capsys.disabled():
        shown = ", ".join(f"{name} {size}" for name, size in sorted(beyond.items()))
        sys.stdout.write(f"\nbeyond the aims of size: {shown}\n")
    assert {name: size for name, size in beyond.items() if size > LARGER.get(name, 0)} == {}
    assert not (gone := set(LARGER) - set(beyond)), f"within their aims now, to be taken out of LARGER: {gone}"


@pytest.mark.parametrize("name", [name for name in modules() if name not in RUNS_PROCESSES])
def test_only_the_named_modules_start_processes(name: str) -> None:
    assert "subprocess" not in {imported.split(".")[0] for imported in imports(modules()[name])}


@pytest.mark.parametrize("name", [name for name in modules() if name not in OPENS_FILES])
def test_only_the_named_modules_open_files_by_themselves(name: str) -> None:
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("open", "read_text", "read_bytes"), f"line {node.lineno}"
        elif isinstance(node, ast.Name):
            assert node.id != "open", f"line {node.lineno}"


@pytest.mark.parametrize("name", [name for name in modules() if folder(name) != "testing"])
def test_the_program_itself_needs_no_pytest(name: str) -> None:
    assert "pytest" not in {imported.split(".")[0] for imported in imports(modules()[name])}


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_scripts_are_thin_and_call_their_command(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 15
    command = next(command for command in COMMANDS.values() if command.script == path.stem)
    assert f"from {command.module} import main" in text


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
    decode(overlay.resolve(overlay.apply({"index": 0})))


@pytest.mark.parametrize("name", configs("experiments"))
def test_every_shipped_experiment_plans(name: str, tmp_path: Path) -> None:
    around = PlanContext(datetime.now(UTC), tmp_path, "python3", VARIABLES, ("plan",), "me", "here", "00")
    template = (PACKAGE / "sbatch/job.sbatch.template").read_text()
    assert make_plan(load(Source(config_ref=name)), around, read_template=lambda _: template).manifest.jobs


@pytest.mark.slow
def test_files_of_tests_that_are_in_no_package_have_names_of_their_own() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if not (path.parent / "__init__.py").exists()]
    assert [name for name, count in Counter(path.name for path in files).items() if count > 1] == []
