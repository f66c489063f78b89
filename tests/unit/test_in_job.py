"""What a script does around its program within one job: text that bash runs, sizes, refused sections, status files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import AutoexpError, ConfigError
from oellm_autoexp.decisions.detect import Detector
from oellm_autoexp.decisions.restarts import IN_JOB, is_past, planned, refusal, step_begun
from oellm_autoexp.rules.actions import RestartAction
from oellm_autoexp.rules.rules import Rules
from oellm_autoexp.sbatch import script
from oellm_autoexp.sbatch.directives import options
from oellm_autoexp.sbatch.in_job.preflight import Preflight
from oellm_autoexp.sbatch.in_job.steps import Steps
from oellm_autoexp.sbatch.launch import Launcher, terminal_problems
from oellm_autoexp.sbatch.section import PreflightCheck
from oellm_autoexp.session import status_files
from oellm_autoexp.session.job_state import JobState, Reading
from oellm_autoexp.session.status_files import SickNode, Step, sick_nodes, steps_after
from oellm_autoexp.storage.log_tail import Cursor
from oellm_autoexp.testing.jobs import changed, job_state
from tests.flow.conftest import until
from tests.unit.test_launching import planned as plan

TEMPLATE = (Path(script.__file__).parent / "job.sbatch.template").read_text()
COMMAND = ("backend=command", "backend.argv=[train]")
NODES: dict[str, Any] = {
    "client": {"class_name": "SlurmClient"},
    "sbatch": {"nodes": 2, "ntasks_per_node": 4, "time": "01:00:00"},
}


def text(
    folder: Path,
    argv: list[str],
    restarts: int = 0,
    checks: tuple[dict[str, Any], ...] = (),
    env: dict[str, str] | None = None,
    lines: tuple[str, ...] = (),
    image: str = "",
) -> str:
    """A script that runs on this machine, as on the local scheduler."""
    preflight = Preflight(tuple(PreflightCheck(**check) for check in checks), gpus=2, image=image)
    return script.render(
        TEMPLATE,
        name="job",
        lines=lines,
        env=env or {},
        work_dir=str(folder),
        log_path=f"{folder}/log",
        marks=f"{folder}/marks",
        launcher=Launcher(),
        argv=argv,
        for_slurm=False,
        steps=Steps(restarts, 0, "", f"{folder}/log", preflight),
    )


def ran(folder: Path, whole: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What bash makes of a script."""
    file = folder / "job.sbatch"
    file.write_text(whole)
    subprocess.run(["/bin/bash", "-n", file], check=True)
    own = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["/bin/bash", file], env=own, cwd="/", capture_output=True, text=True, check=False)


def counting(folder: Path, then: str) -> list[str]:
    """A program that knows how often it has run (`$n`), and ends as `then` says."""
    return ["bash", "-c", f'echo x >> "$0/runs"; n=$(wc -l < "$0/runs"); {then}', str(folder)]


def runs(folder: Path) -> int:
    return (folder / "runs").read_text().count("x")


# ---- the loop


def test_a_program_that_fails_once_runs_again_in_the_same_job(tmp_path: Path) -> None:
    done = ran(tmp_path, text(tmp_path, counting(tmp_path, "exit $((n == 1 ? 5 : 0))"), restarts=2))
    assert (done.returncode, runs(tmp_path)) == (0, 2)
    said = r"oellm-autoexp: restart 1 of 2 in the job: on \S+, as step 1 ended with exit code 5\n"
    assert re.fullmatch(said, done.stdout)
    assert done.stderr == ""
    first, second = steps_after(tmp_path / "marks", "0", 0)
    assert (first.number, first.most, first.why) == (1, 3, "")
    assert (second.number, second.most, second.why) == (2, 3, "step 1 ended with exit code 5")
    ended = [(tmp_path / "marks" / f"0.step{number}.exit").read_text().split("\n")[0] for number in (1, 2)]
    assert ended == ["5", "0"]
    assert (tmp_path / "marks" / "0.exit").read_text() == "0\n"
    assert status_files.started(tmp_path / "marks") == {"0": ""}, "its steps are no jobs"


