"""What can happen to jobs and to those who watch them, and what must come of it.

Two kinds. `JOBS` are single jobs of the experiment `scenarios/misbehaviours`: those that are asked for go as one plan
and are watched together. `PLANS` are plans of their own.
"""

from __future__ import annotations

import itertools
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.tests.lab import Attempt, Job, Lab, Run, UnexpectedError, expect, expect_equal

UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Outcome:
    """How a scenario went: what was seen, or what is wrong with it."""

    name: str
    ok: bool
    seen: str
    seconds: float


@dataclass(frozen=True)
class JobScenario:
    """A job of the shared plan. `check` says what was seen, or raises UnexpectedError.

    `disturb` is called with the job's name and id once it has come to iteration `at`: somebody does something to it.
    """

    shows: str
    check: Callable[[Run, str, Job], str]
    disturb: Callable[[Run, str, str], None] | None = None
    at: int = 12


@dataclass(frozen=True)
class PlanScenario:
    """A plan of its own. `play` says what was seen, or raises UnexpectedError."""

    shows: str
    play: Callable[[Lab], str]


# ---- what is true of every job that was begun anew


def _ended(job: Job, state: str, attempts: int | None = None) -> None:
    what = f"its state ({job['scheduler_state']}, exit code {job['exit_code']}, {job['reason'] or 'no reason'})"
    expect_equal(what, job["state"], state)
    if attempts is not None:
        expect_equal("the number of its attempts", job["attempt"], attempts)


def _resumed(run: Run, name: str, job: Job) -> list[Attempt]:
    """The attempts of a job that has succeeded, each of which went on from the last checkpoint before it.

    The losses are those that a run without any trouble has.
    """
    _ended(job, "success")
    attempts = run.attempts(name)
    expect_equal("the number of logs", len(attempts), job["attempt"])
    saved = 0
    for before, after in itertools.pairwise(attempts):
        saved = max(saved, *before.saved, 0)
        # One that is ended saves while nobody writes its words into the log any more: a later one may be there.
        saving = f"{saved} was the last iteration of which attempt {before.job_id} said that it was saved"
        expect(after.loaded >= saved, f"{after.job_id} has loaded iteration {after.loaded}, though {saving}")
    undisturbed = run.attempts(UNDISTURBED)[0].losses
    for attempt in attempts:
        common = undisturbed.keys() & attempt.losses.keys()
        wrong = [number for number in sorted(common) if attempt.losses[number] != undisturbed[number]]
        expect(not wrong, f"the losses of {attempt.job_id} at iterations {wrong} are not those of the undisturbed run")
    for attempt in attempts:
        expect_equal(f"the iterations of {attempt.job_id}", sorted(attempt.losses), _from(attempt))
    last = max(attempts[-1].losses, default=attempts[-1].loaded)
    expect_equal("the last iteration", last, job["progress"]["total"])
    link = run.outputs / name / "current.log"
    expect_equal("the log that current.log means", link.resolve(), attempts[-1].log.resolve())
    return attempts


def _from(attempt: Attempt) -> list[int]:
    """The iterations that an attempt should have: from its checkpoint to where it ended, none left out."""
    return list(range(attempt.loaded + 1, max(attempt.losses, default=attempt.loaded) + 1))


def _where(attempts: list[Attempt]) -> str:
    """`resumed at iteration 21, the losses go on as if nothing had been`."""
    places = ", ".join(str(attempt.loaded + 1) for attempt in attempts[1:])
    return f"resumed at iteration {places}; same losses as undisturbed"


def _restart(job: Job, cause: str, times: int = 1) -> None:
    expect_equal("the new attempts by cause", job["restarts"], {cause: times})


# ---- the jobs


def _undisturbed(run: Run, name: str, job: Job) -> str:
    _ended(job, "success", 1)
    (attempt,) = run.attempts(name)
    expect_equal("the iterations in its log", list(attempt.losses), list(range(1, 41)))
    return f"success, loss {job['progress']['loss']:.4f}"


def _crash(run: Run, name: str, job: Job) -> str:
    _ended(job, "success", 2)
    _restart(job, "crash")
    attempts = _resumed(run, name, job)
    expect_equal("the checkpoint of the new attempt", attempts[1].loaded, 20)
    return f"crash, {_where(attempts)}"


def _stall(run: Run, name: str, job: Job) -> str:
    _ended(job, "success", 2)
    _restart(job, "stall")
    stalls = [event for event in run.events(name) if event["name"] == "stall"]
    expect(stalls, "there is no event 'stall'")
    silent = stalls[0]["metadata"]["silent_seconds"]
    return f"stall after {silent} s ({stalls[0]['metadata']['error_type']}), {_where(_resumed(run, name, job))}"


