"""The environment of a script: its modules, the variables that it exports, and those that it hides from srun. Pure."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence

from oellm_autoexp.core.errors import Problem
from oellm_autoexp.core.location import Location
from oellm_autoexp.core.text import Raw, shell

OF_SRUN_ALONE = tuple(
    """
    SLURM_ACCTG_FREQ SLURM_BCAST SLURM_BCAST_EXCLUDE SLURM_BURST_BUFFER SLURM_CLUSTERS SLURM_COMPRESS SLURM_CONSTRAINT
    SLURM_CORE_SPEC SLURM_CPU_BIND SLURM_DEBUG SLURM_DEBUG_FLAGS SLURM_DELAY_BOOT SLURM_DEPENDENCY SLURM_DISABLE_STATUS
    SLURM_EPILOG SLURM_EXACT SLURM_EXCLUSIVE SLURM_EXIT_ERROR SLURM_EXIT_IMMEDIATE SLURM_GRES SLURM_GRES_FLAGS
    SLURM_HOSTFILE SLURM_IMMEDIATE SLURM_KILL_BAD_EXIT SLURM_LABELIO SLURM_MPI_TYPE SLURM_NETWORK SLURM_NO_KILL
    SLURM_OVERLAP SLURM_POWER SLURM_PROLOG SLURM_REMOTE_CWD SLURM_REQ_SWITCH SLURM_RESERVATION SLURM_RESV_PORTS
    SLURM_SEND_LIBS SLURM_SIGNAL SLURM_SPREAD_JOB SLURM_SRUN_MULTI SLURM_SRUN_REDUCE_TASK_EXIT_MSG SLURM_STDERRMODE
    SLURM_STDINMODE SLURM_STDOUTMODE SLURM_STEP_GRES SLURM_TASK_EPILOG SLURM_TASK_PROLOG SLURM_TEST_EXEC SLURM_THREADS
    SLURM_THREAD_SPEC SLURM_TIMELIMIT SLURM_UNBUFFEREDIO SLURM_USE_MIN_NODES SLURM_WAIT SLURM_WAIT4SWITCH SLURM_WCKEY
    SLURM_WORKING_DIR SRUN_CONTAINER SRUN_CONTAINER_ID SRUN_CPUS_PER_TASK SRUN_DEBUG SRUN_ERROR SRUN_EXPORT_ENV
    SRUN_INPUT SRUN_OUTPUT SRUN_SEGMENT_SIZE
    """.split()  # noqa: SIM905  a table is read more easily than a list of quoted words
)
"""Variables that srun reads (srun(1), INPUT ENVIRONMENT VARIABLES) and that SLURM itself sets for no job."""
_OF_JOBS = tuple(
    """
    SLURM_CONTAINER SLURM_CPUS_PER_GPU SLURM_CPUS_PER_TASK SLURM_CPU_FREQ_REQ SLURM_DIST_PLANESIZE SLURM_DISTRIBUTION
    SLURM_EXPORT_ENV SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_SOCKET SLURM_GPUS_PER_TASK SLURM_GPU_BIND
    SLURM_GPU_FREQ SLURM_HET_SIZE SLURM_HINT SLURM_JOBID SLURM_JOB_ID SLURM_JOB_NAME SLURM_JOB_NODELIST
    SLURM_JOB_NUM_NODES SLURM_MEM_BIND SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE SLURM_NNODES
    SLURM_NODELIST SLURM_NPROCS SLURM_NTASKS SLURM_NTASKS_PER_CORE SLURM_NTASKS_PER_GPU SLURM_NTASKS_PER_NODE
    SLURM_NTASKS_PER_SOCKET SLURM_NTASKS_PER_TRES SLURM_OPEN_MODE SLURM_OVERCOMMIT SLURM_PROFILE
    SLURM_TASKS_PER_NODE SLURM_THREADS_PER_CORE SLURM_TRES_BIND SLURM_TRES_PER_TASK SLURM_UMASK
    """.split()  # noqa: SIM905
)
"""Variables that srun reads, too, and that sbatch sets only for jobs that ask for it: in other jobs, old values would
change what srun does."""
SRUN_INPUTS = frozenset((*OF_SRUN_ALONE, *_OF_JOBS))
"""The variables that a submission must not pass on. Account, partition and QOS are not among them: a step has those of
its job."""

REFERENCE = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
OF_TASKS = re.compile(r"\$\{?(SLURM_(?:PROCID|LOCALID|NODEID|TASK_PID|STEP_\w+|STEPID|GTIDS)|SLURMD_NODENAME)\b")
"""References to variables that srun sets for each task (srun(1)). In the job's script their values differ."""
_CODE = re.compile(r"\$\(.*\)|`.*`", re.DOTALL)
"""Shell code (shell_code.py), which the script runs on the first node."""
_ANSWERED = {
    **dict.fromkeys(("SLURM_EXPORT_ENV", "SRUN_EXPORT_ENV"), "export"),
    **dict.fromkeys(("SLURM_STDOUTMODE", "SRUN_OUTPUT"), "output"),
    **dict.fromkeys(("SLURM_STDERRMODE", "SRUN_ERROR"), "error"),
}


