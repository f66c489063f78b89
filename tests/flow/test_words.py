"""Words of a command that are not as its help has them: understood where one thing is meant, else what to write."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from oellm_autoexp.session.session import Session
from oellm_autoexp.storage.session_files import SessionFiles
from tests.flow.conftest import QUICK, SCRIPTS, User

CHECKOUT = SCRIPTS.parent
CONFIG = """\
# @package _global_
defaults: [override /backend: command]
project: {name: one}
backend: {argv: ["true"]}
"""


@pytest.fixture
def planned(user: User) -> User:
    """A user with a plan of one job: `m.json`, of `one.yaml`."""
    (user.home / "one.yaml").write_text(CONFIG)
    result = user.run("plan", "--config-ref", "one.yaml", "--plan-id", "p", "--manifest", "m.json")
    assert result.returncode == 0, result.stderr
    return user


MISTAKES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "an option as a key": (("plan", "config-ref=e1"), ("--config-ref is an option", "write --config-ref e1")),
    "an option as a key, with underscores": (("run", "plan_id=x"), ("write --plan-id x",)),
    "a config's file as an override": (("plan", "./one.yaml"), ("a config is no", "write --config-ref ./one.yaml")),
    "the name of a config's file as an override": (("run", "one"), ("one: a config is no", "--config-ref ./one.yaml")),
    "a config's name as an override": (
        ("plan", "examples/tiny_lm_grid"),
        ("a config is no override", "write --config-ref examples/tiny_lm_grid"),
    ),
    "a config's file without its ending": (("plan", "--config-ref", "one"), ("no config 'one'", "ending: ./one.yaml")),
    "an override as in a file": (("plan", "project=default", "slurm: base"), ("not parse", "write slurm=base")),
    "an override as in a file, in two words": (("plan", "project=default", "slurm:", "base"), ("write slurm=base",)),
    "values to try as in a file": (
        ("plan", "project=default", "backend.options.lr: 1, 2"),
        ("write backend.options.lr=VALUE; several values to try go into the section sweep",),
    ),
    "a list as in a file": (
        ("plan", "project=default", "backend.options.lr: [1, 2]"),
        ("write backend.options.lr=[1, 2]",),
    ),
    "a variable as a key": (("plan", "project=default", "DATA_DIR="), ("+slurm.env.DATA_DIR=VALUE",)),
    "an option of another command": (("run", "--session", "p"), ("--session is an option of monitor",)),
    "the opposite of what is meant": (("run", "--monitor-only"), ("monitor_autoexp.py --manifest PATH",)),
    "overrides beside a manifest": (
        ("submit", "--manifest", "m.json", "project=x"),
        ("project=x: a manifest can't be changed", "give overrides to plan or run"),
    ),
    "two manifests": (("submit", "m.json", "m.json"), ("2 manifests are given",)),
    "no manifest": (("submit",), ("no manifest is given", "write --manifest PATH")),
    "a config as a manifest": (
        ("submit", "--manifest", "one.yaml"),
        ("one.yaml: a YAML file is not a manifest", "plan_autoexp.py --config-ref one.yaml"),
    ),
    "a config as a session": (("monitor", "one.yaml"), ("a YAML file is not a manifest",)),
    "a manifest that is not there": (("submit", "no.json"), ("plan_autoexp.py --manifest no.json",)),
    "overrides of a session": (("monitor", "p", "y=3"), ("y=3: the plan of a session is fixed",)),
    "two sessions": (("monitor", "p", "q"), ("p q: one session at a time",)),
    "a command without its option": (("monitor", "status"), ("write --cmd status",)),
    "the path of a session that is not there": (
        ("monitor", "--session", "x/p.json"),
        ("x/p.json: there is no such file",),
    ),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistaken_word_is_reported_with_what_to_write(planned: User, kind: str) -> None:
    words, reported = MISTAKES[kind]
    result = planned.run(*words)
    assert result.returncode == 2, result.stdout
    assert all(part in result.stderr for part in reported), result.stderr
    assert "usage:" not in result.stderr
    assert "--no-monitor" not in result.stderr


@pytest.mark.slow
def test_a_manifest_and_a_session_are_understood_as_words_alone_and_as_paths(planned: User) -> None:
    submitted = planned.run("submit", "m.json")
    assert submitted.returncode == 0, submitted.stderr
    state = "outputs/monitoring_state/p.json"
    elsewhere = planned.home / "elsewhere"
    elsewhere.mkdir()
    away = User(elsewhere, planned.environment)
    for user, words in (
        (planned, ("p",)),
        (planned, (state,)),
        (planned, ("m.json",)),
        (away, ("--session", str(planned.home / state))),
        (away, ("--manifest", str(planned.home / state))),
        (away, ("--session", str(planned.home / "m.json"))),
    ):
        result = user.run("monitor", *words, "--cmd", "status", "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["plan_id"] == "p"


@pytest.mark.parametrize("words", [("--cmd", "list"), ("--all",), ("--all", "--cmd", "status"), ("p",)])
def test_where_no_sessions_are_the_whole_path_is_reported_and_where_else_to_look(
    user: User, words: tuple[str, ...]
) -> None:
    result = user.run("monitor", *words)
    reported = result.stdout + result.stderr
    assert f"{user.home}/outputs/monitoring_state" in reported
    assert (
        "$OUTPUT_DIR is not set; run this where you planned, or name the folder with --monitoring-state-dir" in reported
    )
    set_to = user.run("monitor", *words, OUTPUT_DIR="/nowhere")
    assert "the folder is that of $OUTPUT_DIR" in set_to.stdout + set_to.stderr


def test_help_and_its_examples_are_those_of_the_command_as_it_was_called(user: User) -> None:
    script = user.run("run", "--help").stdout
    assert script.startswith("usage: run_autoexp.py ")
    assert "python scripts/run_autoexp.py project=default" in script
    installed = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'oellm-autoexp'; from oellm_autoexp.cli.main import main; main()",
    ]
    shown = subprocess.run([*installed, "run", "--help"], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert shown.stdout.startswith("usage: oellm-autoexp run ")
    assert "  oellm-autoexp run project=default" in shown.stdout
    assert "scripts/" not in shown.stdout


@pytest.mark.parametrize("command", ["generate_megatron_config", "generate_megatron_dataclass"])
def test_the_exit_codes_in_a_commands_help_are_its_own(user: User, command: str) -> None:
    shown = user.run(command, "--help").stdout
    assert "some file is out of date" in shown
    assert "every job succeeded" not in shown


@pytest.mark.parametrize("script", sorted({path.name for path in SCRIPTS.glob("*.py")} - {"shell_completion.py"}))
def test_a_python_without_our_packages_is_reported_in_one_sentence(script: str) -> None:
    words = {
        "monitor_autoexp.py": ["--cmd", "list"],
        "submit_autoexp.py": ["m.json"],
        "run_sweep_entry.py": ["--sweep", "s.json", "--index", "0"],
        "generate_megatron_config.py": ["--check"],
        "config_schema.py": [],
        "report_autoexp.py": ["--session", "p"],
        "generate_megatron_dataclass.py": ["--check"],
    }
    command = [
        sys.executable,
        "-S",
        str(SCRIPTS / script),
        *words.get(script, ["project=default"]),
    ]  # -S: none are found
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stdout
    assert result.stderr.startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    if not script.startswith("generate"):
        assert f"needs its packages; the Python {sys.executable} has no '" in result.stderr


def test_an_older_python_is_reported_in_one_sentence_before_it_reads_what_it_does_not_understand() -> None:
    old = "import sys; sys.version_info = (3, 6, 8, 'final', 0); import oellm_autoexp.cli.main"
    result = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert result.returncode == 2
    assert result.stderr.startswith("error: oellm-autoexp needs Python 3.11 or newer; this is 3.6 (")
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    "path",
    [CHECKOUT / "oellm_autoexp" / "__init__.py", CHECKOUT / "oellm_autoexp" / "__main__.py", *SCRIPTS.glob("*.py")],
)
def test_what_an_older_python_reads_first_is_in_words_that_it_understands(path: Path) -> None:
    import ast

    tree = ast.parse(path.read_text(), feature_version=(3, 7))
    assert not any(isinstance(node, ast.JoinedStr | ast.AnnAssign) for node in ast.walk(tree))
    assert "annotations" not in path.read_text()


@pytest.mark.slow
def test_training_longer_keeps_what_the_run_was_told(user: User) -> None:
    result = user.run("run", *QUICK, "+metadata.team=a b")
    assert result.returncode == 0, result.stderr
    (hint,) = [line for line in result.stdout.splitlines() if "train longer" in line]
    assert hint.endswith("monitoring.poll_interval_seconds=0.2 '+metadata.team=a b' backend.options.train_iters=400")
    assert "train_iters=12" not in hint


@pytest.mark.slow
def test_training_longer_is_no_hint_after_a_plan_that_did_not_succeed(user: User) -> None:
    assert user.run("run", *QUICK, "--plan-id", "x", "--no-monitor", "backend.options.step_seconds=30").returncode == 0
    ended = user.run("monitor", "--session", "x", "--cmd", "cancel")
    assert ended.returncode in (0, 1), ended.stderr
    shown = user.run("monitor", "--session", "x")
    assert "cancelled" in shown.stdout
    assert "train longer" not in shown.stdout + ended.stdout


@pytest.mark.slow
def test_the_session_in_the_way_is_reported_to_have_nothing_submitted_and_each_way_out_has_its_line(user: User) -> None:
    (user.home / "one.yaml").write_text(CONFIG)
    (user.home / "sbatch").write_text(
        "#!/bin/sh\ncase $1 in --version) echo slurm 24.05; exit;; esac\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1\n"
    )
    for name in ("squeue", "sacct", "scontrol", "sinfo"):
        (user.home / name).write_text("#!/bin/sh\n")
    for name in ("sbatch", "squeue", "sacct", "scontrol", "sinfo"):
        (user.home / name).chmod(0o755)
    path = f"{user.home}:{user.environment['PATH']}"
    words = ("run", "--config-ref", "one.yaml", "slurm=base")
    first = user.run(*words, "--plan-id", "p", PATH=path)
    assert first.returncode == 3, first.stdout
    again = user.run(*words, PATH=path)
    assert again.returncode == 2
    assert (
        "the output directory of one belongs to the session 'p', which is not finished: none of its jobs"
        in again.stderr
    )
    assert "was submitted (sbatch: Batch job submission failed: Invalid account)" in again.stderr
    (end,) = [line for line in again.stderr.splitlines() if "or end it: " in line]
    assert "--monitoring-state-dir" not in end, "it is where this shell looks for sessions anyway"
    assert end.endswith("monitor_autoexp.py --session p --cmd cancel")


@pytest.mark.slow
def test_a_run_that_an_action_started_is_listed_with_what_started_it(planned: User) -> None:
    assert planned.run("submit", "m.json").returncode == 0
    session = Session.load(SessionFiles.named(planned.outputs / "monitoring_state", "p").path)
    session.parent = "q/a/saved-935114f493e8"
    session.snapshot()
    assert "p (started by 'saved' of job a, in plan q)" in planned.run("monitor", "--cmd", "list").stdout
    listed = json.loads(planned.run("monitor", "--cmd", "list", "--json").stdout)
    assert [row["parent"] for row in listed["sessions"]] == ["q/a/saved-935114f493e8"]
