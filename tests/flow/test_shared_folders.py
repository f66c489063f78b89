"""A second user of the machine attacks a folder that a group shares: nothing of theirs runs, nothing is followed.

The group's folders are writable for all of it (umask 002, setgid). The attacker is a real user, whose commands are
processes of that user; the victim is who runs the tests. What the attacker leaves is refused with its place and owner,
and nothing of the victim's changes. Reading together goes on working.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from oellm_autoexp import start
from oellm_autoexp.cli import plan_autoexp, run_autoexp, submit_autoexp
from oellm_autoexp.sbatch.script import array_script
from tests.flow.conftest import User, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.getuid() != 0, reason="only root can make users")]
PRECIOUS = "alias precious=1"  # without a line's end, as a torn line has none
SECONDS = 60
READER = """
import importlib, os, pkgutil, sys
import rich, pydantic._internal
import oellm_autoexp
for package in (oellm_autoexp, rich, pydantic._internal):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(("__main__", "parser_check", ".start", "_win32_console", "_windows_renderer")):
            importlib.import_module(module.name)
from oellm_autoexp.cli.main import main
import oellm_autoexp.session.queue, oellm_autoexp.view.queue
uid, group = int(sys.argv[1]), int(sys.argv[2])
os.chdir(sys.argv[3])
os.setgroups([group]); os.setgid(group); os.setuid(uid)
sys.exit(main(sys.argv[4:]))
"""
"""Our commands as another user, who can't reach the Python of whoever runs the tests: all is imported before."""


@dataclass(frozen=True)
class Group:
    """A group of two users beside root, as numbers."""

    gid: int
    attacker: int
    colleague: int

    def attack(self, script: str, *words: str | Path) -> None:
        """Run a shell script as the attacker; its words are `$1`…"""
        subprocess.run(
            ["/bin/sh", "-eu", "-c", script, "sh", *map(str, words)],
            user=self.attacker,
            group=self.gid,
            extra_groups=[],
            umask=0o002,
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            check=True,
            timeout=SECONDS,
        )

    def as_attacker(self, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of our commands as the attacker."""
        argv = [sys.executable, "-c", READER, str(self.attacker), str(self.gid), str(cwd), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)

    @property
    def name(self) -> str:
        """How messages call the attacker."""
        return f"user {pwd.getpwuid(self.attacker).pw_name} ({self.attacker})"


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    """Real users, for as long as the tests run."""
    name = f"aexp{os.getpid()}"
    users = (f"{name}a", f"{name}b")
    subprocess.run(["groupadd", name], check=True)
    try:
        for user in users:
            subprocess.run(["useradd", "--no-create-home", "--gid", name, "--shell", "/bin/sh", user], check=True)
        attacker, colleague = map(pwd.getpwnam, users)
        yield Group(attacker.pw_gid, attacker.pw_uid, colleague.pw_uid)
    finally:
        for user in users:
            subprocess.run(["userdel", user], check=False)
        subprocess.run(["groupdel", name], check=False)


@dataclass(frozen=True)
class Shared:
    """The shared folder, in which the victim works, and a folder of the attacker's in it."""

    user: User
    evil: Path
    bashrc: Path

    @property
    def work(self) -> Path:
        return self.user.home

    @property
    def state(self) -> Path:
        return self.user.outputs / "monitoring_state"

    @property
    def proof(self) -> Path:
        """What the attacker's program makes, if it runs."""
        return self.evil / "proof"

    @property
    def script(self) -> Path:
        return self.evil / "script"

    def refused(self, command: str, *words: str, reported: str, code: int = 2, **more: str) -> str:
        """Run a command that refuses what it finds, and changes nothing; what it says."""
        done = self.user.run(command, *words, **more)
        said = done.stderr + done.stdout
        assert done.returncode == code, said
        assert reported in said
        self.unharmed(said)
        return said

    def unharmed(self, said: str = "") -> None:
        assert not self.proof.exists(), "the attacker's program ran"
        assert self.bashrc.read_text() == PRECIOUS
        assert "Traceback" not in said


@pytest.fixture
def shared(group: Group, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    before = os.umask(0o002)
    top = Path(tempfile.mkdtemp(prefix="shared"))
    try:
        top.chmod(0o755)
        home, work = top / "home", top / "group"
        home.mkdir(mode=0o755)
        (home / ".bashrc").write_text(PRECIOUS)
        work.mkdir()
        os.chown(work, -1, group.gid)
        work.chmod(0o2775)
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        user = User(work, {**kept, "HOME": str(home), "PYTHONWARNINGS": "error"})
        made = Shared(user, work / "evil", home / ".bashrc")
        group.attack(
            'mkdir "$1"; printf "#!/bin/sh\\nid > $1/proof\\n" > "$1/script"; chmod 755 "$1/script"', made.evil
        )
        monkeypatch.chdir(work)
        for name in ("OUTPUT_DIR", "OELLM_MONITORING_STATE_DIR", "PYTHONPATH"):
            monkeypatch.delenv(name, raising=False)
        yield made
    finally:
        os.umask(before)
        shutil.rmtree(top)


def config(shared: Shared, **more: Any) -> list[str]:
    """The words of a plan of one job."""
    text: dict[str, Any] = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "one"},
        "backend": {"argv": ["sh", "-c", "echo loss is nan; exit 3"]},
        "monitoring": {"poll_interval_seconds": 0.2, "state_events": {"crash": {"actions": []}}},
        **more,
    }
    (shared.work / "one.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(text)}")
    return ["--config-ref", "./one.yaml", "--plan-id", "one"]


