"""Which nodes are left out of jobs: what counts, for how long, of how many; and whose logs are believed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.nodes.entry import BY_HAND, PREFLIGHT, Entry, bounded, entries_in, is_node, line_of
from oellm_autoexp.nodes.judge import Asked, Limits, Record, asked_by, choose, in_words, on_cluster, records
from oellm_autoexp.nodes.node_log import NodeLog
from oellm_autoexp.schedulers.site import ClusterNodes
from oellm_autoexp.schedulers.slurm import site_answers
from tests.unit.test_trust import STRANGER, as_root

HOUR = 3600.0
NOW = 1000 * HOUR
LIMITS = Limits(exclude_after=2, expires_after_seconds=168 * HOUR, max_share=0.1)
TEN = [f"n{number}" for number in range(1, 11)]


def blamed(node: str = "n1", hours_ago: float = 1, **more: Any) -> Entry:
    plain = {"category": "gpu-hardware", "reason": "ECC", "cluster": "c", "plan": "p", "job": "a", "attempt": 1}
    return Entry(at=NOW - hours_ago * HOUR, kind="blamed", node=node, **{**plain, **more})


def forgiven(node: str = "n1", hours_ago: float = 1, cluster: str = "c") -> Entry:
    return Entry(at=NOW - hours_ago * HOUR, kind="forgiven", node=node, cluster=cluster)


def record(*entries: Entry, limits: Limits = LIMITS) -> Record:
    (found,) = records(entries, NOW, limits).values()
    return found


def left_out(*entries: Entry, limits: Limits = LIMITS) -> bool:
    return record(*entries, limits=limits).until is not None


# ---- what counts


def test_two_attempts_are_enough_and_one_attempt_counts_once() -> None:
    assert not left_out(blamed())
    assert not left_out(blamed(), blamed(category="node"), blamed(hours_ago=2))
    assert left_out(blamed(), blamed(attempt=2))
    assert left_out(blamed(), blamed(job="b"))
    assert left_out(blamed(), blamed(plan="q"))
    assert left_out(blamed(), limits=replace(LIMITS, exclude_after=1))


@pytest.mark.parametrize("category", [BY_HAND, PREFLIGHT])
def test_one_report_by_hand_or_of_a_check_is_enough(category: str) -> None:
    assert left_out(blamed(category=category))
    assert left_out(blamed(category=category), limits=replace(LIMITS, exclude_after=5))


def test_without_a_limit_nothing_is_left_out() -> None:
    off = replace(LIMITS, exclude_after=None)
    assert not left_out(blamed(), blamed(attempt=2), blamed(category=BY_HAND), limits=off)


def test_a_blame_expires_and_the_node_is_left_out_until_too_few_are_left() -> None:
    assert left_out(blamed(hours_ago=167), blamed(job="b"))
    assert not left_out(blamed(hours_ago=169), blamed(job="b"))
    three = [blamed(hours_ago=hours, job=str(hours)) for hours in (30, 20, 10)]
    assert record(*three).until == NOW - 20 * HOUR + 168 * HOUR
    assert record(*three, blamed(hours_ago=15, category=BY_HAND)).until == NOW - 15 * HOUR + 168 * HOUR
    assert (len(record(blamed(hours_ago=169)).counted), len(record(blamed(hours_ago=169)).past)) == (0, 1)


def test_a_node_that_is_forgiven_begins_anew() -> None:
    before = (blamed(hours_ago=5), blamed(hours_ago=4, job="b"))
    assert not left_out(*before, forgiven(hours_ago=3))
    assert not left_out(*before, forgiven(hours_ago=3), blamed(hours_ago=2, job="x"))
    assert left_out(*before, forgiven(hours_ago=3), blamed(hours_ago=2, job="x"), blamed(job="y"))
    assert left_out(*before, forgiven(hours_ago=6))


def test_an_entry_of_a_clock_that_is_far_ahead_does_not_count_for_ever() -> None:
    assert records([blamed(hours_ago=-100, category=BY_HAND)], NOW, LIMITS) == {}
    assert left_out(blamed(hours_ago=-1, category=BY_HAND))


def test_each_cluster_has_nodes_of_its_own_and_entries_without_one_count_on_each() -> None:
    one, other = blamed(cluster="c"), blamed(cluster="d", job="b")
    found = records([one, other], NOW, LIMITS)
    assert [key for key, each in found.items() if each.until] == []
    found = records([one, other, blamed(cluster="", category=BY_HAND)], NOW, LIMITS)
    assert [key for key, each in found.items() if each.until] == [("", "n1"), ("c", "n1"), ("d", "n1")]
    assert [(each.cluster, each.attempts) for each in on_cluster(found, "c")] == [("c", 2)]
    assert [(each.cluster, each.attempts) for each in on_cluster(found, "e")] == [("", 1)], "no other entry names it"
    assert list(records([blamed(cluster="")], NOW, LIMITS)) == [("", "n1")]
    found = records([blamed(), blamed(job="b"), forgiven(hours_ago=0.5, cluster="")], NOW, LIMITS)
    assert [each.until for each in on_cluster(found, "c")] == [None]


def test_a_summary_names_the_last_blame() -> None:
    two = record(blamed(hours_ago=2), blamed(job="b", reason="off the bus"))
    assert two.summary == "blamed 2 times, last: gpu-hardware: off the bus"
    assert two.causes == {"gpu-hardware": 2}
    by_hand = record(blamed(category=BY_HAND, reason="smells", user="anna"))
    assert by_hand.summary == "blamed 1 time, last: by hand by anna: smells"


# ---- one job


def bad(*nodes: str) -> list[Record]:
    """Nodes at the limit, each worse than those behind it."""
    entries = [blamed(node, job=str(number)) for rank, node in enumerate(reversed(nodes)) for number in range(rank + 2)]
    return list(records(entries, NOW, LIMITS).values())


def chosen(found: list[Record], pool: list[str] | None = TEN, share: float = 0.1, **asked: Any) -> tuple[str, ...]:
    return tuple(choose(found, pool, Asked(**asked), share).left_out)


def test_never_more_than_a_share_is_left_out_the_worst_ones_first_and_the_others_are_named() -> None:
    choice = choose(bad("n5", "n2", "n7"), TEN, Asked(), 0.25)
    assert tuple(choice.left_out) == ("n5", "n2")
    assert choice.kept == {"n7": "at most 2 of the 10 nodes of its partition may be (monitoring.nodes.max_share)"}
    assert chosen(bad("n5", "n2", "n7")) == ("n5",)
    assert chosen(bad("n5"), share=0) == ()


def test_in_a_small_partition_one_node_may_be_left_out() -> None:
    assert chosen(bad("n2", "n1"), TEN[:4]) == ("n2",)


def test_a_job_keeps_as_many_nodes_as_it_needs() -> None:
    choice = choose(bad("n2"), TEN[:4], Asked(count=4), 0.5)
    assert choice.left_out == {}
    assert choice.kept == {"n2": "the job needs 4 of the 4 nodes of its partition"}
    assert chosen(bad("n2"), TEN[:4], count=3) == ("n2",)
    assert chosen(bad("n2"), TEN[:4], count=3, excluded=frozenset({"n3"})) == ()
    assert chosen(bad("n1"), ["n1"]) == ()


def test_nodes_that_a_job_in_the_queue_is_kept_from_already_count() -> None:
    found = bad("n5", "n2", "n7")
    assert tuple(choose(found, TEN, Asked(), 0.2, ["n5"]).left_out) == ("n2",)
    assert choose(found, TEN, Asked(), 0.2, ["n1", "n5"]).left_out == {}
    assert tuple(choose(found, TEN, Asked(count=8), 1.0, ["n5"]).left_out) == ("n2",)
    assert choose(found, TEN, Asked(count=9), 1.0, ["n5"]).left_out == {}
    assert choose(found, None, Asked(), 1.0, ["n5"]).left_out == {}


def test_what_is_said_of_many_nodes_is_short() -> None:
    long = record(blamed(reason="x" * 300), blamed(job="b", reason="x" * 300))
    assert len(long.summary) < 200
    words = in_words({f"n{number}": "why" for number in range(100)})
    assert words == "left out n0 (why), n1 (why), n2 (why), n3 (why), n4 (why) and 95 more"


def test_nodes_of_other_partitions_and_those_that_the_script_excludes_need_not_be_left_out() -> None:
    assert choose(bad("m1", "n2"), TEN, Asked(excluded=frozenset({"n2"})), 1.0) == choose([], TEN, Asked(), 1.0)


def test_a_job_that_names_a_node_gets_it() -> None:
    choice = choose(bad("n2", "n3"), TEN, Asked(named=frozenset({"n2"})), 1.0)
    assert tuple(choice.left_out) == ("n3",)
    assert choice.kept == {"n2": "the job names it itself (nodelist)"}
    assert tuple(choose(bad("n2"), TEN, Asked(by_file=True), 1.0).kept) == ("n2",)


def test_of_a_partition_whose_nodes_are_not_known_one_node_is_left_out() -> None:
    choice = choose(bad("n5", "n2"), None, Asked(), 1.0)
    assert (tuple(choice.left_out), tuple(choice.kept)) == (("n5",), ("n2",))


def test_what_a_script_asks_of_nodes_is_read_in_any_spelling() -> None:
    script = "#!/bin/bash\n#SBATCH -p gpu\n#SBATCH -w n[1-2],m7\n#SBATCH -x n3 --constraint=a100\ntrue\n"
    assert asked_by(script, 3, {"partition": "other"}) == Asked(
        "gpu",
        3,
        frozenset({"n1", "n2", "m7"}),
        frozenset({"n3"}),
        by_file=False,
        others=frozenset({("partition", "gpu"), ("nodelist", "n[1-2],m7"), ("exclude", "n3"), ("constraint", "a100")}),
    )
    assert asked_by("#!/bin/bash\ntrue\n", None, {"partition": "other"}) == Asked("other")
    for line in ("--nodelist=./nodes", "-x /x", "-F nodes"):
        assert asked_by(f"#!/bin/bash\n#SBATCH {line}\n", 1, {}).by_file


def test_the_nodes_of_a_cluster_are_read_from_what_slurm_prints() -> None:
    found = site_answers.cluster_nodes(
        "Configuration data\nClusterName             = Lab\n", "debug*|n1\ndebug*|n2\nshort|n2\nshort|n2\n"
    )
    assert found == ClusterNodes("Lab", {"debug": frozenset({"n1", "n2"}), "short": frozenset({"n2"})}, "debug")
    assert [sorted(found.of(name) or ()) for name in ("", "short", "short,debug")] == [
        ["n1", "n2"],
        ["n2"],
        ["n1", "n2"],
    ]
    assert (found.of("short,nosuch"), ClusterNodes("x", {}).of("")) == (None, None)
    assert found.names == {"n1", "n2"}


# ---- the files


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others can reach, as pytest's own can't be."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "nodes")
        path.parent.chmod(0o755)
        path.mkdir(mode=0o755)
        yield path


def written(folder: Path, *entries: Entry) -> NodeLog:
    log = NodeLog(folder)
    log.append(entries)
    return log


def nodes_in(log: NodeLog) -> list[str]:
    return [entry.node for entry in log.read()]


def test_what_is_appended_is_read_by_another_process_and_a_folder_that_is_not_there_is_empty(folder: Path) -> None:
    assert NodeLog(folder / "none").read() == []
    log = written(folder / "new" / "folder", blamed(), forgiven("n2"))
    again = NodeLog(log.folder).read()
    assert [(entry.node, entry.kind, entry.user) for entry in again] == [
        ("n1", "blamed", log.own.name.partition(".")[0]),
        ("n2", "forgiven", log.own.name.partition(".")[0]),
    ]
    assert replace(again[0], user="") == blamed()
    written(log.folder, blamed("n3"))
    assert nodes_in(log) == ["n1", "n2", "n3"], "a log that has grown is read again"


def test_a_line_that_a_crash_has_cut_is_passed_over_and_harms_no_other(folder: Path) -> None:
    log = written(folder, blamed("n1"))
    with log.own.open("ab") as file:
        file.write(line_of(blamed("n2")).encode()[:-20])
    assert nodes_in(log) == ["n1"]
    log.append([blamed("n3")])
    assert nodes_in(log) == ["n1", "n3"]
    assert log.own.read_bytes().endswith(b"}\n")


def test_lines_that_several_append_at_once_are_all_whole(folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(80):
            pool.submit(NodeLog(folder).append, [blamed(f"n{number}", reason="x" * 300)])
    assert sorted(nodes_in(NodeLog(folder))) == sorted(f"n{number}" for number in range(80))


def test_lines_of_any_other_form_are_passed_over() -> None:
    good = line_of(blamed()).encode()
    odd = [
        b"",
        b"null",
        b"[1]",
        good.replace(b'"blamed"', b'"praised"'),
        good.replace(b'"n1"', b'"n1,n2"'),
        good.replace(b'"n1"', b'"n[1-9]"'),
        good.replace(b'"n1"', b'"--all"'),
        good.replace(b'"n1"', b'"n1;reboot"'),
        good.replace(b'"at":', b'"at":-'),
        good.replace(b'"at":', b'"at":1e999,"x":'),
        good.replace(b'"ECC"', b'"' + b"x" * 5000 + b'"'),
        good.replace(b'"attempt":1', b'"attempt":"1"'),
        b"\xff" + good,
    ]
    assert entries_in(odd, "me") == []
    later = good.replace(b"{", b'{"more": [1], "user": "root", ')
    assert entries_in([*odd, later], "me") == [replace(blamed(), user="me")]


def test_names_of_nodes_are_plain() -> None:
    assert all(map(is_node, ("n1", "jwb0001.juwels", "nid-00_7", "7")))
    assert not any(map(is_node, ("", "-x", "n1,n2", "n[1]", "a b", "n1\n", ".n", "n/1", "ü", "x" * 300)))


def test_a_reason_is_one_short_line_without_secrets() -> None:
    token = "hf_" + "a1B2" * 9
    text = bounded(f"line\nwith {token}\x1b[31m " + "x" * 1000)
    assert token not in text
    assert (len(text), text.isprintable(), text.startswith("line with ")) == (300, True, True)
    entry = blamed(reason=f"see {token}")
    assert token not in line_of(entry)


@pytest.mark.parametrize(("shared", "mode"), [(True, 0o640), (False, 0o600)])
def test_what_is_written_into_the_folder_of_a_group_can_be_read_by_it(folder: Path, shared: bool, mode: int) -> None:
    before = os.umask(0o077)
    try:
        log = NodeLog(folder, shared=shared)
        log.append([blamed()])
    finally:
        os.umask(before)
    assert log.own.stat().st_mode & 0o777 == mode


def test_of_a_long_log_the_end_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oellm_autoexp.nodes.node_log._MOST_BYTES", 1000)
    log = written(folder, *(blamed(f"n{number}") for number in range(20)))
    assert nodes_in(log)[-1] == "n19"
    assert 1 < len(nodes_in(log)) < 10


def strangers_file(folder: Path, name: str = f"{STRANGER}", mode: int = 0o644, owner: int = STRANGER) -> Path:
    path = folder / f"{name}.nodes.jsonl"
    path.write_text(f"{line_of(blamed('n9'))}\n")
    path.chmod(mode)
    os.chown(path, owner, -1)
    return path


@as_root
def test_files_of_others_count_if_they_are_theirs_by_name_and_closed_to_writers(folder: Path) -> None:
    log = written(folder, blamed("n1"))
    path = strangers_file(folder)
    assert nodes_in(log) == ["n9", "n1"]
    assert [entry.user for entry in log.read()] == [str(STRANGER), "root"]
    path.chmod(0o666)
    assert (nodes_in(log), list(log.ignored)) == (["n1"], [path])
    path.unlink()
    pretended = strangers_file(folder, "daemon")
    assert nodes_in(log) == ["n1"]
    assert f"belongs to user {STRANGER}" in log.ignored[pretended]
    pretended.rename(folder / "nosuchuser.nodes.jsonl")
    assert nodes_in(log) == ["n1"]
    assert list(log.ignored.values()) == ["no user has this name"]


@as_root
def test_where_everybody_may_write_only_ones_own_file_counts(folder: Path) -> None:
    log = written(folder, blamed("n1"))
    path = strangers_file(folder)
    folder.chmod(0o1777)
    assert nodes_in(log) == ["n1"]
    assert "everybody may write to the folder" in log.ignored[path]


@as_root
def test_the_folder_may_be_anothers_and_ones_own_file_may_not(folder: Path) -> None:
    os.chown(folder, STRANGER, -1)
    log = written(folder, blamed("n1"))
    assert nodes_in(log) == ["n1"]
    log.own.unlink()
    strangers_file(folder, "root")
    with pytest.raises(StateError, match=f"belongs to user {STRANGER}"):
        log.append([blamed("n2")])
    assert nodes_in(log) == []


def test_links_and_pipes_are_neither_read_nor_written_to(folder: Path) -> None:
    log = NodeLog(folder)
    (folder / "real").write_text(f"{line_of(blamed())}\n")
    log.own.symlink_to(folder / "real")
    with pytest.raises(StateError, match="is a link"):
        log.append([blamed("n2")])
    assert (log.read(), list(log.ignored)) == ([], [log.own])
    log.own.unlink()
    os.mkfifo(log.own)
    assert (log.read(), list(log.ignored)) == ([], [log.own])
