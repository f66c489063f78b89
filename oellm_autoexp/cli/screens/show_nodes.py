"""monitor --cmd nodes: nodes that were blamed for failures, over all plans; report one by hand, or forgive it."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.monitor import session_names
from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import ConfigError, Problem, SchedulerError, StateError, UnwritableError
from oellm_autoexp.core.text import did_you_mean, plural, printable

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.nodes.entry import Entry
    from oellm_autoexp.nodes.judge import Limits, Record
    from oellm_autoexp.nodes.node_log import NodeLog
    from oellm_autoexp.schedulers.base import Scheduler
    from oellm_autoexp.schedulers.site import ClusterNodes

ALL = "all"
"""Every node, where one is forgiven."""
_NONE_LEFT_OUT = "none is left out (monitoring.nodes: exclude_after is null, or max_share 0)"
_TIMEOUT_SECONDS = 20
_MOST_NAMES = 1000
"""How many nodes may be named at once: a list with a slip (`n[1-100000]`) would fill the log."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    group = parser.add_argument_group("nodes that failed (--cmd nodes)")
    group.add_argument(
        "--report",
        metavar="NODE",
        help="record that a node is broken, with --reason: it is left out of jobs at once (also a list: n[1-3],n7)",
    )
    group.add_argument(
        "--forgive",
        metavar="NODE",
        help=f"what the node was blamed for no longer counts (also a list; {ALL}: every node)",
    )


def check(options: argparse.Namespace) -> None:
    """Return if the options of the command go together. Raises ConfigError."""
    if options.report is not None and options.forgive is not None:
        raise ConfigError(Problem("report a node or forgive it, one at a time", "--report --forgive"))
    if options.report is not None and not options.reason.strip():
        raise ConfigError(Problem("no reason is given", "--report", 'say what is wrong: --reason "falls off the bus"'))
    if options.cmd == "nodes" and options.reason and options.report is None and options.forgive is None:
        raise ConfigError(Problem("--reason goes with --report or --forgive", "--cmd nodes"))


def nodes(options: argparse.Namespace, manifest: Manifest | None) -> int:
    """Show the nodes, report one, or forgive one. `manifest`: the plan whose folder and limits count, if any."""
    log, limits = _place(options, manifest)
    if options.report is not None:
        return _report(options, log, limits, _scheduler(manifest))
    if options.forgive is not None:
        return _forgive(options, log, limits, _scheduler(manifest))
    return _show(options, log, limits)


def _place(options: argparse.Namespace, manifest: Manifest | None) -> tuple[NodeLog, Limits]:
    """The node logs, and the limits: of a plan, else the defaults and the variable that names a group's folder."""
    from oellm_autoexp.nodes.node_log import FOLDER_VARIABLE, NodeLog
    from oellm_autoexp.nodes.reputation import limits_of, section_of
    from oellm_autoexp.rules.rules import Nodes

    if manifest is not None:
        section = section_of(manifest)
        return NodeLog.of(section.folder, Path(manifest.monitoring_state_dir)), limits_of(section)
    named = None if options.monitoring_state_dir else os.environ.get(FOLDER_VARIABLE)
    if named and not named.startswith(("/", "~")):  # as monitoring.nodes.folder: watches read the same folder
        what = f"must be a whole path, which begins with '/' or '~', not {named!r}"
        raise ConfigError(Problem(what, f"${FOLDER_VARIABLE}"))
    return NodeLog.of(named, session_names.directory_of(options)), limits_of(Nodes())


def _scheduler(manifest: Manifest | None) -> Scheduler:
    """The scheduler of a plan, else SLURM by its usual commands."""
    from oellm_autoexp.sbatch.section import SlurmOptions
    from oellm_autoexp.schedulers.base import CLIENTS, make_scheduler

    if manifest is not None:
        return make_scheduler(manifest)
    section = {"class_name": "SlurmClient", "timeout_seconds": _TIMEOUT_SECONDS}
    return CLIENTS.classes()["SlurmClient"].model_validate(section).scheduler(SlurmOptions(client=None), Path())


def _cluster(scheduler: Scheduler) -> ClusterNodes | None:
    """The nodes of the cluster; None, with a note, if the scheduler does not name them."""
    try:
        found = scheduler.cluster_nodes()
    except SchedulerError as error:
        app.note(f"note: the names of nodes are not checked: {error.problems[0].what}", on_stderr=True)
        return None
    if found is None:
        app.note("note: this scheduler has one node; nodes are left out on SLURM alone", on_stderr=True)
    return found


def _names(text: str, option: str) -> list[str]:
    """The nodes of a list. Raises ConfigError."""
    from oellm_autoexp.causes.hosts import expand
    from oellm_autoexp.nodes.entry import is_node
    from oellm_autoexp.sbatch.options import node_names

    names = list(dict.fromkeys(expand(",".join(node_names(text)))))
    if not names or not all(map(is_node, names)):
        raise ConfigError(Problem(f"{text!r} names no node", option, "write a name, or a list: n1,n[3-5]"))
    if len(names) > _MOST_NAMES:
        hint = "report the nodes that are broken; not more than a share of a partition is left out"
        raise ConfigError(Problem(f"{text!r} names more than {_MOST_NAMES} nodes", option, hint))
    return names