@pytest.fixture
def planned(shared: Shared) -> Shared:
    """A plan of one job that is not submitted yet."""
    assert plan_autoexp.main(config(shared)) == 0
    return shared


@pytest.fixture
def gated(shared: Shared) -> Shared:
    """A session whose job waits for a file `go`."""
    gate = {"start_condition_cmd": ["test", "-e", "go"], "start_condition_interval_seconds": 0.1}
    assert run_autoexp.main([*config(shared, job=gate), "--no-monitor"]) == 0
    return shared


def manifest(shared: Shared) -> str:
    return str(shared.user.outputs / "manifests" / "one.json")


# --- what is read back ------------------------------------------------------------------------------------------------


def test_a_journal_of_another_user_is_not_replayed(gated: Shared, group: Group) -> None:
    job = json.loads((gated.state / "one.json").read_text())["jobs"]["one"]
    record = {"serial": 99, "job": {**job, "script_path": str(gated.script)}}
    group.attack(
        'printf "%s\\n" "$1" > "$2"; touch "$3"', json.dumps(record), gated.state / "one.journal", gated.work / "go"
    )
    reported = f"one.journal: belongs to {group.name}, not to you"
    gated.refused("monitor", "--session", "one", "--once", reported=reported)
    gated.refused("submit", "--manifest", manifest(gated), "--no-monitor", reported=reported)


def test_the_list_names_what_is_not_read_whose_it_is_and_what_to_do_and_still_lists_the_others(
    gated: Shared, group: Group
) -> None:
    (gated.state / "two.json").write_text((gated.state / "one.json").read_text().replace('"one"', '"two"', 1))
    (gated.state / "two.json").chmod(0o644)
    group.attack('touch "$1" "$2"', gated.state / "two.journal", gated.state / "alone.journal")
    done = gated.user.run("monitor", "--cmd", "list")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("one "), done.stderr
    for name in ("two", "alone"):
        reported = f"{name}.journal: belongs to {group.name}, not to you"
        assert reported in done.stderr
        assert any(line.startswith(f"{name} ") and "not read: " in line and reported in line for line in lines)
    assert done.stderr.count("ask them to remove it, or remove it: the folder is yours") == 2
    facts = json.loads(gated.user.run("monitor", "--cmd", "list", "--json").stdout)
    assert [session["plan_id"] for session in facts["sessions"]] == ["one"]
    assert [session["plan_id"] for session in facts["unread"]] == ["two", "alone"]
    assert f"belongs to {group.name}" in facts["unread"][0]["problems"][0]["what"]


@pytest.mark.parametrize("name", ["one.json", "one.journal", "one.lease"])
@pytest.mark.parametrize("kind", ["mkfifo", "ln -s /dev/zero"])
def test_a_pipe_or_a_device_is_no_file_of_a_session(gated: Shared, group: Group, name: str, kind: str) -> None:
    group.attack(f'rm -f "$1"; {kind} "$1"', gated.state / name)
    reported = "is a device, pipe or socket" if kind == "mkfifo" else "is a link; links are not followed here"
    gated.refused("monitor", "--session", "one", "--once", reported=reported)