@pytest.mark.parametrize(
    ("code", "expected", "words"),
    [
        (0, 1, ""),
        (1, 3, "step 3 was the last of 3"),
        (93, 1, "exit code 93 asks for no restart"),
        (16, 1, "exit code 16 asks for other nodes, and there are none"),
    ],
)
def test_what_follows_an_exit_code(tmp_path: Path, code: int, expected: int, words: str) -> None:
    done = ran(tmp_path, text(tmp_path, counting(tmp_path, f"exit {code}"), restarts=2))
    assert (done.returncode, runs(tmp_path)) == (code, expected)
    assert words in done.stdout
    assert ("no restart in the job: " in done.stdout) == bool(words)


def test_a_job_without_restarts_says_nothing_of_them(tmp_path: Path) -> None:
    done = ran(tmp_path, text(tmp_path, counting(tmp_path, "exit 5")))
    assert (done.returncode, done.stdout, runs(tmp_path)) == (5, "", 1)


def test_in_a_terminal_the_program_runs_once_and_nothing_is_checked(tmp_path: Path) -> None:
    whole = text(tmp_path, counting(tmp_path, "exit 5"), restarts=2, checks=({"command": ["false"]},))
    done = ran(tmp_path, whole, AUTOEXP_LAUNCHER="")
    assert (done.returncode, done.stdout, runs(tmp_path)) == (5, "", 1)


def test_values_of_the_environment_are_computed_for_each_step_from_what_was_there_before(tmp_path: Path) -> None:
    env = {"PLACES": "/mine:$PLACES", "NEW": "a '$(date)' \n b"}
    shows = 'printf "%s|%s\\n" "$PLACES" "$NEW"; exit $((n < 3))'
    done = ran(tmp_path, text(tmp_path, counting(tmp_path, shows), restarts=2, env=env), PLACES="/theirs")
    assert done.returncode == 0
    assert done.stdout.count("/mine:/theirs|a '$(date)' \n b\n") == 3


