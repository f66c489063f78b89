"""A scheduler of another package: jobs of this machine, run by a daemon."""
