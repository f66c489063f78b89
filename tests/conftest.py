"""Fixtures for every test: a real SLURM, a real Apptainer and Megatron's own parser where they are installed."""

import os

from hypothesis import settings

pytest_plugins = ["tests.containers.fixtures", "tests.slurm.fixtures", "tests.megatron.fixtures"]

# The same inputs in every run, so that a test fails for a change and not by chance; `make fuzz` looks for new ones.
settings.register_profile("repeatable", derandomize=True)
if "AUTOEXP_FUZZ_SEED" not in os.environ:
    settings.load_profile("repeatable")