def _loop(run: Run, name: str, job: Job) -> str:
    seen = _stall(run, name, job)
    stalls = [event["metadata"]["error_type"] for event in run.events(name) if event["name"] == "stall"]
    expect_equal("what noticed it", stalls, ["no_progress"])
    return seen


def _oom(run: Run, name: str, job: Job) -> str:
    _ended(job, "oom", 1)
    expect_equal("its error_type", job["error_type"], "gpu_out_of_memory")
    messages = [action["message"] for event in run.events(name) for action in event["actions"]]
    expect_equal("what was said", messages, ["out of memory after iteration 14"])
    return "oom by gpu_out_of_memory, no new attempt"


def _timeout(run: Run, name: str, job: Job) -> str:
    attempts = _resumed(run, name, job)
    expect(job["attempt"] > 1, "it never came to its time limit")
    _restart(job, "timeout", job["attempt"] - 1)
    return f"{job['attempt']} attempts, {_where(attempts)}"


def _nan(run: Run, name: str, job: Job) -> str:
    _ended(job, "crash", 1)
    expect_equal("its error_type", job["error_type"], "nan_loss")
    expect_equal("why it was ended", job["cancelled_by"], "no loss at iteration 15")
    (attempt,) = run.attempts(name)
    last = max(attempt.losses)
    expect(last < job["progress"]["total"], "it trained on to its end")
    return f"ended at iteration {last} for the NaN at 15, no new attempt"


def _budget(run: Run, name: str, job: Job) -> str:
    _ended(job, "crash", 2)
    expect_equal("its reason", job["reason"], "no new attempt: 2 attempts in a row failed in the same way")
    expect_equal("the number of logs", len(run.attempts(name)), 2)
    return str(job["reason"])


def _exit93(_run: Run, _name: str, job: Job) -> str:
    _ended(job, "crash", 1)
    expect_equal("its exit code", job["exit_code"], 93)
    expect("exit code 93" in job["reason"], f"the reason says nothing of exit code 93: {job['reason']!r}")
    return str(job["reason"])


def _overrides(run: Run, name: str, job: Job) -> str:
    _ended(job, "success", 2)
    script = Path(job["script_path"]).read_text()
    for word in ("--batch-size 32", "--lr 0.016 ", "#SBATCH --time=00:20:00"):
        expect(word in script, f"{word!r} is not in the script of attempt 2")
    logs = [attempt.log.read_text() for attempt in run.attempts(name)]
    sizes = [set(map(int, re.findall(r"global batch size: +(\d+)", log))) for log in logs]
    expect_equal("the batch sizes by attempt", sizes, [{16}, {32}])
    rates = [set(map(float, re.findall(r"learning rate: (\S+)", log))) for log in logs]
    expect_equal("the learning rates by attempt", rates, [{0.008}, {0.016}])
    return "batch size 16 to 32; the learning rate followed, 0.008 to 0.016; time limit 20 minutes"


def _scancelled(_run: Run, _name: str, job: Job) -> str:
    _ended(job, "cancelled", 1)
    _restart_none(job)
    return "ended by hand, no new attempt"


def _cancelled(_run: Run, _name: str, job: Job) -> str:
    _ended(job, "cancelled", 1)
    _restart_none(job)
    return f"cancelled at iteration {job['progress']['iteration']}: {job['cancelled_by']}"


def _restart_none(job: Job) -> None:
    expect_equal("the new attempts", job["restarts"], {})


def _by_scheduler(run: Run, _name: str, job_id: str) -> None:
    run.scancel(job_id)


def _by_command(run: Run, name: str, _job_id: str) -> None:
    done = run.session_command("--cmd", "cancel", "--job", name, "--reason", "enough of it")
    expect(done.returncode == 0, f"--cmd cancel: exit code {done.returncode}: {done.stderr}")


