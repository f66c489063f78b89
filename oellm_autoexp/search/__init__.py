"""How lines of logs are found: patterns, fast and under a time limit. Pure."""
