"""A private, real SLURM cluster on one Debian machine, without systemd, for tests.

munge, slurmctld, several slurmd (virtual nodes whose GPUs are symlinks to /dev/null) and, if wanted, slurmdbd with
MariaDB. Configuration, key, sockets, logs, state and database all lie below one directory. It works as root and as an
ordinary user, whose jobs then run as that user. Several clusters live side by side: each has its own ports, and node
and cluster names derived from its directory.

    python tests/slurm/cluster.py install          # once, as root: the Debian packages
    python tests/slurm/cluster.py start            # seconds; running it again starts only what is missing
    eval "$(python tests/slurm/cluster.py env)"    # now sinfo, sbatch, squeue and the rest speak to it
    python tests/slurm/cluster.py clean

Partitions: debug (the default), short (5 minutes at most), low (preempted by cancelling), lowrq (preempted by
requeueing), high (preempts both of them).
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: the modules beside this one have the names that tests give them
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.slurm.configuration import write_files
from tests.slurm.machine import (
    PORT_BLOCKS,
    ClusterError,
    Process,
    cgroups_usable,
    free_ports,
    kill,
    processes,
    tail,
    user_name,
    wait,
)

INSTALL_COMMAND = "python tests/slurm/cluster.py install"
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmscriptd", "slurmd", "slurmstepd")
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))  # users lack sbin on Debian
USABLE_STATES = {"idle", "mix", "alloc", "comp", "plnd"}  # sinfo(1), NODE STATE CODES; `*` means: does not answer


def default_directory() -> Path:
    """One directory per user, with a short name: UNIX sockets lie in it."""
    return Path(tempfile.gettempdir()) / f"autoexp-slurm-{os.getuid()}"


def _knob(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The knobs of one cluster. What runs is read from the machine each time, so any process may stop any cluster."""

    directory: Path = dataclasses.field(default_factory=default_directory)
    accounting: bool = _knob(True, "run slurmdbd and MariaDB, so that sacct answers")
    nodes: int = _knob(4, "number of virtual nodes")
    cpus: int = _knob(8, "CPUs that each node claims to have")
    memory_mb: int = _knob(16000, "memory that each node claims to have, in MB")
    gpus: int = _knob(4, "GPUs that each node claims to have")
    port: int | None = _knob(None, "first TCP port of the block it uses (default: a free block)")
    node_prefix: str | None = _knob(None, "what comes before a node's number (default: derived from the directory)")
    min_job_age_seconds: int = _knob(300, "how long squeue still knows a finished job")
    slurmd_timeout_seconds: int = _knob(20, "silence after which a node counts as down")
    kill_wait_seconds: int = _knob(5, "time between SIGTERM and SIGKILL for a cancelled job")
    max_array_size: int = _knob(10001, "MaxArraySize: the largest array index is one less")
    cgroups: bool = dataclasses.field(
        default_factory=cgroups_usable, metadata={"help": "limit memory by cgroup v1 (default: where it works)"}
    )
    extra: tuple[str, ...] = _knob((), "one more line for slurm.conf; may be repeated")
    node: str = _knob("", "the shape of a node as in slurm.conf (default: one socket of CPUs)")
    partitions: tuple[str, ...] = _knob((), "a partition as in slurm.conf, in place of the usual ones; repeated")

    def __post_init__(self) -> None:
        if not self.directory.is_absolute() or re.search(r"[^\w./+-]", str(self.directory)):
            raise ClusterError(f"{self.directory}: SLURM needs an absolute path of letters, digits and . _ + - only")
        if not 1 <= self.nodes <= PORT_BLOCKS.step - 2:
            raise ClusterError(f"{self.nodes} nodes: 1 to {PORT_BLOCKS.step - 2} fit into one block of ports")
        longest = self.directory / "spool" / self.node_names[-1] / f"{self.node_names[-1]}_67108863.4294967294"
        if len(str(longest)) > 107:  # sun_path in unix(7) holds 108 bytes, the last one zero
            raise ClusterError(f"{self.directory}: too long, a UNIX socket in it would be {longest}; set TMPDIR=/tmp")

    @classmethod
    def load(cls, directory: Path) -> "Cluster | None":
        """The cluster that was last started in a directory, its port filled in; None if none ever was."""
        try:
            knobs = json.loads((directory / "cluster.json").read_text()) | {"directory": directory}
        except FileNotFoundError:
            return None
        # Another version of this program, beside which it is tested, may have fewer knobs or more.
        known: dict[str, Any] = {name: tuple(knob) if isinstance(knob, list) else knob for name, knob in knobs.items()}
        return cls(**{field.name: known[field.name] for field in dataclasses.fields(cls) if field.name in known})

    # ---- names

    @property
    def name(self) -> str:
        """ClusterName; SLURM puts it into the environment of every job, which is how its processes are recognised."""
        return "lab" + hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]

    @property
    def node_names(self) -> tuple[str, ...]:
        prefix = self.node_prefix or f"n{self.name[-4:]}-"
        return tuple(f"{prefix}{number}" for number in range(1, self.nodes + 1))

    def environment(self) -> dict[str, str]:
        """The one variable that every SLURM command needs to speak to this cluster."""
        return {"SLURM_CONF": str(self.directory / "etc/slurm.conf")}

    # ---- whole cluster

    def missing(self) -> str | None:
        """Why a cluster cannot run on this machine, or None if it can."""
        programs = ["munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun"]
        if self.accounting:
            programs += ["slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db"]
        absent = [program for program in programs if not shutil.which(program, path=PATH)]
        if {"slurmctld", "sbatch"} <= set(absent):
            return f"SLURM is not installed; install it as root: {INSTALL_COMMAND}"
        if absent:
            return f"SLURM is not complete (no {', '.join(absent)}); install it as root: {INSTALL_COMMAND}"
        try:
            user_name()
        except KeyError:
            return f"SLURM needs a user name, and user id {os.getuid()} has none here"
        return None

    def start(self) -> None:
        """Start whatever does not run yet and return when every node takes jobs.

        Raises ClusterError with the tail of the log at fault, after stopping what this call has started.
        """
        if reason := self.missing():
            raise ClusterError(reason)
        self.check_directory()
        with self._locked(), contextlib.ExitStack() as claim:
            before = self._members()
            if before:
                self._check_knobs()
            else:
                write_files(self, self.port or claim.enter_context(free_ports(self.name)))
            try:
                self._start_munge()
                if self.accounting:
                    self._start_database()
                    self.start_accounting()
                self.start_controller()
                self._start_nodes(self.node_names)
            except BaseException:
                self._end(member for member in self._members() if member not in before)
                raise

    def stop(self) -> None:
        """Cancel every job and end every process of the cluster. Its state stays, so that `start` can go on with it."""
        self.check_directory()
        self.thaw_controller()
        if self._members("slurmctld"):
            with contextlib.suppress(ClusterError):  # jobs that cannot be cancelled are killed below
                self._end_jobs()
        for names in (("slurmd",), ("slurmctld",), ("slurmdbd",), ("mariadbd", "munged"), DAEMONS):
            self._end(self._members(*names))
        for process in self._members():
            process.send(signal.SIGKILL)
        wait(f"the end of {self.name}", lambda: not self._members())
        self._remove_cgroups()

    def clean(self) -> None:
        """Stop, and remove the directory."""
        self.stop()
        if self.directory.exists():
            shutil.rmtree(self.directory)

    def reset(self) -> None:
        """Undo what a test may have done: frozen, killed or drained parts work again, and no job is left."""
        self.thaw_controller()
        self.start()
        self.cancel_jobs()

    def cancel_jobs(self) -> None:
        """Cancel every job, pending ones too, and return when none is left; none gets its KillWait."""
        self._end_jobs()
        wait("the end of all jobs", lambda: not self.run("squeue", "--noheader").stdout)

    def daemons(self) -> dict[str, int | None]:
        """Process id of each daemon that belongs to a running cluster, None for one that does not run."""
        names = ["munged", *(["mariadbd", "slurmdbd"] if self.accounting else []), "slurmctld"]
        found = {name: self._members(name) for name in names}
        found |= {f"slurmd {node}": self._members("slurmd", node=node) for node in self.node_names}
        return {name: min((member.pid for member in members), default=None) for name, members in found.items()}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a SLURM command on this cluster, with a plain environment: the caller's variables do not reach the job.

        Raises ClusterError with its standard error if it fails and `check` holds.
        """
        done = subprocess.run(
            command, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        if check and done.returncode:
            raise ClusterError(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def _succeeds(self, *command: str) -> bool:
        return self.run(*command, check=False).returncode == 0

    # ---- faults

    def stop_controller(self) -> None:
        """Stop slurmctld in good order; jobs go on, commands cannot connect."""
        self._end(self._members("slurmctld"))

    def start_controller(self) -> None:
        self._launch("slurmctld", ["slurmctld"])
        self._await("slurmctld", lambda: self._succeeds("scontrol", "ping"))

    def lose_state(self) -> None:
        """The controller's state is gone, as with a broken disk: it knows no job, and gives their ids once more."""
        self.stop_controller()
        shutil.rmtree(self.directory / "spool/ctld")
        (self.directory / "spool/ctld").mkdir(mode=0o700)
        self.start_controller()
        self._start_nodes(self.node_names)

    def freeze_controller(self) -> None:
        """SIGSTOP slurmctld: commands connect and then wait in vain for MessageTimeout (10 s)."""
        for process in self._members("slurmctld"):
            process.send(signal.SIGSTOP)

    def thaw_controller(self) -> None:
        for process in self._members("slurmctld"):
            process.send(signal.SIGCONT)

    def kill_node(self, name: str, *, jobs: bool = True) -> None:
        """Power cut: SIGKILL slurmd and the jobs on its node; with jobs=False slurmd alone, and its jobs go on.

        The controller notices after `slurmd_timeout_seconds`.
        """
        node = self._known(name)
        kill(self._members("slurmd", node=node))
        if jobs:
            kill(self._members("slurmd", "slurmstepd", node=node))
            quiet = 0
            while quiet < 3:  # one look can miss a process that is just being forked, or between fork and exec
                members = self._members(node=node)
                kill(members)
                quiet = 0 if members else quiet + 1

    def start_node(self, name: str) -> None:
        """Start slurmd again; returns when the controller sees the node."""
        self._start_nodes((self._known(name),))

    def stop_accounting(self) -> None:
        """Stop slurmdbd: sacct is refused, everything else works."""
        self._end(self._members("slurmdbd"))

    def start_accounting(self) -> None:
        show = ("sacctmgr", "--noheader", "--parsable2", "show", "cluster", "format=cluster")
        self._launch("slurmdbd", ["slurmdbd"])
        self._await("slurmdbd", lambda: self._succeeds(*show))
        if self.name not in self.run(*show).stdout.split():
            self.run("sacctmgr", "--immediate", "add", "cluster", self.name)

    # ---- processes

    def _environment(self, **more: str) -> dict[str, str]:
        database = str(self.directory / "run/db.sock")  # where slurmdbd looks, whose configuration has no key for it
        common = {"PATH": PATH, "HOME": str(Path.home()), "LC_ALL": "C", "MYSQL_UNIX_PORT": database}
        return common | self.environment() | more

    def _members(self, *names: str, node: str | None = None) -> list[Process]:
        """Living processes of this cluster: daemons carry its name in their environment, and so do jobs' processes."""
        marker = f"SLURM_CLUSTER_NAME={self.name}"
        found = [process for process in processes() if marker in process.environment]
        if names:
            found = [process for process in found if process.name in names]
        if node:
            found = [process for process in found if f"SLURMD_NODENAME={node}" in process.environment]
        return found

    def _end(self, members: Iterable[Process]) -> None:
        """SIGTERM, and SIGKILL for those that are still there after 20 s."""
        members = list(members)
        for process in members:
            process.send(signal.SIGTERM)
            process.send(signal.SIGCONT)  # a stopped process would not see the first one
        try:
            wait("", lambda: not any(process.alive() for process in members), seconds=20)
        except ClusterError:
            kill(members)

    def _end_jobs(self) -> None:
        for user in set(self.run("squeue", "--noheader", "--format=%u").stdout.split()):
            self.run("scancel", f"--user={user}")

        def no_step_left() -> bool:
            members = self._members()
            kill(member for member in members if member.name not in DAEMONS)
            return not any(member.name == "slurmstepd" for member in members)

        wait("the end of all job steps", no_step_left)

    def _launch(self, name: str, command: Sequence[str], node: str | None = None) -> None:
        """Start a daemon that puts itself into the background, unless it runs already."""
        if self._members(name, node=node):
            return
        log = self._log(name, node)
        markers = {"SLURM_CLUSTER_NAME": self.name, **({"SLURMD_NODENAME": node} if node else {})}
        with log.open("ab") as output:
            done = subprocess.run(
                command, env=self._environment(**markers), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        if done.returncode:
            raise ClusterError(f"{shlex.join(command)}: exit code {done.returncode}\n{tail(log)}")

    def _await(self, name: str, ready: Callable[[], bool], node: str | None = None) -> None:
        """Return when a launched daemon is ready; give up at once when it dies."""
        log, launched = self._log(name, node), time.monotonic()

        def ready_or_dead() -> bool:
            # a daemon needs a moment from its fork until it bears its name
            if time.monotonic() > launched + 1 and not self._members(name, node=node):
                raise ClusterError(f"{name} has ended\n{tail(log)}")
            return ready()

        wait(f"{name} {node or ''}".rstrip(), ready_or_dead, log)

    def _log(self, name: str, node: str | None = None) -> Path:
        return self.directory / "log" / (f"{name}-{node}.log" if node else f"{name}.log")

    def _start_munge(self) -> None:
        run = self.directory / "run"
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={run / file}" for option, file in files.items()]
        # --force: TMPDIR may be a private directory, and a killed munged leaves its socket behind
        self._launch("munged", ["munged", "--force", *options, f"--log-file={self._log('munged')}"])
        self._await("munged", lambda: self._succeeds("munge", "--no-input", f"--socket={run}/munge.socket"))

    def _start_database(self) -> None:
        """MariaDB without a password or a port: its socket lets in the user who runs it, by the plugin unix_socket."""
        data, options, me = self.directory / "db", f"--defaults-file={self.directory}/etc/mariadb.cnf", user_name()
        if not (data / "mysql").exists():
            shutil.rmtree(data, ignore_errors=True)  # half of an earlier attempt
            login = ("--auth-root-authentication-method=socket", f"--auth-root-socket-user={me}")
            self.run("mariadb-install-db", options, *login, "--skip-test-db", f"--user={me}", f"--datadir={data}")
        self._launch("mariadbd", ["setsid", "--fork", "mariadbd", options])
        self._await("mariadbd", lambda: self._succeeds("mariadb", options, "--execute=select 1"))

    def _start_nodes(self, names: Sequence[str]) -> None:
        for name in names:
            self._launch("slurmd", ["slurmd", "-N", name], node=name)
        states = self._node_states()
        if closed := [name for name in names if states.get(name, "").startswith(("drain", "drng", "down"))]:
            # check=False: a node that was down may be back already, and then nothing is to be resumed
            self.run("scontrol", "update", f"nodename={','.join(closed)}", "state=resume", check=False)
        for name in names:
            self._await("slurmd", functools.partial(self._usable, name), node=name)

    def _usable(self, node: str) -> bool:
        return self._node_states().get(node) in USABLE_STATES

    def _node_states(self) -> dict[str, str]:
        lines = self.run("sinfo", "--all", "--noheader", "--Node", "--format=%N %t", check=False).stdout
        return dict(line.split() for line in lines.splitlines())

    def _known(self, name: str) -> str:
        if name not in self.node_names:
            raise ClusterError(f"no node {name}; there are {', '.join(self.node_names)}")
        return name

    # ---- files

    def check_directory(self) -> None:
        """Refuse a directory of somebody else, a symlink, and one that holds anything but a cluster."""
        if not os.path.lexists(self.directory):
            return
        if self.directory.is_symlink() or not self.directory.is_dir() or self.directory.stat().st_uid != os.getuid():
            raise ClusterError(f"{self.directory} is not a directory that belongs to {user_name()}: use another one")
        if any(self.directory.iterdir()) and not (self.directory / "cluster.json").exists():
            raise ClusterError(f"{self.directory} holds something else than a cluster: use another one")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One start at a time; the lock is on the directory itself and ends with the process at the latest."""
        self.directory.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _check_knobs(self) -> None:
        """What runs keeps the knobs it was started with, so refuse to pretend that it has others."""
        running = Cluster.load(self.directory)
        if running is None:
            raise ClusterError(f"daemons of a cluster in {self.directory} run, but its cluster.json is gone: stop them")
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(running)
        other = [name for name in mine if mine[name] != theirs[name] and (name, self.port) != ("port", None)]
        if other:
            found = ", ".join(f"{name}={theirs[name]!r}" for name in other)
            raise ClusterError(f"a cluster with {found} runs in {self.directory}: stop it first")

    def _remove_cgroups(self) -> None:
        """slurmd leaves its own empty ones behind."""
        for node in self.node_names if self.cgroups else ():
            for top in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
                for folder in [*sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True), top]:
                    folder.rmdir()


if __name__ == "__main__":
    from tests.slurm.command_line import main

    sys.exit(main())