JOBS: dict[str, JobScenario] = {
    UNDISTURBED: JobScenario("nothing happens: what the others are compared with", _undisturbed),
    "crash": JobScenario("a crash: begun anew, resumed from its checkpoint", _crash),
    "hang": JobScenario("a silent log: ended, begun anew, resumed", _stall),
    "loop": JobScenario("the log grows, the iteration does not: ended, begun anew, resumed", _loop),
    "oom": JobScenario("out of memory: reported as such, not begun anew", _oom),
    "timeout": JobScenario("more work than one time limit: begun anew until it is done", _timeout),
    "leaves": JobScenario("warned of its time limit, saves and ends with 0: begun anew until it is done", _timeout),
    "nan": JobScenario("the loss becomes NaN: ended for good", _nan),
    "budget": JobScenario("crashes every time in the same way: given up after two attempts", _budget),
    "exit93": JobScenario("exit code 93 asks for no new attempt: there is none", _exit93),
    "overrides": JobScenario("another batch size and time limit in the new attempt", _overrides),
    "cancelled_declared": JobScenario("scancel, with a rule for it: never begun anew", _scancelled, _by_scheduler),
    "cancelled_undeclared": JobScenario(
        "scancel, with a rule for crashes only: never begun anew", _scancelled, _by_scheduler
    ),
    "cancelled_for_good": JobScenario("--cmd cancel: never begun anew", _cancelled, _by_command),
}
"""By name, in the order of the experiment's YAML: the number of a name is the index of its job."""


def play_jobs(lab: Lab, names: Iterable[str]) -> list[Outcome]:
    """Run the jobs of these names as one plan, and judge each."""
    asked = [name for name in JOBS if name in set(names)]
    chosen = [name for name in JOBS if name in asked or name == UNDISTURBED]
    indices = ",".join(str(list(JOBS).index(name)) for name in chosen)
    run = lab.plan("jobs")
    started = time.monotonic()
    try:
        monitor = run.begin("--array-subset", indices)
        try:
            _disturb(run, [name for name in chosen if JOBS[name].disturb])
        finally:
            code = run.watched_to_the_end(monitor)
        jobs = run.status()
        expect_equal("the exit code", code, int(any(job["state"] != "success" for job in jobs.values())))
        expect("Traceback" not in run.output, f"a traceback in {run.folder / 'output.txt'}")
    except UnexpectedError as error:
        return [Outcome(name, False, str(error), time.monotonic() - started) for name in asked]
    return [_judged(run, name, jobs[name]) for name in asked]


def _disturb(run: Run, names: list[str]) -> None:
    """Do to each job what is to be done to it, as soon as it has come so far."""
    left = set(names)

    def done() -> bool:
        for name in [name for name in names if name in left]:  # --cmd cancel, which takes seconds, is last
            disturb = JOBS[name].disturb
            attempts = run.attempts(name)
            if disturb is not None and attempts and max(attempts[-1].losses, default=0) >= JOBS[name].at:
                disturb(run, name, attempts[-1].job_id)
                left.discard(name)
        return not left

    run.until(done, f"the iterations of {', '.join(sorted(left))}")


def _judged(run: Run, name: str, job: Job) -> Outcome:
    seconds = (job["ended_at"] or 0) - (job["history"][0]["at"] if job["history"] else 0)
    try:
        return Outcome(name, True, JOBS[name].check(run, name, job), seconds)
    except UnexpectedError as error:
        return Outcome(name, False, str(error), seconds)
    except Exception:  # what nobody thought of is a failure of this scenario, and of no other
        return Outcome(name, False, traceback.format_exc(limit=-3), seconds)


# ---- the plans


def _configs(*entries: str) -> str:
    """The override that gives the experiment other jobs."""
    return f"sweep.configs=[{', '.join(entries)}]"


def _interrupt(lab: Lab) -> str:
    """Ctrl-C, then kill -9, then on to the end; one of the jobs crashes meanwhile."""
    slow = "backend.options.step_seconds: 0.25"
    run = lab.plan(
        "interrupt",
        _configs(
            f"{{stage: {UNDISTURBED}, {slow}}}",
            f"{{stage: second, {slow}}}",
            f"{{stage: crashes, {slow}, backend.options.misbehave: crash@15x1}}",
        ),
    )
    monitor = run.begin()
    run.until(lambda: all(_last(run, name) >= 3 for name in ("second", "crashes")), "running jobs")
    monitor.send_signal(signal.SIGINT)
    expect_equal("the exit code after Ctrl-C", run.watched_to_the_end(monitor), 130)
    expect("the jobs go on. Resume with:" in run.output, "Ctrl-C does not say how to resume")
    monitor = run.start("monitor", "--session", run.plan_id)
    run.until(lambda: "Traceback" in run.attempts("crashes")[0].log.read_text(), "the crash")
    time.sleep(1)  # it is at work on it, or has just done it
    monitor.kill()
    monitor.wait()
    ended = run.start("monitor", "--session", run.plan_id)
    expect_equal("the exit code in the end", run.watched_to_the_end(ended), 0)
    jobs = run.status()
    for name, job in jobs.items():
        attempts = _resumed(run, name, job)
        expect_equal(f"the attempts of {name}", len(attempts), 2 if name == "crashes" else 1)
        marks = list((run.outputs / name / "marks").glob("*.start"))
        expect_equal(f"the jobs of {name} that ever started", len(marks), len(attempts))
        seen = [event["id"] for event in run.events(name)]
        expect_equal(f"the events of {name} that stand there twice", len(seen) - len(set(seen)), 0)
    return f"SIGINT and SIGKILL survived: {len(jobs)} jobs ended well, 4 attempts as they should be"


