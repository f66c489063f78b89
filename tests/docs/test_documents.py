"""README, SPEC and --help say the same, and what they say works."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from oellm_autoexp.backends.command import CommandBackend
from oellm_autoexp.backends.megatron.backend import MegatronBackend
from oellm_autoexp.cli.main import usage
from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import AutoexpConfig
from oellm_autoexp.core.commands import COMMANDS
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.schedulers.local.section import LocalClient
from oellm_autoexp.schedulers.slurm.section import SlurmClient

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SPEC = (ROOT / "SPEC.md").read_text()
COMMON = {"--help", "--debug", "--verbose", "--config-ref", "--config-name", "--config-dir", "--overrides-from"}


def options(command: str) -> set[str]:
    """The long options of a command."""
    parser: argparse.ArgumentParser = import_module(COMMANDS[command].module).parser()
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def shell_lines(text: str) -> list[str]:
    return [line.split("#")[0].strip() for block in blocks(text, "bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_spec_lists_exactly_the_options_of_a_command(command: str) -> None:
    row = next(line for line in SPEC.splitlines() if f"| `{command}` |" in line)
    named = set(re.findall(r"--[a-z-]+", row))
    if command == "run":
        named |= (options("plan") | options("submit")) - COMMON
    elif command == "run-container":
        named |= options("run") - COMMON
    assert named == options(command) - COMMON


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples_and_says_the_exit_codes(command: str) -> None:
    text = import_module(COMMANDS[command].module).parser().format_help()
    assert f"python scripts/{COMMANDS[command].script}.py" in text
    assert "exit codes: 0" in text
    assert f"  {command} " in usage()


@pytest.mark.parametrize("document", [README, SPEC], ids=["README", "SPEC"])
def test_every_script_and_option_in_a_shell_block_exists(document: str) -> None:
    for line in shell_lines(document):
        for script, rest in re.findall(r"scripts/(\w+)\.py([^&|]*)", line):
            assert (ROOT / "scripts" / f"{script}.py").exists(), line
            command = next(name for name, known in COMMANDS.items() if known.script == script)
            assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= options(command), line


def runnable() -> list[str]:
    lines = [line for line in shell_lines(README) if line.startswith("python scripts/")]
    return [line for line in lines if "<plan" not in line and "YOURNAME" not in line and "slurm=base" not in line]


def run_as_user(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)
    words[:2] = [sys.executable, str(ROOT / words[1])]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), **environment}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_the_readmes_quick_recipes_work_in_their_order(tmp_path: Path) -> None:
    assert len(runnable()) >= 8
    exported = dict(re.findall(r"^export (\w+)=(\S+)", README, re.MULTILINE))
    for line in runnable():
        result = run_as_user(line, tmp_path, **exported)
        assert result.returncode == 0, (line, result.stderr)


def test_the_readmes_experiment_plans_six_jobs_and_runs(tmp_path: Path) -> None:
    text = next(block for block in blocks(README, "yaml") if "experiments/YOURNAME" in block)
    file = tmp_path / "config" / "experiments" / "YOURNAME" / "myexperiment.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    line = "python scripts/run_autoexp.py -C config --config-ref experiments/YOURNAME/myexperiment"
    result = run_as_user(line, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "6 jobs: 6 success" in result.stdout
    log = (tmp_path / "outputs" / "demo_lr0.0005_bs64" / "current.log").read_text()
    assert "training with ['--lr', '0.0005', '--batch_size', '64']" in log


@pytest.mark.slurm
def test_the_readmes_slurm_recipes_work_on_a_real_slurm(
    slurm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    lines = [line for line in shell_lines(README) if "slurm=base" in line and "YOURNAME" not in line]
    assert len(lines) == 3
    for line in lines:
        quick = f"{line} backend.options.train_iters=5 monitoring.poll_interval_seconds=0.5"
        result = run_as_user(quick, tmp_path, SLURM_CONF=os.environ["SLURM_CONF"])
        assert result.returncode == 0, (line, result.stderr)


def test_the_spec_names_every_section_and_key() -> None:
    names = {"root": set(), "metadata": set()}  # type: dict[str, set[str]]
    for section in ("project", "slurm", "scheduler", "monitoring", "job"):
        model = AutoexpConfig.model_fields[section].annotation
        names[section] = set(getattr(model, "model_fields", {}))
    for section, keys in names.items():
        if section in ("root", "metadata"):
            continue
        row = next(line for line in SPEC.splitlines() if line.startswith(f"| `{section}` |"))
        assert set(re.findall(r"[a-z_]+", row.split("|")[2])) == keys, section
    for client in (SlurmClient, LocalClient):
        for key in set(client.model_fields) - {"class_name"}:
            assert key in SPEC
    row = next(line for line in SPEC.splitlines() if line.startswith("| `backend` |"))
    for backend in (CommandBackend, MegatronBackend):
        assert f"`{backend.__name__}`" in row or f"`class_name: {backend.__name__}`" in row
        (keys,) = re.findall(rf"{backend.__name__}` \(`([a-z_, ]+)`\)", row)
        names_in_yaml = {field.alias or name for name, field in backend.model_fields.items()} - {"class_name"}
        assert set(keys.split(", ")) == names_in_yaml


@pytest.mark.parametrize("record", [Manifest, JobSpec])
def test_the_spec_names_every_field_of_the_manifest(record: type[Manifest] | type[JobSpec]) -> None:
    paragraph = next(part for part in SPEC.split("\n\n") if part.startswith("A manifest holds"))
    for field in record.model_fields:
        assert re.search(rf"\b{field}\b", paragraph), field


def test_the_spec_names_every_resolver() -> None:
    from datetime import UTC, datetime

    from oellm_autoexp.config.values.resolvers import make_resolvers

    for name in make_resolvers({}, datetime.now(UTC), Path, "python3"):
        assert name.startswith("autoexp.") or name == "oc.eval" or re.search(rf"\b{re.escape(name)}\b", SPEC), name


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_yaml_block_of_the_readme_is_valid_yaml() -> None:
    for block in blocks(README, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


def test_the_first_command_of_the_readme_is_one_line_with_its_setup() -> None:
    for marker in ("first-command", "test-command"):
        (block,) = re.findall(rf"<!-- {marker} -->\n```bash\n(.*?)```", README, re.DOTALL)
        assert len(block.splitlines()) == 1
        assert "venv" in block


def test_the_default_project_of_the_readme_composes() -> None:
    assert load(Source(overrides=("project=default",))).sweep["grids"]
