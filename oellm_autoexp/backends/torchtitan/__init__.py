"""torchtitan as a backend."""
