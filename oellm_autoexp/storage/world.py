"""What rules may ask of the system: files, and programs that run in the background and answer by their exit code."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.interrupts import interrupts_held

_KILL_AFTER_SECONDS = 5.0  # from SIGTERM to SIGKILL, after the time limit of a program


@dataclass(frozen=True)
class Files:
    """The file system, as seen from a job's working directory."""

    work_dir: str

    def exists(self, path: str) -> bool:
        """Whether a file or folder exists; one that can't be reached counts as missing."""
        return os.path.exists(os.path.join(self.work_dir, os.path.expanduser(path)))  # noqa: PTH110, PTH111, PTH118

    def count(self, pattern: str) -> int:
        """How many paths match a glob pattern (`**` for any depth)."""
        return sum(1 for _ in glob.iglob(os.path.expanduser(pattern), root_dir=self.work_dir, recursive=True))  # noqa: PTH111, PTH207

    def tail(self, path: str, length: int) -> str:
        """The last `length` bytes of a file as text, '' if it can't be read."""
        try:
            with os.fdopen(os.open(os.path.join(self.work_dir, path), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH118
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):  # a device has no end
                    return ""
                file.seek(max(0, status.st_size - length))
                return file.read(length).decode(errors="replace")
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended: its exit code as a shell sees it; None if it could not start or ran out of time.

    `message` says in a few words what was wrong, and is '' with exit code 0.
    """

    code: int | None
    message: str


class Subprocess:
    """A program that runs in the background, started at once, without a shell, in a session of its own.

    `env` is added to the environment of this process. The output is appended to `log_path` (whose folder is created;
    None: the output is discarded), and `text` is the standard input. After `timeout_seconds` (None: no limit), `poll`
    sends SIGTERM and, some seconds later, SIGKILL to the program and to all processes that it has started.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        cwd: str | Path,
        env: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        timeout_seconds: float | None = None,
        text: str = "",
    ) -> None:
        self._timeout = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._outcome: Outcome | None = None
        self._terminated_at: float | None = None
        self._began_at = time.monotonic()
        self.later = False
        """Whether it could not start because this machine has no memory or processes left for it now."""
        try:
            with contextlib.ExitStack() as files:
                output = subprocess.DEVNULL if log_path is None else files.enter_context(_appended(log_path)).fileno()
                files.enter_context(interrupts_held())  # within Popen, they would leave a program that nobody knows
                self._process = subprocess.Popen(
                    list(words),
                    stdin=files.enter_context(_unlinked(text)).fileno() if text else subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
        except KeyboardInterrupt:
            self.give_up()
            raise
        except OSError as error:
            where = f": {error.filename}" if error.filename and str(error.filename) != words[0] else ""
            self._outcome = Outcome(None, f"can't be run: {error.strerror}{where}")
            self.later = error.errno in (errno.EAGAIN, errno.ENOMEM)
        except ValueError as error:  # an argument with a NUL character, a variable with = in its name
            self._outcome = Outcome(None, f"can't be run: {error}")
        except StateError as error:  # its log does not belong to this user
            self._outcome = Outcome(None, f"can't be run: {error.problems[0].sentence}")
        except IndexError:
            self._outcome = Outcome(None, "can't be run: no program is given")

    @property
    def pid(self) -> int | None:
        """The id of the process and of its group; None if it could not start."""
        return self._process.pid if self._process is not None else None

    def poll(self) -> Outcome | None:
        """How the program ended; None while it runs. Does not wait."""
        if self._outcome is None and self._process is not None:
            code = self._process.poll()
            if code is None:
                self._outcome = self._out_of_time()
            elif self._terminated_at is not None:
                self._outcome = self._ended_late()
            elif code < 0:
                self._outcome = Outcome(128 - code, f"killed by {_signal_name(-code)}")
            else:
                self._outcome = Outcome(code, f"exit code {code}" if code else "")
        return self._outcome

    def give_up(self) -> None:
        """Kill the program, if it runs, with all processes that it has started."""
        if self._process is not None and self._outcome is None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._outcome = Outcome(None, "given up")

    def _out_of_time(self) -> Outcome | None:
        """Send SIGTERM after the time limit, and SIGKILL if the program still runs later."""
        now = time.monotonic()
        if self._terminated_at is None:
            if self._timeout is not None and now - self._began_at >= self._timeout:
                self._terminated_at = now
                self._signal(signal.SIGTERM)
            return None
        return self._ended_late() if now - self._terminated_at >= _KILL_AFTER_SECONDS else None

    def _ended_late(self) -> Outcome:
        self.give_up()  # a process that it has started may have ignored SIGTERM
        return Outcome(None, f"did not end within {self._timeout:g} s")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def _appended(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return trust.open_to_append(path, mode=0o600)  # a program may print its secrets


def _unlinked(text: str) -> IO[bytes]:
    """A file without a name that holds this text, open for reading; it is removed when it is closed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    file.write(text.encode(errors="replace"))
    file.seek(0)
    return file


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Check:
    """A command that runs repeatedly in the background; exit code 0 means yes.

    It is started every `interval_seconds`, counted from start to start. One that runs for more than ten intervals and
    more than ten minutes is killed, and its answer is no.
    """

    def __init__(self, words: Sequence[str], work_dir: str, interval_seconds: float) -> None:
        self._words = list(words)
        self._work_dir = work_dir
        self._interval = interval_seconds
        self._longest = max(10 * interval_seconds, 600.0)
        self._subprocess: Subprocess | None = None
        self._asked_at = float("-inf")
        self.answer = "not run yet"
        self.said: bool | None = None
        """The last result, valid until the next one; None before the first."""

    @property
    def in_progress(self) -> bool:
        """Whether the command runs."""
        return self._subprocess is not None

    @property
    def is_pending(self) -> bool:
        """True while the first run of the command has no result yet."""
        return self.in_progress and self.said is None

    def says_yes(self, now: float) -> bool:
        """True if the last result is yes; starts the command if its interval is over (`now`: seconds of any clock)."""
        if self._subprocess is None and not self._asked_at <= now < self._asked_at + self._interval:
            self._asked_at = now
            self._subprocess = Subprocess(self._words, cwd=self._work_dir)
            self.answer = "it runs, no result yet"
        if self._subprocess is None:
            return False
        if self._subprocess.later:
            self._subprocess, self._asked_at = None, float("-inf")
            self.answer = "not run yet: too many programs run already"
            return False
        outcome = self._subprocess.poll()
        if outcome is None:
            if now - self._asked_at >= self._longest:
                self.give_up()
                self.answer = f"no result within {self._longest:g} s"
                self.said = False
            return False
        self._subprocess = None
        said_no = f"not fulfilled ({outcome.message}); run again every {self._interval:g} s"
        self.answer = outcome.message if outcome.code is None else said_no
        self.said = outcome.code == 0
        return self.said

    def give_up(self) -> None:
        """Kill the command, if it runs, with all processes that it has started."""
        if self._subprocess is not None:
            self._subprocess.give_up()
            self._subprocess = None
