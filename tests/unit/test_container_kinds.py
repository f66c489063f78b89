"""What each kind of container adds to a job's script, and what of its section is refused."""

from __future__ import annotations

import re
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from oellm_autoexp.config.loader import Source
from oellm_autoexp.containers.binds import Bind, beside
from oellm_autoexp.containers.kinds import Container, ContainerField, NoContainer
from oellm_autoexp.containers.ready import problems
from oellm_autoexp.core.errors import ConfigError
from oellm_autoexp.planning.plan import Plan
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.testing.plans import plan_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("slurm=base", "backend.argv=[echo,ran]", "project.base_output_dir=/out", "container.image=/i.sif")
SITES = ("lumi", "leonardo", "marenostrum", "juwels", "jupiter")


def planned(*overrides: str, **environment: str) -> Plan:
    around = PlanContext(datetime.now(UTC), Path("/here"), "python3", environment, ("x",), "me", "here", "00")
    return plan_of(Source(overrides=overrides), around)


def start(*overrides: str, **environment: str) -> list[str]:
    """The words of the line that starts the program, as bash splits them."""
    (text,) = planned(*overrides, **environment).scripts
    (line,) = [line for line in text.splitlines() if line.startswith("${AUTOEXP_LAUNCHER-")]
    shown = subprocess.run(
        ["bash", "-c", f"show() {{ printf '%s\\n' \"$@\"; }}; show {line}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": "/t m,p"},
    )
    return shown.stdout.splitlines()


@pytest.mark.parametrize(
    ("site", "runtime", "options"),
    [
        ("lumi", "singularity", ["--rocm"]),
        ("leonardo", "singularity", ["--nv"]),
        ("marenostrum", "singularity", ["--nv"]),
        ("juwels", "apptainer", ["--nv"]),
        ("jupiter", "apptainer", ["--nv", "--writable-tmpfs"]),
    ],
)
def test_a_sites_profile_makes_the_words_of_its_runtime(site: str, runtime: str, options: list[str]) -> None:
    words = start(*COMMAND, f"container={site}", DATA_DIR="/data")
    at = words.index(runtime)
    assert words[at : at + 4 + len(options)] == [runtime, "--quiet", "exec", "--no-eval", *options]
    assert words[-5:] == ["--pwd", "/here", "/i.sif", "echo", "ran"]
    assert {"/out", "/here"} <= {*words[at:]}
    assert words[(found := words.index("/data")) - 1 : found + 1] == ["--bind", "/data"]
    if site == "marenostrum":
        assert "/dev/shm:/t m,p" in words


@pytest.mark.parametrize("name", ["base", "none", "pyxis", "venv", *SITES])
def test_a_profile_is_short_enough_to_be_copied(name: str) -> None:
    assert len((ROOT / f"config/container/{name}.yaml").read_text().splitlines()) <= 40


def test_what_is_bound_already_is_not_bound_again() -> None:
    def sources(*binds: Bind, folders: tuple[str, ...]) -> list[str]:
        return [bind.source for bind in beside([*binds], folders)]

    assert sources(folders=("/w", "/w/out", "/other", "/")) == ["/w", "/other"]
    assert sources(Bind(source="/w"), folders=("/w/out",)) == []
    assert sources(Bind(source="/w", read_only=True), folders=("/w/out",)) == ["/w/out"]
    words = start(*COMMAND, "container=base", DATA_DIR="/data", HF_HOME="/data")
    assert words.count("/data") == 1


def test_the_jobs_own_folders_hold_no_variables() -> None:
    words = start(*COMMAND, "container=base", "project.base_output_dir='/o$x y'", "+container.binds.a='/b$TMPDIR'")
    assert "/o$x y" in words
    assert "/b/t m,p" in words  # bash has put in the value of TMPDIR
    assert Bind(source="/a$b,c", literal=True).words() == ("--mount", 'type=bind,"source=/a$b,c","destination=/a$b,c"')


def test_an_image_of_pyxis_is_a_path_by_its_beginning_or_its_ending() -> None:
    for image, shown in {"a/b.sqsh": "/here/a/b.sqsh", "./x": "/here/x", "org/name:tag": "org/name:tag"}.items():
        assert f"--container-image={shown}" in start(*COMMAND, "container=pyxis", f"container.image='{image}'")


def test_pyxis_is_reported_by_flags_of_srun() -> None:
    binds = "container.binds={a: '/a:/c:ro'}"
    words = start(
        *COMMAND, "container=pyxis", "container.image='reg#x:1'", binds, "+container.options.container_writable=true"
    )
    assert words == [
        "srun",
        "--container-image=reg#x:1",
        "--container-mounts=/a:/c:ro,/out:/out,/here:/here",
        "--container-workdir=/here",
        "--container-env=PYTHONUNBUFFERED,WANDB_MODE",
        "--no-container-mount-home",
        "--container-writable",
        "echo",
        "ran",
    ]


