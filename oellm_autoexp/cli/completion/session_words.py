"""Sessions, their jobs and their queued actions, as options of `monitor` name them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from oellm_autoexp.cli.completion.command_line import Offer
from oellm_autoexp.core.errors import AutoexpError


def sessions(directory: Path) -> Iterator[Offer]:
    """The ids of the sessions in a folder, newest first."""
    from oellm_autoexp.session.session import all_sessions

    yield from (Offer(path.stem) for path in all_sessions(directory))


def jobs(directory: Path, name: str) -> Iterator[Offer]:
    """The jobs of a session, each with its state; none of a session that can't be read."""
    from oellm_autoexp.session.session import Session, find_session

    try:
        session = Session.load(find_session(directory, name))
    except AutoexpError:
        return
    yield from (Offer(job.name, job.state) for job in session.jobs.values())


def queue_ids(directory: Path, name: str) -> Iterator[Offer]:
    """The entries in the queue of a session, unfinished ones first, each with its event and state."""
    from oellm_autoexp.session.queue import Queue
    from oellm_autoexp.session.session import find_session

    try:
        queue = Queue(find_session(directory, name))
        entries = [*queue.entries(report=_ignore), *queue.finished(report=_ignore)]
    except AutoexpError:
        return
    yield from (Offer(entry.id, f"{entry.event.name}, {entry.status}") for entry in entries)


def queue_events(directory: Path, name: str) -> Iterator[Offer]:
    """The names of the events that have entries in the queue of a session."""
    names = (offer.about.partition(",")[0] for offer in queue_ids(directory, name))
    yield from (Offer(event) for event in dict.fromkeys(names))


def nodes(directory: Path, *, blamed: bool) -> Iterator[Offer]:
    """The recorded nodes, of the group's folder if a variable names it: those that are blamed now, or all."""
    from oellm_autoexp.nodes.judge import Limits, records
    from oellm_autoexp.nodes.node_log import FOLDER_VARIABLE, NodeLog

    log = NodeLog.of(os.environ.get(FOLDER_VARIABLE), directory)
    found = records(log.read(), time.time(), Limits()).values()
    yield from (Offer(each.node, each.newest.reason) for each in found if each.newest and (each.counted or not blamed))


def _ignore(error: AutoexpError) -> None:
    """An entry that can't be read is not offered."""