@pytest.mark.parametrize("kind", ["mkfifo", "ln -s /dev/zero"])
def test_pipes_and_devices_beside_a_session_do_not_keep_it_from_being_watched(
    gated: Shared, group: Group, kind: str
) -> None:
    group.attack(f'{kind} "$1"', gated.state / "aaa.json")
    group.attack('cp "$1" "$2"', gated.state / "one.json", gated.state / "zzz.json")
    (gated.work / "go").touch()
    done = gated.user.run("monitor", "--all")
    gated.unharmed(done.stderr)
    assert done.returncode == 1, done.stderr
    assert f"zzz belongs to {group.name}: only they can watch it" in done.stderr
    assert gated.user.states() == ["crash"]


@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "theirs", "link"])
def test_what_is_no_manifest_of_mine_is_refused_at_once(planned: Shared, group: Group, name: str) -> None:
    group.attack('cd "$1"; mkfifo pipe; cp "$2" theirs; ln -s "$2" link', planned.evil, manifest(planned))
    reported = (
        "is a device, pipe or socket" if name in ("/dev/zero", "pipe") else f"belongs to {group.name}, not to you"
    )
    for command in ("submit", "monitor"):
        path = str(planned.evil / name)
        more = ["--cmd", "cancel"] if command == "monitor" else []
        planned.refused(command, "--manifest", path, *more, reported=reported)


def test_a_manifest_that_another_user_has_put_in_place_of_mine_is_refused(planned: Shared, group: Group) -> None:
    path = manifest(planned)
    group.attack('sed "s|$2|$3|" "$1" > "$1.new"; mv -f "$1.new" "$1"', path, "job.sbatch", "../evil/script")
    planned.refused(
        "submit", "--manifest", path, "--no-monitor", reported=f"{path}: belongs to {group.name}, not to you"
    )


def test_a_mark_of_an_output_directory_may_be_a_pipe(planned: Shared, group: Group) -> None:
    group.attack('mkfifo "$1"', planned.user.outputs / "one" / "session.json")
    planned.refused("submit", "--manifest", manifest(planned), reported="session.json: is a device, pipe or socket")


# --- what is run ------------------------------------------------------------------------------------------------------


def script(shared: Shared) -> Path:
    return shared.user.outputs / "one" / "provenance" / "one" / "job.sbatch"


def test_a_script_that_another_user_has_put_in_place_of_mine_is_not_submitted(planned: Shared, group: Group) -> None:
    group.attack('mv "$2" "$2.old"; cp "$1" "$2"', planned.script, script(planned))
    for more in ("--no-monitor", "--dry-run"):
        reported = f"{script(planned)}: belongs to {group.name}, not to you"
        planned.refused("submit", "--manifest", manifest(planned), more, reported=reported)


@pytest.mark.parametrize("whose", ["theirs", "mine"])
def test_a_script_that_becomes_another_one_while_its_job_waits_is_not_submitted(
    gated: Shared, group: Group, whose: str
) -> None:
    if whose == "theirs":
        group.attack('mv "$2" "$2.old"; cp "$1" "$2"; touch "$3"', gated.script, script(gated), gated.work / "go")
        reported = f"belongs to {group.name}"
    else:  # of several files of mine, others can put one in the place of another
        (gated.work / "mine").write_text(f"#!/bin/sh\ntouch {gated.proof}\n")
        (gated.work / "mine").chmod(0o755)
        group.attack('mv -f "$1" "$2"; touch "$3"', gated.work / "mine", script(gated), gated.work / "go")
        reported = "this is not the script that was planned"
    assert gated.user.run("monitor", "--session", "one", "--once").returncode == 0
    job = gated.user.session()["one"]
    assert job["state"] == "waiting"
    assert reported in job["reason"]
    gated.unharmed()


