"""What the SLURM client makes of answers, refusals and silence: of commands that play a part, and of a real SLURM."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oellm_autoexp.core.errors import (
    InvalidSubmissionError,
    SchedulerError,
    SubmitError,
    TooManyJobsError,
    UnreachableError,
)
from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Submission
from oellm_autoexp.core.states import UNKNOWN, conclude
from oellm_autoexp.schedulers.base import job_name, outside_jobs
from oellm_autoexp.schedulers.slurm.sbatch_call import ranges
from oellm_autoexp.schedulers.slurm.scheduler import SlurmScheduler
from oellm_autoexp.storage.lock import process_started
from tests.slurm.cluster import Cluster

PATIENCE_SECONDS = 60


class Commands:
    """Programs that stand for SLURM's: each is a shell script, and every call of one is noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls_file = folder / "calls"
        # its own: an sbatch that is still running is recognised by its token, and other tests may run beside this one
        self.token = secrets.token_hex(4)
        for name in ("sbatch", "squeue", "sacct", "scancel"):
            self.write(name, "exit 0")
        self.script = folder / "job.sbatch"
        self.script.write_text("#!/bin/bash\n")

    def write(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\n(printf %s "{name}"; printf " <%s>" "$@"; echo) >> "{self.calls_file}"\n{body}\n')
        path.chmod(0o755)

    def says(self, name: str, output: str, errors: str = "", code: int = 0) -> None:
        (self.folder / f"{name}.out").write_text(output)
        (self.folder / f"{name}.err").write_text(errors)
        self.write(name, f'cat "$0.out"; cat "$0.err" >&2; exit {code}')

    def client(self, timeout: float = 60) -> SlurmScheduler:
        words = [[str(self.folder / name)] for name in ("sbatch", "squeue", "sacct", "scancel")]
        return SlurmScheduler(words[0], words[1], words[2], words[3], timeout)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def submission(self, name: str = "name", array: tuple[int, ...] = (), limit: int | None = None) -> Submission:
        return Submission(self.token, name, str(self.script), str(self.folder), "/log", None, array, limit)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


# --- submitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["7\n", "7;cluster\n", "Welcome to login1!\n\n7\n"], ids=["id", "id and cluster", "banner"]
)
def test_the_id_is_what_sbatch_says_last(commands: Commands, answer: str) -> None:
    commands.says("sbatch", answer, "sbatch: lua: be nice to others\n")
    assert commands.client().submit(commands.submission()) == "7"


def test_a_submission_carries_its_token_in_name_and_comment(commands: Commands) -> None:
    commands.says("sbatch", "7\n")
    commands.client().submit(commands.submission("a, b\n'é'" + "x" * 300, (0, 1, 2, 7), 2))
    (call,) = commands.calls()
    assert call == (
        f"sbatch <--parsable> <--job-name=a__b____{'x' * 192}.{commands.token}> <--comment=autoexp:{commands.token}>"
        f" <--array=0-2,7%2> <{commands.script}>"
    )


