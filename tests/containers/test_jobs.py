"""Jobs in a real container: what reaches their program, and what is said of a container in which they could not run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from oellm_autoexp.containers.image import check_squashfs
from oellm_autoexp.core.errors import ConfigError
from tests.containers import apptainer
from tests.containers.fixtures import Person

RUN = "scripts/run_autoexp.py"
ODD = "$(id) `id` \"q\" 'x' a,b=c \\ $HOME"
IMAGE = """\
Bootstrap: localimage
From: {base}
%environment
  export OF_THE_JOB=of_the_image
  export OF_THE_IMAGE=of_the_image
"""


@pytest.fixture(scope="session")
def image(person: Person, base_image: Path) -> Path:
    """A folder that is an image, and sets variables of its own."""
    folder = person.make_folder("image")
    (folder / "image.def").write_text(IMAGE.format(base=base_image))
    person.own(folder)
    person.apptainer("build", "--sandbox", folder / "image", folder / "image.def")
    return folder / "image"


@pytest.fixture
def home(person: Person) -> Path:
    """An empty folder of the person's, to work in."""
    return person.make_folder("work")


def run(
    person: Person, home: Path, image: Path | str, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in an image, on this machine."""
    common = ("container=base", f"container.image={image}", "monitoring.poll_interval_seconds=0.2")
    return person.python(RUN, *common, *words, cwd=home, **environment)


def test_variables_reach_the_program_as_they_are_whatever_the_image_sets(
    person: Person, home: Path, image: Path
) -> None:
    settings = home / "conf" / "experiments" / "own.yaml"
    settings.parent.mkdir(parents=True)
    odd = json.dumps(ODD.replace("$HOME", "$SLURM_JOB_ID"))
    settings.write_text(
        "# @package _global_\n"
        "backend: {argv: [sh, -c, 'env -0 > environment; pwd > where']}\n"
        "slurm: {env: {SECOND: of_slurm, PATH: '/nowhere:$PATH', LINES: \"a\\nb\"}}\n"
        f"container: {{env: {{OF_THE_JOB: {odd}, SECOND: of_the_container}}}}\n"
    )
    done = run(person, home, image, "-C", f"{home}/conf", "--config-ref=experiments/own", APPTAINERENV_OF_THE_JOB="old")
    assert done.returncode == 0, done.stderr + done.stdout
    reported = dict(entry.split("=", 1) for entry in (home / "environment").read_text().rstrip("\0").split("\0"))
    assert reported["OF_THE_JOB"] == ODD.replace("$HOME", reported["SLURM_JOB_ID"])
    assert reported["SECOND"] == "of_the_container"
    assert reported["OF_THE_IMAGE"] == "of_the_image"
    assert reported["LINES"] == "a\nb"
    assert "/nowhere" not in reported["PATH"]
    assert reported["WANDB_MODE"] == "offline"
    assert reported["SLURM_PROCID"] == "0"
    assert reported["APPTAINER_CONTAINER"] == str(image)
    assert (home / "where").read_text() == f"{home}\n"


def test_folders_with_commas_spaces_and_colons_are_bound(person: Person, home: Path, image: Path) -> None:
    for name in ("a, b", "c:d", "e f"):
        (home / name).mkdir()
        (home / name / "here").write_text(name)
    person.own(home)
    binds = (
        f"{{one: '{home}/a, b', two: {{source: '{home}/c:d', target: /two, read_only: true}}, "
        f"three: '{home}/e f:/t h:ro', four: '$WHERE/a, b:/four'}}"
    )
    script = "cat '{0}/a, b/here' /two/here '/t h/here' /four/here; touch /two/x || echo '' read-only"
    done = run(
        person,
        home,
        image,
        f"container.binds={binds}",
        f'backend.argv=[sh,-c,"{script.format(home)}"]',
        "backend.env={}",
        WHERE=str(home),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    log = (home / "outputs/run/current.log").read_text()
    assert "a, bc:de fa, b" in log
    assert " read-only" in log


def test_a_job_runs_in_a_virtual_environment_on_the_host(person: Person, home: Path) -> None:
    done = person.run("/usr/bin/python3", "-m", "venv", "--without-pip", home / "venv")
    assert done.returncode == 0, done.stderr
    words = ("container=venv", "backend.argv=[python3,-c,'import sys; print(sys.prefix)']")
    done = person.python(RUN, *words, cwd=home, PROJECT_DIR=str(home))
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{home}/venv" in (home / "outputs/run/current.log").read_text()
    wrong = person.python(RUN, *words, "container.path=absent", cwd=home)
    assert wrong.returncode == 2
    assert f"there is no virtual environment at {home}/absent" in wrong.stderr
    wrong = person.python(RUN, *words, "backend.argv=[nothere]", cwd=home, PROJECT_DIR=str(home))
    assert f"there is no program nothere in {home}/venv/bin" in wrong.stderr


def refused(person: Person, home: Path, image: Path | str, *words: str, **environment: str) -> str:
    """The one error that a command ends with; nothing is written."""
    done = run(person, home, image, "backend.argv=[sh,-c,true]", *words, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert not (home / "outputs").exists()
    return done.stderr.partition(line)[1] + done.stderr.partition(line)[2]


def test_an_image_that_is_missing_is_refused_where_jobs_are_submitted_and_noted_where_they_are_not(
    person: Person, home: Path
) -> None:
    assert "there is no image here" in refused(person, home, home / "no.sif")
    assert "container.image" in refused(person, home, home / "no.sif")
    planned = run(person, home, home / "no.sif", "backend.argv=[sh,-c,true]", "--no-submit")
    assert planned.returncode == 0
    assert f"$.container.image {home}/no.sif: there is no image here" in planned.stderr + planned.stdout
    (manifest,) = (home / "outputs/manifests").glob("*-*[0-9a-f].json")
    submitted = person.python("scripts/submit_autoexp.py", "--manifest", manifest, cwd=home)
    assert submitted.returncode == 2
    assert "there is no image here" in submitted.stderr
    assert not (home / "outputs/monitoring_state").exists()
    assert "no image is named" in run(person, home, "", "backend.argv=[true]", "--dry-run").stderr


def test_an_image_for_other_processors_is_refused_unless_the_nodes_have_these(
    person: Person, home: Path, base_image: Path
) -> None:
    arm = home / "arm"
    for name in ("bin/sh", "usr/bin/env"):
        (arm / name).parent.mkdir(parents=True, exist_ok=True)
        (arm / name).write_bytes((base_image / "usr/bin/env").read_bytes()[:18] + b"\xb7\0" + bytes(44))
    person.own(arm)
    text = refused(person, home, arm)
    assert "the image is made for aarch64, and this machine is x86_64" in text
    assert "container.machine" in text
    planned = run(person, home, arm, "container.machine=aarch64", "backend.argv=[sh]", "--dry-run")
    assert planned.returncode == 0
    assert "made for" not in planned.stdout + planned.stderr
    text = refused(person, home, base_image, "container.machine=aarch64")
    assert "the image is made for x86_64, and the nodes are aarch64" in text


def header(size: int, magic: bytes, at: int) -> bytes:
    """The beginning of an image's file, and nothing behind it."""
    return (bytes(at) + magic + bytes(size))[:size]


BROKEN = {
    "empty.sif": (b"", "the image is incomplete: it has 0 bytes of 128"),
    "header.sif": (header(100, b"SIF_MAGIC\0", 32), "the image is incomplete: it has 100 bytes of 128"),
    "short.sqsh": (header(50, b"hsqs", 0), "the image is incomplete: it has 50 bytes of 96"),
    "cut.sqsh": (header(40, b"hsqs", 0) + b"\0\1" + bytes(90), "the image is incomplete: it has 132 bytes of 256"),
    "text.sif": (b"not one", "is not an image: neither a SIF file nor a folder with a root file system"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_image_that_is_cut_short_anywhere_is_refused(person: Person, home: Path, name: str) -> None:
    content, wanted = BROKEN[name]
    (home / name).write_bytes(content)
    assert wanted in refused(person, home, home / name)
    if name.endswith(".sqsh"):
        with pytest.raises(ConfigError, match=wanted):
            check_squashfs(home / name, "as Enroot has it")


def test_a_link_to_no_image_is_reported_with_its_end(person: Person, home: Path) -> None:
    (home / "link.sif").symlink_to("/scratch/gone.sif")
    assert "there is no image here: it is a link to /scratch/gone.sif" in refused(person, home, home / "link.sif")


def test_a_job_runs_in_a_squashfs_file(person: Person, home: Path, image: Path) -> None:
    done = person.run("mksquashfs", image, home / "image.sqsh", "-quiet", "-comp", "gzip", "-Xcompression-level", "1")
    assert done.returncode == 0, done.stderr
    done = run(person, home, home / "image.sqsh", "backend.argv=[sh,-c,true]")
    assert done.returncode == 0, done.stderr + done.stdout


def test_an_image_without_the_program_is_refused_and_a_bound_one_is_found(
    person: Person, home: Path, image: Path
) -> None:
    text = refused(person, home, image, "backend.argv=[nothere]")
    assert f"the image has no program nothere: {image}" in text
    own = home / "own"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    person.own(own)
    done = run(person, home, image, "backend.argv=[/opt/own]", f"+container.binds.own={own}:/opt/own:ro")
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_runtime_that_is_missing_is_refused_unless_a_module_brings_it(
    person: Person, home: Path, image: Path
) -> None:
    without = {"PATH": "/usr/bin:/bin"}
    text = refused(person, home, image, **without)
    assert "no container runtime in PATH: neither apptainer nor singularity" in text
    assert "container.modules=" in text
    assert "no program other in PATH" in refused(person, home, image, "container.runtime=other")
    planned = run(person, home, image, "backend.argv=[sh]", "container.modules=['load x']", "--dry-run", **without)
    assert "no container runtime" not in planned.stderr + planned.stdout


def test_a_bind_that_is_missing_is_refused(person: Person, home: Path, image: Path) -> None:
    text = refused(person, home, image, "+container.binds.mine=/no/such/folder")
    assert "the path to bind does not exist: /no/such/folder" in text
    assert "$.container.binds.mine" in text
    assert "container.binds.mine=null" in text
    text = refused(person, home, image, DATA_DIR="/no/such/data")
    assert "the path to bind does not exist: /no/such/data" in text
    assert "must be path, path:target or path:target:ro" in refused(
        person, home, image, "+container.binds.mine='/a:/b:/c:d'"
    )


def test_a_runtime_that_is_too_old_for_an_option_is_refused(person: Person, home: Path, image: Path) -> None:
    old = home / "old"
    old.mkdir()
    (old / "singularity").write_text(
        "#!/bin/sh\n"
        '[ "$1" != --version ] || { echo singularity version 3.8.7; exit; }\n'
        f'[ "$2" != --help ] || {{ {apptainer.program()} exec --help | grep -v -e --no-eval -e --mount; exit; }}\n'
        f'exec {apptainer.program()} "$@"\n'
    )
    (old / "singularity").chmod(0o755)
    person.own(home)
    text = refused(person, home, image, f"container.runtime={old}/singularity")
    assert "singularity 3.8.7 has no option --no-eval" in text
    assert "it exists since Apptainer 1.1, SingularityCE 3.10" in text
    text = refused(person, home, image, "container.options=[--no-such-thing]")
    assert "has no option --no-such-thing" in text


def test_the_command_to_try_by_hand_is_the_one_that_failed_with_its_binds(
    person: Person, home: Path, image: Path
) -> None:
    broken = home / "a b"
    broken.mkdir()
    (broken / "singularity").write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] || [ "$2" = --help ] || { echo FATAL: no mounts today >&2; exit 255; }\n'
        f'exec {apptainer.program()} "$@"\n'
    )
    (broken / "singularity").chmod(0o755)
    person.own(home)
    words = (f"container.runtime={broken}/singularity", f"container.binds={{own: '{home}:/own d:ro'}}")
    text = refused(person, home, image, *words, "container.gpu=null")
    assert "FATAL: no mounts today" in text
    tried = f"try it by hand: '{broken}/singularity' --quiet exec --no-eval --bind '{home}:/own d:ro' {image} true"
    assert tried in text


def test_options_that_would_hide_the_rank_are_refused(person: Person, home: Path, image: Path) -> None:
    text = refused(person, home, image, "container.options=[--cleanenv]")
    assert "'--cleanenv': it would hide SLURM's variables" in text
    assert "PATH is set by the image" in refused(person, home, image, "+container.env.PATH=/x")


def test_what_is_not_checked_is_left_to_the_nodes(person: Person, home: Path) -> None:
    done = run(person, home, home / "no.sif", "backend.argv=[sh]", "container.check=false")
    assert done.returncode == 1
    assert "could not open image" in (home / "outputs/run/current.log").read_text()


def test_the_links_of_a_chain_check_their_node_and_restart_within_the_job_in_a_container(
    person: Person, home: Path, image: Path
) -> None:
    settings = home / "conf" / "experiments" / "counting.yaml"
    settings.parent.mkdir(parents=True)
    program = (
        "n=$(cat step.txt 2>/dev/null || echo 0); n=$((n + 1)); echo $n > step.txt; "
        'echo "step $n in $APPTAINER_CONTAINER"; [ $n != 2 ] || exit 3'
    )
    settings.write_text(
        "# @package _global_\n"
        f"backend: {{argv: [sh, -c, {json.dumps(program)}]}}\n"
        "job: {chain: {links: 4, until: 3, progress_file: step.txt}}\n"
        "slurm: {restarts_in_job: 1, preflight: [image, scratch, {command: [test, -d, /tmp]}]}\n"
    )
    person.own(home)
    done = run(person, home, image, "-C", f"{home}/conf", "--config-ref=experiments/counting", "--plan-id=p")
    assert done.returncode == 0, done.stderr + done.stdout
    logs = sorted((home / "outputs/run/logs").glob("*.out"))
    lines = [line for log in logs for line in log.read_text().splitlines() if line.startswith("step ")]
    assert lines == [f"step {number} in {image}" for number in (1, 2, 3)]
    assert sum("restart 1 of 1 in the job" in log.read_text() for log in logs) == 1
    assert "link 2 of 4" in person.python("scripts/monitor_autoexp.py", "--session=p", "--cmd=status", cwd=home).stdout
