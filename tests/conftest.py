"""Fixtures for every test: a real SLURM, a real Apptainer and Megatron's own parser where they are installed."""

pytest_plugins = ["tests.containers.fixtures", "tests.slurm.fixtures", "tests.megatron.fixtures"]
