"""Our commands as processes that need no second for their imports: a process that has made them forks for each.

What runs is the script itself, with the arguments, the folder, the environment and the umask of its user, in a process
of its own. `Forks.run` stands for `subprocess.run` of the same words.

    python tests/flow/forks.py FD        the process that forks; it is asked, and answers, through a socket
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
_MOST_BYTES = 1 << 20
_START_SECONDS = 0.5
"""What a command needs at least to start elsewhere: what a test began before it is as far on as there."""
_OF_THE_INTERPRETER = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "MALLOC")
"""What Python and the C library look at when they start; a process that was forked has that behind it."""


def _special(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_OF_THE_INTERPRETER)}


class Forks:
    """The process that forks, and what it is asked for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._special = _special(environment)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, __file__, str(theirs.fileno())]
        self._process = subprocess.Popen(
            words, env=dict(environment), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, cwd="/"
        )
        theirs.close()

    def can(self, words: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether a fork is the same as a process of its own that begins anew."""
        return words[0] == sys.executable and _special(environment) == self._special

    def run(
        self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with arguments to its end, with nothing on its standard input."""
        time.sleep(_START_SECONDS)
        os.umask(mask := os.umask(0))
        ours, theirs = socket.socketpair()
        with ours, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            with theirs, Path(os.devnull).open() as nothing:
                asked = json.dumps({"argv": words[1:], "cwd": str(cwd), "env": dict(env), "umask": mask})
                files = [each.fileno() for each in (nothing, output, errors, theirs)]
                socket.send_fds(self._socket, [asked.encode(errors="surrogateescape")], files)
            ours.settimeout(timeout)
            with ours.makefile() as answer:
                pid = int(answer.readline())
                try:
                    code = int(answer.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(words, timeout) from None
            texts = []
            for each in (output, errors):
                each.seek(0)
                texts.append(each.read().decode().replace("\r\n", "\n").replace("\r", "\n"))
        return subprocess.CompletedProcess(list(words), code, *texts)

    def close(self) -> None:
        """End the process; those that it has made go on."""
        self._socket.close()
        self._process.wait()


def _serve(asked: socket.socket) -> dict[str, Any]:
    """Fork for each that asks; what is asked for returns only in the process that is to do it."""
    while True:
        data, files, *_ = socket.recv_fds(asked, _MOST_BYTES, 4)
        if not data:
            os._exit(0)
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer = socket.socket(fileno=files.pop())
            if child := os.fork():
                answer.send(f"{child}\n".encode())
                for each in files:
                    os.close(each)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                answer.send(f"{code}\n".encode())
                os._exit(0)
            answer.close()
            for number, each in enumerate(files):
                os.dup2(each, number)
                os.close(each)
            found: dict[str, Any] = json.loads(data.decode(errors="surrogateescape"))
            return found
        for each in files:
            os.close(each)


def _build() -> None:
    """Build what a process builds when it first needs it: the validators of all sections and records."""
    from oellm_autoexp.core.fields import Section
    from oellm_autoexp.core.nouns import Record
    from oellm_autoexp.session.records import parts

    kinds: list[type[BaseModel]] = [Section, Record]
    for kind in kinds:
        kinds += kind.__subclasses__()
        kind.model_rebuild()
    parts()


def main() -> None:
    """The process that forks, until nobody asks any more."""
    asked = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = str(ROOT / "scripts")
    import oellm_autoexp

    for module in pkgutil.walk_packages(oellm_autoexp.__path__, "oellm_autoexp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    _build()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    todo = _serve(asked)
    os.umask(todo["umask"])
    os.environ.clear()
    os.environ.update(todo["env"])
    os.chdir(todo["cwd"])
    sys.argv = todo["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