def _last(run: Run, name: str) -> int:
    """The last iteration in the newest log of a job."""
    attempts = run.attempts(name)
    return max(attempts[-1].losses, default=0) if attempts else 0


def _killed_often(lab: Lab) -> str:
    """kill -9 again and again, at any instant."""
    run = lab.plan(
        "killed_often",
        _configs(
            f"{{stage: {UNDISTURBED}}}",
            "{stage: crashes, backend.options.misbehave: crash@15x1}",
            "{stage: gives_up, backend.options.misbehave: crash@5}",
        ),
    )
    monitor = run.begin()
    kills = 0
    while monitor.poll() is None and kills < 12:
        # Python needs a part of a second to start: later and later, so that each step is cut off some time.
        time.sleep(0.9 + 0.11 * kills)
        monitor.kill()
        monitor.wait()
        kills += 1
        monitor = run.start("monitor", "--session", run.plan_id)
    expect_equal("the exit code in the end", run.watched_to_the_end(monitor), 1)
    jobs = run.status()
    _ended(jobs[UNDISTURBED], "success", 1)
    _ended(jobs["crashes"], "success", 2)
    _resumed(run, "crashes", jobs["crashes"])
    _ended(jobs["gives_up"], "crash", 2)
    for name, job in jobs.items():
        marks = list((run.outputs / name / "marks").glob("*.start"))
        expect_equal(f"the jobs of {name} that ever started", len(marks), job["attempt"])
    return f"killed {kills} times: 5 attempts of 3 jobs, as they should be"


def _array(lab: Lab) -> str:
    """One task of an array crashes; only that is begun anew."""
    names = [UNDISTURBED, "second", "crashes", "fourth"]
    misbehave = {"crashes": ", backend.options.misbehave: crash@25x1"}
    entries = [f"{{stage: {name}{misbehave.get(name, '')}}}" for name in names]
    run = lab.plan("array", _configs(*entries), "slurm.array=true")
    expect_equal("the exit code", run.watched_to_the_end(run.begin()), 0)
    jobs = run.status()
    arrays = set()
    for index, name in enumerate(names):
        job = jobs[name]
        crashed = name == "crashes"
        _ended(job, "success", 2 if crashed else 1)
        attempts = run.attempts(name)
        expect_equal(f"the logs of {name}", len(attempts), 2 if crashed else 1)
        first = attempts[0].job_id
        expect(re.fullmatch(rf"\d+_{index}", first), f"{name} did not run as task {index} of an array but as {first}")
        arrays.add(first.partition("_")[0])
        link = run.outputs / name / f"current_{index}.log"
        expect_equal(f"the log that {link.name} means", link.resolve(), attempts[-1].log.resolve())
        expect_equal(f"the last iteration of {name}", max(attempts[-1].losses), 40)
        expect_equal(f"the newest log of {name}", Path(job["resolved_log_path"]).resolve(), attempts[-1].log.resolve())
    expect_equal("the number of arrays", len(arrays), 1)
    before, after = run.attempts("crashes")
    expect_equal("where the new attempt began", (after.loaded, min(after.losses)), (20, 21))
    expect("Traceback" in before.log.read_text(), "the log of the crash is gone")
    return f"task {before.job_id} alone was begun anew, as {after.job_id}; both logs are there, current_2.log moved"


_CONVERT = """\
import pathlib
import sys

source, target = map(pathlib.Path, sys.argv[1:])
if source.name == "iter_20" and not pathlib.Path("go").exists():
    sys.exit("iter_20 is not to my taste")
target.mkdir(exist_ok=True)
(target / source.name).write_text("converted")
print("converted", source.name)
"""


