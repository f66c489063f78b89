"""What tests.slurm.cluster needs from the machine: its processes, its TCP ports, and patience."""

import contextlib
import dataclasses
import hashlib
import os
import pwd
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PORT_BLOCKS = range(10240, 32768 - 256, 256)  # below the range from which the kernel gives ports to clients


class ClusterError(RuntimeError):
    """The cluster cannot be started, stopped or spoken to; the message says why and ends with the tail of the log."""


def user_name() -> str:
    """The name of whoever runs this; KeyError if the password database has none, as in some containers."""
    return pwd.getpwuid(os.getuid()).pw_name


def cgroups_usable() -> bool:
    """Whether SLURM can track processes and memory by cgroup v1 here, so that jobs end in OUT_OF_MEMORY."""
    mounts = Path("/proc/mounts").read_text()
    folders = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/freezer")
    return all(f" {folder} cgroup rw" in mounts and os.access(folder, os.W_OK) for folder in folders)


@dataclasses.dataclass(frozen=True)
class Process:
    """A living process that we may inspect. A zombie has no environment any more, so it belongs to no cluster."""

    pid: int
    name: str
    environment: frozenset[str]

    @classmethod
    def read(cls, pid: int) -> "Process | None":
        folder = Path("/proc") / str(pid)
        try:
            environment = (folder / "environ").read_bytes().decode(errors="replace")
            name = (folder / "comm").read_text().strip()
        except OSError:  # it has ended, or belongs to somebody else
            return None
        return cls(pid, name, frozenset(environment.split("\0")))

    def alive(self) -> bool:
        """False also when the number has meanwhile gone to another process."""
        now = Process.read(self.pid)
        return now is not None and now.environment == self.environment

    def send(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := Process.read(int(entry.name))):
            yield process


def kill(processes: Iterable[Process]) -> None:
    processes = list(processes)
    for process in processes:
        process.send(signal.SIGKILL)
    wait("the end of killed processes", lambda: not any(process.alive() for process in processes))


def wait(what: str, happened: Callable[[], bool], log: Path | None = None, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise ClusterError(f"waited {seconds} s in vain for {what}\n{tail(log) if log else ''}".rstrip())
        time.sleep(0.05)


def tail(log: Path, lines: int = 20) -> str:
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join((f"the last lines of {log}:", *text[-lines:]))


@contextlib.contextmanager
def free_ports(key: str) -> Iterator[int]:
    """First port of a block in which nothing listens, claimed against other callers until the context ends.

    The claim is a name in the abstract namespace of UNIX sockets, see unix(7): it leaves no file behind.
    """
    first = int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(PORT_BLOCKS)
    for number in range(len(PORT_BLOCKS)):
        port = PORT_BLOCKS[(first + number) % len(PORT_BLOCKS)]
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0autoexp-slurm-{port}")
            except OSError:
                continue
            if all(map(_port_is_free, range(port, port + PORT_BLOCKS.step))):
                yield port
                return
    raise ClusterError(f"no free block of ports in {PORT_BLOCKS.start} to {PORT_BLOCKS.stop}")


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
