"""Claims between machines: a holder lives as long as its file changes, by the clock of the process that watches it."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from oellm_autoexp.core.errors import LockedError, StateError
from oellm_autoexp.storage import lock
from oellm_autoexp.storage.files import create_atomic
from oellm_autoexp.storage.lock import (
    STALE_AFTER_SECONDS,
    UNREADABLE_AFTER_SECONDS,
    Holder,
    Lock,
    Machine,
    locked,
    process_started,
)

HERE = Machine.here()
ELSEWHERE = replace(HERE, host="elsewhere")


@dataclass
class Clock:
    """A monotonic clock that is set by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float, look: Callable[[], object] = lambda: None) -> None:
        """Let time go by, with a look every ten seconds."""
        for _ in range(round(seconds / 10)):
            self.now += 10
            look()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def forgetful() -> None:
    lock._last_readings.clear()


def two_hosts(path: Path, clock: Clock) -> tuple[Lock, Lock]:
    """A claim that is held elsewhere, and one that wants it here."""
    theirs, mine = Lock(path, ELSEWHERE, clock), Lock(path, HERE, clock)
    assert theirs.acquire() is None
    return theirs, mine


@pytest.mark.parametrize("skew_seconds", [-7200, -125, 0, 125, 7200])
def test_a_claim_that_changes_is_alive_however_far_the_clocks_of_two_machines_differ(
    tmp_path: Path, clock: Clock, skew_seconds: float
) -> None:
    path = tmp_path / "claim"
    theirs, mine = two_hosts(path, clock)
    for _ in range(40):
        theirs.beat(60)
        then = time.time() + skew_seconds
        os.utime(path, (then, then))  # as the clock of a file server, or of their host, has it: the same at each beat
        assert str(mine.acquire()) == f"process {os.getpid()} on elsewhere"
        clock.pass_by(60, mine.holder)
    theirs.beat()


@pytest.mark.parametrize("skew_seconds", [-7200, 0, 7200])
def test_a_claim_that_does_not_change_is_taken_over_after_the_announced_pause_and_two_minutes(
    tmp_path: Path, clock: Clock, skew_seconds: float
) -> None:
    path = tmp_path / "claim"
    theirs, mine = two_hosts(path, clock)
    theirs.beat(180)
    then = time.time() + skew_seconds
    os.utime(path, (then, then))
    assert mine.acquire() is not None
    clock.pass_by(STALE_AFTER_SECONDS + 180 - 10, mine.holder)
    assert mine.acquire() is not None
    assert "its heartbeat has not changed for 290 s; it is taken over after 300 s" in mine.outlook()
    clock.pass_by(10)
    assert mine.acquire() is None
    with pytest.raises(LockedError, match="lost to process"):
        theirs.beat()