@pytest.mark.parametrize(
    ("code", "errors", "kind"),
    [
        (1, "sbatch: error: Batch job submission failed: Invalid partition name specified", InvalidSubmissionError),
        (1, "sbatch: error: QOSMaxSubmitJobPerUserLimit", TooManyJobsError),
        (1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", SchedulerError),
        (1, "sbatch: fatal: Could not establish a configuration source", UnreachableError),
        (1, "", SchedulerError),
    ],
)
def test_a_failure_is_a_refusal_only_if_sbatch_surely_refused(
    commands: Commands, code: int, errors: str, kind: type[SchedulerError]
) -> None:
    commands.says("sbatch", "", errors, code)
    with pytest.raises(SchedulerError) as raised:
        commands.client().submit(commands.submission())
    assert type(raised.value) is kind


@pytest.mark.parametrize("body", ["kill -9 $$", "exit 0", "echo Submitted", "sleep 1000 & sleep 1000; wait"])
def test_an_sbatch_that_gives_no_id_has_perhaps_submitted(commands: Commands, body: str) -> None:
    commands.write("sbatch", body)
    with pytest.raises(SchedulerError) as raised:
        commands.client(timeout=0.5).submit(commands.submission())
    assert type(raised.value) is SchedulerError


def test_a_hanging_command_is_ended_with_its_children(commands: Commands) -> None:
    """They hold its output open, so waiting for that would take as long as they do."""
    commands.write("squeue", f"sleep 1000 & echo $! > '{commands.folder}/pid'; wait")
    with pytest.raises(SchedulerError, match=r"squeue: no answer within 1 s \(slurm.client.timeout_seconds\)"):
        commands.client(timeout=1).poll(dict.fromkeys(["1"], ""))
    child = int((commands.folder / "pid").read_text())
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process_started(child) is not None:
        assert time.monotonic() < deadline


def test_commands_that_can_not_be_run_were_surely_not_asked(commands: Commands) -> None:
    (commands.folder / "sbatch").unlink()
    with pytest.raises(UnreachableError, match="No such file or directory\n    SLURM is not installed here"):
        commands.client().submit(commands.submission())
    (commands.folder / "sbatch").write_text("no program")
    with pytest.raises(UnreachableError, match="Permission denied"):
        commands.client().submit(commands.submission())
    (commands.folder / "squeue").unlink()
    for ask in (
        lambda: commands.client().poll(dict.fromkeys(["1"], "")),
        lambda: commands.client().find([commands.submission()]),
    ):
        with pytest.raises(UnreachableError):
            ask()


@pytest.mark.parametrize("folder", ["a b", "x;touch pwned", "$(id)", "it's", "a\nb"])
def test_no_path_that_a_wrappers_shell_would_take_apart_is_handed_to_it(commands: Commands, folder: str) -> None:
    client = SlurmScheduler(submit_cmd=("env", str(commands.folder / "sbatch")))
    commands.says("sbatch", "7\n")
    hostile = commands.folder / folder
    hostile.mkdir()
    path = str(commands.script.rename(hostile / "job.sbatch"))
    submission = Submission(commands.token, "name", path, str(commands.folder), "/log")
    with pytest.raises(InvalidSubmissionError, match="may hand this path to a shell"):
        client.submit(submission)
    assert commands.calls() == []
    (problem,) = client.check({path: "#!/bin/bash\n"})
    assert str(problem.where) == "$.project.output_dir"
    assert commands.client().submit(submission) == "7", "sbatch itself takes any path"


def test_a_job_whose_working_directory_is_gone_is_refused_without_asking(commands: Commands, tmp_path: Path) -> None:
    gone = Submission("t", "name", str(commands.script), str(tmp_path / "gone"), "/log")
    with pytest.raises(SubmitError, match=r"the working directory .* no longer exists"):
        commands.client().submit(gone)
    assert commands.calls() == []


def test_a_job_gets_the_users_environment_and_a_question_a_neutral_one(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM", "SQUEUE", "SBATCH"))]:
        monkeypatch.delenv(name)
    settings = {"LC_ALL": "de_DE.UTF-8", "SQUEUE_PARTITION": "one", "SBATCH_ACCOUNT": "mine", "SLURM_CLUSTERS": "both"}
    inside = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_CONF": "/etc/slurm.conf"}
    for name, value in (settings | inside).items():
        monkeypatch.setenv(name, value)
    shown = "LC_ALL SQUEUE_PARTITION SBATCH_ACCOUNT SLURM_CLUSTERS SLURM_JOB_ID SLURM_NTASKS SLURM_CONF"
    show = f'for name in {shown}; do eval "echo $name=\\$$name" >> "$0.env"; done; echo 7'
    commands.write("sbatch", show)
    commands.write("squeue", f"{show}; exit 1")
    commands.client().submit(commands.submission())
    with pytest.raises(SchedulerError):
        commands.client().poll(dict.fromkeys(["1"], ""))
    seen = {name: (commands.folder / f"{name}.env").read_text().split() for name in ("sbatch", "squeue")}
    of_job = ["SLURM_CLUSTERS=", "SLURM_JOB_ID=", "SLURM_NTASKS=", "SLURM_CONF=/etc/slurm.conf"]
    assert seen["sbatch"] == ["LC_ALL=de_DE.UTF-8", "SQUEUE_PARTITION=one", "SBATCH_ACCOUNT=mine", *of_job]
    assert seen["squeue"] == ["LC_ALL=C", "SQUEUE_PARTITION=", "SBATCH_ACCOUNT=mine", *of_job]
    monkeypatch.delenv("SLURM_JOB_ID")
    commands.client().submit(commands.submission())
    assert "SLURM_NTASKS=4" not in (commands.folder / "sbatch.env").read_text(), "srun would start as many tasks"
    assert "SLURM_CLUSTERS=both" not in (commands.folder / "sbatch.env").read_text(), "we ask this cluster"


@pytest.mark.parametrize("name", ["SLURM_TIME_FORMAT", "SINFO_PARTITION", "SACCT_FORMAT", "SCONTROL_ALL"])
def test_no_habit_of_a_user_shapes_an_answer(commands: Commands, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "mine")
    commands.write("squeue", f'echo "${{{name}-none}}" > "$0.env"')
    commands.client().poll(dict.fromkeys(["1"], ""))
    assert (commands.folder / "squeue.env").read_text() == "none\n"


def test_no_variable_makes_another_submission_than_the_script_says(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ARRAY_INX", "WAIT", "TIMELIMIT", "ACCOUNT", "PARTITION"):
        monkeypatch.setenv(f"SBATCH_{name}", "mine")
    commands.script.write_text("#!/bin/bash\n#SBATCH --partition=boost\ntrue\n")
    commands.write("sbatch", 'env | grep ^SBATCH_ > "$0.env"; echo 7')
    commands.client().submit(commands.submission())
    assert (commands.folder / "sbatch.env").read_text() == "SBATCH_ACCOUNT=mine\n"


PARTITIONS = """\
PartitionName=boost Default=YES MaxTime=1-00:00:00 MaxNodes=2 TotalNodes=4 QoS=N/A
PartitionName=short Default=NO MaxTime=00:05:00 MaxNodes=UNLIMITED TotalNodes=4 QoS=N/A
"""


def test_the_limits_are_those_of_the_partition_that_a_variable_names_where_the_script_names_none(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SBATCH_QOS", raising=False)
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    commands.says("scontrol", PARTITIONS)
    head = "#!/bin/bash\n#SBATCH --time=10\n"
    (problem,) = commands.client().check({"a": head})
    assert "partition short allows 0-00:05:00" in problem.what
    assert commands.client().check({"a": f"{head}#SBATCH --partition=boost\n"}) == []
    monkeypatch.setenv("SBATCH_QOS", "long")
    assert commands.client().check({"a": head}) == []


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_poll_asks_squeue_once_and_sacct_only_for_what_is_not_listed(commands: Commands) -> None:
    commands.says(
        "squeue",
        "1@RUNNING@0@0@0@n1@n1@None@+@@+@@\n3_1@PENDING@0@0@0@@@Resources@+@@+@@\n99@RUNNING@0@0@0@n1@n1@None@+@@+@@\n",
    )
    commands.says("sacct", "2|COMPLETED|0:0|n1||\n3_0|FAILED|7:0|n1||\n3_[2-9]|CANCELLED by 0|0:0|None assigned||\n")
    assert commands.client().poll(dict.fromkeys(["1", "2", "3_0", "3_1", "3_2", "4"], "")) == {
        "1": JobStatus("RUNNING", nodes="n1", restarts=0, batch_host="n1"),
        "2": JobStatus("COMPLETED", exit_code=0, nodes="n1"),
        "3_0": JobStatus("FAILED", exit_code=7, nodes="n1"),
        "3_1": JobStatus("PENDING", "Resources", restarts=0),
        "3_2": JobStatus("CANCELLED", NEVER_BEGAN),
    }
    squeue, sacct = commands.calls()
    assert squeue.startswith("squeue <--me> <-h> <-a> <-t> <all> <-r>")
    assert "<-j> <2,3,4>" in sacct
    assert commands.client().poll({}) == {}
    commands.says("squeue", "1@RUNNING@0@0@0@n1@n1@None@+@@+@@\n")
    commands.client().poll(dict.fromkeys(["1"], ""))
    assert len(commands.calls()) == 3


@pytest.mark.parametrize(
    ("output", "errors", "code"),
    [
        ("", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1),
        ("1@RUNNING@0@0@0@n1@n1@None@+@@+@@\n", "squeue: error: something\n", 1),
        ("Welcome to login1!\n", "", 0),
        ("", "", 1),
    ],
)
def test_a_squeue_that_fails_is_never_an_empty_queue(commands: Commands, output: str, errors: str, code: int) -> None:
    commands.says("squeue", output, errors, code)
    with pytest.raises(SchedulerError):
        commands.client().poll(dict.fromkeys(["1"], ""))


def test_without_an_answer_of_sacct_the_listed_jobs_are_reported_and_the_others_unknown(commands: Commands) -> None:
    commands.says("squeue", "1@RUNNING@0@0@0@n1@n1@None@+@@+@@\n")
    commands.says("sacct", "", "sacct: error: Problem talking to the database: Connection refused\n", 1)
    answers = commands.client().poll(dict.fromkeys(["1", "2"], ""))
    assert answers["1"] == JobStatus("RUNNING", nodes="n1", restarts=0, batch_host="n1")
    assert answers["2"] == JobStatus(UNKNOWN, "sacct: Problem talking to the database: Connection refused")


def test_where_no_accounts_are_kept_a_job_that_is_not_listed_is_not_known(commands: Commands) -> None:
    commands.says("sacct", "", "Slurm accounting storage is disabled\n", 1)
    assert commands.client().poll(dict.fromkeys(["2"], "")) == {}
    assert commands.client().find([commands.submission()]) == {}


def test_a_submission_is_not_declared_absent_before_everybody_was_asked(commands: Commands) -> None:
    commands.says("sacct", "", "sacct: error: Problem talking to the database: Connection refused\n", 1)
    with pytest.raises(SchedulerError):
        commands.client().find([commands.submission()])
    commands.says("squeue", "", "slurm_load_jobs error: Unable to contact slurm controller\n", 1)
    with pytest.raises(SchedulerError):
        commands.client().find([commands.submission()])
    commands.says("squeue", f"7@autoexp:{commands.token}@name.{commands.token}\n")
    assert commands.client().find([commands.submission()]) == {commands.token: "7"}


def test_an_old_submission_is_looked_for_in_both_windows_of_the_accounts(commands: Commands) -> None:
    commands.write("sacct", f"case \"$*\" in *PD,CA*) echo '8||name.{commands.token}';; esac")
    assert commands.client().find([commands.submission()]) == {commands.token: "8"}
    assert [call.partition(" ")[0] for call in commands.calls()] == ["squeue", "sacct", "sacct"]
    assert commands.client().find([]) == {}


def runs(job: str, token: str) -> str:
    return f"{job}@RUNNING@0@0@0@n1@n1@None@+@@+@name.{token}@\n"


def test_jobs_that_the_list_shows_as_others_are_not_cancelled(commands: Commands) -> None:
    lines = (("5", "t"), ("6", "strange"), ("7_0", "t7"), ("7_1", "t7"), ("8_3", "t8"))
    commands.says("squeue", "".join(runs(job, token) for job, token in lines))
    commands.client().cancel({"5": "t", "6": "t", "7": "t7", "8_3": "t8", "9": "t9", "10": ""})
    assert commands.calls()[-1] == "scancel <10> <5> <7> <8_3> <9>"
    commands.says("squeue", "", "slurm_load_jobs error: Unable to contact slurm controller\n", 1)
    with pytest.raises(SchedulerError):
        commands.client().cancel({"5": "t"})


@pytest.mark.parametrize(
    ("squeue", "sacct", "state"),
    [
        (runs("3_0", "t"), "", "CANCELLED"),
        ("3@CANCELLED@0@0@0@@@JobHeldUser@+@@+@name.t@\n", "", "CANCELLED"),
        ("", "3_0|COMPLETED|0:0|n1||name.t\n3_2|COMPLETED|0:0|n1||name.t\n", "CANCELLED"),
        ("", "3_[0,2]|CANCELLED by 0|0:0|None assigned||name.t\n", "CANCELLED"),
        (runs("3_0", "t"), "3_[1-9]|PENDING|0:0|None assigned||name.t\n", "CANCELLED"),
        ("", "3_[1-9]|PENDING|0:0|None assigned||name.t\n", "PENDING"),
        (runs("3_0", "t"), "3_1|COMPLETED|0:0|n1||name.t\n", "COMPLETED"),
        (runs("3_0", "strange"), "3_2|COMPLETED|0:0|n1||strange\n", None),
        (runs("4_0", "t"), "", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_a_task_that_is_not_there_has_left_its_array_if_others_of_that_are_reported_of(
    commands: Commands, squeue: str, sacct: str, state: str | None
) -> None:
    commands.says("squeue", squeue)
    commands.says("sacct", sacct)
    status = commands.client().poll({"3_1": "t"}).get("3_1")
    assert (status and status.scheduler_state) == state


def test_nothing_is_concluded_of_a_task_that_is_not_there_while_the_accounts_do_not_answer(commands: Commands) -> None:
    commands.says("squeue", runs("3_0", "t"))
    commands.says("sacct", "", "sacct: error: Problem talking to the database: Connection refused\n", 1)
    assert commands.client().poll({"3_1": "t"})["3_1"].scheduler_state == UNKNOWN


def test_an_sbatch_that_waits_for_room_in_the_queue_is_ended_in_its_sleep_and_has_surely_not_submitted(
    commands: Commands,
) -> None:
    said = "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying"
    commands.write("sbatch", f"echo '{said}' >&2; sleep 1000; echo 7")
    with pytest.raises(TooManyJobsError, match="unable to accept job"):
        commands.client(timeout=30).submit(commands.submission())


def test_a_failed_cancel_is_an_error_unless_the_jobs_have_ended(commands: Commands) -> None:
    commands.says("scancel", "", "scancel: error: Kill job error on job id 5: Invalid job id specified\n", 1)
    commands.client().cancel(dict.fromkeys(["5"], ""))
    commands.says("scancel", "", "scancel: error: Unable to contact slurm controller (connect failure)\n", 8)
    with pytest.raises(SchedulerError, match="Unable to contact"):
        commands.client().cancel(dict.fromkeys(["5"], ""))


def test_many_jobs_are_asked_for_in_several_commands(commands: Commands) -> None:
    commands.client().cancel(dict.fromkeys([str(number) for number in range(1200)], ""))
    commands.client().poll(dict.fromkeys([str(number) for number in range(1200)], ""))
    assert [call.partition(" ")[0] for call in commands.calls()] == [*["scancel"] * 3, "squeue", *["sacct"] * 3]


@pytest.mark.parametrize(("numbers", "text"), [((3, 1, 2, 7), "1-3,7"), ((5,), "5"), ((0, 2, 4), "0,2,4"), ((), "")])
def test_array_tasks_are_written_as_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text


def test_a_job_name_is_plain_and_ends_with_the_token(commands: Commands) -> None:
    assert job_name(commands.submission("lr=1e-4,x y/é")) == f"lr=1e-4_x_y__.{commands.token}"


# --- a real SLURM -----------------------------------------------------------------------------------------------------


def until_ended(client: SlurmScheduler, jobs: list[str], state: str) -> dict[str, JobStatus]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answers = dict(client.poll(dict.fromkeys(jobs, "")))
        if answers.keys() == set(jobs) and all(status.scheduler_state == state for status in answers.values()):
            return answers
        assert time.monotonic() < deadline, answers


def real(folder: Path, body: str, token: str, array: tuple[int, ...] = ()) -> Submission:
    script = folder / f"{token}.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --output=/dev/null\n{body}\n")
    return Submission(token, "name", str(script), str(folder), "/dev/null", array=array)


def test_an_unclear_submission_is_found_once_the_controller_answers_again(
    make_slurm_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_slurm_cluster(nodes=1, extra=("MessageTimeout=1",))
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    client, submission = SlurmScheduler(), real(tmp_path, "true", "hung")
    cluster.freeze_controller()
    for ask in (lambda: client.submit(submission), lambda: client.poll(dict.fromkeys(["1"], ""))):
        with pytest.raises(SchedulerError) as raised:
            ask()
        assert type(raised.value) is SchedulerError, "no refusal, and no certainty that nothing was submitted"
    cluster.thaw_controller()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := client.find([submission])):
        assert time.monotonic() < deadline
    until_ended(client, [found["hung"]], "COMPLETED")


def test_exit_codes_are_exact_and_known_without_accounts(slurm_no_accounting: Cluster, tmp_path: Path) -> None:
    client = SlurmScheduler()
    codes = {client.submit(real(tmp_path, f"exit {code}", f"exit{code}")): code for code in (7, 128, 130, 255)}
    killed = client.submit(real(tmp_path, "kill -9 $$", "killed"))
    answers = until_ended(client, [*codes, killed], "FAILED")
    assert {job: status.exit_code for job, status in answers.items()} == {**codes, killed: 137}
    assert client.poll(dict.fromkeys(["123456"], "")) == {}


def test_what_squeue_has_forgotten_sacct_tells(slurm: Cluster, tmp_path: Path) -> None:
    client, forgetful = SlurmScheduler(), SlurmScheduler(squeue_cmd=("true",))
    good, bad = (client.submit(real(tmp_path, f"exit {code}", f"exit{code}")) for code in (0, 7))
    until_ended(client, [good], "COMPLETED")
    held = real(tmp_path, "#SBATCH --hold\ntrue", "held", tuple(range(0, 900, 3)))
    array = client.submit(held)
    tasks = [f"{array}_0", f"{array}_897"]
    client.cancel(dict.fromkeys([array], ""))
    until_ended(client, tasks, "CANCELLED")
    until_ended(forgetful, [good], "COMPLETED")
    until_ended(forgetful, [bad], "FAILED")
    until_ended(forgetful, tasks, "CANCELLED")
    assert forgetful.poll(dict.fromkeys([good, bad], ""))[bad].exit_code == 7
    deadline = time.monotonic() + PATIENCE_SECONDS
    while forgetful.find([held]) != {"held": array}:
        assert time.monotonic() < deadline


def test_without_the_accounts_daemon_only_old_jobs_are_unknown(slurm: Cluster, tmp_path: Path) -> None:
    client = SlurmScheduler()
    job = client.submit(real(tmp_path, "true", "new"))
    until_ended(client, [job], "COMPLETED")
    slurm.stop_accounting()
    answers = client.poll(dict.fromkeys([job, "123456"], ""))
    assert answers[job].scheduler_state == "COMPLETED"
    assert answers["123456"].scheduler_state == UNKNOWN
    with pytest.raises(SchedulerError, match="sacct"):
        client.find([real(tmp_path, "true", "old")])
    assert client.find([real(tmp_path, "true", "new")]) == {"new": job}


def test_where_slurm_is_not_configured_nothing_was_submitted(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = real(tmp_path, "true", "nowhere")
    for conf in ("/dev/null", None):
        monkeypatch.setenv("SLURM_CONF", conf) if conf else monkeypatch.delenv("SLURM_CONF")
        with pytest.raises(UnreachableError):
            SlurmScheduler().submit(submission)


def test_an_id_before_an_error_is_perhaps_a_job(commands: Commands) -> None:
    commands.says("sbatch", "77\n", "sbatch: error: a hook failed after it", 1)
    with pytest.raises(SchedulerError) as raised:
        commands.client().submit(commands.submission())
    assert type(raised.value) is SchedulerError


@pytest.mark.parametrize("said", ["Welcome to login1!\n", "7 jobs of yours are in the queue\n"])
def test_what_a_wrapper_says_beside_a_refusal_leaves_it_one(commands: Commands, said: str) -> None:
    commands.says("sbatch", said, "sbatch: error: --gpus-per-socket option requires --sockets-per-node", 1)
    with pytest.raises(SubmitError, match="requires --sockets-per-node"):
        commands.client().submit(commands.submission())


def test_nothing_is_denied_while_an_sbatch_of_it_is_at_work(commands: Commands) -> None:
    commands.says("squeue", "")
    commands.says("sacct", "")
    submission = commands.submission()
    client = commands.client()
    words = ["sh", "-c", "echo up; read x", "sbatch", f"--comment=autoexp:{submission.token}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sbatch:
        assert sbatch.stdout is not None
        sbatch.stdout.readline()  # before that, /proc may still show a process without words
        with pytest.raises(SchedulerError, match="still running"):
            client.find([submission])
        sbatch.communicate(b"\n")
    assert client.find([submission]) == {}


# --- nodes ------------------------------------------------------------------------------------------------------------

NODE_FAIL = "5@NODE_FAIL@0@0@0@n[1-3]@n1@NodeDown@+@@+@@\n6@RUNNING@0@0@0@n[1-3]@n1@None@+@@+@@\n"
UNKNOWN_FIELD = 'sacct: error: Invalid field requested: "FailedNode"\n'


def failed_nodes(commands: Commands, client: SlurmScheduler | None = None) -> str:
    return (client or commands.client()).poll(dict.fromkeys(["5", "6"], ""))["5"].failed_nodes


def test_the_accounts_name_the_node_that_failed_a_job(commands: Commands) -> None:
    commands.says("squeue", NODE_FAIL)
    commands.says("sacct", "5|n2\n")
    commands.says("sinfo", "n3 down\n")
    answers = commands.client().poll(dict.fromkeys(["5", "6"], ""))
    assert answers["5"] == JobStatus("NODE_FAIL", "NodeDown", nodes="n[1-3]", failed_nodes="n2", restarts=0)
    assert answers["6"].failed_nodes == ""
    assert [call.partition(" ")[0] for call in commands.calls()] == ["squeue", "sacct"]


def test_else_nodes_out_of_service_are_named_and_not_forgotten_when_they_come_back(commands: Commands) -> None:
    commands.says("squeue", NODE_FAIL)
    commands.says("sacct", "", UNKNOWN_FIELD, 1)
    commands.says("sinfo", "n1 idle\nn2 down*\nn3 drained\n")
    client = commands.client()
    assert failed_nodes(commands, client) == "n2,n3"
    assert "sinfo <-h> <-N> <-n> <n[1-3]> <-o> <%N %T>" in commands.calls()
    commands.says("sinfo", "n1 idle\nn2 idle\nn3 idle\n")
    assert failed_nodes(commands, client) == "n2,n3"


def test_else_those_that_went_out_of_service_as_the_job_ended(commands: Commands) -> None:
    commands.says("squeue", NODE_FAIL)
    said = f"""case "$*" in *FailedNode*) echo '{UNKNOWN_FIELD.strip()}' >&2; exit 1;; esac"""
    commands.write("sacct", f"{said}\necho '5|n[1-3]|2026-01-02T03:04:05'")
    commands.says("sinfo", "n1 idle\nn2 idle\nn3 idle\n")
    commands.says("sacctmgr", "n1|2026-01-02T02:04:05\nn3|2026-01-02T03:04:05\n")
    assert failed_nodes(commands) == "n3"
    (events,) = [call for call in commands.calls() if call.startswith("sacctmgr")]
    assert "<nodes=n[1-3]> <start=2026-01-02T03:04:00> " in events


def test_where_nobody_tells_no_node_is_blamed_but_the_only_one(commands: Commands) -> None:
    commands.says("squeue", NODE_FAIL)
    commands.says("sacct", "", "Slurm accounting storage is disabled\n", 1)
    commands.says("sinfo", "", "sinfo: error: Unable to contact slurm controller\n", 1)
    assert failed_nodes(commands) == ""
    commands.says("squeue", NODE_FAIL.replace("n[1-3]", "n7"))
    assert failed_nodes(commands) == "n7"


def test_waiting_jobs_are_kept_from_nodes_beside_those_that_they_exclude(commands: Commands) -> None:
    shown = "JobId=5 JobState=PENDING ReqNodeList=(null) ExcNodeList=n[1-2]"
    commands.write("scontrol", f"case $1 in show) echo '{shown}';; esac")
    commands.client().exclude(dict.fromkeys(["5"], ""), ["n3", "n[1-2]"])
    assert commands.calls()[-1] == "scontrol <update> <jobid=5> <ExcNodeList=n[1-2],n3>"
    count = len(commands.calls())
    commands.client().exclude(dict.fromkeys(["5"], ""), ["n[1-2]"])
    assert len(commands.calls()) == count + 1, "it was only looked at"
    commands.client().exclude(dict.fromkeys(["5"], ""), [])
    assert len(commands.calls()) == count + 1


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETED", "COMPLETING"])
def test_jobs_that_do_not_wait_any_more_are_left_alone(commands: Commands, state: str) -> None:
    commands.says("scontrol", f"JobId=5 JobState={state} ExcNodeList=(null)\n")
    commands.client().exclude(dict.fromkeys(["5"], ""), ["n3"])
    commands.says("scontrol", "", "slurm_load_jobs error: Invalid job id specified\n", 1)
    commands.client().exclude(dict.fromkeys(["5"], ""), ["n3"])
    assert not any("update" in call for call in commands.calls())


def test_an_exclusion_that_is_refused_is_returned_unless_the_job_has_begun(commands: Commands) -> None:
    update = "update) echo 'slurm_update error: Invalid node name specified' >&2; exit 1;;"
    commands.write("scontrol", f"case $1 in {update} *) echo JobState=PENDING;; esac")
    both = dict.fromkeys(["5", "6"], "")
    assert commands.client().exclude(both, ["nope"]) == dict.fromkeys(
        both, "scontrol: slurm_update error: Invalid node name specified"
    )
    begins = 'if [ -e "$0.begun" ]; then echo JobState=RUNNING; else touch "$0.begun"; echo JobState=PENDING; fi'
    commands.write("scontrol", f"case $1 in {update} *) {begins};; esac")
    assert commands.client().exclude(dict.fromkeys(["5"], ""), ["nope"]) == {}
    commands.says("scontrol", "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", 1)
    with pytest.raises(SchedulerError, match="Unable to contact"):
        commands.client().exclude(dict.fromkeys(["5"], ""), ["n3"])


@pytest.fixture
def limited(make_slurm_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    def make(**knobs: object) -> Cluster:
        cluster = make_slurm_cluster(nodes=1, **knobs)
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)
        return cluster

    return make


@pytest.mark.parametrize("limit", ["of the association", "of the cluster"])
def test_more_jobs_than_the_site_takes_are_refused_as_too_many(
    limited: Callable[..., Cluster], tmp_path: Path, limit: str
) -> None:
    if limit == "of the cluster":
        cluster = limited(extra=("MaxJobCount=6",))
    else:
        cluster = limited(accounting=True, extra=("AccountingStorageEnforce=limits",))
        user = cluster.run("id", "-un").stdout.strip()
        cluster.run("sacctmgr", "-i", "add", "account", "lab")
        cluster.run("sacctmgr", "-i", "add", "user", user, "account=lab")
        cluster.run("sacctmgr", "-i", "modify", "user", user, "set", "maxsubmitjobs=5")
    client = SlurmScheduler()
    with pytest.raises(TooManyJobsError):
        client.submit(real(tmp_path, "#SBATCH --hold", "array", tuple(range(10))))
    client.submit(real(tmp_path, "#SBATCH --hold", "fits", tuple(range(4))))
    client.submit(real(tmp_path, "#SBATCH --hold", "fits too"))
    with pytest.raises(TooManyJobsError):
        client.submit(real(tmp_path, "#SBATCH --hold", "one more"))
    assert client.find([real(tmp_path, "", name) for name in ("array", "one more")]) == {}


def test_what_takes_a_launcher_away_in_a_terminal_reaches_no_submission() -> None:
    assert outside_jobs({"AUTOEXP_LAUNCHER": "", "A": "1"}) == {"A": "1"}


def test_a_state_that_is_not_known_here_is_no_news_and_says_which_it_is(commands: Commands) -> None:
    states = {"1": "TELEPORTING", "2": "RESIZING", "3": "EXPEDITING"}
    lines = [f"{job}@{state}@0@0@0@n1@n1@None@+@autoexp:t@+@name.t@\n" for job, state in states.items()]
    commands.says("squeue", "".join(lines))
    client = commands.client()
    seen = client.poll(dict.fromkeys(states, "t"))
    assert seen["1"] == JobStatus(UNKNOWN, "it reports the unknown state TELEPORTING")
    assert client.listed({"1": "t"}) == {"1": seen["1"]}
    assert [conclude(seen[job].scheduler_state) for job in ("2", "3")] == ["running", "pending"]
    commands.says("squeue", "")
    commands.says("sacct", "1|TELEPORTING|0:0|n1|autoexp:t|name.t\n")
    assert client.poll({"1": "t"})["1"].scheduler_state == UNKNOWN


def test_where_there_is_no_sacct_jobs_that_left_the_queue_are_not_known_and_that_is_reported_once(
    commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    (commands.folder / "sacct").unlink()
    client = commands.client()
    assert client.poll({"1": "t"}) == {}
    assert client.poll({"1": "t"}) == {}
    assert client.find([commands.submission()]) == {}
    assert [record.message.partition("sacct: ")[2] for record in caplog.records] == [
        "No such file or directory: without sacct, the end of a job is known only from squeue and the job's own files"
    ]


@pytest.mark.parametrize("command", ["sbatch", "squeue"])
def test_a_command_that_waits_for_its_slurm_conf_is_not_waited_for(commands: Commands, command: str) -> None:
    said = "error: s_p_parse_file: cannot stat file /nosuch: No such file or directory, retrying in 1sec up to 60sec"
    commands.write(command, f'echo "{command}: {said}" >&2; sleep 1000')
    client = commands.client(timeout=20)
    with pytest.raises(UnreachableError, match="cannot stat file /nosuch"):
        client.submit(commands.submission()) if command == "sbatch" else client.poll({"1": "t"})