def test_a_signal_of_the_job_reaches_the_program_and_ends_the_restarts(tmp_path: Path) -> None:
    waits = "trap 'echo got it; exit 9' USR1; echo up; while :; do sleep 0.05; done"
    whole = text(tmp_path, counting(tmp_path, waits), restarts=3, lines=("#SBATCH --signal=B:USR1@60",))
    (tmp_path / "job.sbatch").write_text(whole)
    shell = subprocess.Popen(["/bin/bash", tmp_path / "job.sbatch"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(signal.SIGUSR1)
    said, _ = shell.communicate()
    assert (shell.returncode, runs(tmp_path)) == (9, 1)
    assert said == "got it\noellm-autoexp: no restart in the job: the job has received its signal\n"


def test_a_script_that_is_ended_by_term_begins_nothing_again(tmp_path: Path) -> None:
    whole = text(tmp_path, counting(tmp_path, "echo up; exec sleep 0.5"), restarts=3)
    (tmp_path / "job.sbatch").write_text(whole)
    shell = subprocess.Popen(["/bin/bash", tmp_path / "job.sbatch"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    shell.terminate()
    said, _ = shell.communicate()
    assert (shell.returncode, said, runs(tmp_path)) == (-signal.SIGTERM, "", 1)
    assert not (tmp_path / "marks" / "0.exit").exists()


def test_the_code_of_a_step_is_that_of_the_first_task_however_much_the_others_write_before_they_end(
    tmp_path: Path,
) -> None:
    said = "srun: error: n1: task 1: Exited with exit code 7"
    others = "head -c 3000000 /dev/zero | tr '\\0' '\\n' >&2; exit 143"
    program = counting(tmp_path, f"[ $n -gt 1 ] || head -c 9999 /dev/zero >&2; echo >&2; echo '{said}' >&2; {others}")
    (tmp_path / "job.sbatch").write_text(text(tmp_path, program, restarts=1))
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(["/bin/bash", tmp_path / "job.sbatch"], stdout=log, stderr=log, check=False)
    assert (done.returncode, runs(tmp_path)) == (7, 2)


def test_each_step_says_where_its_lines_begin_in_the_log(tmp_path: Path) -> None:
    whole = text(tmp_path, counting(tmp_path, 'echo "line $n"; exit 1'), restarts=1)
    (tmp_path / "job.sbatch").write_text(whole)
    with (tmp_path / "log").open("w") as log:
        subprocess.run(["/bin/bash", tmp_path / "job.sbatch"], stdout=log, stderr=log, check=False)
    written = (tmp_path / "log").read_bytes()
    first, second = steps_after(tmp_path / "marks", "0", 0)
    assert written[: first.log_bytes] == b""
    assert written[: second.log_bytes] == b"line 1\n"
    assert written[second.log_bytes :].startswith(b"oellm-autoexp: restart 1 of 1")


def test_a_program_that_fails_at_once_is_begun_again_after_longer_and_longer_pauses(tmp_path: Path) -> None:
    whole = text(tmp_path, counting(tmp_path, "exit 1"), restarts=6)
    slept = "sleep() { printf 'slept %s s\\n' \"$1\"; }\n"
    done = ran(tmp_path, whole.replace("autoexp_program() {", f"{slept}autoexp_program() {{", 1))
    assert [line for line in done.stdout.splitlines() if "slept" in line] == [f"slept {s} s" for s in (1, 3, 7, 15, 31)]


def test_a_signal_ends_a_pause(tmp_path: Path) -> None:
    whole = text(tmp_path, counting(tmp_path, "exit 1"), restarts=3, lines=("#SBATCH --signal=B:USR1@60",))
    slow = "sleep() { echo $BASHPID > rests; exec sleep 600; }\n"
    (tmp_path / "job.sbatch").write_text(whole.replace("autoexp_program() {", f"{slow}autoexp_program() {{", 1))
    with (tmp_path / "log").open("w") as log:
        shell = subprocess.Popen(["/bin/bash", tmp_path / "job.sbatch"], stdout=log, stderr=log)
    pause = int(until(lambda: (tmp_path / "rests").exists() and (tmp_path / "rests").read_text(), "the pause"))
    shell.send_signal(signal.SIGUSR1)
    code = shell.wait()
    os.kill(pause, signal.SIGKILL)
    assert (code, runs(tmp_path)) == (1, 2)
    assert (tmp_path / "log").read_text().endswith("no restart in the job: the job has received its signal\n")


def test_what_the_script_says_has_a_line_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "job.sbatch").write_text(text(tmp_path, counting(tmp_path, "printf 50%%; exit 1"), restarts=1))
    with (tmp_path / "log").open("w") as log:
        subprocess.run(["/bin/bash", tmp_path / "job.sbatch"], stdout=log, stderr=log, check=False)
    first, *between, last = (tmp_path / "log").read_text().splitlines()
    assert first == "50%"
    assert [line.split(":")[0] for line in between] == ["oellm-autoexp", "50%"]
    assert last == "oellm-autoexp: no restart in the job: step 2 was the last of 2"


def test_a_signal_that_comes_before_the_program_begins_is_not_lost(tmp_path: Path) -> None:
    waits = ["sh", "-c", f"touch {tmp_path}/checks; until [ -e {tmp_path}/go ]; do sleep 0.05; done"]
    asked = ("#SBATCH --signal=B:USR1@60",)
    (tmp_path / "job.sbatch").write_text(text(tmp_path, ["echo", "ran"], 1, ({"command": waits},), lines=asked))
    shell = subprocess.Popen(["/bin/bash", tmp_path / "job.sbatch"], stdout=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / "checks").exists(), "the check")
    shell.send_signal(signal.SIGUSR1)
    (tmp_path / "go").touch()
    said, _ = shell.communicate()
    assert (shell.returncode, said) == (
        75,
        "oellm-autoexp: the program is not begun: the job has received its signal\n",
    )


# ---- preflight


@pytest.mark.parametrize("hostile", ["a[$(touch ran)0]", "08", "", "1e9"])
def test_what_a_node_says_of_its_time_is_not_computed_with_unless_it_is_a_number(tmp_path: Path, hostile: str) -> None:
    tool = tmp_path / "bin" / "date"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/bash\n[ -n "$autoexp_node" ] && echo \'{hostile}\' || exec /bin/date "$@"\n')
    tool.chmod(0o755)
    whole = text(tmp_path, ["true"], checks=({"check": "clock"},)).replace("autoexp_node=$", "export autoexp_node=$")
    done = ran(tmp_path, whole, PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (75, "")
    assert [sick.reason for sick in sick_nodes(tmp_path / "marks", "0")] == ["it shows no time"]
    assert not [*tmp_path.rglob("ran")]


def test_a_status_file_is_never_seen_half_written(tmp_path: Path) -> None:
    checks = tuple({"command": ["sh", "-c", f"echo {'x' * 250}; exit 1"], "name": f"c{number}"} for number in range(60))
    (tmp_path / "job.sbatch").write_text(text(tmp_path, ["true"], checks=checks))
    file = tmp_path / "marks" / "0.sick"
    shell = subprocess.Popen(["/bin/bash", tmp_path / "job.sbatch"], stdout=subprocess.DEVNULL)
    until(file.exists, "the file")
    seen = set()
    while shell.poll() is None:
        seen.add(len(sick_nodes(tmp_path / "marks", "0")))
    assert 0 not in seen
    assert len(sick_nodes(tmp_path / "marks", "0")) == len(checks)


def checked(folder: Path, *checks: dict[str, Any], **environment: str) -> tuple[int, list[str]]:
    """The exit code of a job with these checks, and what they found."""
    done = ran(folder, text(folder, ["true"], checks=checks), **environment)
    assert done.stderr == ""
    return done.returncode, [f"{sick.check}: {sick.reason}" for sick in sick_nodes(folder / "marks", "0")]


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ({"check": "scratch"}, []),
        ({"check": "scratch", "path": "$PLACE"}, []),
        ({"check": "scratch", "path": "$PLACE/no"},
            ["scratch: mktemp: failed to create file via template '/PLACE/no/.autoexp.XXXXXXXX': "
             "No such file or directory"]),
        ({"check": "scratch", "free_mb": 10**12}, None),
        ({"check": "shm", "free_mb": 0}, []),
        ({"check": "clock"}, []),
        ({"command": ["true"]}, []),
        ({"command": ["sh", "-c", "echo all; printf 'it\\tis sick\\n'; exit 3"], "name": "mine"}, ["mine: it is sick"]),
        ({"command": ["/bin/false"]}, ["false: exit code 1"]),
        ({"command": ["sleep", "60"], "timeout_seconds": 0.2}, ["sleep: no result within 0.2 s"]),
        ({"command": ["sh", "-c", 'test "$1" = "a b"', "sh", "a b"]}, []),
        ({"command": ["test", "$PLACE", "=", "/nowhere"]}, ["test: exit code 1"]),
        ({"command": ["sh", "-c", "sleep 600 & echo up"], "timeout_seconds": 5}, []),
        ({"command": ["sh", "-c", "sleep 600 & echo it is sick; exit 3"], "timeout_seconds": 5}, ["sh: it is sick"]),
        ({"command": ["yes"], "timeout_seconds": 1}, ["yes: no result within 1 s"]),
        ({"command": ["sh", "-c", "echo sick; echo; echo '  '; false"]}, ["sh: sick"]),
        ({"command": ["sh", "-c", r"printf 'a\0b\033[1m'; exit 137"]}, ["sh: a b [1m"]),
        ({"command": ["no such\nprogram"]}, ["no such program: bash: line 1: $'no such\\nprogram': command not found"]),
    ],
)  # fmt: skip
def test_what_checks_find(tmp_path: Path, check: dict[str, Any], found: list[str] | None) -> None:
    code, sick = checked(tmp_path, check, PLACE=str(tmp_path))
    if found is None:
        assert re.fullmatch(r"scratch: /tmp has \d+ MB free, fewer than 1000000000000", sick[0])
    else:
        assert sick == [text.replace("/PLACE", str(tmp_path)) for text in found]
    assert code == (75 if sick else 0)


