"""Fixtures that give a test a real Apptainer, an ordinary user who uses it, and images.

`person`: a user of this machine with a home and a checkout of this project, who is not root: as on a cluster, and as
Apptainer wants it. `base_image`: theirs to start from. `sif`: an image that build_container.sh has made of it.

Every test that uses one of them is marked `containers`. Where Apptainer is not installed it is skipped, or fails if
AUTOEXP_REQUIRE_CONTAINERS=1.
"""

import compileall
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers import apptainer

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = {"person", "base_image", "prepared", "sif", "rootfs"}
PATIENCE_SECONDS = 300
CHECKOUT = ("oellm_autoexp", "config", "container", "examples", "scripts", "pyproject.toml", "LICENSE", "README.md")
REQUIREMENTS = "einops\ntorch>=2\n"
READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""The Python that runs the tests may lie where only root can read; a user with this right can run it, too."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "containers: needs a real Apptainer; set by the fixtures of tests/containers")


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by -m, and before those of tests/slurm
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("containers")
            item.add_marker(pytest.mark.xdist_group("containers"))  # with --dist loadgroup: images are built once


@dataclass(frozen=True)
class Person:
    """Somebody at a terminal, with a folder for all that is theirs, which every user of the machine may look at."""

    name: str
    folder: Path

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    def words(self, *words: str | Path) -> list[str]:
        """What this process has to run so that this person runs `words`."""
        if os.getuid():
            return [str(word) for word in words]
        ids = (f"--reuid={self.name}", f"--regid={self.name}", "--clear-groups")
        return ["setpriv", *ids, *READ_ALL, *map(str, words)]

    def environment(self, **more: str) -> dict[str, str]:
        """Their environment: pip's settings of this machine, and Apptainer in PATH."""
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "REQUESTS_"))}
        path = f"{apptainer.program().parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        own = {"PATH": path, "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
        own["APPTAINER_MKSQUASHFS_ARGS"] = "-comp gzip -Xcompression-level 1"  # a fifth of the time
        return {**kept, **own, **more}

    def run(self, *words: str | Path, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return subprocess.run(
            self.words(*words),
            cwd=cwd or self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def python(
        self, script: str, *words: str | Path, cwd: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of their checkout with the Python that runs the tests."""
        return self.run(sys.executable, self.checkout / script, *words, cwd=cwd, **more)

    def apptainer(self, *words: str | Path) -> str:
        """What an Apptainer command prints; the test fails if that fails."""
        done = self.run(apptainer.program(), "--quiet", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make_folder(self, name: str) -> Path:
        """A new folder of theirs."""
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        made.chmod(0o755)
        self.own(made)
        return made

    def own(self, *paths: Path) -> None:
        """Make files and folders theirs."""
        for path in paths:
            subprocess.run(["chown", "--recursive", f"{self.name}:", str(path)], check=True)


@pytest.fixture(scope="session")
def person() -> Iterator[Person]:
    """A real user, for as long as the tests run; whoever runs the tests, if that is not root."""
    if reason := apptainer.missing():
        if os.environ.get("AUTOEXP_REQUIRE_CONTAINERS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    name = pwd.getpwuid(os.getuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="autoexp-person-"))
    if made := os.getuid() == 0:
        name = f"aexpc{os.getpid()}"
        home = ("--no-create-home", "--home-dir", str(folder))  # Apptainer asks the password database for it
        subprocess.run(["useradd", *home, "--user-group", "--shell", "/bin/sh", name], check=True)
    try:
        folder.chmod(0o755)
        for part in CHECKOUT:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / "checkout" / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, folder / "checkout" / part)
        shutil.copy(ROOT / "apply_megatron_numpy_product_patch.sh", folder / "checkout")
        compileall.compile_dir(folder / "checkout" / "oellm_autoexp", quiet=2)  # else each command would do so again
        found = Person(name, folder)
        found.own(folder)
        yield found
    finally:
        subprocess.run(["chmod", "--recursive", "u+rwX", str(folder)], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
        if made:
            # --force: also where a process of theirs is just about to end
            subprocess.run(["userdel", "--force", name], check=False, capture_output=True)


@pytest.fixture(scope="session")
def base_image(person: Person) -> Path:
    """A sandbox of the person's: a Debian with Python, pip and a torch, whose version no index has."""
    folder = person.folder / "base"
    folder.mkdir()
    person.own(folder)
    done = person.run("tar", "--extract", "--file", apptainer.base_archive(), "--directory", folder)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass(frozen=True)
class Prepared:
    """A folder in which all is fetched that a build needs, and what the command that did so printed."""

    output: Path
    said: str

    def copy(self, person: Person, name: str) -> Path:
        """The same in another folder, for one more build."""
        target = person.make_folder(name)
        subprocess.run(["cp", "--archive", f"{self.output}/.", str(target)], check=True)
        return target


def build_words(base_image: Path, output: Path, *more: str) -> list[str]:
    """The options of a build in the tests."""
    requirements = output.parent / "requirements.txt"
    requirements.write_text(REQUIREMENTS)
    words = ["--backend", "megatron", "--output", str(output), "--base-image", str(base_image)]
    return [*words, "--requirements", str(requirements), *more]


@pytest.fixture(scope="session")
def prepared(person: Person, base_image: Path) -> Prepared:
    """What --download-only leaves; done once, so that each test's build begins where that has ended."""
    output = person.make_folder("prepared")
    words = build_words(base_image, output, "--definition", "MegatronTraining", "--download-only")
    done = person.python("container/build_container_user.py", *words)
    assert done.returncode == 0, done.stderr
    return Prepared(output, done.stderr)


@dataclass(frozen=True)
class Built:
    """An image, and what the command that built it printed."""

    path: Path
    said: str


@pytest.fixture(scope="session")
def sif(person: Person, base_image: Path, prepared: Prepared) -> Built:
    """The image that build_container.sh makes of a shipped definition."""
    output = prepared.copy(person, "sif")
    words = build_words(base_image, output, "--definition", "MegatronTraining")
    script = person.checkout / "container/build_container.sh"
    done = person.run(script, *words, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    return Built(output / "MegatronTraining.sif", done.stderr)


@pytest.fixture
def rootfs(person: Person, sif: Built) -> Path:
    """The image as a folder, for a test that changes it."""
    folder = person.make_folder("rootfs") / "image"
    person.apptainer("build", "--sandbox", folder, sif.path)
    return folder
