"""A plan's secrets: in a file for its owner alone, and back in their places when the manifest is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oellm_autoexp.cli.steps import app
from oellm_autoexp.config.loader import Source
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.planning import manifest as manifests
from oellm_autoexp.planning.record.side_file import side_file
from oellm_autoexp.testing.plans import plan_of

RULES = """
defaults: [override /backend: tiny_lm]
project: {name: "${stage}"}
job: {start_condition_cmd: [sh, -c, 'true', x, --token, "pl4nted ${stage}"]}
monitoring:
  state_events:
    crash:
      actions:
        - {class_name: RunCommandAction, command: "curl -H 'PRIVATE-TOKEN: pl4nted' host", env: {API_TOKEN: pl4nted}}
        - {class_name: RestartAction, overrides: {slurm.env.HF_TOKEN: pl4nted}}
slurm: {env: {HF_TOKEN: $HF_TOKEN}, submit_cmd: [wrap, --token, pl4nted]}
sweep: {grids: [{stage: [a, b]}]}
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The manifest of a plan with secrets in its rules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT_DIR", str(tmp_path / "out"))
    Path("mine.yaml").write_text(RULES)
    return manifests.write(plan_of(Source("mine.yaml")))


def rules(manifest: Manifest) -> str:
    return json.dumps([manifest.monitoring, manifest.slurm, [job.start_condition_cmd for job in manifest.jobs]])


def test_a_manifest_is_without_secrets_and_whoever_may_read_the_side_file_has_them(path: Path) -> None:
    text = path.read_text()
    assert "pl4nted" not in text
    assert "PRIVATE-TOKEN: ***" in text
    manifest = manifests.load(path)
    assert rules(manifest).count("pl4nted") == 6
    assert "pl4nted b" in rules(manifest)
    assert side_file(manifest).stat().st_mode & 0o777 == 0o600
    assert json.loads(text)["secrets_path"] == str(side_file(manifest))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_secrets_of_somebody_else_are_not_believed(path: Path) -> None:
    own = side_file(manifests.load(path))
    os.chown(own, 65534, 65534)
    assert "pl4nted" not in rules(manifests.load(path))


@pytest.mark.parametrize(
    "text",
    ["cut", "{}", '{"version": 1, "manifest": 3}', '{"version": 1, "manifest": {"/x/y/9": 1, "": 2, "/jobs/7": 3}}'],
)
def test_a_side_file_that_is_not_whole_leaves_the_manifest_readable(path: Path, text: str) -> None:
    side_file(manifests.load(path)).write_text(text)
    assert "pl4nted" not in rules(manifests.load(path))


def test_a_manifest_without_a_side_file_is_read_as_it_is(path: Path) -> None:
    data = json.loads(path.read_text())
    del data["secrets_path"]
    path.write_text(json.dumps(data))
    assert "***" in rules(manifests.load(path))


def test_a_plan_without_secrets_has_no_side_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = plan_of(Source("autoexp", (), ("project=default",)))
    manifest = manifests.load(manifests.write(made))
    assert not side_file(manifest).exists()


def test_overrides_come_from_a_file_too_and_those_given_are_laid_over(tmp_path: Path) -> None:
    parser = app.Parser("x", "x")
    parser.add_config()
    listed = tmp_path / "mine"
    listed.write_text("# mine\n a=1 \n\nslurm.env.HF_TOKEN='x y'\n")
    options = parser.parse_args(["--overrides-from", str(listed), "a=2"])
    assert app.source(options).overrides == ("a=1", "slurm.env.HF_TOKEN='x y'", "a=2")
    listed.unlink()
    with pytest.raises(ConfigError, match="can't read the overrides"):
        app.source(options)
