"""Scripts: golden files that are also executed, the rules of directives, and what a section asks for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.sbatch import directives, launch, log_paths, resources, script, signals
from oellm_autoexp.sbatch.launch import Launcher
from oellm_autoexp.session import status_files

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEMPLATE = (Path(script.__file__).parent / "job.sbatch.template").read_text()
HOSTILE = (
    "a b",
    'a"=0"',
    "a'; echo foo",
    "$(touch x)",
    "`touch x`",
    "$HOME",
    "é ü 日本",
    "\\",
    "-x",
    "",
    "*",
    "#",
    "\n",
    "!",
)
WORK_DIR = "@work@"
"""Stands for the working directory in golden files, so that they can be executed anywhere."""


@dataclass(frozen=True)
class Case:
    """What a script is made of."""

    argv: tuple[str, ...]
    sbatch: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    srun: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ("srun",)
    work_dir: str = WORK_DIR
    name: str = "job_lr0.001"

    def lines(self) -> tuple[str, ...]:
        output = f"{log_paths.slurm_path(self.work_dir)}/logs/%j.out"
        directory = log_paths.slurm_path(self.work_dir)
        return directives.directives(self.sbatch, self.extra, name=self.name, log_path=output, work_dir=directory)

    def text(self) -> str:
        return script.render(
            TEMPLATE,
            name=self.name,
            lines=self.lines(),
            env=self.env,
            work_dir=self.work_dir,
            log_path=f"{log_paths.slurm_path(self.work_dir)}/logs/%j.out",
            marks=f"{self.work_dir}/marks",
            launcher=Launcher.of(self.launcher, self.srun, env=self.env),
            argv=self.argv,
            for_slurm=bool(self.launcher),
        )


CASES = {
    "local": Case(
        ("python3", "train.py", "--lr", "0.001"), {"nodes": 1, "time": "01:00:00", "account": None}, launcher=()
    ),
    "slurm": Case(
        ("python3", "train.py", "--lr", "0.001", "--resume"),
        {
            "account": "project_465000001",
            "partition": "standard-g",
            "nodes": 4,
            "ntasks_per_node": 8,
            "gres": ["gpu:mi250:8", "nvme:1"],
            "exclusive": True,
            "requeue": False,
            "signal": "B:USR1@120",
            "time": "2-12:00:00",
            "n": 32,
        },
        ("--mail-type=END", "#SBATCH --nice=100"),
        {"cpus_per_task": 7, "cpu_bind": "mask_cpu:fe,fe00", "kill-on-bad-exit": True, "label": None, "l": True},
        {"OMP_NUM_THREADS": "7", "MASTER_ADDR": "$SLURMD_NODENAME", "LOG": "run_${SLURM_JOB_ID}.log"},
    ),
    "hostile": Case(
        ("python3", *HOSTILE),
        {
            "mcs_label": 'a"=0"',
            "wckey": "a'; echo foo",
            "constraint": "[a|b]&c",
            "reservation": "$(touch x)",
            "x": "a # b",
        },
        srun={"export": "ALL,A=a b", "chdir": "a'; echo foo", "x": "`touch x`"},
        env={f"HOSTILE_{number}": text for number, text in enumerate(HOSTILE) if text != "$HOME"},
    ),
    "references": Case(
        ("python3", "$HOSTILE"),
        env={
            "PLAIN": "a b",
            "NAMED": "<$PLAIN>",
            "BRACED": "${PLAIN}/$PLAIN$PLAIN",
            "LITERAL": "$5 $$ $ ${PLAIN:-x} $(echo no) \\$PLAIN ${} $é",
            "UNICODE": "é$PLAINé",
        },
    ),
    "paths": Case(("./run me.sh", "é"), work_dir=f'{WORK_DIR}/a b\'s "é" $(x) `y` 100%/%j', name="run+1=a,b@c.d-e"),
    "launcher": Case(
        ("python3", "-c", "print('x')"),
        launcher=("srun", "--wrapper", "a b"),
        srun={"ntasks": 2},
        env={"EMPTY": "", "PYTHONPATH": "/a b:$PLAIN_PATH"},
    ),
}
FAKE = """\
#!{python}
import json, os, sys
with open(os.environ["SEEN"], "w") as file:
    json.dump({{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}, file)
"""


@pytest.mark.parametrize("name", CASES)
def test_a_script_is_its_golden_file(name: str) -> None:
    file = GOLDEN / f"{name}.sbatch"
    if os.environ.get("AUTOEXP_UPDATE_GOLDEN"):
        file.write_text(CASES[name].text())
    assert CASES[name].text() == file.read_text()


def test_every_golden_file_has_its_case() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.sbatch")) == sorted(CASES)


@dataclass(frozen=True)
class Seen:
    """What a script's program saw, and where it ran."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    place: Path


def executed(name: str, place: Path, exit_code: int = 0, **more: str) -> Seen:
    """Run a golden file with bash; every program that it may start is a fake that notes what it is given."""
    case = CASES[name]
    place = place / "place"
    work_dir = Path(case.work_dir.replace(WORK_DIR, str(place)))
    (place / "bin").mkdir(parents=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    fake = FAKE.format(python=sys.executable) + f"sys.exit({exit_code})\n"
    for program in (place / "bin" / "srun", place / "bin" / "python3", work_dir / "run me.sh"):
        program.write_text(fake)
        program.chmod(0o755)
    file = place / "job.sbatch"
    file.write_text((GOLDEN / f"{name}.sbatch").read_text().replace(WORK_DIR, str(place)))
    environment = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "SEEN": str(place / "seen.json"),
        "SLURM_JOB_ID": "17",
        "SLURMD_NODENAME": "n1",
        "PLAIN_PATH": "/c",
        **more,
    }
    subprocess.run(["/bin/bash", "-n", file], check=True)
    result = subprocess.run(["/bin/bash", file], env=environment, cwd="/", capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (exit_code, "", "")
    seen = json.loads((place / "seen.json").read_text())
    return Seen(seen["argv"], seen["env"], seen["cwd"], place)


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_runs_exactly_the_words_that_went_in(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    seen = executed(name, tmp_path)
    if case.launcher:
        words = (*case.launcher[1:], *launch.flags(case.srun), *case.argv)
        assert seen.argv == list(words)
    else:
        assert seen.argv == list(case.argv[1:])
    assert seen.cwd == case.work_dir.replace(WORK_DIR, str(seen.place))


@pytest.mark.parametrize(("token", "runs"), [("abcd1234", False), ("99999999", True), ("", True)])
def test_an_attempt_that_has_a_newer_one_in_its_place_does_not_run_again(
    tmp_path: Path, token: str, *, runs: bool
) -> None:
    status_files.replace(tmp_path / "marks", "17", token)
    text = Case(("touch", str(tmp_path / "ran")), work_dir=str(tmp_path), launcher=()).text()
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "a.b.abcd1234"}
    result = subprocess.run(["/bin/bash", "-c", text], env=environment, cwd="/", capture_output=True, text=True)
    assert (tmp_path / "ran").exists() == runs
    assert (result.returncode, "job 17 is not run again" in result.stderr) == ((0, False) if runs else (1, True))


def test_hostile_values_reach_the_program_and_nothing_else_happens(tmp_path: Path) -> None:
    seen = executed("hostile", tmp_path)
    assert seen.argv[-len(HOSTILE) :] == list(HOSTILE)
    for name, value in CASES["hostile"].env.items():
        assert seen.env[name] == value
    assert sorted(path.name for path in seen.place.iterdir()) == [
        "bin",
        "job.sbatch",
        "marks",
        "run me.sh",
        "seen.json",
    ]


def test_in_an_environment_value_a_name_is_the_jobs_variable_and_all_else_is_text(tmp_path: Path) -> None:
    seen = executed("references", tmp_path).env
    assert seen["NAMED"] == "<a b>"
    assert seen["BRACED"] == "a b/a ba b"
    assert seen["LITERAL"] == "$5 $$ $ ${PLAIN:-x} $(echo no) \\a b ${} $é"
    assert seen["UNICODE"] == "éa bé"
    assert executed("slurm", tmp_path / "slurm").env["MASTER_ADDR"] == "n1"
    assert executed("launcher", tmp_path / "launcher").env["PYTHONPATH"] == "/a b:/c"


@pytest.mark.parametrize("name", CASES)
def test_a_golden_file_runs_its_program_alone_where_its_launcher_is_taken_away(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    seen = executed(name, tmp_path, AUTOEXP_LAUNCHER="")
    assert seen.argv == list(case.argv[1:])
    for key, value in case.env.items():
        assert key in seen.env or "$" in value


SIGNALLED = """\
import os, signal, sys, time
def handle(*_):
    print("signalled", flush=True)
    {then}
signal.signal(signal.{name}, handle)
print("up", flush=True)
for _ in range(300):
    time.sleep(0.05)
"""


def signalled(tmp_path: Path, name: str, then: str, asked: str) -> subprocess.Popen[str]:
    """A script that asks for `asked`, whose shell is sent the signal `name` as soon as the program is up."""
    case = Case((sys.executable, "-c", SIGNALLED.format(name=name, then=then)), {"signal": asked}, launcher=())
    file = tmp_path / "job.sbatch"
    file.write_text(case.text().replace(WORK_DIR, str(tmp_path)))
    shell = subprocess.Popen(["/bin/bash", file], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    shell.send_signal(getattr(signal, name))
    return shell


@pytest.mark.parametrize(("name", "asked"), [("SIGUSR1", "B:USR1@20"), ("SIGTERM", "B:TERM"), ("SIGUSR2", "B:12@9")])
def test_a_signal_to_the_shell_reaches_the_program_whose_exit_code_is_the_jobs(
    tmp_path: Path, name: str, asked: str
) -> None:
    shell = signalled(tmp_path, name, "sys.exit(7)", asked)
    assert shell.communicate()[0] == "signalled\n"
    assert shell.returncode == 7
    assert (tmp_path / "marks" / "0.exit").read_text() == "7\n"


def test_a_program_may_go_on_after_each_of_several_signals(tmp_path: Path) -> None:
    then = "handle.times = getattr(handle, 'times', 0) + 1; handle.times < 3 or sys.exit(0)"
    shell = signalled(tmp_path, "SIGUSR1", then, "B:USR1@20")
    assert shell.stdout is not None
    for _ in range(2):
        assert shell.stdout.readline() == "signalled\n"
        shell.send_signal(signal.SIGUSR1)
    assert shell.communicate()[0] == "signalled\n"
    assert shell.returncode == 0


def test_a_program_that_the_signal_kills_has_the_exit_code_of_that(tmp_path: Path) -> None:
    then = "signal.signal(signal.SIGUSR1, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGUSR1)"
    shell = signalled(tmp_path, "SIGUSR1", then, "B:USR1@20")
    shell.communicate()
    assert shell.returncode == 128 + signal.SIGUSR1


def asking(template: str, value: str, launcher: tuple[str, ...] = ("srun",)) -> list[str]:
    text = script.render(
        template,
        name="n",
        lines=directives.directives({"signal": value}, (), name="n", log_path="/l", work_dir="/w"),
        env={},
        work_dir="/w",
        marks="/m",
        launcher=Launcher(launcher),
        argv=("python3", "x.py"),
    )
    return [problem.what for problem in signals.signal_problems(text)]


OWN = "#!/bin/bash\n{{{{directives}}}}\n{{{{env}}}}\n{trap}\n{{{{command}}}}{rest}\n"


@pytest.mark.parametrize(
    ("template", "value", "ok"),
    [
        (TEMPLATE, "B:USR1@20", True),
        (TEMPLATE, "B:SIGUSR2", True),
        (TEMPLATE, "USR1@20", True),
        (TEMPLATE, "TERM@20", True),
        (TEMPLATE, "B:TERM@20", False),  # srun would kill its tasks
        (TEMPLATE, "B:KILL@20", True),  # no shell could
        (OWN.format(trap="", rest=""), "B:USR1@20", False),
        (OWN.format(trap="", rest=""), "USR1@20", True),
        (OWN.format(trap="trap forward EXIT", rest=" &"), "B:USR1@20", False),
        (OWN.format(trap="trap 'kill -USR1 $!' USR1 TERM", rest=" &"), "B:USR1@20", True),
        (OWN.format(trap="trap forward 10", rest=" &"), "B:USR1@20", True),
        (OWN.format(trap='for s in USR1; do\ntrap forward "$s"\ndone', rest=" &"), "B:USR1@20", True),
        (OWN.format(trap="", rest="").replace("{{command}}", "exec {{command}}"), "B:USR1@20", True),
    ],
)
def test_a_signal_that_would_end_the_shell_of_a_template_is_a_mistake(template: str, value: str, *, ok: bool) -> None:
    assert (asking(template, value) == []) == ok


def test_without_srun_the_shell_hands_every_signal_on() -> None:
    assert asking(TEMPLATE, "B:TERM@20", ()) == []


@pytest.mark.parametrize("code", [0, 3, 130])
def test_a_script_leaves_when_it_began_and_how_it_ended(tmp_path: Path, code: int) -> None:
    marks = executed("local", tmp_path, code).place / "marks"
    assert (marks / "17.exit").read_text() == f"{code}\n"
    at, process, folder, name = (marks / "17.start").read_text().splitlines()
    assert (at.isdecimal(), process.split()[1].isdecimal(), folder, name) == (True, True, str(marks), "")
    assert {path.name for path in marks.iterdir()} == {"17.start", "17.exit"}


def test_a_script_whose_working_directory_is_gone_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "job.sbatch"
    file.write_text((GOLDEN / "local.sbatch").read_text().replace(WORK_DIR, str(tmp_path / "gone")))
    result = subprocess.run(["/bin/bash", file], capture_output=True, text=True)
    assert result.returncode == 1
    assert "gone" in result.stderr


# ---------------------------------------------------------------------------------------------------------------------
# Directives


def lines(sbatch: Mapping[str, Any], *extra: str) -> list[str]:
    """The directives of a section, without the program's own."""
    made = directives.directives(sbatch, extra, name="n", log_path="/l", work_dir="/w")
    assert made[:3] == ("#SBATCH --job-name=n", "#SBATCH --output=/l", "#SBATCH --chdir=/w")
    return [line.removeprefix("#SBATCH ") for line in made[3:] if line != "#SBATCH --open-mode=append"]


def test_a_job_that_is_not_to_be_requeued_says_so() -> None:
    assert lines({"requeue": False}) == ["--no-requeue"]
    assert lines({"requeue": True}) == ["--requeue"]
    assert lines({"requeue": None}) == []


def problems(sbatch: Mapping[str, Any], *extra: str, **own: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as error:
        directives.directives(sbatch, extra, **{"name": "n", "log_path": "/l", "work_dir": "/w", **own})
    return error.value.problems


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("cpus_per_task", 8, "--cpus-per-task=8"),
        ("cpus-per-task", 8, "--cpus-per-task=8"),
        ("exclusive", True, "--exclusive"),
        ("n", 4, "-n4"),
        ("p", "a b", '-p"a b"'),
        ("O", True, "-O"),
        ("gres", ["gpu:4", "nvme:1"], "--gres=gpu:4,nvme:1"),
        ("gres", [], "--gres="),
        ("mem", "", "--mem="),
        ("time", "1-00:00:00", "--time=1-00:00:00"),
        ("nodelist", "n[1-4,7]", "--nodelist=n[1-4,7]"),
        ("dependency", "afterok:1,afterany:2", "--dependency=afterok:1,afterany:2"),
        ("wckey", "a b", '--wckey="a b"'),
        ("wckey", 'say "x" \\ y', '--wckey="say \\"x\\" \\\\ y"'),
        ("wckey", "a#b", '--wckey="a#b"'),
        ("wckey", "é", '--wckey="é"'),
        ("wckey", "\u2028", '--wckey="\u2028"'),
        ("nice", -5, "--nice=-5"),
        ("priority", 1e-05, "--priority=1e-05"),
    ],
)
def test_a_key_and_its_value_become_a_directive(key: str, value: Any, line: str) -> None:
    assert lines({key: value}) == [line]


@pytest.mark.parametrize("value", [None, False])
def test_null_and_false_are_absent(value: Any) -> None:
    assert lines({"exclusive": value, "output": value}) == []


def test_further_directives_come_last_and_as_they_are() -> None:
    assert lines({"nodes": 1}, "--nodes=2", "#SBATCH --mem 5", "  -N2 ") == ["--nodes=1", "--nodes=2", "--mem 5", "-N2"]


def test_the_log_of_a_requeued_job_is_appended_to_unless_told_otherwise() -> None:
    own = {"name": "n", "log_path": "/l", "work_dir": "/w"}
    assert "#SBATCH --open-mode=append" in directives.directives({}, (), **own)
    for key in ("open_mode", "open-mode"):
        assert directives.directives({key: "truncate"}, (), **own)[3:] == ("#SBATCH --open-mode=truncate",)


@pytest.mark.parametrize("key", ["output", "job_name", "job-name", "chdir", "comment", "array", "o", "J", "D", "a"])
def test_what_the_program_sets_itself_is_refused_in_every_spelling(key: str) -> None:
    (problem,) = problems({key: "x"})
    assert str(problem.where) == f"$.slurm.sbatch.{key}"
    assert problem.hint


@pytest.mark.parametrize(
    "line", ["--output=x", "-o x", "-ox", "--job-name x", "--nodes=2 --array=0-3", "#SBATCH -D /x"]
)
def test_what_the_program_sets_itself_is_refused_in_further_directives_too(line: str) -> None:
    (problem,) = problems({}, "--nodes=1", line)
    assert str(problem.where) == "$.slurm.sbatch_extra_directives[1]"


@pytest.mark.parametrize("line", ["nodes=2", "", "echo x", "--a\nrm x", "--a\rb", "# words"])
def test_what_is_no_directive_is_refused(line: str) -> None:
    assert "is not a directive" in problems({}, line)[0].what


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\x1b", "a\tb", ["a", "b\n"]])
def test_a_value_with_a_line_break_or_control_character_is_refused(value: Any) -> None:
    for section in ("sbatch", "srun"):
        with pytest.raises(ConfigError) as error:
            lines({"wckey": value}) if section == "sbatch" else launch.flags({"wckey": value})
        assert str(error.value.problems[0].where) == f"$.slurm.{section}.wckey"


@pytest.mark.parametrize("key", ["a b", "", "a\nb", "a=b", "-a", "--a", "a;b", "é", "5"])
def test_a_key_that_names_no_option_is_refused(key: str) -> None:
    assert "is not the name of an option" in problems({key: 1})[0].what
    with pytest.raises(ConfigError):
        launch.flags({key: 1})


def test_one_option_in_two_spellings_is_refused() -> None:
    (problem,) = problems({"cpus_per_task": 1, "cpus-per-task": 2})
    assert "are the same option" in problem.what
    assert problems({"N": 1, "nodes": 2})
    assert lines({"cpus_per_task": None, "cpus-per-task": 2}) == ["--cpus-per-task=2"]


def test_a_name_or_path_that_no_directive_can_hold_is_reported_where_it_is_set() -> None:
    found = problems({"wckey": "\n"}, "x", name="a\nb", log_path="/a\nb", work_dir="/a\nb")
    assert [str(problem.where) for problem in found] == [
        "$.project.name",
        "$.project.log_path",
        "the working directory",
        "$.slurm.sbatch.wckey",
        "$.slurm.sbatch_extra_directives[0]",
    ]


def test_flags_of_the_launcher_are_words() -> None:
    srun = {"cpus_per_task": 8, "label": True, "x": "a b", "mem": None, "export": ["ALL", "A=b c"], "quiet": False}
    assert launch.flags(srun) == ["--cpus-per-task=8", "--label", "-xa b", "--export=ALL,A=b c"]


# ---------------------------------------------------------------------------------------------------------------------
# Templates


def rendered(template: str, **changes: Any) -> str:
    given_parts: dict[str, Any] = {
        "name": "n",
        "lines": ["#SBATCH -N1"],
        "env": {},
        "work_dir": "/w",
        "marks": "/m",
        "launcher": (),
        "argv": ("run",),
        "for_slurm": False,
    }
    parts = {**given_parts, **changes}
    return script.render(template, **{**parts, "launcher": Launcher(parts["launcher"])})


def test_a_template_of_ones_own_gets_what_it_marks() -> None:
    template = "#!/bin/sh\n{{directives}}\n# {{name}}\ncd {{work_dir}}\n{{env}}\nx=1 {{command}} # {{ name }}\n"
    text = rendered(template, env={"A": "b c"}, launcher=("srun",), argv=("a b", "{{name}}"))
    assert text == (
        "#!/bin/sh\n#SBATCH -N1\n# n\ncd /w\nexport A='b c'\n"
        "x=1 ${AUTOEXP_LAUNCHER-srun} 'a b' '{{name}}' # {{ name }}\n"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("#!/bin/sh\n{{env}}\n{{command}}\n", "the template has no {{directives}}"),
        ("#!/bin/sh\n{{directives}}\n{{env}}\n", "the template has no {{command}}"),
        ("#!/bin/sh\n{{directives}}\n{{command}}\n", "the template has no {{env}}"),
        ("#!/bin/sh\n{{directives}}\n{{env}}\n{{comand}}\n{{command}}\n", "unknown marker {{comand}}"),
        ("{{directives}}\n{{env}}\n{{command}}\n", "does not begin with #!"),
        ("#!/bin/sh\r\n{{directives}}\r\n{{env}}\r\n{{command}}\r\n", "the line ends of Windows"),
        ("#!/bin/sh\nset -e\n{{directives}}\n{{env}}\n{{command}}\n", "is below a command"),
        ("#!/bin/sh\n{{directives}}\n#SBATCH --output=x.log\n{{env}}\n{{command}}\n", "'output' is set by the program"),
        ("#!/bin/sh\n#SBATCH --mem=1 -J x\n{{directives}}\n{{env}}\n{{command}}\n", "'job-name' is set by the program"),
        ("#!/bin/sh\n{{directives}}\n#SBATCH --wait\n{{env}}\n{{command}}\n", "'wait' is set by the program"),
    ],
)
def test_a_template_that_sbatch_would_not_take_as_it_looks_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        rendered(template)
    (problem,) = error.value.problems
    assert message in problem.what
    assert str(problem.where) == "$.slurm.template_path"


@pytest.mark.parametrize(
    "key",
    ["output", "out", "o", "clusters", "M", "wait", "W", "test_only", "test-only", "parsable", "wrap"],
)
def test_options_by_which_a_job_would_be_lost_are_refused_however_they_are_spelled(key: str) -> None:
    with pytest.raises(ConfigError, match="is set by the program") as error:
        directives.directives({key: "x"}, (), name="n", log_path="/l", work_dir="/w")
    assert error.value.problems[0].hint
    flag = f"-{key}" if len(key) == 1 else f"--{key}"
    with pytest.raises(ConfigError, match="is set by the program"):
        directives.directives({}, (f"#SBATCH {flag} x",), name="n", log_path="/l", work_dir="/w")


def test_comments_and_empty_lines_may_stand_above_the_directives() -> None:
    assert rendered("#!/bin/sh\n# words\n\n  # words\n{{directives}}\n{{env}}\n{{command}}\n")


def test_a_misspelt_marker_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'command'"):
        rendered("#!/bin/sh\n{{directives}}\n{{comand}}\n{{command}}\n")


@pytest.mark.parametrize("part", [{"argv": ("a\0",)}, {"launcher": ("\0",)}, {"env": {"A": "\0"}}])
def test_a_nul_character_that_no_program_can_be_given_is_refused(part: Any) -> None:
    with pytest.raises(ConfigError, match="NUL"):
        rendered(TEMPLATE, **part)


def test_a_name_with_a_line_break_stays_in_its_comment() -> None:
    assert "# Job a rm x. Made by" in rendered(TEMPLATE, name="a\nrm x")


# ---------------------------------------------------------------------------------------------------------------------
# Arrays and log paths


def test_an_array_runs_the_scripts_of_its_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "it's an array 100%"
    for index in (0, 2):
        (folder / str(index)).mkdir(parents=True)
        (folder / str(index) / "job.sbatch").write_text(f"echo task {index}\n")
    text = script.array_script(CASES["slurm"].text(), str(folder), "logs/%A_%a.out")
    (tmp_path / "array.sbatch").write_text(text)
    for index in (0, 2):
        result = subprocess.run(
            ["/bin/bash", tmp_path / "array.sbatch"],
            env={"SLURM_ARRAY_TASK_ID": str(index)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout == f"task {index}\n"


def test_an_array_keeps_what_its_tasks_share_and_nothing_that_is_one_tasks_own() -> None:
    made = directives.directive_lines(script.array_script(CASES["slurm"].text(), "/a b/100%", "logs/%A_%a.out"))
    shared = [line for line in CASES["slurm"].lines() if not line.startswith(("#SBATCH --job-name", "#SBATCH --chdir"))]
    assert made == (
        *(line for line in shared if not line.startswith("#SBATCH --output")),
        '#SBATCH --output="/a b/100%%/%a/logs/%A_%a.out"',
    )


def test_what_looks_like_a_directive_below_the_first_command_is_none() -> None:
    text = rendered(TEMPLATE, argv=("run", "\n#SBATCH --nodes=99\n"), env={"A": "\n#SBATCH --mem=1\n"})
    assert "\n#SBATCH --nodes=99\n" in text
    assert directives.directive_lines(text) == ("#SBATCH -N1",)


def test_an_odd_line_separator_in_a_value_ends_no_directive() -> None:
    case = Case(("run",), {"wckey": "a\u2028b\x85c"})
    assert '#SBATCH --wckey="a\u2028b\x85c"' in directives.directive_lines(case.text())


def test_jobs_are_of_one_array_if_they_differ_in_what_is_their_own_only() -> None:
    def group(name: str, sbatch: Mapping[str, Any], log: str = "logs/%A_%a.out") -> str:
        made = directives.directives(sbatch, (), name=name, log_path=f"/{name}/x", work_dir="/w")
        return directives.array_group(made, log)

    assert group("a", {"nodes": 1}) == group("b", {"nodes": 1})
    assert len({group("a", {"nodes": 1}), group("a", {"nodes": 2}), group("a", {"nodes": 1}, "other")}) == 3


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])))
def test_a_path_is_literal_once_it_is_written_for_slurm(path: str) -> None:
    assert log_paths.resolve_log_path(log_paths.slurm_path(path), "12_3") == path


