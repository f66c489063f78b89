"""Plan, submit, watch and resume sweeps of training jobs on SLURM clusters and laptops."""

__version__ = "0.1.0"
