"""Garbage in a file that is read back is one clear error that names the file, whatever the garbage is.

Real files of a real run are changed (bytes flipped, cut, spliced; values of their JSON replaced by ones that no file of
ours has) and read by what reads them. Only an AutoexpError may come out, and soon.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from oellm_autoexp.cli import run_autoexp
from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.engine.detached import Detached
from oellm_autoexp.engine.pickled import load
from oellm_autoexp.planning import manifest
from oellm_autoexp.planning.replan import replan
from oellm_autoexp.schedulers.local.spool import Spool
from oellm_autoexp.session import requests
from oellm_autoexp.session.event_log import EventLog
from oellm_autoexp.session.queue import Queue
from oellm_autoexp.session.session import Session, parent_of
from oellm_autoexp.storage.lock import Lock
from oellm_autoexp.submission.outputs import claim_outputs
from oellm_autoexp.testing.jobs import changed
from tests.fuzz.driver import fuzz
from tests.unit.test_executor import restart_request

SECONDS = 5
HANDED = b'{"version": 1, "executor": "local", "token": "t", "job_id": "7", "at": 1.0}'


@dataclass(frozen=True)
class Run:
    """What a real run has left in `home`."""

    home: Path

    @property
    def state(self) -> Path:
        return self.home / "outputs" / "monitoring_state"

    @property
    def session(self) -> Path:
        return self.state / "one.json"

    @property
    def manifest(self) -> Path:
        return self.home / "outputs" / "manifests" / "one.json"

    @property
    def output(self) -> Path:
        return self.home / "outputs" / "one"

    @property
    def spool(self) -> Path:
        return self.state / "local"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A job that failed, with an action in the queue; and a request, a journal and a lease as they are for a moment."""
    home = tmp_path_factory.mktemp("home")
    note = {"class_name": "RunCommandAction", "command": ["true"], "cwd": "."}
    actions = [
        {"class_name": "EventAction", "mode": "queue", "action": note},
        {"class_name": "LogAction", "message": "it failed"},
    ]
    config = {
        "defaults": [{"override /backend": "command"}],
        "project": {"name": "one"},
        "backend": {"argv": ["sh", "-c", "echo no luck; exit 3"]},
        "monitoring": {"poll_interval_seconds": 0.1, "state_events": {"crash": {"actions": actions}}},
    }
    (home / "one.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(config)}")
    before, kept = Path.cwd(), dict(os.environ)
    try:
        os.chdir(home)
        os.environ.clear()  # what is kept of an input must not name this machine
        os.environ.update({name: value for name, value in kept.items() if name.startswith(("AUTOEXP_FUZZ", "PYTEST"))})
        os.environ.update({"PATH": kept["PATH"], "HOME": str(home)})
        assert run_autoexp.main(["--config-ref", "./one.yaml", "--plan-id", "one"]) == 1
        made = Run(home)
        opened = Session.load(made.session)
        for number in range(3):
            opened.put(changed(opened.jobs["one"], reason=str(number)))
            opened.journal()
        asked = restart_request(job="one", overrides={"a.b": 1}, at=time.time())
        requests.ask(made.session, asked)
        assert Lock(made.state / "one.lease").acquire() is None
        yield made
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(kept)


# --- mutations --------------------------------------------------------------------------------------------------------

STRANGE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    -(10**400),
    1e308,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "\udcff",
    "a\0b",
    "../../x",
    "x" * 5000,
    "9" * 5000,
    "\u0663",
    [],
    {},
    [[]],
    {"": {}},
    ["\ud800"],
    {"\ud800": 1},
)
PIECES = (
    b"",
    b"\0",
    b"\xff",
    b"{",
    b"}",
    b"]",
    b"[" * 5000,
    b'"',
    b"\n",
    b"1e999",
    b"9" * 5000,
    b"\\ud800",
    b"\xed\xa0\x80",
)


