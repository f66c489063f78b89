"""What SLURM's commands print, as captured from real clusters (22.05 where nothing else is said), and what it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.core.nouns import NEVER_BEGAN, JobStatus, Usage
from oellm_autoexp.schedulers.slurm import parse

SQUEUE = """\
1@COMPLETED@0@0@0@n1@n1@None@+@autoexp:t1@+@name.t1@
2@FAILED@1792@0@0@n1@n1@NonZeroExitCode@+@autoexp:t2@+@name.t2@
3@FAILED@33280@0@0@n1@n1@NonZeroExitCode@+@autoexp:t3@+@name.t3@
4@FAILED@32768@0@0@n1@n1@NonZeroExitCode@+@autoexp:t4@+@name.t4@
5@FAILED@65280@0@0@n1@n1@NonZeroExitCode@+@autoexp:t5@+@name.t5@
6@FAILED@9@0@0@n1@n1@JobLaunchFailure@+@autoexp:t6@+@name.t6@
7@FAILED@35072@0@0@n1@n1@NonZeroExitCode@+@autoexp:t7@+@name.t7@
10_1@FAILED@1792@0@0@n2@n2@NonZeroExitCode@+@autoexp:t10_1@+@name.t10_1@
9_2@PENDING@0@0@0@@@JobArrayTaskLimit@+@autoexp:t9_2@+@name.t9_2@
8@COMPLETING@0@0@3@n[1-2,4]@n1@None@+@autoexp:t8@+@name.t8@
12@CANCELLED@15@0@0@n2@n2@None@+@autoexp:t12@+@name.t12@
13@PENDING@0@0@0@@@ReqNodeNotAvail, UnavailableNodes:n1@n2@+@autoexp:t13@+@name.t13@
14@OUT_OF_MEMORY@125@0@0@n1@n1@OutOfMemory@+@autoexp:t14@+@name.t14@
15@FAILED@53@0@0@n1@n1@JobLaunchFailure@+@autoexp:t15@+@name.t15@
16@TIMEOUT@0@0@0@n1@n1@TimeLimit@+@autoexp:t16@+@name.t16@
17@FAILED@256@253@0@n1@n1@NonZeroExitCode@+@autoexp:t17@+@name.t17@
18@FAILED@1024@253@1@n1@n1@NonZeroExitCode@+@autoexp:t18@+@name.t18@
20@RUNNING@0@0@0@n[2-3]@n1@None@+@autoexp:t20@+@name.t20@
19@CANCELLED@0@0@0@@@JobArrayTaskLimit@+@autoexp:t19@+@name.t19@
"""


def test_squeue_tells_state_reason_nodes_requeues_and_the_exact_exit_code() -> None:
    assert {job: reported.status for job, reported in parse.squeue(SQUEUE).items()} == {
        "1": JobStatus("COMPLETED", "", 0, "n1", restarts=0),
        "2": JobStatus("FAILED", "NonZeroExitCode", 7, "n1", restarts=0),
        "3": JobStatus("FAILED", "NonZeroExitCode", 130, "n1", restarts=0),
        "4": JobStatus("FAILED", "NonZeroExitCode", 128, "n1", restarts=0),
        "5": JobStatus("FAILED", "NonZeroExitCode", 255, "n1", restarts=0),
        "6": JobStatus("FAILED", "JobLaunchFailure", 137, "n1", restarts=0),
        "7": JobStatus("FAILED", "NonZeroExitCode", 137, "n1", restarts=0),
        "10_1": JobStatus("FAILED", "NonZeroExitCode", 7, "n2", restarts=0),
        "9_2": JobStatus("PENDING", "JobArrayTaskLimit", restarts=0),
        "8": JobStatus("COMPLETING", "", None, "n[1-2,4]", restarts=3),
        "12": JobStatus("CANCELLED", "", 143, "n2", restarts=0),
        "13": JobStatus("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1@n2", restarts=0),
        "14": JobStatus("OUT_OF_MEMORY", "OutOfMemory", None, "n1", restarts=0),
        "15": JobStatus("FAILED", "JobLaunchFailure", None, "n1", restarts=0),
        "16": JobStatus("TIMEOUT", "TimeLimit", None, "n1", restarts=0),
        "17": JobStatus("FAILED", "NonZeroExitCode", 1, "n1", out_of_memory=True, restarts=0),
        "18": JobStatus("FAILED", "NonZeroExitCode", 4, "n1", restarts=1),  # an earlier run's step: it is kept
        "20": JobStatus("RUNNING", "", None, "n[2-3]", restarts=0, batch_host="n1"),
        "19": JobStatus("CANCELLED", restarts=0),  # why it was pending is no reason any more
    }


@pytest.mark.parametrize("text", ["", "\n", "CLUSTER: lab\n", "CLUSTER: lab\n1@RUNNING@0@0@0@n1@n1@None@+@@+@@\n"])
def test_an_empty_queue_and_a_clusters_header_are_no_jobs(text: str) -> None:
    assert len(parse.squeue(text)) == text.count("@RUNNING@")


@pytest.mark.parametrize(
    "text", ["Welcome to login1!\n", "1|RUNNING|n1\n", "JOBID STATE\n", "x@RUNNING@0@0@0@n1@n1@None@+@@+@@\n"]
)
def test_an_answer_in_which_there_is_no_job_is_not_an_empty_queue(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse.squeue(text)


def test_a_login_banner_does_not_hide_the_jobs() -> None:
    assert parse.squeue("Welcome!\n" + SQUEUE).keys() == parse.squeue(SQUEUE).keys()


SACCT = """\
1|COMPLETED|0:0|n1||name.t
2|FAILED|7:0|n1||name.t
3|FAILED|2:0|n1||name.t
4|FAILED|0:0|n1||name.t
6|FAILED|0:9|n1||name.t
8|RUNNING|0:0|n1||name.t
9_0|CANCELLED by 0|0:0|n2||name.t
9_[2-5%2]|CANCELLED by 1000|0:0|None assigned||name.t
11_[0,3,6,9,12,15,18,21,24,27,30,33,36,39,42,45,48,51,54,57,60,6...]|CANCELLED|0:0|None assigned||name.t
14|OUT_OF_MEMORY|0:125|n1||name.t
15|FAILED|0:53|n1||name.t
20|PENDING|0:0|None assigned||name.t
21|NODE_FAIL|0:0|n1||name.t
17|FAILED|1:0|n1||name.t
17.batch|FAILED|1:0|n1||batch
17.0|OUT_OF_MEMORY|0:125|n1||sh
"""


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ("1", JobStatus("COMPLETED", "", 0, "n1")),
        ("2", JobStatus("FAILED", "", 7, "n1")),
        ("3", JobStatus("FAILED", "", 2, "n1")),  # it was 130: sacct takes 128 off
        ("4", JobStatus("FAILED", "", None, "n1")),  # it was 128
        ("6", JobStatus("FAILED", "", 137, "n1")),
        ("8", JobStatus("RUNNING", "", None, "n1")),
        ("9_0", JobStatus("CANCELLED", "", None, "n2")),
        ("9_4", JobStatus("CANCELLED")),
        ("11_303", JobStatus("CANCELLED", NEVER_BEGAN)),
        ("14", JobStatus("OUT_OF_MEMORY", "", None, "n1")),
        ("15", JobStatus("FAILED", "", None, "n1")),
        ("20", JobStatus("PENDING")),
        ("21", JobStatus("NODE_FAIL", "", None, "n1")),
        ("17", JobStatus("FAILED", "", 1, "n1", out_of_memory=True)),
        ("9_6", None),
        ("99", None),
        ("99_1", None),
    ],
)
def test_sacct_tells_the_end_also_of_tasks_that_never_began(job: str, status: JobStatus | None) -> None:
    assert parse.sacct(SACCT).status(job, "t") == status
    assert parse.sacct(SACCT).status(job, "another") is None


@pytest.mark.parametrize(
    ("state", "word"),
    [("CANCELLED by 0", "CANCELLED"), ("RUNNING+", "RUNNING"), ("OUT_OF_ME+", "OUT_OF_ME"), (" TIMEOUT ", "TIMEOUT")],
)
def test_a_state_is_its_first_word(state: str, word: str) -> None:
    assert parse.state_word(state) == word


@given(st.text(max_size=8))
def test_an_exit_code_is_a_shells_or_none(text: str) -> None:
    for code in (parse.exit_code(text), parse.raw_exit_code(text)):
        assert code is None or code >= 0


@pytest.mark.parametrize("text", ["", "None", "7", "7:", ":9", "²:0", "-1:0", "4294967294:0:0"])
def test_what_is_no_exit_code_is_none(text: str) -> None:
    assert parse.exit_code(text) is None


@pytest.mark.parametrize("text", ["", "None", "²", "-1", "4294967294", "7:0"])
def test_what_is_no_wait_status_is_none(text: str) -> None:
    assert parse.raw_exit_code(text) is None


@given(st.integers(0, 255), st.sampled_from([0, 1, 2, 6, 9, 11, 15]), st.booleans())
def test_a_wait_status_says_what_a_shell_would(code: int, signal: int, core: bool) -> None:
    status = signal | (0x80 if core else 0) if signal else code << 8
    assert parse.raw_exit_code(str(status)) == (128 + signal if signal else code)


def test_a_submission_is_found_by_comment_or_by_name() -> None:
    squeue = (
        "7@autoexp:aaaa@lr_1.aaaa\n"
        "8@(null)@lr_2.bbbb\n"
        "9@project=x autoexp:cccc,@renamed\n"
        "10@project=x autoexp:dddd@renamed@by.a@site\n"
        "11@autoexp:gone@other.else\n"
        "12@@eeee\n"
        "13@autoexp:aaaa@lr_1.aaaa\n"
        "Welcome!\n"
    )
    wanted = {"aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff"}
    assert parse.tokens(squeue, "@", wanted) == {"aaaa": "7", "bbbb": "8", "dddd": "10", "eeee": "12"}
    sacct = "7_[0-3]|autoexp:aaaa|lr.aaaa\n7_1|autoexp:aaaa|lr.aaaa\n8||lr.bbbb\n"
    assert parse.tokens(sacct, "|", wanted) == {"aaaa": "7", "bbbb": "8"}


@pytest.mark.parametrize(
    ("text", "job"),
    [("7\n", "7"), ("7;lab\n", "7"), ("Welcome to login1!\n7\n", "7"), ("Welcome!\n", ""), ("", ""), ("7\nbye\n", "")],
)
def test_the_id_of_a_new_job_is_the_last_line(text: str, job: str) -> None:
    assert parse.submitted_id(text) == job


USAGE = """\
7|COMPLETED|3600|billing=8,cpu=8,gres/gpu=4,mem=1G,node=2|autoexp:t|name.t
8|NODE_FAIL|100|gres/gpu:a100=2,gres/gpu:h100=1|autoexp:t|name.t
8|COMPLETED|50|gres/gpu:a100=2,gres/gpu:h100=1|autoexp:t|name.t
9|PREEMPTED|100|gres/gpu=4|autoexp:t|name.t
9|RUNNING|50|gres/gpu=4|autoexp:t|name.t
10|CANCELLED by 1000|0||autoexp:t|name.t
11|COMPLETED|60|cpu=8,node=1|autoexp:t|name.t
12_3|TIMEOUT|60|gres/gpu=1|autoexp:t|name.t
13|COMPLETED|60|gres/gpu=1|autoexp:t|name.t
7|COMPLETED|9|gres/gpu=1||another's
"""


def test_what_each_run_used_is_read_with_its_gpus_once_the_last_run_has_ended() -> None:
    assert parse.usage(USAGE, dict.fromkeys(["7", "8", "9", "10", "11", "12_3", "99"], "t")) == {
        "7": [Usage(3600, 4)],
        "8": [Usage(100, 3), Usage(50, 3)],
        "10": [Usage(0, None)],
        "11": [Usage(60, None)],
        "12_3": [Usage(60, 1)],
    }


def test_a_refused_submission_that_slurm_still_lists_is_not_taken_for_a_job() -> None:
    squeue = "2@autoexp:aaaa@rej.aaaa@FAILED@BadConstraints\n3@autoexp:bbbb@lr.bbbb@PENDING@BadConstraints\n"
    assert parse.tokens(squeue, "@", ["aaaa", "bbbb"]) == {"bbbb": "3"}
    sacct = (
        "2|autoexp:aaaa|rej.aaaa|FAILED|None assigned\n3||lr.bbbb|FAILED|n1\n4||lr.cccc|CANCELLED by 0|None assigned\n"
    )
    assert parse.tokens(sacct, "|", ["aaaa", "bbbb", "cccc"]) == {"bbbb": "3", "cccc": "4"}


def test_fields_of_a_job_are_found_by_their_whole_name() -> None:
    text = (
        "JobId=8 JobName=a\n   JobState=PENDING Reason=None\n"
        "   ReqNodeList=(null) ExcNodeList=n[1-2],m3\n   NodeList=\n"
    )
    assert parse.job_field(text, "ExcNodeList") == "n[1-2],m3"
    assert parse.job_field(text, "JobState") == "PENDING"
    assert parse.job_field(text, "ReqNodeList") == parse.job_field(text, "NodeList") == ""
    assert parse.job_field(text, "List") == ""


LISTED = "5@RUNNING@0@0@0@n1@n1@None@+@{comment}@+@{name}@\n"


@pytest.mark.parametrize(
    ("comment", "name", "own"),
    [
        ("autoexp:tok", "x.tok", True),
        ("autoexp:tok more of the site's", "renamed by the site", True),
        ("the site's", "x.tok", True),
        ("(null)", "wrap", False),
        ("autoexp:tik", "x.tik", False),
        ("tok", "tok.x", False),
        ("a@b@+@c", "x.tok", True),
    ],
)
def test_a_listed_job_is_ours_if_its_name_or_its_comment_says_so(comment: str, name: str, own: bool) -> None:
    reported = parse.squeue(LISTED.format(comment=comment, name=name))["5"]
    assert (reported.of("tok"), reported.of("")) == (own, True)
    accounts = parse.sacct(f"5|RUNNING|0:0|n1|{comment}|{name}\n")
    assert (accounts.status("5", "tok") is not None) == own


@given(st.text(), st.text(), st.text(), st.text())
def test_no_words_of_a_job_hide_it_or_its_state(reason: str, comment: str, name: str, token: str) -> None:
    def clean(text: str) -> str:
        return " ".join(text.split()).translate({ord(character): None for character in "\x1c\x1d\x1e\x85"})

    words = f"{clean(reason)}@+@{clean(comment)}@+@{clean(name)}"
    reported = parse.squeue(f"5@PENDING@0@0@0@@@{words}@\n7@RUNNING@0@0@0@n1@n1@None@+@@+@name.{token}@\n")
    assert reported["5"].status.scheduler_state == "PENDING"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0-1,3]", {0, 1, 3}),
        ("0-1,3%2]", {0, 1, 3}),
        ("7]", {7}),
        ("0-6:3]", {0, 3, 6}),
        ("0,3,6,9,...]", None),
        ("0-4000000000]", None),
        ("", None),
    ],
)
def test_a_bracket_of_the_accounts_holds_the_tasks_that_it_names_alone(text: str, numbers: set[int] | None) -> None:
    accounts = parse.sacct(f"9_[{text}|CANCELLED|0:0|None assigned||x.t\n")
    held = {task for task in range(10) if accounts.status(f"9_{task}", "t") is not None}
    assert held == (set(range(10)) if numbers is None else numbers)


@pytest.mark.parametrize("number", ["9" * 5000, "\N{SUPERSCRIPT TWO}", "-1", ""])
def test_no_number_that_slurm_does_not_print_stops_anything(number: str) -> None:
    reported = parse.squeue(f"5@FAILED@{number}@{number}@{number}@n1@n1@None@+@@+@x.t@\n")["5"]
    assert (reported.status.exit_code, reported.status.restarts, reported.status.out_of_memory) == (None, None, False)
    assert parse.sacct(f"5|FAILED|{number}:0|n1||x.t\n9_[{number}]|PENDING|0:0|n1||x.t\n").status("5", "t") is not None
    assert parse.usage(f"5|COMPLETED|{number}|gres/gpu={number}||x.t\n", {"5": "t"}) == {}


@given(st.text())
def test_no_text_of_the_accounts_is_an_error(text: str) -> None:
    accounts = parse.sacct(text)
    assert all(accounts.status(job, token) is None for job in ("5", "7_2") for token in ("0123abcd",))
    assert parse.usage(text, {"5": "0123abcd"}) == {}


@pytest.mark.parametrize(("state", "reason"), [("CANCELLED by 1000", ""), ("CANCELLED", NEVER_BEGAN)])
def test_a_job_that_no_user_has_cancelled_by_the_accounts_knows_better_how_it_ended(state: str, reason: str) -> None:
    assert parse.sacct(f"5|{state}|0:0|n1||x.t\n").status("5", "t") == JobStatus("CANCELLED", reason, None, "n1")