@pytest.mark.parametrize(
    ("pattern", "job", "path"),
    [("a/%j.out", "12", "a/12.out"), ("%A_%a", "12_3", "12_3"), ("%j", "12_3", "12_3"), ("%%j-%x%j", "1", "%j-%x1")],
)
def test_a_log_path_is_known_once_the_job_has_its_id(pattern: str, job: str, path: str) -> None:
    assert log_paths.resolve_log_path(pattern, job) == path


# ---------------------------------------------------------------------------------------------------------------------
# Resources


@pytest.mark.parametrize(
    ("section", "nodes", "gpus"),
    [
        ({}, 1, 0),
        ({"nodes": 4}, 4, 0),
        ({"N": "4"}, 4, 0),
        ({"nodes": "2-4"}, 4, 0),
        ({"nodes": "2,4"}, 4, 0),
        ({"nodes": "1,4-8"}, 8, 0),
        ({"nodes": 2, "gpus_per_node": 4}, 2, 8),
        ({"nodes": 2, "gpus-per-node": "a100:4"}, 2, 8),
        ({"nodes": 2, "gpus_per_node": "a100"}, 2, 2),
        ({"nodes": 2, "gpus_per_node": "a100:2,h100:1"}, 2, 6),
        ({"nodes": 2, "gpus": 6}, 2, 6),
        ({"G": "a100:6"}, 1, 6),
        ({"gpus": "a100:2,h100:4"}, 1, 6),
        ({"nodes": 2, "gres": "gpu:4"}, 2, 8),
        ({"nodes": 2, "gres": "gpu"}, 2, 2),
        ({"nodes": 2, "gres": "gpu:a100"}, 2, 2),
        ({"nodes": 2, "gres": "gpu:a100:4(S:0-1),nvme:1"}, 2, 8),
        ({"nodes": 2, "gres": ["gpu:a100:4", "gpu:h100:2", "gpuish:5"]}, 2, 12),
        ({"nodes": 1, "gres": "nvme:1"}, 1, 0),
        ({"nodes": 2, "ntasks_per_node": 4, "gpus_per_task": 1}, 2, 8),
        ({"ntasks": 8, "gpus_per_task": 2}, 1, 16),
        ({"n": 8, "ntasks_per_node": 4, "gpus_per_task": "a100:1"}, 2, 8),
        ({"ntasks": 9, "ntasks_per_node": 4}, 3, 0),
        ({"gpus": 16, "gpus_per_node": 4}, 4, 16),
        ({"nodes": 2, "sockets_per_node": 2, "gpus_per_socket": 3}, 2, 12),
        ({"nodes": 2, "gpus": None, "gpus_per_node": False}, 2, 0),
        ({"nodes": 2, "gpus_per_node": 0}, 2, 0),
        ({"nodes": 64, "ntasks_per_node": 4, "tres_per_task": "gres/gpu:1"}, 64, 256),
        ({"ntasks": 8, "tres_per_task": "cpu=4,gres/gpu:a100:2"}, 1, 16),
        ({"ntasks": 8, "tres_per_task": "cpu:4,gres/gpu=2,license/x:1"}, 1, 16),
        ({"ntasks": 8, "tres_per_task": "cpu=4"}, 1, 0),
    ],
)
def test_a_section_asks_for_nodes_and_gpus(section: Mapping[str, Any], nodes: int, gpus: int) -> None:
    assert resources.resources(section)[:2] == (nodes, gpus)