def _report(options: argparse.Namespace, log: NodeLog, limits: Limits, scheduler: Scheduler) -> int:
    from oellm_autoexp.nodes.entry import BY_HAND, Entry, bounded

    names, cluster = _names(options.report, "--report"), _cluster(scheduler)
    if cluster is not None:
        known = {*cluster.names, *(entry.node for entry in log.read() if entry.cluster == cluster.name)}
        _check_known(names, known, "--report", f"the cluster {cluster.name} has no node")
    at, reason = time.time(), bounded(options.reason)
    made = [
        Entry(at=at, kind="blamed", node=name, cluster=cluster.name if cluster else "", category=BY_HAND, reason=reason)
        for name in names
    ]
    said = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
    if limits.exclude_after is None or not limits.max_share:
        return _add(options, log, made, f"{said} recorded; {_NONE_LEFT_OUT}")
    share = f"at most {limits.max_share:.0%} of a partition's nodes, or one, at a time"
    return _add(options, log, made, f"{said} left out of jobs from now on ({share}); end that with --forgive")


def _forgive(options: argparse.Namespace, log: NodeLog, limits: Limits, scheduler: Scheduler) -> int:
    from oellm_autoexp.nodes.entry import Entry, bounded
    from oellm_autoexp.nodes.judge import records

    now = time.time()
    found = [record for record in records(log.read(), now, limits).values() if record.newest is not None]
    if options.forgive == ALL:
        chosen = [record for record in found if record.counted]
        if not chosen:
            return _add(options, log, [], "nothing to forgive: no node is blamed now")
    else:
        names = _names(options.forgive, "--forgive")
        _check_known(names, {record.node for record in found}, "--forgive", "nothing is recorded of")
        chosen = _on_this_cluster([record for record in found if record.node in names], scheduler)
    made = [
        Entry(at=now, kind="forgiven", node=record.node, cluster=record.cluster, reason=bounded(options.reason))
        for record in chosen
    ]
    names = list(dict.fromkeys(record.node for record in chosen))
    said = "jobs may get it again" if len(names) == 1 else "jobs may get them again"
    return _add(
        options, log, made, f"forgiven: {', '.join(names)}; {said} (those in the queue: from their next attempt on)"
    )


def _on_this_cluster(found: list[Record], scheduler: Scheduler) -> list[Record]:
    """Of nodes that several clusters have, those of the cluster at hand, if it is known."""
    from oellm_autoexp.nodes.judge import on_cluster

    if len({record.node for record in found}) == len(found):
        return found
    cluster, of_each = _cluster(scheduler), {(record.cluster, record.node): record for record in found}
    here = on_cluster(of_each, cluster.name) if cluster is not None else []
    elsewhere = {record.node for record in found} - {record.node for record in here}
    return [*here, *(record for record in found if record.node in elsewhere)]


def _check_known(names: Iterable[str], known: Iterable[str], option: str, what: str) -> None:
    """Return if all names are known. Raises ConfigError."""
    known = set(known)
    problems = [
        Problem(f"{what} '{name}'", option, did_you_mean(name, known) or "--cmd nodes shows the recorded ones")
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError(*problems)


def _add(options: argparse.Namespace, log: NodeLog, made: list[Entry], said: str) -> int:
    try:
        log.append(made)
    except StateError as error:
        raise UnwritableError(*error.problems) from None
    except OSError as error:
        what = f"can't record it: {error.strerror or error}"
        raise UnwritableError(Problem(what, str(error.filename or log.own))) from None
    if options.json:
        rows = [{"node": entry.node, "cluster": entry.cluster, "kind": entry.kind, "at": entry.at} for entry in made]
        print(json.dumps({"file": str(log.own), "recorded": rows}))
    else:
        app.note(said)
    return app.OK


def _show(options: argparse.Namespace, log: NodeLog, limits: Limits) -> int:
    from oellm_autoexp.nodes.judge import records
    from oellm_autoexp.view.nodes import by_interest, nodes_table, reasons, record_facts
    from oellm_autoexp.view.tables import console

    now = time.time()
    found = by_interest([record for record in records(log.read(), now, limits).values() if record.newest is not None])
    if options.json:
        print(json.dumps({**_limit_facts(log, limits), "nodes": [record_facts(record) for record in found]}))
        return app.OK
    screen = console()
    if found:
        screen.print(nodes_table(found, limits, now))
        screen.print()
        for record in found:
            screen.print(reasons(record, now), soft_wrap=True)
        screen.print(_summary(found, limits), soft_wrap=True)
    else:
        screen.print(f"no node is recorded in {printable(str(log.folder))}", soft_wrap=True)
    for path, why in log.ignored.items():
        screen.print(f"ignored: {printable(str(path))}: {why}", soft_wrap=True)
    return app.OK


def _limit_facts(log: NodeLog, limits: Limits) -> Mapping[str, object]:
    return {
        "folder": str(log.folder.absolute()),
        "exclude_after": limits.exclude_after,
        "expires_after_hours": limits.expires_after_seconds / 3600,
        "max_share": limits.max_share,
        "ignored": {str(path): why for path, why in log.ignored.items()},
    }


def _summary(found: list[Record], limits: Limits) -> str:
    count = sum(record.until is not None for record in found)
    if limits.exclude_after is None:
        return f"{plural(len(found), 'node')}; {_NONE_LEFT_OUT}"
    hours = f"{limits.expires_after_seconds / 3600:g} h"
    after = plural(limits.exclude_after, "failed attempt")
    return f"{plural(len(found), 'node')}, {count} left out: after {after}, or one report; a blame counts for {hours}"
