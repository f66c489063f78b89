"""Fixtures that give a test a real SLURM, started when the first test asks for it and stopped with the session.

`slurm`, `slurm_no_accounting`: what most tests want. SLURM_CONF points to the shared cluster during the test, and
afterwards jobs are cancelled and whatever the test froze or killed works again.
`make_slurm_cluster`: a cluster of the test's own, with its own knobs.
`slurm_cluster`, `slurm_cluster_without_accounting`: the shared clusters; they leave the environment as it is.

Every test that uses one of them is marked `slurm`. Where SLURM is not installed it is skipped, or fails if
AUTOEXP_REQUIRE_SLURM=1. Each worker of pytest-xdist has clusters of its own.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster

FIXTURES = {
    "slurm",
    "slurm_no_accounting",
    "slurm_cluster",
    "slurm_cluster_without_accounting",
    "make_slurm_cluster",
    "site_cluster",
}
SESSION_PREFIX = "autoexp-test-"
CLIENT_VARIABLES = ("SLURM", "SBATCH", "SRUN", "SALLOC", "SQUEUE", "SACCT", "SINFO", "SCANCEL", "SCONTROL")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slurm: needs a real SLURM; set by the fixtures of tests/slurm")


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # the mark alone: of tests that choose their cluster as they run
        if FIXTURES & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("slurm"):
            item.add_marker("slurm")
            # With --dist loadgroup, a file's tests stay together, and come before those that need no component: most of
            # their time is waiting, so that files run side by side. Each worker starts its shared clusters once.
            if item.get_closest_marker("xdist_group") is None:  # tests of containers stay with their images
                item.add_marker(pytest.mark.xdist_group(f"slurm of {item.path.stem}"))


@pytest.fixture(scope="session")
def slurm_directory() -> Iterator[Path]:
    """Where the clusters of this session live. It is locked, so that another session knows whose owner has died."""
    _clean_after_dead_sessions()
    directory = Path(tempfile.mkdtemp(prefix=SESSION_PREFIX))
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def slurm_cluster(slurm_directory: Path) -> Iterator[Cluster]:
    with running(Cluster(slurm_directory / "a")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_cluster_without_accounting(slurm_directory: Path) -> Iterator[Cluster]:
    with running(Cluster(slurm_directory / "b", accounting=False)) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    use(slurm_cluster, monkeypatch)
    yield slurm_cluster
    slurm_cluster.reset()


@pytest.fixture
def slurm_no_accounting(
    slurm_cluster_without_accounting: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    use(slurm_cluster_without_accounting, monkeypatch)
    yield slurm_cluster_without_accounting
    slurm_cluster_without_accounting.reset()


@pytest.fixture
def make_slurm_cluster(slurm_directory: Path) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster with the given knobs of `Cluster`, without accounting by default; it ends with the test."""
    with contextlib.ExitStack() as clusters:

        def make(**knobs: Any) -> Cluster:
            directory = Path(tempfile.mkdtemp(prefix="c", dir=slurm_directory))
            return clusters.enter_context(running(Cluster(**{"directory": directory, "accounting": False, **knobs})))

        yield make


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """Start a cluster and remove it in the end; where it can't run, the test is skipped, or fails."""
    if reason := cluster.missing():
        if os.environ.get("AUTOEXP_REQUIRE_SLURM") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.clean()


def use(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point SLURM's commands to the cluster; what a surrounding job or a user's profile set for them is gone."""
    for name in list(os.environ):
        if name.startswith(CLIENT_VARIABLES):
            monkeypatch.delenv(name)
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)


def _clean_after_dead_sessions() -> None:
    """A killed session leaves its daemons behind, but not its lock."""
    for lock_file in Path(tempfile.gettempdir()).glob(f"{SESSION_PREFIX}*/lock"):
        session = lock_file.parent
        clusters = [Cluster.load(knobs.parent) for knobs in session.glob("*/cluster.json")]
        if not clusters or session.stat().st_uid != os.getuid():
            continue
        with lock_file.open("a") as lock, contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for cluster in filter(None, clusters):
                cluster.clean()
            shutil.rmtree(session)