@pytest.mark.parametrize(
    ("section", "seconds"),
    [
        ({}, None),
        ({"time": 90}, 5400),
        ({"t": "90"}, 5400),
        ({"time": "1:30"}, 90),
        ({"time": "01:30:00"}, 5400),
        ({"time": "1-0"}, 86400),
        ({"time": "1-01:30"}, 91800),
        ({"time": "2-00:00:01"}, 172801),
        ({"time": "UNLIMITED"}, None),
        ({"time": None}, None),
    ],
)
def test_a_section_asks_for_time(section: Mapping[str, Any], seconds: int | None) -> None:
    assert resources.resources(section)[2] == seconds


def test_further_directives_override_what_a_section_asks_for() -> None:
    extra = ("--nodes=3 --gres gpu:2", "#SBATCH -t 2:00:00", "--exclusive", '--wckey="a b"')
    assert resources.resources({"nodes": 1, "time": "1:00"}, extra) == (3, 6, 7200)
    assert resources.resources({}, ("-N2", "-G 8")) == (2, 8, None)


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({"nodes": "many"}, "$.slurm.sbatch.nodes"),
        ({"N": True}, "$.slurm.sbatch.N"),
        ({"nodes": 1.5}, "$.slurm.sbatch.nodes"),
        ({"ntasks": "x"}, "$.slurm.sbatch.ntasks"),
        ({"time": "soon"}, "$.slurm.sbatch.time"),
        ({"t": "soon"}, "$.slurm.sbatch.t"),
    ],
)
def test_what_is_no_number_or_time_is_reported_where_it_is(section: Mapping[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        resources.resources(section)
    assert str(error.value.problems[0].where) == where


# ---------------------------------------------------------------------------------------------------------------------
# The signal before the time limit


@pytest.mark.parametrize(
    ("value", "number", "seconds", "to_batch_shell"),
    [
        ("USR1", 10, 60, False),
        ("sigusr1", 10, 60, False),
        ("B:USR1@120", 10, 120, True),
        ("R:SIGTERM@5", 15, 5, False),
        ("br:12@", 12, 0, True),
        ("64@65535", 64, 65535, False),
        ("XCPU@0", 24, 0, False),
    ],
)
def test_a_script_asks_for_a_signal_before_its_end(value: str, number: int, seconds: int, to_batch_shell: bool) -> None:
    asked = signals.Signal(number, seconds, to_batch_shell)
    for line in (f"#SBATCH --signal={value}", f'#SBATCH --nodes=1 --signal "{value}" --exclusive'):
        assert signals.signal_before_end([line]) == asked


def test_the_last_directive_decides_on_the_signal_and_most_scripts_ask_for_none() -> None:
    assert signals.signal_before_end(["#SBATCH --signal=INT@1", "#SBATCH --signal=HUP@2"]) == signals.Signal(
        1, 2, False
    )
    assert signals.signal_before_end(["#SBATCH --nodes=1", "#SBATCH --comment=--signal"]) is None


@pytest.mark.parametrize(
    "value",
    [
        *("NOPE", "SIG", "SIG10", "USR11", "WINCH", "0", "65", "12x", "0x0a", "@30", "B:", "X:USR1", "B:B:USR1"),
        *("USR1@x", "USR1@-1", "USR1@5x", "USR1@65536", "USR1@3@2"),
    ],
)
def test_a_signal_that_is_none_is_refused_in_sbatchs_words(value: str) -> None:
    for line in (f"#SBATCH --signal={value}", "#SBATCH --signal"):
        with pytest.raises(ValueError, match="Invalid --signal specification"):
            signals.signal_before_end([line, "#SBATCH --signal=USR1"])


# ---------------------------------------------------------------------------------------------------------------------
# Another attempt's directives

BELOW = "\n# words\n ## SBATCH --time=9\n\necho '#SBATCH --time=9'  \n#SBATCH --time=8\n\n"


def script_of(*directives_: str) -> str:
    return "\n".join(("#!/bin/bash", "# about", *directives_, BELOW))


@pytest.mark.parametrize(
    ("before", "options", "after"),
    [
        (["#SBATCH --time=1", "#SBATCH --mem=2"], {"time": 5}, ["#SBATCH --time=5", "#SBATCH --mem=2"]),
        (["#SBATCH --time=1", "#SBATCH --mem=2"], {"t": 5}, ["#SBATCH -t5", "#SBATCH --mem=2"]),
        (["#SBATCH -t 1", "#SBATCH --time 2", "#SBATCH -t3"], {"time": 5}, ["#SBATCH --time=5"]),
        (["#SBATCH -N2 -t 1 --mem=2"], {"time": 5}, ["#SBATCH -N2 --mem=2", "#SBATCH --time=5"]),
        (["#SBATCH -c 3", "#SBATCH --mem=2"], {"cpus-per-task": 5}, ["#SBATCH --cpus-per-task=5", "#SBATCH --mem=2"]),
        (["#SBATCH --cpus-per-task=3"], {"cpus_per_task": 5}, ["#SBATCH --cpus-per-task=5"]),
        (["#SBATCH --mem=2"], {"exclude": ["n1", "n[2-3]"]}, ["#SBATCH --mem=2", "#SBATCH --exclude=n1,n[2-3]"]),
        (["#SBATCH --exclusive=user"], {"exclusive": True}, ["#SBATCH --exclusive"]),
        (["#SBATCH --exclusive", "#SBATCH --mem=2"], {"exclusive": None}, ["#SBATCH --mem=2"]),
        (["#SBATCH --exclusive -N2"], {"exclusive": False, "qos": None}, ["#SBATCH -N2"]),
        (["#SBATCH --time=1"], {"t": None, "time": 7}, ["#SBATCH --time=7"]),
        (["#SBATCH --time=1"], {"time": 7, "t": None}, ["#SBATCH --time=7"]),
        (["#SBATCH --time=1 # -N 5"], {"nodes": 7}, ["#SBATCH --time=1 # -N 5", "#SBATCH --nodes=7"]),
        (["#SBATCH --time=1 --mem=2 # why"], {"time": 7}, ["#SBATCH --mem=2 # why", "#SBATCH --time=7"]),
        (['#SBATCH --wckey="a --time=1" -t1'], {"time": 7}, ['#SBATCH --wckey="a --time=1"', "#SBATCH --time=7"]),
        (['#SBATCH --wckey="a\\" --time=1" -t1'], {"time": 7}, ['#SBATCH --wckey="a\\" --time=1"', "#SBATCH --time=7"]),
        (["#SBATCH--time=1", "#SBATCH\t-N2"], {"time": 7}, ["#SBATCH --time=7", "#SBATCH\t-N2"]),
        (["#SBATCH --mem=2"], {"constraint": "a&b c"}, ["#SBATCH --mem=2", '#SBATCH --constraint="a&b c"']),
        ([], {"time": 7}, None),
    ],
)
def test_another_attempt_has_other_directives_and_nothing_else_is_touched(
    before: list[str], options: Mapping[str, Any], after: list[str] | None
) -> None:
    expected = script_of(*after) if after is not None else script_of().replace("bash\n", "bash\n#SBATCH --time=7\n", 1)
    assert directives.with_options(script_of(*before), options) == expected


@pytest.mark.parametrize("case", CASES)
def test_no_options_change_nothing_and_the_same_again_changes_nothing_more(case: str) -> None:
    text = CASES[case].text()
    assert directives.with_options(text, {}) == text
    once = directives.with_options(text, {"time": 5, "exclude": "n1"})
    assert directives.options(once) == {**directives.options(text), "time": "5", "exclude": "n1"}
    assert directives.with_options(once, {"exclude": "n1", "time": 5}) == once
    assert once.partition("\n# Job")[2] == text.partition("\n# Job")[2]


@pytest.mark.parametrize("key", ["output", "job_name", "job-name", "chdir", "comment", "array", "o", "J", "D", "a"])
@pytest.mark.parametrize("value", ["x", None, False])
def test_another_attempt_leaves_what_the_program_sets_itself(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        directives.with_options(script_of("#SBATCH --output=x"), {"time": 1, key: value, "wckey": "\n"})
    assert [str(problem.where) for problem in error.value.problems] == [f"$.slurm.sbatch.{key}", "$.slurm.sbatch.wckey"]


def test_another_attempt_in_two_spellings_is_refused() -> None:
    with pytest.raises(ConfigError, match="are the same option"):
        directives.with_options(script_of(), {"t": 1, "time": 2})


@pytest.mark.parametrize(
    ("before", "nodes", "after"),
    [
        ([], ["n2", "n1", "n2"], "n2,n1"),
        (["#SBATCH --exclude=n1"], ["n2"], "n1,n2"),
        (["#SBATCH -x n[1,3-4],m7"], ["n2", "m7"], "n[1,3-4],m7,n2"),
        (['#SBATCH --exclude="n[1,3-4], m7"'], ["n9"], "n[1,3-4],m7,n9"),
        (["#SBATCH --exclude=n0", "#SBATCH --exclude=n1"], ["n2"], "n1,n2"),  # to sbatch the last one counts
    ],
)
def test_nodes_are_added_to_those_that_are_excluded(before: list[str], nodes: list[str], after: str) -> None:
    text = directives.excluding(script_of(*before, "#SBATCH --mem=1"), nodes)
    assert [line for line in directives.directive_lines(text) if "mem" not in line] == [f"#SBATCH --exclude={after}"]
    assert directives.excluding(text, nodes) == text
    assert directives.excluding(text, []) == text
    assert text.endswith(BELOW)


def test_no_node_can_be_added_to_a_file_of_nodes() -> None:
    with pytest.raises(ConfigError, match="is a file"):
        directives.excluding(script_of("#SBATCH --exclude=/x/bad"), ["n1"])


@pytest.mark.parametrize(("line", "asked"), [("-A x", "account"), ("-x n1", "exclude"), ("#SBATCH -w n1", "nodelist")])
def test_options_of_one_letter_are_known_by_their_long_names(line: str, asked: str) -> None:
    assert asked in directives.options(script_of(f"#SBATCH {line.removeprefix('#SBATCH ')}"))


@pytest.mark.parametrize("key", ["nodes", "ntasks", "time"])
def test_a_number_of_thousands_of_digits_is_refused_in_a_short_message(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resources.resources({key: "9" * 5000})
    assert len(str(caught.value)) < 300


def test_a_stray_word_does_not_become_the_value_of_the_option_before_it() -> None:
    changed = directives.with_options("#SBATCH --hold --time=5 stray\nx", {"time": None})
    assert directives.options(changed) == {"hold": ""}


def test_all_that_is_wrong_with_resources_is_reported_at_once() -> None:
    found = resources.resource_problems(
        {"nodes": "x", "ntasks": "y", "time": "never", "gpus": 2}, ("--cpus-per-task=3",)
    )
    assert [str(problem.where) for problem in found] == [f"$.slurm.sbatch.{key}" for key in ("ntasks", "nodes", "time")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mem", "9" * 5000),
        ("mem", "1" * 19 + "G"),
        ("cpus_per_task", 10**20),
        ("nice", "-" + "9" * 20),
        ("tmp", "9" * 30),
        ("gres", "gpu:" + "9" * 5000),
        ("gres", "nvme:" + "9" * 5000),
        ("begin", "now+" + "9" * 5000),
        ("dependency", "afterok:" + "9" * 5000),
        ("signal", "USR1@" + "9" * 5000),
    ],
    ids=["long", "with a unit", "a number", "negative", "of a disk", "GPUs", "others", "time", "jobs", "signal"],
)
def test_no_option_takes_a_number_that_slurm_can_not_count_to(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=r"is a number of \d+ digits, which SLURM does not take") as error:
        directives.directives({key: value}, (), name="n", log_path="/l", work_dir="/w")
    assert len(str(error.value)) < 200
    extra = f"--{key.replace('_', '-')}={value}"
    with pytest.raises(ConfigError, match=r"is a number of \d+ digits") as error:
        directives.directives({}, (extra,), name="n", log_path="/l", work_dir="/w")
    assert str(error.value.problems[0].where) == "$.slurm.sbatch_extra_directives[0]"
    with pytest.raises(ConfigError, match=r"is a number of \d+ digits"):
        script.render(
            f"#!/bin/sh\n#SBATCH {extra}\n{{{{directives}}}}\n{{{{command}}}}\n",
            name="n", lines=(), env={}, work_dir="/w", marks="/m", launcher=Launcher(()), argv=("x",), for_slurm=True,
        )  # fmt: skip


@pytest.mark.parametrize("key", ["account", "partition", "qos", "nodelist", "a_plugins"])
def test_no_name_is_longer_than_any_is_but_a_name_may_be_of_digits(key: str) -> None:
    with pytest.raises(ConfigError, match=r"is a word of 5000 characters; a name has at most 1024"):
        directives.directives({key: "9" * 5000}, (), name="n", log_path="/l", work_dir="/w")
    assert directives.directives({key: "9" * 30 + " words"}, (), name="n", log_path="/l", work_dir="/w")


def test_masks_of_processors_and_variables_may_be_long() -> None:
    masks = {"cpu_bind": "mask_cpu:" + ",".join(["1" + "0" * 63] * 100), "export": "ALL,X=" + "9" * 5000}
    assert launch.flags(masks)


@pytest.mark.parametrize("value", ["9" * 5000, "B:USR1@" + "9" * 5000, "NOSUCH@60", "USR1@65536"], ids=lambda v: v[:9])
def test_a_signal_that_sbatch_refuses_is_reported_while_planning(value: str) -> None:
    text = "#!/bin/bash\n#SBATCH --signal=" + value + "\ntrue\n"
    assert [problem.what for problem in signals.signal_problems(text)] == ["Invalid --signal specification"]


def test_where_a_job_is_no_array_task_its_logs_are_where_slurm_puts_them() -> None:
    assert log_paths.resolve_log_path("/x/%A_%a.out", "12") == "/x/12_4294967294.out"
    assert log_paths.stream_files("/x/%A_%a.err", "12") == ("/x", "12_4294967294.err")
