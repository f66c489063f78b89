"""Why an attempt failed: from the lines of its logs and what the scheduler reports to one root cause. Pure."""