def mutated(data: bytes, source: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled or replaced, or some values of its JSON replaced."""
    if source.random() < 0.6:
        with contextlib.suppress(ValueError):
            return in_json(data, source)
    made = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(made) + 1)
        end = min(len(made), at + source.choice((0, 1, 8, 100)))
        match source.randrange(4):
            case 0:
                made[at:end] = source.choice(PIECES)
            case 1:
                made[at:end] = bytes(source.getrandbits(8) for _ in range(end - at))
            case 2:
                made[at:at] = made[source.randrange(len(made) + 1) :][:100]
            case 3:
                del made[at:]
    return bytes(made)


def in_json(data: bytes, source: random.Random) -> bytes:
    """One line, or the whole, with some values replaced, moved or taken away."""
    lines = data.splitlines(keepends=True)
    by_line = len(lines) > 1 and all(line.startswith(b"{") and line.endswith(b"}\n") for line in lines)
    which = source.randrange(len(lines)) if by_line else 0
    tree = json.loads(lines[which] if by_line else data)
    for _ in range(source.randint(1, 3)):
        places = list(places_in(tree))
        if not places:
            break
        holder, key = source.choice(places)
        if source.random() < 0.15 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(source.choice((*STRANGE, nested(source.choice((50, 3000))))))
    text = dumped(tree)
    if not by_line:
        return text.encode(errors="surrogatepass")
    lines[which] = text.encode(errors="surrogatepass") + b"\n"
    return b"".join(lines)


def dumped(tree: Any) -> str:
    """JSON of any depth."""
    if isinstance(tree, dict) and len(tree) == 1 and "deep" in tree and type(tree["deep"]) is int:
        depth = min(abs(tree["deep"]), 5000)
        return "[" * depth + "]" * depth
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dumped(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(dumped, tree)) + "]"
    if isinstance(tree, int) and not isinstance(tree, bool) and abs(tree) > 10**300:
        return ("-" if tree < 0 else "") + "9" * 400
    return json.dumps(tree)


def nested(depth: int) -> dict[str, int]:
    return {"deep": depth}


def places_in(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from places_in(value)


# --- readers ----------------------------------------------------------------------------------------------------------


def read_spool(run: Run) -> None:
    spool = Spool(run.spool)
    names = spool.names()
    list(spool.waiting(names))
    job = spool.job("1")
    spool.run("1")
    spool.ended("1")
    spool.code("1")
    spool.stopped("1")
    if job is not None:
        with contextlib.suppress(FileNotFoundError):
            spool.environment(job)


def read_queue(run: Run) -> None:
    queue = Queue(run.session)
    queue.entries(report=lambda _error: None)
    queue.tally()
    for entry in queue.entries():
        queue.worker_of(entry)


def read_detached(run: Run) -> None:
    Detached(run.state, "one", None).standing()


def read_pid(run: Run) -> None:
    Detached(run.state, "one", None).await_process("7", 0)


def read_record(run: Run) -> None:
    found = manifest.load(run.manifest)
    replan(found, found.jobs[0], {"backend.argv": ["true"]})


READERS: dict[str, tuple[Callable[[Run], Path], Callable[[Run], object]]] = {
    "session": (lambda run: run.session, lambda run: (parent_of(run.session), Session.load(run.session).finished)),
    "journal": (lambda run: run.state / "one.journal", lambda run: Session.load(run.session)),
    "events": (lambda run: run.state / "one.events.jsonl", lambda run: list(EventLog(run.session).entries())),
    "request": (lambda run: run.state / "one.requests" / "x.json", lambda run: requests.waiting(run.session)),
    "queue entry": (lambda run: next((run.state / "one.actions").glob("*/*.json")), read_queue),
    "lease": (lambda run: run.state / "one.lease", lambda run: Lock(run.state / "one.lease").holder()),
    "manifest": (lambda run: run.manifest, lambda run: manifest.load(run.manifest)),
    "spooled job": (lambda run: run.spool / "1.job", read_spool),
    "spooled environment": (lambda run: run.spool / "1.env", read_spool),
    "spooled run": (lambda run: run.spool / "1.run", read_spool),
    "spooled end": (lambda run: run.spool / "1.end", read_spool),
    "spooled code": (lambda run: run.spool / "1.code", read_spool),
    "spooled stop": (lambda run: run.spool / "1.stop", read_spool),
    "detached monitor": (lambda run: run.state / "one.detached" / "monitor.json", read_detached),
    "detached process": (lambda run: run.state / "one.detached" / "7.pid", read_pid),
    "pickled result": (
        lambda run: run.state / "one.detached" / "7_0_result.pkl",
        lambda run: load(run.state / "one.detached" / "7_0_result.pkl"),
    ),
    "output mark": (
        lambda run: run.output / "session.json",
        lambda run: claim_outputs(manifest.load(run.manifest), run.session),
    ),
    "record of the config": (lambda run: run.output / "provenance/one/config.json", read_record),
    "record of planning": (lambda run: run.manifest.parent / "one.provenance/planning.yaml", read_record),
    "record of the environment": (lambda run: run.manifest.parent / "one.provenance/environment.json", read_record),
}


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail where something takes for ever."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"it takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_garbage_in_a_file_that_is_read_back_is_one_clear_error(run: Run) -> None:
    """An input is the kind of its file and, after the first line's end, the file, in which places have names."""
    paths = {kind: find(run) for kind, (find, _) in READERS.items()}
    for path in paths.values():
        seed(path)
    good = {kind: path.read_bytes() for kind, path in paths.items()}
    names = places(run)

    def make(source: random.Random) -> bytes:
        kind = source.choice(list(READERS))
        return f"{kind}\n".encode() + mutated(replaced(good[kind], names), source)

    def check(data: bytes) -> None:
        kind, _, content = data.partition(b"\n")
        path, read = paths[kind.decode()], READERS[kind.decode()][1]
        try:
            path.write_bytes(replaced(content, {name: place for place, name in names.items()}))
            with bounded(), contextlib.suppress(AutoexpError):
                read(run)
        finally:
            path.write_bytes(good[kind.decode()])

    for _, read in READERS.values():
        read(run)
    assert fuzz("files_read_back", make, check) > 0


def places(run: Run) -> dict[bytes, bytes]:
    """What is otherwise on another machine, and what stands for it in inputs that are kept."""
    found = {str(run.home): "@HOME@", sys.executable: "@PYTHON@", os.environ["PATH"]: "@PATH@"}
    return {place.encode(): name.encode() for place, name in {**found, socket.gethostname(): "@HOST@"}.items()}


def replaced(data: bytes, names: dict[bytes, bytes]) -> bytes:
    for old, new in names.items():
        data = data.replace(old, new)
    return data


def seed(path: Path) -> None:
    """What is there for a moment only, or not after this run."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        return
    content: dict[str, bytes] = {
        "1.env": json.dumps({"version": 1, "environment": {"A": "b"}}).encode(),
        "1.stop": b"TIMEOUT",
        "monitor.json": HANDED,
        "7.pid": b"12345 host\n",
        "7_0_result.pkl": b"\x80\x05K\x00.",
    }
    path.write_bytes(content[path.name])