def test_a_beat_is_seen_though_it_changes_neither_time_nor_length_of_the_file(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "claim"
    theirs, mine = two_hosts(path, clock)
    length = path.stat().st_size
    for _ in range(100):
        theirs.beat()
        os.utime(path, (5, 5))
        assert mine.holder() is not None
        clock.now += 59
    assert path.stat().st_size == length


def test_an_observer_that_slept_has_not_watched_meanwhile(tmp_path: Path, clock: Clock) -> None:
    _, mine = two_hosts(tmp_path / "claim", clock)
    assert mine.acquire() is not None
    clock.now += 100_000  # one look after a long sleep of this machine, or of the file server
    assert mine.acquire() is not None


def test_what_a_process_has_seen_counts_for_all_that_ask_in_it(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "claim"
    two_hosts(path, clock)
    clock.pass_by(STALE_AFTER_SECONDS + 10, lambda: Lock(path, HERE, clock).holder())
    assert Lock(path, HERE, clock).holder() is None
    assert Lock(path, HERE, clock).clear()
    assert not path.exists()


@pytest.mark.parametrize(
    "machine",
    [replace(HERE, boot="another"), replace(HERE, pids="4026530000")],
    ids=["another boot", "another pid namespace"],
)
def test_a_process_of_another_boot_or_container_with_the_same_host_name_is_not_judged_by_its_number(
    tmp_path: Path, clock: Clock, machine: Machine
) -> None:
    path = tmp_path / "claim"
    holder = Holder(machine.host, 4_000_000, f"{machine.boot}.5", "token", machine.pids)  # no such process here
    path.write_bytes(lock._content(holder, 1, 60))
    assert Lock(path, HERE, clock).acquire() == holder
    clock.pass_by(STALE_AFTER_SECONDS + 60 + 10, lambda: Lock(path, HERE, clock).holder())
    assert Lock(path, HERE, clock).acquire() is None


def test_a_file_of_an_older_version_is_understood(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "claim"
    here = {"host": HERE.host, "pid": os.getpid(), "started": process_started(os.getpid()), "token": "t"}
    path.write_text(json.dumps(here))
    assert str(Lock(path).acquire()) == f"process {os.getpid()} on {HERE.host}"
    path.write_text(json.dumps({**here, "pid": 4_000_000}))
    assert Lock(path).acquire() is None
    path.write_text(json.dumps({**here, "host": "elsewhere"}))
    mine = Lock(path, HERE, clock)
    for beat in range(100):  # it beats by the file's time alone
        os.utime(path, (beat, beat))
        assert mine.holder() is not None
        clock.now += 60
    clock.pass_by(1000, mine.holder)
    assert mine.acquire() is None


def test_the_next_heartbeat_can_be_announced_for_far_later(tmp_path: Path, clock: Clock) -> None:
    theirs, mine = two_hosts(tmp_path / "claim", clock)
    theirs.beat(float("inf"))
    clock.pass_by(100_000, mine.holder)
    assert mine.holder() is not None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\x00", b"[]", b'{"host": "a"}', b'{"host": 1, "pid": "x"}', b'{"pid": 1e999}']
)
def test_a_claim_that_names_nobody_is_in_the_making_and_then_nobodys(
    tmp_path: Path, clock: Clock, content: bytes
) -> None:
    path = tmp_path / "claim"
    path.write_bytes(content)
    claim = Lock(path, HERE, clock)
    assert str(claim.acquire()) == "a process that is acquiring it now"
    clock.pass_by(UNREADABLE_AFTER_SECONDS)
    assert claim.acquire() is None
    assert Lock(path).holder() is not None


def test_a_number_of_a_process_that_no_machine_has_names_nobody() -> None:
    assert Holder.parse(b'{"host": "a", "pid": 1e999, "started": "", "token": ""}') is None


def test_an_announcement_without_an_end_and_a_host_of_several_lines_are_no_harm(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "claim"
    path.write_text('{"host": "a\\nb", "pid": 1, "started": "x", "token": "t", "next_in": 1e999}')
    assert str(Lock(path, HERE, clock).acquire()) == "a process that is acquiring it now"
    assert "taken over after" in Lock(path, HERE, clock).outlook()
    assert str(Holder("a\nb", 1, "x", "t")) == "process 1 on a b"


# ---- waiting for a claim of another machine


def test_a_person_is_reported_whose_it_is_and_when_it_is_taken_over_and_then_it_is(
    tmp_path: Path, clock: Clock
) -> None:
    _, mine = two_hosts(tmp_path / "claim", clock)
    assert mine.acquire() is not None
    reported: list[str] = []

    def sleep(seconds: float) -> None:
        clock.now += seconds

    assert mine.await_change("session x", reported.append, sleep=sleep) is None
    assert reported == [
        f"waiting: session x is in use by process {os.getpid()} on elsewhere; its heartbeat has not changed for 1 s; "
        "it is taken over after 120 s"
    ]
    assert mine.acquire() is None


def test_a_claim_that_changes_while_it_is_waited_for_is_left_to_its_holder(tmp_path: Path, clock: Clock) -> None:
    theirs, mine = two_hosts(tmp_path / "claim", clock)
    holder = mine.acquire()

    def sleep(seconds: float) -> None:
        clock.now += seconds
        if clock.now > 1030:
            theirs.beat()

    assert mine.await_change("session x", lambda text: None, sleep=sleep) == holder
    assert clock.now < 1040


def test_who_does_not_wait_is_reported_when_a_claim_of_another_machine_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    assert Lock(path, ELSEWHERE).acquire() is None
    reported = r"(?s)on elsewhere.*has not changed for 0 s.*taken over after 120 s"
    with pytest.raises(LockedError, match=reported), locked(path, "session x"):
        pass


def test_a_claim_of_this_machine_is_judged_at_once(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    assert Lock(path).acquire() is None
    reported = f"in use by process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(LockedError, match=reported), locked(path, "session x", waiting=pytest.fail):
        pass


def test_who_is_interrupted_in_the_instant_of_taking_a_claim_leaves_none_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, made = tmp_path / "claim", create_atomic

    def interrupted(*words: Any) -> bool:
        made(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr("oellm_autoexp.storage.lock.create_atomic", interrupted)
    with pytest.raises(KeyboardInterrupt), locked(path, "session x"):
        pass
    assert not path.exists()


def test_a_claim_that_could_not_be_made_for_a_moment_keeps_its_own_maker_not_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "claim"
    with monkeypatch.context() as patched:
        opened = os.open

        def fails_once_it_is_there(name: Any, *words: Any, **named: Any) -> int:
            if os.path.lexists(path) and Path(name) == path:
                patched.undo()
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return opened(name, *words, **named)

        patched.setattr(os, "open", fails_once_it_is_there)
        with pytest.raises(StateError, match="can't lock it"), locked(path, "it"):
            pass
    with locked(path, "it") as claim:
        claim.beat()
