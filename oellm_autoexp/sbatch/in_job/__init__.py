"""What the script of a job does around its program within one allocation: preflight checks, restarts. Pure."""
