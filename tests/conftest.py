"""Fixtures for every test: a real SLURM and Megatron's own parser where they are installed."""

pytest_plugins = ["tests.slurm.fixtures", "tests.megatron.fixtures"]
