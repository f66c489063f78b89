"""A user at each site: its cluster, its account in the environment, and programs that sites have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oellm_autoexp.config.loader import Source, load
from oellm_autoexp.config.schema import SlurmSection
from oellm_autoexp.files import shipped
from oellm_autoexp.slurm.site import Site as Allowed
from oellm_autoexp.slurm.site import read
from oellm_autoexp.workflow.plan import make_plan
from oellm_autoexp.workflow.provenance import Circumstances
from tests.flow.conftest import User
from tests.sites.laboratory import SITES, Site
from tests.slurm.cluster import Cluster
from tests.slurm.machine import user_name

TEMPLATE = shipped("oellm_autoexp/slurm/job.sbatch.template").read_text()
GETENT = """\
#!/bin/sh
# The name service of the site: every node has an address.
printf '10.0.0.%s     STREAM %s\\n' "${2##*-}" "$2"
"""
MODULE = 'module() { echo "module $*" >> "$RECORDS/modules"; }\n'
TRAINER = """\
env -0 > "$RECORDS/$SLURM_JOB_ID.$RANK"
printf '%s\\n' "$@" > "$RECORDS/$SLURM_JOB_ID.$RANK.arguments"
"""


@dataclass(frozen=True)
class AtSite:
    """A user of a site. What the trainer saw is in `records`: an environment and the arguments of each rank."""

    site: Site
    cluster: Cluster
    live: Allowed
    """What the cluster's SLURM tells of itself."""
    user: User
    records: Path

    @property
    def stub(self) -> tuple[str, ...]:
        """Overrides that put the trainer into the place of Megatron."""
        trainer = self.records.with_name("bin") / "trainer"
        return "backend.python=bash", f"backend.script={trainer}", "monitoring.poll_interval_seconds=0.2"

    def plans(self, ref: str, *overrides: str, **more: str) -> Callable[..., tuple[str, ...]]:
        """Composes an experiment once, for this user with some variables more, and makes the scripts of its plan.

        With `live` by what SLURM tells, else by what the profile says. Raises as make_plan.
        """
        composed = load(Source(f"experiments/{ref}", overrides=overrides))
        environment = {**self.user.environment, **more}
        around = Circumstances(datetime.now(UTC), self.user.home, "python3", environment, ("x",), "me", "here", "00")

        def scripts(*, live: bool = True, first: bool = False) -> tuple[str, ...]:
            def allowed(_: SlurmSection) -> Allowed:
                return self.live if live else Allowed()

            subset = frozenset({0}) if first else None
            return make_plan(composed, around, read_template=lambda _: TEMPLATE, site=allowed, subset=subset).scripts

        return scripts

    def judged(self, script: str, *options: str) -> str:
        """What SLURM itself says of a script, with other options."""
        file = self.user.home / "job.sbatch"
        file.write_text(script)
        return self.cluster.run("sbatch", "--test-only", *options, str(file), check=False).stderr

    def ranks(self) -> list[dict[str, str]]:
        """The environments of all ranks of all jobs."""
        files = [file for file in self.records.iterdir() if file.suffix[1:].isdecimal()]
        entries = [file.read_text().rstrip("\0").split("\0") for file in files]
        return [dict(entry.split("=", 1) for entry in environment) for environment in entries]


@pytest.fixture(scope="session", params=SITES)
def site_cluster(request: pytest.FixtureRequest, slurm_directory: Path) -> Iterator[tuple[Site, Cluster, Allowed]]:
    """A site's cluster, and what its SLURM tells a user."""
    site = Site.load(request.param)
    with site.running(slurm_directory / site.name) as cluster:
        yield site, cluster, read(lambda command, words: cluster.run(command, *words).stdout, user_name())


@pytest.fixture
def at_site(site_cluster: tuple[Site, Cluster, Allowed], tmp_path: Path) -> AtSite:
    """A user of a site, with the trainer in place of Python."""
    site, cluster, live = site_cluster
    home, records, programs = tmp_path / "home", tmp_path / "records", tmp_path / "bin"
    for folder in (home, records, programs):
        folder.mkdir()
    (programs / "getent").write_text(GETENT)
    (programs / "getent").chmod(0o755)
    (programs / "trainer").write_text(TRAINER)
    (programs / "module.sh").write_text(MODULE)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "USER": "somebody",
        "PYTHONWARNINGS": "error",
        "BASH_ENV": str(programs / "module.sh"),
        "RECORDS": str(records),
        "DATA_DIR": "/data",
        "SLURM_ACCOUNT": site.account,
        **site.variables,
        **cluster.environment(),
    }
    return AtSite(site, cluster, live, User(home, environment), records)