def module_lines(commands: Sequence[str]) -> str:
    """Lines that run `module` (Lmod, Environment Modules) with the words of each command; a failure ends the script.

    In a batch script `module` is a function that start-up files of the site define; if the shell has not read them, the
    script reads them.
    """
    if not commands:
        return ""
    lines = [f"module {shell(shlex.split(command))} || exit 1" for command in commands]
    return "\n".join(("command -v module >/dev/null || . /etc/profile", *lines, ""))


def _wrapped(prefix: str) -> str:
    """The names of OF_SRUN_ALONE with this prefix, without the prefix, as lines of words of a shell."""
    names = (name.removeprefix(prefix) for name in OF_SRUN_ALONE if name.startswith(prefix))
    return " \\\n  ".join(textwrap.wrap(" ".join(names), 112))


_FOR_SRUN = f"""\
# What srun would take from the shell that submitted this job (srun(1)): the config decides.
for autoexp_name in {_wrapped("SLURM_")}; do
  unset "SLURM_$autoexp_name"
done
for autoexp_name in {_wrapped("SRUN_")}; do
  unset "SRUN_$autoexp_name"
done
export SLURM_EXPORT_ENV=ALL  # what is exported below reaches the tasks, whatever --export brought here
# Since 22.05 srun does not take it from the job: each task would get one core.
[ -z "${{SLURM_CPUS_PER_TASK-}}" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
"""


def exports(env: Mapping[str, str | Raw], *, for_slurm: bool) -> str:
    """The lines of a script that set the job's environment; with `for_slurm`, lines for srun come before them.

    A value with shell code is Raw. If the code fails, the job continues, and its log says so.
    """
    lines = "\n".join(
        _EVALUATED.format(name=name, value=value.text) if isinstance(value, Raw) else f"export {name}={expanded(value)}"
        for name, value in env.items()
    )
    return _FOR_SRUN + lines if for_slurm else lines


_EVALUATED = """\
{name}={value} || echo 'oellm-autoexp: the shell code of {name} has failed' >&2
export {name}"""


def hidden_problems(env: Mapping[str, str], where: Location) -> list[Problem]:
    """Problems of variables in the section `where` that change srun: only a key of `slurm.srun` can do that."""
    return [
        Problem(
            f"{name} would change srun without this program knowing it",
            where / name,
            f"set slurm.srun.{_ANSWERED[name]}",
        )
        for name, value in env.items()
        if name in _ANSWERED and not value.upper().startswith("ALL")
    ]


def task_problems(env: Mapping[str, str], where: Location) -> list[Problem]:
    """Problems of variables in the section `where` whose values refer to variables of single tasks of srun."""
    found = []
    for name, value in env.items():
        if of_task := OF_TASKS.search(_CODE.sub("", value)):
            what = f"${of_task[1]} has the value of the script here, the same for all tasks"
            hint = (
                "the program itself can read the value of its task; or start it by sh -c, which sets the variable first"
            )
            found.append(Problem(what, where / name, hint))
    return found


def expanded(text: str, pattern: re.Pattern[str] = REFERENCE) -> str:
    """A text as one quoted word of a script, in which only variables of the job expand: `$NAME`, `${NAME}`.

    `pattern` finds these references.
    """
    words: list[str | Raw] = []
    position = 0
    for match in pattern.finditer(text):
        if match.start() > position:
            words.append(text[position : match.start()])
        words.append(Raw(f'"{match.group()}"'))
        position = match.end()
    if position < len(text) or not words:
        words.append(text[position:])
    return "".join(shell([word]) for word in words)
