"""An output root on a file system that is full, of bytes or of files: plan, submission and check_cluster say so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.flow.conftest import QUICK, User

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a file system")
TOLD = {
    "bytes": "the file system is full: remove files there",
    "files": "no more files can be created on this file system: its inodes are used up; remove files there",
}


@pytest.fixture(params=TOLD)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small(user: User, kind: str) -> Iterator[User]:
    """A user whose output root is a file system of its own, which is small in one way."""
    root = user.home / "small"
    root.mkdir()
    size = {"bytes": "size=1m", "files": "size=50m,nr_inodes=400"}[kind]
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(root)], check=True)
    try:
        yield User(user.home, {**user.environment, "OUTPUT_DIR": str(root)})
    finally:
        subprocess.run(["umount", str(root)], check=True)


def fill(user: User) -> None:
    """Leave no room in the output root: neither for a file, where there may be few, nor for a byte."""
    root = Path(user.environment["OUTPUT_DIR"])
    with suppress(OSError):
        for number in range(400):
            (root / f"filler{number}").touch()
    with suppress(OSError):
        (root / "filler0").write_bytes(bytes(2 << 20))


@pytest.mark.slow
def test_a_plan_is_not_made_and_none_is_left_in_part(small: User, kind: str) -> None:
    fill(small)
    before = sorted(Path(small.environment["OUTPUT_DIR"]).rglob("*"))
    for more in ((), ("--json",)):
        result = small.run("plan", *QUICK, *more)
        assert result.returncode == 2
        assert "No space left on device" in result.stderr
        assert TOLD[kind] in result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(Path(small.environment["OUTPUT_DIR"]).rglob("*")) == before


@pytest.mark.slow
def test_a_plan_that_is_there_is_not_submitted(small: User, kind: str) -> None:
    planned = small.run("plan", *QUICK, "--plan-id", "x", "slurm=fake")
    assert planned.returncode == 0, planned.stderr
    fill(small)
    manifest = f"{small.environment['OUTPUT_DIR']}/manifests/x.json"
    result = small.run("submit", "--manifest", manifest)
    assert result.returncode == 2, result.stdout
    assert "No space left on device" in result.stderr
    assert TOLD[kind] in result.stderr
    assert "Traceback" not in result.stderr
    for path in Path(small.environment["OUTPUT_DIR"]).glob("filler*"):
        path.unlink()
    assert small.run("submit", "--manifest", manifest, "--no-monitor").returncode == 0


@pytest.mark.slurm
def test_check_cluster_tells_it(slurm: object, small: User, kind: str) -> None:
    fill(small)
    result = User(small.home, {**small.environment, "SLURM_CONF": os.environ["SLURM_CONF"]}).run("check_cluster")
    assert result.returncode == 1
    assert "can't write 1 MiB: No space left on device" in result.stdout
    assert TOLD[kind] in result.stdout
