"""Rules of logs from the plan to the end of a run, as a user meets them."""

from __future__ import annotations

from oellm_autoexp.monitor.session import Session
from tests.flow.conftest import User
from tests.flow.single import command, on_crash, planned

EMPTY_BRANCHES = {
    "step": r"(iter|iteration) (\d+)",
    "error": "error|errors",
    "nan": "(nan|nans)",
    "done": "done(:|) ok",
}
SAYS = "iteration 7\nerrors\nnans\ndone ok\n"


def test_patterns_with_an_empty_branch_are_planned_run_and_watched_also_beside_other_sessions(user: User) -> None:
    rules = {"log_events": {name: {"pattern": pattern} for name, pattern in EMPTY_BRANCHES.items()}}
    planned(user, "other", on_crash(command("true")))
    planned(user, "x", rules, ["printf", "%s", SAYS])
    result = user.run("monitor", "--all")
    assert (result.returncode, result.stderr) == (1, ""), "the other one has failed"
    assert "other: crash" in result.stdout
    (job,) = user.session().values()
    assert {name: tally["count"] for name, tally in job["events"].items()} == dict.fromkeys(EMPTY_BRANCHES, 1)


def test_status_tells_which_rule_was_switched_off_for_a_job(user: User) -> None:
    planned(user, "x", {"log_events": {"ends": {"pattern": "(a+)+$"}}})
    session = Session.load(user.outputs / "monitoring_state" / "x.json")
    session.put(session.jobs["x"].model_copy(update={"slow": {"ends": 3}}))
    session.snapshot()
    result = user.run("monitor", "--session", "x", "--cmd", "status")
    assert "rule switched off, its pattern takes too long: ends" in result.stdout, result.stderr
