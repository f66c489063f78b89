"""Images are built for real, by both scripts, from shipped definitions; what goes wrong is reported with its cause."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import pytest

from tests.containers import apptainer
from tests.containers.fixtures import Built, Person, Prepared, build_words
from tests.flow.conftest import until

USER = "container/build_container_user.py"
NEW_FILES = "/opt/oellm-autoexp"
DEFINITION = "Bootstrap: docker\nFrom: x/y:1\n%files\n{{context}} {{place}}\n%post\n"


def inside(person: Person, image: Path, program: str) -> str:
    """What a Python program prints that runs in an image."""
    return person.apptainer("exec", image, "python3", "-P", "-s", "-c", program).strip()


def test_what_the_image_needs_is_fetched_first_for_a_build_without_network(prepared: Prepared) -> None:
    assert f"the base has 4 packages, torch {apptainer.TORCH}" in prepared.said
    assert "the same command without --download-only builds it" in prepared.said
    assert list(prepared.output.glob(".MegatronTraining.build/wheels/einops-*.whl"))
    assert not list(prepared.output.glob(".MegatronTraining.build/wheels/torch*"))


def test_build_container_sh_builds_an_image_that_has_this_program_and_the_bases_torch(
    person: Person, sif: Built
) -> None:
    assert re.search(r"\[2/4\] packages: \d+ wheels are there", sif.said)
    program = "import einops, torch, oellm_autoexp.core.nouns, sys; print(torch.__version__, oellm_autoexp.__file__)"
    assert inside(person, sif.path, program) == f"{apptainer.TORCH} {NEW_FILES}/oellm_autoexp/__init__.py"
    assert inside(person, sif.path, "import os; print(os.environ['WANDB_MODE'])") == "offline"
    assert inside(person, sif.path, f"import os; print(os.path.exists('{NEW_FILES}/build'))") == "False"
    assert sorted(path.name for path in sif.path.parent.iterdir()) == ["MegatronTraining.build.log", sif.path.name]


def test_an_image_says_what_it_was_made_of(person: Person, base_image: Path, sif: Built) -> None:
    record = json.loads(inside(person, sif.path, f"print(open('{NEW_FILES}/build.json').read())"))
    assert record["base"]["path"] == str(base_image)
    assert record["kept"]["torch"] == apptainer.TORCH
    assert set(record["added"]) >= {"einops", "hydra-core", "pydantic"}
    assert record["requirements"] == ["einops", "torch>=2"]
    assert record["runtime"].startswith("apptainer 1.")
    labels = json.loads(person.apptainer("inspect", "--json", sif.path))["data"]["attributes"]["labels"]
    assert labels["eu.openeurollm.name"] == "MegatronTraining"


def test_build_container_user_needs_no_fakeroot(person: Person, base_image: Path, prepared: Prepared) -> None:
    output = prepared.copy(person, "user")
    (output / ".MegatronTraining.build").rename(output / ".MegatronTrainingNoRoot.build")
    more = ("--definition", "MegatronTrainingNoRoot", "--append-date", "--container-cmd", "singularity", "--verbose")
    words = build_words(base_image, output, *more)
    no_packages = (sys.executable, "-S", person.checkout / USER)  # as on a login node
    done = person.run(*no_packages, *words, cwd=person.checkout / "container")
    assert done.returncode == 0, done.stderr
    image = output / f"MegatronTrainingNoRoot_{date.today():%Y%m%d}.sif"
    assert done.stdout.strip() == str(image)
    assert sorted(path.name for path in output.iterdir()) == [f"{image.stem}.build.log", image.name]
    assert "--fakeroot" not in image.with_name(f"{image.stem}.build.log").read_text()
    program = "import os, torch, oellm_autoexp.core.nouns; print(torch.__version__, os.environ['WANDB_MODE'])"
    assert inside(person, image, program) == f"{apptainer.TORCH} offline"
    labels = json.loads(person.apptainer("inspect", "--json", image))["data"]["attributes"]["labels"]
    assert labels["eu.openeurollm.name"] == image.stem
    again = person.python(USER, *build_words(base_image, output, *more))
    assert again.returncode == 2
    assert "an image of this name exists already" in again.stderr


def test_a_build_that_was_interrupted_goes_on_where_it_was(
    person: Person, base_image: Path, prepared: Prepared
) -> None:
    output = prepared.copy(person, "interrupted")
    words = build_words(base_image, output, "--definition", "MegatronTraining", "--sandbox")
    with (output / "said").open("w") as said:
        child = subprocess.Popen(
            person.words(sys.executable, person.checkout / USER, *words),
            cwd=person.folder,
            env=person.environment(),
            stderr=said,
            stdout=said,
            text=True,
        )
        until(lambda: (output / ".MegatronTraining.build/root/usr").exists(), "the base to be copied")
        as_killed = person.words("kill", "-INT", str(child.pid))
        subprocess.run(as_killed, check=True) if os.getuid() else child.send_signal(signal.SIGINT)
        assert child.wait() == 130
    assert not (output / "MegatronTraining").exists()
    again = person.python(USER, *words)
    assert again.returncode == 0, again.stderr
    assert "wheels are there" in again.stderr
    assert (output / "MegatronTraining/opt/oellm-autoexp/build.json").exists()


def refused(person: Person, base_image: Path, output: Path, *more: str) -> str:
    """What a build says that ends with one clear error."""
    done = person.python(USER, *build_words(base_image, output, *more))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return done.stderr[done.stderr.index("error: ") :]


MISTAKES = {
    "definition": (("--definition", "MegatronTrainnig"), "no definition 'MegatronTrainnig'"),
    "backend": (("--backend", "megatorn", "--definition", "X"), "did you mean 'megatron'?"),
    "torch": (("--definition", "MegatronTraining", "--unpin", "torch"), "the torch of the base image can't be changed"),
    "base": (("--definition", "MegatronTraining", "--base-image", "/nowhere.sif"), "there is no image here"),
    "runtime": (("--definition", "MegatronTraining", "--container-cmd", "podman-hpc"), "no program podman-hpc in PATH"),
    "a definition of one's own": (("--definition", "/D/Own.def.in"), "no value {{nonsense}}"),
}


def closed(folder: Path) -> Path:
    """A file with the name of a runtime that nobody may execute."""
    (folder / "apptainer").write_text("#!/bin/sh\n")
    return folder / "apptainer"


def test_a_runtime_that_may_not_be_executed_is_not_said_to_be_absent(person: Person, base_image: Path) -> None:
    output = person.make_folder("closed")
    words = ("--definition", "MegatronTraining", "--container-cmd")
    text = refused(person, base_image, output, *words, str(closed(output)))
    assert f"--container-cmd: {output}/apptainer is not executable\n    chmod +x {output}/apptainer" in text
    in_path = person.python(
        USER, *build_words(base_image, output, *words[:2]), PATH=f"{output}:/usr/bin:/bin:/usr/sbin:/sbin"
    )
    assert f"{output}/apptainer is not executable" in in_path.stderr
    assert f"there is no program {output}/nope" in refused(person, base_image, output, *words, f"{output}/nope")


def test_all_mistakes_in_the_options_are_reported_at_once(person: Person, base_image: Path) -> None:
    output = person.make_folder("all")
    words = ("--definition", "Meg", "--container-cmd", "nope", "--requirements", "/nowhere.txt", "--unpin", "torch")
    done = person.python(USER, *build_words(base_image, output, *words))
    assert done.returncode == 2
    for text in (
        "no definition 'Meg'",
        "no program nope in PATH",
        "/nowhere.txt: there is no such",
        "the torch of the base image",
    ):
        assert text in done.stderr
    assert done.stderr.startswith("4 problems:")


REQUIREMENTS = {
    "none of that name": ("no-such-package-of-autoexp\n", "pip finds no package no-such-package-of-autoexp\n"),
    "none of that version": ("einops==99.9\n", "pip finds no einops==99.9; the newest are "),
    "no requirement": ("einops\nwhat is this\n", "pip can't read a line of the requirements: what is this"),
    "another file": ("-r more.txt\n", "/own.txt:1 {0}/more.txt: there is no such file"),
    "a relative path": ("einops\n-e ../own\n", "{0}/own.txt:2: a relative path does not exist in an image"),
    "a program": (
        "git+https://h.invalid/x\n",
        "the base image has no git, which is needed to fetch a package of the requirements",
    ),
}


@pytest.mark.parametrize("wrong", REQUIREMENTS)
def test_what_is_wrong_with_requirements_is_reported_in_their_own_words(
    person: Person, base_image: Path, wrong: str
) -> None:
    output = person.make_folder("requirements")
    text, wanted = REQUIREMENTS[wrong]
    (output / "own.txt").write_text(text)
    words = ("--definition", "MegatronTraining", "--requirements", str(output / "own.txt"), "--download-only")
    assert wanted.format(output) in refused(person, base_image, output, *words)


def test_requirements_are_read_where_they_are_with_the_files_that_they_name(person: Person, base_image: Path) -> None:
    output = person.make_folder("named")
    own = Path(tempfile.mkdtemp(prefix="autoexp-named-", dir="/var/tmp"))  # a container has a /tmp by itself
    try:
        own.chmod(0o755)
        (own / "more").mkdir()
        (own / "own.txt").write_text("-r more/more.txt\n")
        (own / "more/more.txt").write_text("-c limit.txt\neinops\n")
        (own / "more/limit.txt").write_text("einops<0.8\n")
        words = ("--definition", "MegatronTraining", "--requirements", str(own / "own.txt"), "--download-only")
        done = person.python(USER, *build_words(base_image, output, *words))
        assert done.returncode == 0, done.stderr
        assert list(output.glob(".MegatronTraining.build/wheels/einops-0.7*"))
        (own / "more/limit.txt").write_text("einops<0.7\n")
        assert person.python(USER, *build_words(base_image, output, *words)).returncode == 0
        assert list(output.glob(".MegatronTraining.build/wheels/einops-0.6*"))
    finally:
        shutil.rmtree(own)


@pytest.mark.parametrize("place", ["read-only", "a file", "none"])
def test_a_place_that_can_not_be_written_to_is_reported_with_the_option(
    person: Person, base_image: Path, place: str
) -> None:
    folder = person.make_folder("place")
    output = {"read-only": folder / "closed", "a file": folder / "file", "none": Path("/proc/none")}[place]
    (folder / "closed").mkdir(mode=0o555)
    (folder / "file").touch()
    done = person.python(
        USER, *build_words(base_image, folder, "--definition", "MegatronTraining", f"--output={output}")
    )
    assert done.returncode == 2
    assert f"error: {output}" in done.stderr
    assert "can't write here" in done.stderr
    assert "--output DIR" in done.stderr
    assert "quota" not in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_can_have_no_more_files_is_reported_before_anything_is_copied(
    person: Person, base_image: Path, prepared: Prepared
) -> None:
    output = person.make_folder("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900m,nr_inodes=1500", "none", str(output)], check=True)
    try:
        person.own(output)
        subprocess.run(["cp", "--archive", f"{prepared.output}/.", str(output)], check=True)
        text = refused(person, base_image, output, "--definition", "MegatronTraining", "--sandbox")
    finally:
        subprocess.run(["umount", str(output)], check=True)
    assert "more files (inodes) are allowed here; at least" in text


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_options_is_one_clear_error(person: Person, base_image: Path, mistake: str) -> None:
    words, wanted = MISTAKES[mistake]
    output = person.make_folder("mistake")
    (output / "Own.def.in").write_text("Bootstrap: localimage\nFrom: /x\n%post\n  echo {{nonsense}}\n")
    text = refused(person, base_image, output, *(word.replace("/D/", f"{output}/") for word in words))
    assert wanted in text


def test_a_definition_whose_variable_is_not_set_says_so(person: Person) -> None:
    done = person.python(USER, "--definition", "MegatronTrainingNoRoot", "--output", person.make_folder("unset"))
    assert done.returncode == 2
    assert "$CONTAINER_CACHE_DIR is not set" in done.stderr
    assert "--base-image PATH" in done.stderr


def test_requirements_that_want_another_torch_are_refused_before_anything_is_built(
    person: Person, base_image: Path
) -> None:
    output = person.make_folder("torch")
    own = output / "own.txt"
    own.write_text("torch>=2.9\n")
    text = refused(person, base_image, output, "--definition", "MegatronTraining", "--requirements", str(own))
    assert "the requirements do not fit what the base image has" in text
    assert "torch>=2.9" in text


POSTS = {
    "killed": ("kill -9 $$", "it was killed, most likely for using too much memory", "build on a compute node"),
    "changes the base": (
        "bash /opt/oellm-autoexp/build/install.sh\n"
        "mv /usr/lib/python3/dist-packages/torch-*.dist-info /usr/lib/python3/dist-packages/torch-9.dist-info\n"
        "sed -i 's/^Version: .*/Version: 9/' /usr/lib/python3/dist-packages/torch-9.dist-info/METADATA",
        f"packages of the base image were changed: torch {apptainer.TORCH} → 9",
        "--unpin",
    ),
    "a program fails": ("echo ERROR: no luck; exit 3", "ERROR: no luck", "its last lines"),
}


@pytest.mark.parametrize("post", POSTS)
def test_a_build_that_fails_says_why(person: Person, base_image: Path, prepared: Prepared, post: str) -> None:
    text, what, hint = POSTS[post]
    output = prepared.copy(person, "fails")
    definition = output / "MegatronTraining.def.in"
    definition.write_text(DEFINITION + text)
    said = refused(person, base_image, output, "--definition", str(definition), "--sandbox")
    assert what in said
    assert hint in said
    assert not (output / "MegatronTraining").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize(("megabytes", "what"), [(60, "are free here; about"), (170, "the disk is full")])
def test_a_full_disk_is_reported_with_its_place(
    person: Person, base_image: Path, prepared: Prepared, megabytes: int, what: str
) -> None:
    output = person.make_folder("disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(output)], check=True)
    try:
        person.own(output)
        subprocess.run(["cp", "--archive", f"{prepared.output}/.", str(output)], check=True)
        filler = "dd if=/dev/zero of=/opt/large bs=1M count=200"
        definition = output / "MegatronTraining.def.in"
        definition.write_text(
            f"Bootstrap: docker\nFrom: x/y:1\n%files\n{{{{context}}}} {{{{place}}}}\n%post\n{filler}\n"
        )
        text = refused(person, base_image, output, "--definition", str(definition), "--sandbox")
    finally:
        subprocess.run(["umount", str(output)], check=True)
    assert what in text
    assert "APPTAINER_TMPDIR" in text


def test_a_limit_on_memory_is_reported_with_its_size(person: Person, base_image: Path, prepared: Prepared) -> None:
    output = prepared.copy(person, "memory")
    words = build_words(base_image, output, "--definition", "MegatronTraining", "--sandbox")
    done = person.run("prlimit", f"--as={450 << 20}", sys.executable, person.checkout / USER, *words)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "there was not enough memory (ulimit -v allows 0.4 GiB of memory here)" in done.stderr
    assert "build on a compute node" in done.stderr
