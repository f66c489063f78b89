"""Keys that other tools have for what a key here says, or that are not needed here, with what to write. Pure."""

from __future__ import annotations

from oellm_autoexp.sbatch.known_options import OPTIONS
from oellm_autoexp.sbatch.options import long_name

_INSTEAD = {
    "sweep.store_sweep_json": "leave it out: outputs/sweep.json leads to the newest plan's sweep",
    "sweep.name_template": "write project.name in sweep.base_values, such as 'run_${backend.options.lr}'",
    "slurm.log_dir": "write project.log_path, the path of a log",
    "slurm.script_dir": "leave it out: a job's script is in its output directory (job.sbatch)",
    "slurm.test_only": "leave it out: `--check` asks `sbatch --test-only`",
    "slurm.launcher_env_passthrough": "leave it out: slurm.env and backend.env reach every task",
    "monitoring.check_interval_seconds": "write monitoring.poll_interval_seconds",
    "monitoring.log_path": "write project.log_path",
    "job.name": "write project.name",
}


def instead(key: str) -> str:
    """What to write in place of a dotted key that is none here; '' if that is not known."""
    section, _, option = key.partition(".")
    if key not in _INSTEAD and section == "slurm" and long_name(option).replace("_", "-") in OPTIONS:
        return f"write slurm.sbatch.{option}"
    return _INSTEAD.get(key, "")
