"""A user at each site: its cluster, and its account in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import SlurmSection
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.schedulers.site import Site as Allowed
from oellm_autoexp.schedulers.slurm.site_answers import read
from oellm_autoexp.testing.plans import plan_of
from tests.flow.conftest import User
from tests.sites.laboratory import SITES, Site
from tests.slurm.cluster import Cluster
from tests.slurm.machine import user_name

SiteCluster = tuple[Site, Cluster, Allowed]


@dataclass(frozen=True)
class AtSite:
    """A user of a site, for whom plans are made."""

    site: Site
    cluster: Cluster
    live: Allowed
    """What the cluster's SLURM reports of itself."""
    user: User

    def plans(self, ref: str, *overrides: str, **more: str) -> Callable[..., tuple[str, ...]]:
        """Composes an experiment once, for this user with some variables more, and makes the scripts of its plan.

        With `live` by what SLURM reports, else by what the profile says. Raises as make_plan.
        """
        composed = load(Source(f"experiments/{ref}", overrides=overrides))
        environment = {**self.user.environment, **more}
        around = PlanContext(datetime.now(UTC), self.user.home, "python3", environment, ("x",), "me", "here", "00")

        def scripts(*, live: bool = True, first: bool = False) -> tuple[str, ...]:
            def allowed(_: SlurmSection) -> Allowed:
                return self.live if live else Allowed()

            subset = frozenset({0}) if first else None
            return plan_of(composed, around, site=allowed, subset=subset).scripts

        return scripts

    def judged(self, script: str, *options: str) -> str:
        """What SLURM itself says of a script, with other options."""
        file = self.user.home / "job.sbatch"
        file.write_text(script)
        return self.cluster.run("sbatch", "--test-only", *options, str(file), check=False).stderr


@pytest.fixture(scope="session", params=SITES)
def site_cluster(request: pytest.FixtureRequest, slurm_directory: Path) -> Iterator[SiteCluster]:
    """A site's cluster, and what its SLURM shows a user."""
    site = Site.load(request.param)
    with site.running(slurm_directory / site.name) as cluster:
        yield site, cluster, read(lambda command, words: cluster.run(command, *words).stdout, user_name())


@pytest.fixture
def at_site(site_cluster: SiteCluster, tmp_path: Path) -> AtSite:
    site, cluster, live = site_cluster
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "USER": "somebody",
        "PYTHONWARNINGS": "error",
        "DATA_DIR": "/data",
        "SLURM_ACCOUNT": site.account,
        **site.variables,
        **cluster.environment(),
    }
    return AtSite(site, cluster, live, User(home, environment))
