"""What a script does where a node of a running step is lost, with an srun and an scontrol that say what they are told.

On a real SLURM: tests/flow/test_nodes_that_die.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from oellm_autoexp.sbatch import script
from oellm_autoexp.sbatch.in_job import lost_nodes
from oellm_autoexp.sbatch.in_job.preflight import Preflight
from oellm_autoexp.sbatch.in_job.steps import Steps
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.session.status_files import sick_nodes

TEMPLATE = (Path(script.__file__).parent / "job.sbatch.template").read_text()
SRUN = r"""#!/bin/bash
for word; do case $word in --nodelist=*) nodes=${word#*=} ;; esac; done
# srun asks for no more nodes than these variables say
[[ -z $nodes || $SLURM_JOB_NODELIST == "$NODES" ]] || exit 1
if [[ "$*" == *autoexp_alive* ]]; then  # each node speaks until it is silent
  for ((beat = 0; beat < 60; beat++)); do
    for node in ${nodes//,/ }; do ((beat < 2)) && echo "$node" || [ -e "$PLACE/silent.$node" ] || echo "$node"; done
    sleep 1
  done
elif [ -n "$nodes" ]; then
  [ -e "$PLACE/dead.$nodes" ] && exit 1
  [ -e "$PLACE/empty.$nodes" ] && { echo "$nodes 0"; exit; }
  SLURMD_NODENAME=$nodes exec bash -c "${@: -1}"
else
  trap 'kill %1; exit 143' TERM
  [ -e "$PLACE/bare" ] || export SLURM_STEP_ID=0
  for node in n1 n2; do SLURMD_NODENAME=$node "$@" & done
  wait %1
fi
"""
SCONTROL = r"""#!/bin/bash
case "$*" in
  *hostnames*) printf '%s\n' "${!#}" | tr , '\n' ;;
  *config*) echo "SlurmdTimeout           = $TIMEOUT sec" ;;
  *) echo "JobId=7 JobState=RUNNING NodeList=$NODES" ;;
esac
"""


def tools(folder: Path, nodes: int = 3) -> dict[str, str]:
    """The environment of a job of so many nodes, whose commands of SLURM are these."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sinfo", "#!/bin/bash\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    names = ",".join(f"n{number}" for number in range(1, nodes + 1))
    own = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": names,
        "NODES": names,
        "SLURMD_NODENAME": "n1",
        "PLACE": str(folder),
    }
    return {"PATH": f"{folder}:{os.environ['PATH']}", "TIMEOUT": "5", **own}


def ran(folder: Path, program: str, *, nodes: int = 3, restarts: int = 1) -> tuple[int, str, list[str]]:
    """The exit code of a job whose program is a line of bash, what it has written, and the nodes left out.

    One of its nodes is a spare one.
    """
    environment = tools(folder, nodes)
    first = '[[ $AUTOEXP_STEP == *".1 of "* ]] || exit 0; '
    whole = script.render(
        TEMPLATE,
        name="job",
        lines=(),
        env={},
        work_dir=str(folder),
        log_path=f"{folder}/log",
        marks=f"{folder}/marks",
        launcher=Launcher(("srun",)),
        argv=["bash", "-c", first + program],
        for_slurm=True,
        steps=Steps(restarts, 1, "srun", f"{folder}/log", Preflight()),
    )
    (folder / "job.sbatch").write_text(whole)
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            ["/bin/bash", folder / "job.sbatch"], env=environment, stdout=log, stderr=log, check=False
        )
    left_out = [f"{sick.node}: {sick.reason}" for sick in sick_nodes(folder / "marks", "7")]
    return done.returncode, (folder / "log").read_text(), left_out


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_nodes, "_SAYS_SECONDS", 1)
    monkeypatch.setattr(lost_nodes, "_LEAST_SILENCE_SECONDS", 3)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_a_step_whose_node_is_silent_and_dead_is_ended_and_followed_by_another(tmp_path: Path) -> None:
    touch(tmp_path, "silent.n2", "dead.n2")
    code, log, left_out = ran(tmp_path, "sleep 30")
    assert (code, left_out) == (0, ["n2: it gave no sign of life"])
    assert "step 1 is ended: for 3 s there was no sign of life of n2\n" in log
    assert "restart 1 of 1 in the job: on n1,n3, as step 1 ended with exit code 143\n" in log


def test_a_node_that_has_lost_the_tasks_of_the_program_is_lost_though_it_answers(tmp_path: Path) -> None:
    touch(tmp_path, "silent.n2", "empty.n2")
    code, log, left_out = ran(tmp_path, "sleep 30")
    assert (code, left_out) == (0, ["n2: it gave no sign of life"]), log


@pytest.mark.parametrize(
    ("signs", "program", "options"),
    [
        (("silent.n2",), "sleep 9", {}),
        (("silent.n2", "empty.n2", "bare"), "sleep 9", {}),
        (("silent.n2", "dead.n2"), "for ((i = 0; i < 18; i++)); do echo; sleep 0.5; done", {}),
        (("silent.n1", "silent.n2", "dead.n2"), "sleep 9", {}),
        (("silent.n2", "dead.n2", "dead.n1"), "sleep 9", {}),
        (("silent.n2", "dead.n2", "silent.n3", "dead.n3"), "sleep 9", {"nodes": 4}),
        (("silent.n2", "dead.n2"), "sleep 9", {"restarts": 0}),
    ],
    ids=[
        "a task begins on it, where others are",
        "a task begins on it, and no task can be seen anywhere",
        "the log grows",
        "the node of the script is silent, too",
        "no task begins anywhere",
        "no step could follow without it",
        "no restart is left",
    ],
)
def test_a_step_is_not_ended_for_less(
    tmp_path: Path, signs: tuple[str, ...], program: str, options: dict[str, int]
) -> None:
    touch(tmp_path, *signs)
    code, log, left_out = ran(tmp_path, program, **options)
    assert (code, left_out) == (0, []), log
    assert "sign of life" not in log


def test_what_watched_a_step_ends_with_it(tmp_path: Path) -> None:
    ran(tmp_path, "exit 3")
    own = f"PLACE={tmp_path}".encode()
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if own in read(path).split(b"\0")]
    for path in left:  # they have been asked to end, and need a moment
        subprocess.run(["timeout", "10", "tail", "--pid", path.parent.name, "-f", "/dev/null"], check=True)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def shell(folder: Path, lines: str, **environment: str) -> str:
    whole = f"autoexp_log_file=/dev/null\n{lost_nodes.functions()}\n{lines}"
    done = subprocess.run(
        ["/bin/bash", "-c", whole], env=tools(folder) | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(("timeout", "seconds"), [("300", "60"), ("14", "3"), ("0", "60"), ("x", "60"), ("60", "12")])
def test_how_long_a_node_must_be_silent_follows_from_when_slurm_counts_it_as_dead(
    tmp_path: Path, timeout: str, seconds: str
) -> None:
    assert shell(tmp_path, "autoexp_silence", TIMEOUT=timeout) == seconds


def test_a_name_that_comes_in_two_parts_is_one_name(tmp_path: Path) -> None:
    lines = """
declare -A heard=()
part=''
exec {from}< <(printf 'nod'; sleep 1.5; printf 'e1\\nnode2\\nnobody\\nnode')
for ((i = 0; i < 6; i++)); do autoexp_hear 1 node1 node2; done
printf '%s\\n' "${!heard[@]}"
"""
    assert sorted(shell(tmp_path, lines).split()) == ["node1", "node2"]