def _actions(lab: Lab) -> str:
    """Actions of checkpoints: queued, looked at, carried out, one fails, is retried."""
    run = lab.plan("actions", config_ref="experiments/scenarios/checkpoint_actions")
    (run.folder / "convert_checkpoint.py").write_text(_CONVERT)
    expect_equal("the exit code", run.watched_to_the_end(run.begin()), 0)
    listed = run.queue()
    expect_equal("the states in the queue", [entry["status"] for entry in listed["entries"]], ["pending"] * 2)
    events = [entry["event"]["metadata"] for entry in run.queue("--queue-event", "checkpoint_saved")["entries"]]
    expect_equal("the kinds of events", [event["kind"] for event in events], ["checkpoint"] * 2)
    expect_equal(
        "their checkpoints", sorted(Path(event["checkpoint_path"]).name for event in events), ["iter_10", "iter_20"]
    )
    worked = run.session_command("--cmd", "actions", "--json")
    expect_equal("the exit code of --cmd actions", worked.returncode, 1)
    finished = run.queue("--queue-event", "checkpoint_saved")["entries"]
    states = {Path(entry["event"]["metadata"]["path"]).name: entry for entry in finished}
    expect_equal("the first entry", states["iter_10"]["status"], "done")
    failed = states["iter_20"]
    expect_equal("the second entry", failed["status"], "failed")
    shown = run.queue("--queue-id", failed["id"], "--queue-show")
    expect_equal("the end of its output", shown["output"][-1:], ["iter_20 is not to my taste"])
    (run.folder / "go").touch()
    retried = run.queue("--queue-id", failed["id"], "--queue-retry")["entry"]
    expect_equal("the entry that is tried again", retried["status"], "pending")
    worked = run.session_command("--cmd", "actions", "--json")
    expect_equal("the exit code of the second --cmd actions", worked.returncode, 0)
    converted = sorted(path.name for path in (run.outputs / "checkpoints/checkpoints/converted").iterdir())
    expect_equal("what was converted", converted, ["iter_10", "iter_20"])
    seen = [(event["name"], [action["status"] for action in event["actions"]]) for event in run.events()]
    wanted = [("checkpoint_saved", ["done"]), ("checkpoint_saved", ["done"]), ("success", ["done"])]
    expect_equal("the events and their actions", seen, wanted)
    return "2 checkpoints queued; one converted at once, one failed, was retried and is done"


PLANS: dict[str, PlanScenario] = {
    "interrupt": PlanScenario(
        "Ctrl-C, then kill -9 of the monitor: nothing is lost, nothing is done twice", _interrupt
    ),
    "killed_often": PlanScenario("kill -9 of the monitor again and again, while jobs crash", _killed_often),
    "array": PlanScenario("one task of an array crashes: only that is begun anew", _array),
    "actions": PlanScenario("a program for each checkpoint: --cmd queue, --cmd actions, retry", _actions),
}


def play_plan(lab: Lab, name: str) -> Outcome:
    """Play one of PLANS."""
    return timed(name, lambda: PLANS[name].play(lab))


def timed(name: str, play: Callable[[], str]) -> Outcome:
    """The outcome of something that says what was seen, or raises UnexpectedError."""
    started = time.monotonic()
    try:
        seen, ok = play(), True
    except UnexpectedError as error:
        seen, ok = str(error), False
    except Exception:  # as above
        seen, ok = traceback.format_exc(limit=-3), False
    return Outcome(name, ok, seen, time.monotonic() - started)


def node_down(lab: Lab, kill_node: Callable[[str], None]) -> str:
    """A node loses its power; for those who have a cluster to do this to. `kill_node` takes the node's name."""
    rule = "++monitoring.state_events.node_fail={actions:[{class_name:RestartAction,exclude_nodes:true}]}"
    run = lab.plan(
        "node_down",
        _configs(f"{{stage: {UNDISTURBED}, backend.options.step_seconds: 0.2}}"),
        rule,
        "metadata.patience_seconds=300",
        # SLURM would begin it anew by itself, on another node, under the same id.
        "slurm.sbatch.no_requeue=true",
    )
    monitor = run.begin()
    run.until(lambda: _last(run, UNDISTURBED) > 12, "a checkpoint")
    bad = run.status()[UNDISTURBED]["nodes"]
    kill_node(bad)
    expect_equal("the exit code", run.watched_to_the_end(monitor), 0)
    job = run.status()[UNDISTURBED]
    _ended(job, "success", 2)
    _restart(job, "node_fail")
    expect_equal("the nodes that it must not use", job["excluded"], [bad])
    expect(f"#SBATCH --exclude={bad}\n" in Path(job["script_path"]).read_text(), f"no --exclude={bad} in the script")
    expect(job["nodes"] != bad, f"it ran on {bad} again")
    attempts = run.attempts(UNDISTURBED)
    expect_equal("where the new attempt began", min(attempts[1].losses), attempts[0].saved[-1] + 1)
    return f"{bad} died; attempt 2 ran on {job['nodes']} from iteration {min(attempts[1].losses)}"