@pytest.mark.parametrize("kind", ["base", "pyxis"])
@pytest.mark.parametrize(
    ("bind", "hint"),
    [
        ("'/data:data'", "write /data:/data"),
        ("'/data:./x/data:ro'", "write /data:/data"),
        ("{source: /data, target: a b}", "write /data:/a b"),
        ("data", "write data:/data"),
        ("{source: /a, target: $B, literal: true}", "write /a:/$B"),
    ],
)
def test_a_place_in_the_container_that_is_relative_is_refused(kind: str, bind: str, hint: str) -> None:
    said = r"\$\.container\.binds\.a .*: a path in the container must be absolute, and '.*' is not\n    "
    with pytest.raises(ConfigError, match=said + re.escape(hint)):
        planned(*COMMAND, f"container={kind}", f"+container.binds.a={bind}")


def test_a_source_may_be_relative_and_a_place_begin_with_a_variable() -> None:
    words = start(*COMMAND, "container=base", "container.binds={a: './a:/b', b: '/c:$TMPDIR'}")
    assert {"./a:/b", "/c:/t m,p"} <= {*words}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("container.binds={a: '/a,b'}", "Pyxis can't mount a path with a comma, colon or space: /a,b"),
        ("container.binds={a: {source: '/a:b'}}", "comma, colon or space: /a:b"),
        ("container.binds={a: '/a b:/c'}", "comma, colon or space: /a b"),
        ("project.base_output_dir='/o b'", "comma, colon or space: /o b"),
        ("container.binds={a: '/a:$TMPDIR'}", "a path for Pyxis can't contain variables"),
        ("container.image='$HOME/x.sqsh'", "a path for Pyxis can't contain variables"),
        ("+container.options.container_mounts='/x:/y'", "'container_mounts' is set by the program"),
        ("slurm.launcher_cmd=[]", "srun does not start the job"),
        ("container.image=''", "no image is named"),
        ("+container.env={A-1: x}", "is not a name for an environment variable"),
    ],
)
def test_what_pyxis_can_not_do_is_reported(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        planned(*COMMAND, "container=pyxis", override)


def test_an_image_of_enroot_and_a_srun_with_pyxis_are_looked_for(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\necho '      --container-image=IMAGE'\n")
    srun.chmod(0o755)

    def found(image: str, srun: str = str(srun)) -> list[str]:
        section = {"class_name": "PyxisContainer", "image": image}
        recorded = {"container": section, "programs": ["sh"], "srun": srun}
        return [str(problem) for problem in problems([recorded], str(tmp_path))]

    (tmp_path / "good.sqsh").write_bytes(b"hsqs" + bytes(100))
    (tmp_path / "bad.sqsh").write_bytes(b"SIF?")
    assert found("./good.sqsh") == []
    assert found("registry#image:tag") == []
    assert "is not an image of Enroot" in found("./bad.sqsh")[0]
    assert "there is no image here" in found("./absent.sqsh")[0]
    assert "has no --container-image: it lacks Pyxis" in found("./good.sqsh", "/bin/true")[0]


def test_what_an_earlier_version_recorded_means_no_container() -> None:
    assert TypeAdapter[Container](ContainerField).validate_python({}) == NoContainer()
    assert planned(*COMMAND[:3]).manifest.container is None


def test_variables_are_handed_on_but_those_that_name_places_of_the_image() -> None:
    text = planned(*COMMAND, "container=base", "+slurm.env={A: 'x', PATH: '/p', LD_LIBRARY_PATH: '/l'}").scripts[0]
    (line,) = [line for line in text.replace(" \\\n", " ").splitlines() if line.startswith("export SINGULARITYENV_")]
    assert 'SINGULARITYENV_A="$A"' in shlex.split(line, posix=False)
    assert "SINGULARITYENV_PATH" not in line
    assert "LD_LIBRARY_PATH" not in line


def test_the_plan_keeps_what_is_to_be_looked_at_and_no_variables() -> None:
    manifest = planned(*COMMAND, "container=base", "+container.env.HF_TOKEN=hf_secret").manifest
    assert manifest.container is not None
    (kept,) = manifest.container
    assert kept["programs"] == ["echo"]
    assert kept["container"]["image"] == "/i.sif"
    assert "hf_secret" not in str(kept)
    assert "env" not in kept["container"]
