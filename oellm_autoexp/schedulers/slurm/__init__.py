"""SLURM as a scheduler."""