@pytest.mark.parametrize("free_mb", [0, 10**12])
def test_a_check_of_a_folder_leaves_nothing_in_it(tmp_path: Path, free_mb: int) -> None:
    place = tmp_path / "scratch of a node"
    place.mkdir()
    checked(tmp_path, {"check": "scratch", "path": str(place), "free_mb": free_mb})
    checked(tmp_path, {"check": "scratch", "free_mb": free_mb}, TMPDIR=str(place))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text"), [("df", "exec sleep 60"), ("mktemp", f'{shutil.which("mktemp")} "$@"; exec sleep 60')]
)
def test_a_check_of_a_folder_that_takes_too_long_leaves_nothing_in_it(tmp_path: Path, name: str, text: str) -> None:
    place, tool = tmp_path / "scratch", tmp_path / "bin" / name
    place.mkdir()
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)
    slow = {"check": "scratch", "path": str(place), "timeout_seconds": 0.5}
    code, sick = checked(tmp_path, slow, PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert (code, sick) == (75, ["scratch: no result within 0.5 s"])
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(("image", "code"), [("no.sif", 75), ("image.sif", 0), ("", 0)])
def test_an_image_must_be_readable(tmp_path: Path, image: str, code: int) -> None:
    (tmp_path / "image.sif").write_text("x")
    whole = text(tmp_path, ["true"], checks=({"check": "image"},), image=str(tmp_path / image))
    assert ran(tmp_path, whole).returncode == code


NVIDIA = """#!/bin/bash
case "$*" in
  *memory.total*) printf "$MEMORY"; exit $CODE ;;
  *"$FIELD"*) printf "$VALUES" ;;
  *--query-remapped-rows=gpu_bus_id,*) printf '00000000:07:00.0, No\\n00000000:0A:00.0, No\\n' ;;
  *remapped*|*event_reasons*) echo "Field \\"${2##*,}\\" is not a valid field to query."; exit 2 ;;
  *) printf '0, 0\\n1, Not Active\\n' ;;
esac
"""
LOST = "Unable to determine the device handle for GPU0000:0A:00.0: Unknown Error"


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, ""),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "1 of 2 GPUs are visible (0)"),
        ({"MEMORY": "80000\\n"}, "nvidia-smi shows 1 of 2 GPUs"),
        ({"MEMORY": "80000\\n40000\\n"}, "the GPUs have unequal memory: 80000, 40000 MiB"),
        ({"FIELD": "ecc", "VALUES": "0, 0\\n1, 3\\n"}, "GPU 1: ecc.errors.uncorrected.volatile.total is 3"),
        ({"FIELD": "ecc", "VALUES": "0, [N/A]\\n1, [N/A]\\n"}, ""),
        ({"FIELD": "hw_slowdown", "VALUES": "0, Active\\n1, Not Active\\n"},
         "GPU 0: clocks_throttle_reasons.hw_slowdown is Active"),
        ({"FIELD": "clocks_event_reasons", "VALUES": "0, Active\\n1, Not Active\\n"},
         "GPU 0: clocks_event_reasons.hw_slowdown is Active"),
        ({"FIELD": "query-remapped-rows=gpu_bus_id,remapped_rows.failure", "VALUES": "00000000:07:00.0, Yes\\n"},
         "GPU 00000000:07:00.0: remapped_rows.failure is Yes"),
        ({"FIELD": "query-remapped-rows=gpu_bus_id,remapped_rows.pending", "VALUES": "00000000:07:00.0, Yes\\n"},
         "GPU 00000000:07:00.0: remapped_rows.pending is Yes"),
        ({"MEMORY": f"80000\\n{LOST}\\n[Unknown Error]\\n80000\\n", "CODE": "15"}, f"nvidia-smi: {LOST}"),
        ({"MEMORY": "", "CODE": "9"}, "nvidia-smi: exit code 9"),
        ({"MEMORY": "80000\\n[GPU is lost]\\n"}, "nvidia-smi shows 1 of 2 GPUs: [GPU is lost]"),
        ({"MEMORY": "[N/A]\\n[N/A]\\n"}, ""),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, "0 of 2 GPUs are visible (SLURM has set NoDevFiles)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_gpus(tmp_path: Path, environment: dict[str, str], found: str) -> None:
    usual = {"MEMORY": "80000\\n80000\\n", "FIELD": "none", "CODE": "0"}
    code, sick = with_tool(tmp_path, "nvidia-smi", NVIDIA, {**usual, **environment})
    assert (code, sick) == ((75, [f"gpus: {found}"]) if found else (0, []))