def test_a_task_of_an_array_does_not_run_what_has_become_another_users(shared: Shared, group: Group) -> None:
    folder = shared.work / "array"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "job.sbatch").symlink_to(shared.script)
    array = shared.work / "array.sbatch"
    array.write_text(array_script("#!/bin/sh\n", str(folder), "logs/%j.out"))
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(["bash", str(array)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "belongs to another user: it is not run" in done.stderr
    shared.unharmed()
    (folder / "0" / "job.sbatch").unlink()
    (folder / "0" / "job.sbatch").write_text("echo mine")
    assert subprocess.run(["bash", str(array)], env=environment, capture_output=True, check=True).stdout == b"mine\n"


def test_modules_that_lie_in_the_working_directory_are_not_imported(shared: Shared, group: Group) -> None:
    code = f"import os; os.system('id > {shared.proof}')"
    group.attack('for name in random queue json submitit; do echo "$1" > "$2/$name.py"; done', code, shared.work)
    done = shared.user.run("run", *config(shared), "--detach", "local")
    assert done.returncode == 0, done.stderr + done.stdout
    until(lambda: list((shared.state / "one.detached").glob("*_0_result.pkl")), "the end of the detached monitor")
    assert shared.user.states() == ["crash"]
    shared.unharmed()


@pytest.mark.parametrize("folder", ["one.detached", "local", "one.actions", "one.requests"])
def test_a_folder_that_another_user_has_prepared_is_not_used(gated: Shared, group: Group, folder: str) -> None:
    group.attack('rm -rf "$1" 2> /dev/null || mv "$1" "$1.old"; mkdir -m 777 "$1"', gated.state / folder)
    (gated.work / "go").touch()
    words = {
        "one.detached": ["--detach", "local"],
        "local": ["--once"],
        "one.actions": ["--cmd", "actions"],
        "one.requests": ["--cmd", "restart", "--job", "one"],
    }[folder]
    if folder == "one.actions":
        group.attack('mkdir "$1/crash-1"; cp "$2" "$1/crash-1/x.json"', gated.state / folder, gated.state / "one.json")
    gated.refused(
        "monitor", "--session", "one", *words, reported=f"{gated.state}/{folder}: belongs to {group.name}, not to you"
    )


def test_a_pickle_of_another_user_is_not_loaded(shared: Shared, group: Group) -> None:
    """The folder of a detached monitor may be moved away, and another one be there when the job begins."""
    shared.state.mkdir(parents=True)
    folder = shared.state / "one.detached"
    pickle = f"cos\nsystem\n(S'id > {shared.proof}'\ntR."
    group.attack(
        'mkdir -m 777 "$1"; printf %s "$2" > "$1/7_0_submitted.pkl"; cp "$1"/7_0* "$1/7_submitted.pkl"', folder, pickle
    )
    environment = {**shared.user.environment, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "7"}
    words = [*start.words("oellm_autoexp.engine.pickled"), str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode != 0
    assert f"belongs to {group.name}, not to you" in done.stderr
    assert not shared.proof.exists()


# --- what is written --------------------------------------------------------------------------------------------------


def test_events_are_not_written_through_a_link(gated: Shared, group: Group) -> None:
    group.attack('ln -s "$1" "$2"', gated.bashrc, gated.state / "one.events.jsonl")
    (gated.work / "go").touch()
    done = gated.user.run("monitor", "--session", "one")
    gated.unharmed(done.stderr)
    assert done.returncode == 2
    assert f"{gated.state}/one.events.jsonl: is a link; links are not followed here" in done.stderr


@pytest.mark.parametrize(
    "folder", ["outputs", "outputs/one", "outputs/one/logs", "outputs/manifests", "outputs/monitoring_state"]
)
@pytest.mark.parametrize("kind", ["mkdir -m 777", 'ln -s "$2"'])
def test_nothing_is_planned_into_a_folder_of_another_user(shared: Shared, group: Group, folder: str, kind: str) -> None:
    path = shared.work / folder
    path.parent.mkdir(parents=True, exist_ok=True)
    group.attack(f'{kind} "$1"', path, shared.evil)
    before = sorted(path.rglob("*"))
    shared.refused("plan", *config(shared), reported=f"{path} belongs to {group.name}")
    assert sorted(path.rglob("*")) == before


def test_a_job_leaves_no_marks_where_another_user_has_put_a_link_since_it_was_submitted(
    planned: Shared, group: Group
) -> None:
    keep, output = planned.bashrc.parent / "keep", planned.user.outputs / "one"
    keep.mkdir()
    (keep / "2.exit").write_text(PRECIOUS)
    group.attack('rm -rf "$2/marks"; ln -s "$1" "$2/marks"', keep, output)
    job = subprocess.run(
        ["bash", output / "job.sbatch"],
        env={**os.environ, "SLURM_JOB_ID": "2", "AUTOEXP_LAUNCHER": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "marks is not a folder of this user: nothing is written there" in job.stderr
    assert [item.name for item in keep.iterdir()] == ["2.exit"]
    assert (keep / "2.exit").read_text() == PRECIOUS


@pytest.mark.parametrize("theirs", ["a link", "a folder"])
def test_a_job_leaves_no_mark_where_another_user_puts_a_link_or_folder_while_it_runs(
    shared: Shared, group: Group, theirs: str
) -> None:
    backend = {"argv": ["sh", "-c", "touch began; until test -e go; do sleep 0.05; done; exit 3"]}
    assert plan_autoexp.main(config(shared, backend=backend)) == 0
    keep, output = shared.bashrc.parent / "keep", shared.user.outputs / "one"
    keep.mkdir()
    keep.chmod(0o777)
    with subprocess.Popen(
        ["bash", output / "job.sbatch"],
        env={**os.environ, "SLURM_JOB_ID": "2", "AUTOEXP_LAUNCHER": ""},
        stderr=subprocess.PIPE,
    ) as job:
        until(lambda: (shared.work / "began").exists(), "the program")
        assert [path.name for path in (output / "marks").iterdir()] == ["2.start"]
        made = 'ln -s "$1" "$2/marks"' if theirs == "a link" else 'mkdir "$2/marks"; chmod 777 "$2/marks"'
        group.attack(f'mv "$2/marks" "$2/old"; {made}', keep, output)
        (shared.work / "go").touch()
        _, reported = job.communicate(timeout=SECONDS)
        assert job.returncode == 3
    assert reported == b""
    assert [*keep.iterdir()] == [*(output / "marks").iterdir()] == []


def test_what_a_job_of_slurm_prints_goes_to_no_file_that_another_user_has_linked_to_as_its_log(
    planned: Shared, group: Group
) -> None:
    log = planned.user.outputs / "one" / "logs" / "2.out"
    group.attack('ln -s "$1" "$2"', planned.bashrc, log)
    with log.open("ab") as opened:  # as SLURM does before it starts the script
        done = subprocess.run(
            ["bash", planned.user.outputs / "one" / "job.sbatch"],
            env={**os.environ, "SLURM_JOB_ID": "2", "AUTOEXP_LAUNCHER": ""},
            stdout=opened,
            stderr=opened,
            check=False,
        )
    assert done.returncode == 3
    assert not log.is_symlink()
    assert log.read_text().splitlines() == [
        "oellm-autoexp: a link of another user stood where this log is, and was removed",
        "loss is nan",
    ]
    planned.unharmed()


def test_neither_log_nor_marks_of_a_job_are_written_through_a_link(planned: Shared, group: Group) -> None:
    output = planned.user.outputs / "one"
    group.attack('ln -s "$1" "$2/logs/1.out"', planned.bashrc, output)
    (output / "marks").mkdir()
    group.attack('for k in start exit; do ln -s "$1" "$2/marks/2.$k"; done', planned.bashrc, output)
    assert submit_autoexp.main(["--manifest", manifest(planned), "--no-monitor"]) == 0
    done = planned.user.run("monitor", "--session", "one")
    assert done.returncode == 1, done.stderr
    planned.unharmed(done.stderr)
    again = planned.user.run("monitor", "--session", "one", "--cmd", "restart")
    assert again.returncode == 0, again.stderr
    done = planned.user.run("monitor", "--session", "one")
    assert planned.user.session()["one"]["exit_code"] == 3
    planned.unharmed(done.stderr)


def test_removing_a_session_removes_nothing_that_another_user_has_put_there(gated: Shared, group: Group) -> None:
    assert gated.user.run("monitor", "--session", "one", "--cmd", "cancel").returncode == 0
    precious = gated.work / "precious"
    precious.mkdir()
    (precious / "file").touch()
    group.attack('ln -s "$1" "$2"', precious, gated.state / "one.actions")
    gated.refused(
        "monitor", "--session", "one", "--cmd", "remove", reported=f"one.actions: belongs to {group.name}, not to you"
    )
    assert (precious / "file").exists()
    assert (gated.state / "one.json").exists()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", "../other", "..", "sub/one", ".hidden", "/etc/passwd", "one\0"])
@pytest.mark.parametrize("command", ["status", "cancel"])
def test_the_name_of_a_session_is_no_path_and_not_nothing(gated: Shared, word: str, command: str) -> None:
    from oellm_autoexp.cli import monitor_autoexp

    other = gated.state.parent / "other.json"
    other.write_bytes((gated.state / "one.json").read_bytes())
    before = (gated.state / "one.json").read_bytes()
    assert monitor_autoexp.main(["--session", word, "--cmd", command]) == 2
    assert (gated.state / "one.json").read_bytes() == before


# --- reading together -------------------------------------------------------------------------------------------------


def stamps(shared: Shared) -> dict[Path, int]:
    """All files but those of the local scheduler, whose workers come to their end."""
    files = (path for path in shared.user.outputs.rglob("*") if not path.is_relative_to(shared.state / "local"))
    return {path: path.lstat().st_mtime_ns for path in files}


def test_a_group_reads_together_and_only_the_owner_acts(shared: Shared, group: Group) -> None:
    assert run_autoexp.main(config(shared)) == 1
    for path in (shared.user.outputs, *shared.user.outputs.rglob("*")):
        os.chown(path, group.colleague, -1, follow_symlinks=False)
    whose = f"user {pwd.getpwuid(group.colleague).pw_name} ({group.colleague})"
    before = stamps(shared)
    session = ("monitor", "--session", "one", "--cmd")
    for words, code, shown in (
        ((*session, "status"), 1, "crash"),
        (("monitor", "--manifest", manifest(shared), "--cmd", "status"), 1, "crash"),
        ((*session, "tail"), 0, "loss is nan"),
        ((*session, "try", "--log", "/etc/hostname"), 0, "1 line"),
        ((*session, "events"), 0, "crash"),
        ((*session, "queue"), 0, "is empty"),
        (("monitor", "--cmd", "list"), 0, f"one (of {whose})"),
        (("monitor", "--cmd", "status", "--all"), 0, "no unfinished sessions"),
    ):
        done = group.as_attacker(shared.work, *words)
        assert done.returncode == code, done.stderr + done.stdout
        assert shown in done.stdout
        assert "Traceback" not in done.stderr
        assert "--cmd list" in " ".join(words) or "--all" in words or f"belongs to {whose}" in done.stderr
    for command in ("restart", "cancel", "remove", "watch", "actions"):
        done = group.as_attacker(shared.work, *session, command)
        assert done.returncode == 2, done.stderr + done.stdout
        assert f"belongs to {whose}, not to you" in done.stderr
    assert stamps(shared) == before


# --- programs and folders that planning and the job's script meet


@pytest.mark.parametrize("setting", ["[core]\\n\\tfsmonitor = %s\\n", '[filter "x"]\\n\\tclean = %s\\n'])
@pytest.mark.parametrize("how", ["cp config c; cat new >> c; mv -f c config", "cat new >> config"])
def test_a_program_that_a_shared_checkout_names_is_not_run(
    shared: Shared, group: Group, capsys: pytest.CaptureFixture[str], setting: str, how: str
) -> None:
    (shared.work / ".gitattributes").write_text("*.yaml filter=x\n")
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q", "--shared=group"], ["add", "one.yaml"], [*who, "commit", "-q", "-m", "x"]):
        config(shared)
        subprocess.run(["git", *words], cwd=shared.work, check=True)
    group.attack(f'cd "$1/.git"; printf \'{setting}\' "$2" > new; {how}', shared.work, shared.script)
    os.utime(shared.work / "one.yaml", (1, 1))
    assert plan_autoexp.main(config(shared)) == 0
    assert "the state of git is not recorded" in capsys.readouterr().out
    shared.unharmed()
    assert plan_autoexp.main([*config(shared), "project.code=snapshot"]) == 2
    reported = capsys.readouterr().err
    assert f"the git checkout here can't be copied: {shared.work}/.git/config: " in reported
    assert "no git checkout" not in reported


@pytest.mark.parametrize("folder", ["marks", "provenance"])
def test_a_folder_of_a_job_that_another_user_prepared_is_refused(shared: Shared, group: Group, folder: str) -> None:
    keep = shared.bashrc.parent / "keep"
    keep.mkdir()
    (keep / "1.exit").write_text(PRECIOUS)
    (shared.user.outputs / "one").mkdir(parents=True)
    group.attack('ln -s "$1" "$2"', keep, shared.user.outputs / "one" / folder)
    reported = f"{shared.user.outputs}/one/{folder} belongs to {group.name}"
    shared.refused("plan", *config(shared), reported=reported)
    assert (keep / "1.exit").read_text() == PRECIOUS


def test_a_folder_for_marks_that_another_user_has_made_since_the_plan_is_refused(planned: Shared, group: Group) -> None:
    marks = planned.user.outputs / "one" / "marks"
    group.attack('ln -s "$1" "$2"', planned.bashrc.parent, marks)
    planned.refused("submit", "--manifest", manifest(planned), reported=f"{marks}: belongs to {group.name}, not to you")


@pytest.mark.parametrize("kind", ["mkfifo", "ln -s /dev/zero"])
def test_a_pipe_or_a_device_is_no_sweep_file(shared: Shared, group: Group, kind: str) -> None:
    (shared.user.outputs / "manifests").mkdir(parents=True)
    group.attack(f'{kind} "$1"', shared.user.outputs / "manifests" / "one.sweep.json")
    shared.refused("plan", *config(shared), reported="a file of another plan has this name")
