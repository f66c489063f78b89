"""Runtimes, definitions, packages of images and causes of failures: what is decided without starting anything."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from oellm_autoexp.containers.building.definition import expand, fill, parse
from oellm_autoexp.containers.building.packages import changed, constraints, local_places, locked, pins, pip_settings
from oellm_autoexp.containers.failures import Limits, explain
from oellm_autoexp.containers.runtime import Runtime, parse_version
from oellm_autoexp.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
APPTAINER = Runtime("/usr/bin/apptainer", "apptainer", (1, 4, 5))


@pytest.mark.parametrize(
    ("said", "flavour", "version"),
    [
        ("apptainer version 1.4.5", "apptainer", (1, 4, 5)),
        ("apptainer version 1.1.9-1.el8\n", "apptainer", (1, 1, 9)),
        ("singularity-ce version 4.1.3-150500.12.1", "singularity", (4, 1, 3)),
        ("singularity-ce version 3.11.4", "singularity", (3, 11, 4)),
        ("singularity version 3.8.7", "singularity", (3, 8, 7)),
        ("singularity-pro version 4.1.2-2", "singularity", (4, 1, 2)),
    ],
)
def test_the_version_tells_whose_program_it_is(said: str, flavour: str, version: tuple[int, ...]) -> None:
    found = parse_version("/usr/bin/singularity", said)
    assert found is not None
    assert (found.flavour, found.version) == (flavour, version)


def test_an_image_is_built_by_a_python_that_has_no_packages() -> None:
    words = ("-S", ROOT / "container/build_container_user.py", "--definition", "MegatronTraining")
    done = subprocess.run(
        [sys.executable, *words, "--container-cmd", "nope"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no program nope in PATH" in done.stderr


def test_paths_with_commas_and_colons_are_bound_whole() -> None:
    assert APPTAINER.bind_words("/a b") == ("--bind", "/a b")
    assert APPTAINER.bind_words("/a", "/b", read_only=True) == ("--bind", "/a:/b:ro")
    for path in ("/p/a,b", "/p/a:b", '/p/a,"b"'):
        option, words = APPTAINER.bind_words(path, read_only=True)
        assert option == "--mount"
        assert next(csv.reader([words])) == ["type=bind", f"source={path}", f"destination={path}", "ro"]
    with pytest.raises(ConfigError, match=r"singularity 3\.8 can't bind a path with a comma or colon"):
        Runtime("/x", "singularity", (3, 8)).bind_words("/a,b")


def test_a_definition_starts_from_an_image_that_is_here() -> None:
    text = "# c\nBootstrap: docker\nFrom: nvcr.io/x:1\n\n%files\n  {{ a }} /b\n%post\n  echo ${x}\n  [ 1 ]\n"
    found = parse(fill(text, {"a": "A"}, "f"), "f")
    assert found.source == "docker://nvcr.io/x:1"
    assert found.text("/base dir") == (
        "Bootstrap: localimage\nFrom: /base dir\n\n%files\n  A /b\n\n%post\n  echo ${x}\n  [ 1 ]\n"
    )
    with pytest.raises(ConfigError, match=r"f:6: no value \{\{a\}\}"):
        fill(text, {"b": ""}, "f")
    with pytest.raises(ConfigError, match="no line `From: …`"):
        parse("Bootstrap: docker\n%post\nFrom: x\n", "f")
    assert expand("${A}/b/$C", {"A": "a", "C": "c"}.get, "f") == "a/b/c"


def test_all_that_a_base_has_is_pinned_but_what_pip_has_no_word_for() -> None:
    installed = {"Torch": "2.8.0a0+5228986c39.nv25.8", "gpg": "1.14.0-unknown", "a_B": "1!2.0rc1.post2.dev3"}
    found = pins(installed)
    assert constraints(found) == "a-b==1!2.0rc1.post2.dev3\ntorch==2.8.0a0+5228986c39.nv25.8\n"
    assert pins(installed, ["A.b"]).keys() == {"torch"}
    assert changed(found, {"torch": "2.8.0a0+5228986c39.nv25.8"}) == {"a-b": ("1!2.0rc1.post2.dev3", "")}


def test_what_pip_reports_is_fetched_again_at_the_commit_that_was_found() -> None:
    report = {
        "install": [
            {"metadata": {"name": "Einops", "version": "0.8.1"}, "download_info": {"url": "x"}, "is_direct": False},
            {
                "metadata": {"name": "own", "version": "1"},
                "download_info": {"url": "ssh://h/r", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
                "is_direct": True,
            },
        ]
    }
    assert locked(report) == ({"einops": "0.8.1", "own": "1"}, ("einops==0.8.1", "own @ git+ssh://h/r@abc"))


def test_pip_in_an_image_gets_the_settings_of_this_machine() -> None:
    listing = (
        "global.index-url='file:///srv/index'\nglobal.find-links='/srv/wheels\\n/srv/more'\n:env:.cert='/etc/c.pem'\n"
    )
    found = pip_settings(listing)
    assert found == {
        "PIP_INDEX_URL": "file:///srv/index",
        "PIP_FIND_LINKS": "/srv/wheels /srv/more",
        "PIP_CERT": "/etc/c.pem",
    }
    assert local_places(found) == ("/srv/index", "/srv/wheels", "/srv/more", "/etc/c.pem")


CAUSES = {
    "FATAL:   while creating squashfs: Write failed because No space left on device": "disk is full",
    "OSError: [Errno 122] Disk quota exceeded: '/p/project/x/y'": "a disk quota is used up: /p/project/x/y",
    "fatal error: failed to reserve page summary memory": "not enough memory (ulimit -v allows 2.0 GiB",
    "FATAL ERROR: Out of memory (cache_init)": "not enough memory",
    "runtime: failed to create new OS thread (have 9 already; errno=11) newosproc": "no more processes or threads",
    "FATAL:   could not use fakeroot: no mapping entry found in /etc/subuid for user": "fakeroot can't be used here",
    "lchown /scratch/x/dev/console: operation not permitted": "file owners or devices of the image",
    "dial tcp: lookup registry: no such host": "the network can't be reached",
    "FATAL:   while running %post: exit status 137, signal: killed": "it was killed, most likely for using too much",
    "ERROR: ResolutionImpossible: for help": "the requirements do not fit",
}


@pytest.mark.parametrize("line", CAUSES)
def test_the_cause_of_a_failure_is_reported_from_what_was_printed(line: str) -> None:
    what, hint = explain(255, ["INFO: x", line, "INFO: cleaning up"], Limits(2 << 30, "ulimit -v"))
    assert CAUSES[line] in what
    assert hint


@pytest.mark.parametrize(
    ("code", "wanted"),
    [(-9, "killed"), (137, "killed"), (-24, "processor time"), (-11, "SIGSEGV"), (7, "exit code 7: a")],
)
def test_the_cause_of_a_failure_is_reported_from_its_exit_code(code: int, wanted: str) -> None:
    assert wanted in explain(code, ["a"])[0]


def test_the_program_that_looks_into_images_tells_what_this_python_has() -> None:
    from pathlib import Path

    import oellm_autoexp
    from oellm_autoexp.containers import inside

    program = Path(inside.__file__).read_text()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"] == oellm_autoexp.__version__
    assert found["digest"] == inside.source_digest(str(Path(oellm_autoexp.__file__).parent))