def with_tool(folder: Path, name: str, text: str, environment: dict[str, str]) -> tuple[int, list[str]]:
    """What the check of GPUs finds where a program shows them."""
    tool = folder / "bin" / name
    tool.parent.mkdir()
    tool.write_text(text)
    tool.chmod(0o755)
    return checked(folder, {"check": "gpus"}, **{"PATH": f"{tool.parent}:{os.environ['PATH']}", **environment})


AMD = """#!/bin/bash
echo 'WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status'
echo
printf "$SHOWN"
exit $CODE
"""
HEAD = "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\\n"


@pytest.mark.parametrize(
    ("shown", "exit_code", "found"),
    [
        (f"{HEAD}card0,68702699520,10977280\\ncard1,68702699520,1\\n", "0", ""),
        (f"{HEAD}card0,68702699520,10977280\\ncard1,34351349760,1\\n", "0",
         "the GPUs have unequal memory: 68702699520, 34351349760 bytes"),
        (f"{HEAD}card0,68702699520,10977280\\ncard1,N/A,N/A\\n", "0",
         "rocm-smi shows 1 of 2 GPUs: card1,N/A,N/A"),
        ("ERROR:root:Driver not initialized (amdgpu not found in modules)\\n", "1",
         "rocm-smi: ERROR:root:Driver not initialized (amdgpu not found in modules)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_gpus_of_amd(tmp_path: Path, shown: str, exit_code: str, found: str) -> None:
    code, sick = with_tool(tmp_path, "rocm-smi", AMD, {"SHOWN": shown, "CODE": exit_code})
    assert (code, sick) == ((75, [f"gpus: {found}"]) if found else (0, []))


def test_a_node_without_any_sign_of_a_gpu_has_none(tmp_path: Path) -> None:
    code, sick = checked(tmp_path, {"check": "gpus"}, PATH="/usr/bin:/bin")
    assert (code, len(sick)) == (75, 1)
    assert sick[0].startswith("gpus: none of 2 GPUs is visible")


# ---- the section


def job_script(folder: Path, **slurm: Any) -> str:
    sbatch = {**NODES["sbatch"], **slurm.pop("sbatch", {})}
    (made,) = plan(folder, *COMMAND, slurm={**NODES, "sbatch": sbatch, **slurm}).scripts
    return str(made)


def test_a_job_asks_for_its_spare_nodes_which_its_size_counts(tmp_path: Path) -> None:
    made = plan(tmp_path, *COMMAND, slurm={**NODES, "restarts_in_job": 1, "spare_nodes": 3})
    (job,) = made.manifest.jobs
    asked = options(next(iter(made.scripts)))
    assert (asked["nodes"], asked["no_kill"], job.resources.nodes, job.in_steps) == ("5", "", 5, True)


def test_a_job_without_spare_nodes_ends_with_a_node_of_it(tmp_path: Path) -> None:
    assert "no_kill" not in options(job_script(tmp_path, restarts_in_job=2))


def test_without_any_of_it_a_script_is_as_it_was(tmp_path: Path) -> None:
    made = job_script(tmp_path)
    assert "no_kill" not in options(made)
    assert "autoexp_step" not in made


@pytest.mark.parametrize(
    ("slurm", "words"),
    [
        ({"spare_nodes": 1}, "spare nodes without a use"),
        ({"spare_nodes": 1, "restarts_in_job": 1, "launcher_cmd": ["mpirun"]}, "slurm.launcher_cmd has no srun"),
        ({"spare_nodes": 1, "restarts_in_job": 1, "sbatch": {"nodes": "2-4"}}, "must be one number"),
        ({"spare_nodes": 1, "restarts_in_job": 1, "sbatch": {"ntasks": 8}}, "ntasks would be shared out"),
        ({"spare_nodes": 1, "restarts_in_job": 1, "sbatch_extra_directives": ["--gpus=8"]}, "gpus would be shared out"),
        ({"restarts_in_job": 1, "srun": {"nodelist": "n1"}}, "--nodelist is set by the script"),
        ({"restarts_in_job": 1, "launcher_cmd": "srun --no-kill"}, "--no-kill is set by the script"),
        ({"preflight": ["gpus"]}, "the job asks for no GPUs"),
        ({"preflight": ["image"]}, "the job has no container whose image is a file"),
        ({"preflight": [{"timeout_seconds": 3}]}, "must name a check or a command"),
        ({"preflight": [{"check": "shm", "command": ["true"]}]}, "must name a check or a command"),
        ({"preflight": [{"check": "shm", "path": "/x"}]}, "'path' has no meaning for shm"),
        ({"preflight": [{"check": "clock", "name": "x"}]}, "'name' has no meaning for clock"),
        ({"preflight": [{"command": ["true"], "free_mb": 1}]}, "'free_mb' has no meaning for command"),
        ({"preflight": [{"check": "clock", "max_seconds": 0.5}]}, "must be a whole number, not 0.5"),
        ({"preflight": [{"command": ["true"], "name": "slurm"}]}, "must be none of answer, slurm"),
        ({"preflight": [{"command": ["true"], "name": "a\tb"}]}, "must be one line of text, without a colon"),
    ],
)
def test_sections_that_can_not_be_run_in_steps(tmp_path: Path, slurm: dict[str, Any], words: str) -> None:
    with pytest.raises(AutoexpError, match=re.escape(words)):
        job_script(tmp_path, **slurm)


def test_restarts_without_spare_nodes_need_no_srun(tmp_path: Path) -> None:
    made = job_script(tmp_path, restarts_in_job=1, launcher_cmd=["mpirun"], srun={})
    assert "--nodelist=$SLURM" not in made
    assert "autoexp_restarts=1" in made


@pytest.mark.parametrize("kept", ["{{env}} {{command}} autoexp_in_marks()", "{{env}} {{run}}"])
def test_a_template_of_ones_own_must_have_what_steps_need(tmp_path: Path, kept: str) -> None:
    steps = Steps(1, 0, "", "", Preflight())
    own = f"#!/bin/bash\n{{{{directives}}}}\n{kept}\n"
    with pytest.raises(ConfigError, match="restarts in the job and preflight checks need"):
        script.render(
            own, name="a", lines=(), env={}, work_dir="/", marks="/", launcher=Launcher(), argv=["a"], steps=steps
        )


def test_a_script_in_steps_can_run_in_a_terminal(tmp_path: Path) -> None:
    made = job_script(tmp_path, restarts_in_job=1, spare_nodes=1, preflight=["clock"])
    assert terminal_problems(made) == []
    program = tmp_path / "bin" / "train"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho trains\nexit 4\n")
    program.chmod(0o755)
    done = ran(tmp_path, made, AUTOEXP_LAUNCHER="", PATH=f"{program.parent}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout, done.stderr) == (4, "trains\n", "")


# ---- status files


def test_steps_are_read_in_order_until_one_is_missing_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "7.step1.start").write_text("100\nn1,n2\n4\n0\n\n")
    (tmp_path / "7.step2.start").write_text("200\nn1,n3\n4\n50\nstep 1 ended\n")
    (tmp_path / "7.step4.start").write_text("400\nn1\n4\n50\n\n")
    assert steps_after(tmp_path, "7", 1) == [Step(2, 4, 200, "n1,n3", 50, "step 1 ended")]
    for garbage in ("", "no\nn1\n4\n0\n", "1\nn1\n4\n-1\n", "\0" * 9):
        (tmp_path / "7.step3.start").write_text(garbage)
        assert [step.number for step in steps_after(tmp_path, "7", 0)] == [1, 2]
    assert steps_after(tmp_path, "8", 0) == []


def test_nodes_that_were_left_out_are_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "7.sick").write_text("n2\tgpus\t3 of 4\tGPUs\ngarbage\n$(x)\ta\tb\n\nn3\tanswer\tno\n")
    assert sick_nodes(tmp_path, "7") == (SickNode("n2", "gpus", "3 of 4\tGPUs"), SickNode("n3", "answer", "no"))
    assert sick_nodes(tmp_path, "8") == ()


# ---- what a session makes of it

RUNNING = job_state("a", state="running", attempt=1, scheduler_id="7", started_at=10.0, runs=1)
CRASHED = changed(RUNNING, state="crash", exit_code=1)


def again(job: JobState, number: int = 2, left_out: dict[str, str] | None = None, now: float = 50.0) -> JobState:
    return step_begun(job, Step(number, 4, 40, "n1,n3", 0, "why"), left_out or {}, now)


def test_as_many_nodes_are_read_as_a_cluster_has(tmp_path: Path) -> None:
    names = [f"n{number:05}" for number in range(10_000)]
    (tmp_path / "7.sick").write_text("".join(f"{name}\timage\t{'x' * 300}\n" for name in names))
    assert [each.node for each in sick_nodes(tmp_path, "7")] == names


def test_a_step_that_begins_again_counts_as_a_restart_and_what_was_seen_before_is_not_true_of_it() -> None:
    before = changed(
        RUNNING,
        verdict="oom",
        error_type="no_memory",
        last_activity=20.0,
        readings={"p": Reading(value=3, since=1)},
        resolved_log_path="/log",
        cursor=Cursor("5", 70),
    )
    job = again(before, left_out={"n2": "gpus: none"})
    assert (job.state, job.attempt, job.newest.runs, job.past.restarts) == ("running", 1, 1, {IN_JOB: 1})
    assert (job.run.verdict, job.run.last_activity, job.run.readings) == ("", None, {})
    assert job.run.log_starts == {"/log": "5:70"}
    assert (job.run.steps, job.run.sick_nodes) == (2, {"n2": "gpus: none"})
    assert job.history[-1].message == "restarted in the job: step 2 of 4 on n1,n3; n2 left out: why"
    assert is_past(job, 50.0)
    assert not is_past(job, 50.1)


def test_the_first_step_belongs_to_the_run_that_begins() -> None:
    job = again(changed(RUNNING, last_activity=20.0), 1)
    assert (job.past.restarts, job.run.steps, job.run.last_activity, job.history) == ({}, 1, 20.0, ())
    assert again(RUNNING, 1, {"n2": "gpus: none"}).history[-1].message == "step 1 of 4 on n1,n3; n2 left out"


def test_restarts_in_the_job_count_for_the_limit_of_every_cause() -> None:
    three = RestartAction(class_name="RestartAction", max_attempts=3)
    job = changed(CRASHED, restarts={IN_JOB: 2})
    assert refusal(job, three, "crash", 1) is None
    assert planned(job, three, "crash", 60.0).reason == "new attempt 3 of 3 for 'crash'"
    found = refusal(changed(CRASHED, restarts={IN_JOB: 2, "crash": 1}), three, "crash", 1)
    assert found is not None
    assert found.why == "no new attempt: the limit for 'crash' is reached (3 of 3)"


def test_silence_begins_anew_with_each_step() -> None:
    detector = Detector(Rules(inactivity_threshold_seconds=100.0))
    job = changed(RUNNING, last_activity=20.0)
    for clock in (0.0, 90.0):
        job, _ = detector.quiet(job, clock, clock)
    job = again(job, now=95.0)
    for clock in (110.0, 120.0, 130.0, 140.0):
        job, found = detector.quiet(job, clock, clock)
        assert found == []
    job, _ = detector.quiet(job, 410.0, 410.0)
    events = []
    for clock in (411.0, 412.0, 413.0):
        job, found = detector.quiet(job, clock, clock)
        events += found
    assert [event.name for event in events] == ["stall"], "three times the limit, as until the first line of a run"
