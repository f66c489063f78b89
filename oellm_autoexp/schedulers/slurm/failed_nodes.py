"""Which node failed when SLURM ended a job as NODE_FAIL: by accounting, by the nodes' states, by their events."""

from __future__ import annotations

import contextlib
import logging
import re
from datetime import datetime, timedelta

from oellm_autoexp.core.errors import SchedulerError
from oellm_autoexp.schedulers.slurm.commands import Commands
from oellm_autoexp.schedulers.slurm.error_messages import no_such_field
from oellm_autoexp.schedulers.slurm.parse import NO_NODES

_FAILURE_FIELDS = "JobID,FailedNode"
"""For sacct. Not every SLURM knows FailedNode (22.05 does not)."""
_END_FIELDS = "JobID,NodeList,End"
_SINFO_FORMAT = "%N %T"
_EVENT_FIELDS = "NodeName,TimeStart"
"""For `sacctmgr show event`: when nodes went out of service."""
_AROUND_THE_END = timedelta(seconds=5)  # between the end of a job and SLURM's entry for the node that ended it
_OUT_OF_SERVICE = re.compile(r"down|drain|fail|error|unknown|not_responding|inval|[a-z]+\*")
_log = logging.getLogger(__name__)


class FailedNodes:
    """The failed nodes of jobs. Each answer is kept: nodes come back into service."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._sacct_knows_failed_nodes = True
        self._found: dict[tuple[str, str], str] = {}

    def of(self, job: str, token: str, nodes: str) -> str:
        """The nodes whose failure ended a job that had `nodes`; '' while that is not known."""
        if (job, token) not in self._found:
            single = nodes and not re.search(r"[,\[]", nodes)
            found = nodes if single else self._by_accounts(job) or self._out_of_service(job, nodes)
            if not found:
                return ""
            self._found[job, token] = found
        return self._found[job, token]

    def _by_accounts(self, job: str) -> str:
        if self._sacct_knows_failed_nodes:
            try:
                return failed_node(self._commands.accounts("-j", job, "-o", _FAILURE_FIELDS))
            except SchedulerError as error:
                self._sacct_knows_failed_nodes = not no_such_field(str(error))
                _log.info("%s", error)
        return ""

    def _out_of_service(self, job: str, nodes: str) -> str:
        """The nodes of a job that are out of service now, else those that went out of service as the job ended."""
        commands = self._commands
        if nodes:
            states = commands.output_or_nothing([*commands.sinfo, "-h", "-N", "-n", nodes, "-o", _SINFO_FORMAT])
            if bad := nodes_out_of_service(states):
                return ",".join(bad)
        try:
            end = job_end(commands.accounts("-j", job, "-o", _END_FIELDS))
        except SchedulerError as error:
            _log.info("%s", error)
            return ""
        if end is None:
            return ""
        earliest, latest = end[1] - _AROUND_THE_END, end[1] + _AROUND_THE_END
        which = (f"nodes={end[0]}", f"start={earliest.isoformat()}", f"format={_EVENT_FIELDS}")
        events = commands.output_or_nothing([*commands.sacctmgr, "-n", "-P", "show", "event", *which])
        return ",".join(nodes_failed_between(events, earliest, latest))


def failed_node(text: str) -> str:
    """The node whose failure ended a job, by `sacct -X -n -P -o _FAILURE_FIELDS`; '' if sacct names none."""
    named = [line.partition("|")[2].strip() for line in text.splitlines()]
    return next((node for node in reversed(named) if node and node not in NO_NODES and node != "None"), "")


def nodes_out_of_service(text: str) -> list[str]:
    """The nodes out of service in `sinfo -h -N -o _SINFO_FORMAT`: down, drained, failing, not responding (`idle*`)."""
    lines = (line.split() for line in text.splitlines())
    bad = (words[0] for words in lines if len(words) == 2 and _OUT_OF_SERVICE.match(words[1].lower()))
    return list(dict.fromkeys(bad))


def job_end(text: str) -> tuple[str, datetime] | None:
    """A job's nodes, and when its last run ended (in SLURM's local time), by `sacct -X -n -P -o _END_FIELDS`."""
    for line in reversed(text.splitlines()):
        _, _, rest = line.partition("|")
        nodes, _, ended = rest.rpartition("|")
        with contextlib.suppress(ValueError):
            return nodes, _local_time(ended)
    return None


def _local_time(text: str) -> datetime:
    """A time as SLURM prints it: local, without a time zone. Raises ValueError."""
    time = datetime.fromisoformat(text.strip())
    if time.tzinfo is not None:
        raise ValueError("SLURM prints no time zones")
    return time


def nodes_failed_between(text: str, earliest: datetime, latest: datetime) -> list[str]:
    """The nodes that went out of service between two times, by `sacctmgr -n -P show event format=_EVENT_FIELDS`."""
    found = []
    for line in text.splitlines():
        node, _, began = line.partition("|")
        with contextlib.suppress(ValueError):
            if node and earliest <= _local_time(began) <= latest:
                found.append(node)
    return list(dict.fromkeys(found))
