"""Real shells, on a terminal as far as they need one, with what `oellm-autoexp completion` prints for them."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
_SET_UP = {
    "bash": 'PS1=; bind "set enable-bracketed-paste off"; eval "$(oellm-autoexp completion bash)"',
    "zsh": "PS1=; unset zle_bracketed_paste; bindkey -e; autoload -Uz compinit; compinit -u -D; "
    'eval "$(oellm-autoexp completion zsh)"',
}
_READY = b"ready-to-type"
_SECONDS = 20


def need(shell: str) -> None:
    """Skip the test, or fail it where shells are required, if there is no such shell."""
    if shutil.which(shell) is None:
        why = f"{shell} is not installed; install it as root: apt-get install {shell}"
        if os.environ.get("AUTOEXP_REQUIRE_EDITOR"):
            pytest.fail(why)
        pytest.skip(why)


class Terminal:
    """A shell that waits for what is typed."""

    def __init__(self, shell: str, terminal: int, folder: Path) -> None:
        self._shell = shell
        self._terminal = terminal
        self._words = folder / "typed-words"
        self._type(f"{_SET_UP[shell]}; echo {_READY[:5].decode()}''{_READY[5:].decode()}\n")
        self._until(_READY)

    def words(self, line: str) -> list[str]:
        """The words that the shell makes of a line, at whose end the Tab key is pressed.

        The shell evaluates the line, as the user's Return would: behind another program, which writes down its words.
        """
        self._words.unlink(missing_ok=True)
        self._type(f"{line}\t")
        self._type("\x01keep-words \x05\n")  # to the line's beginning, to its end
        end = time.monotonic() + _SECONDS
        while not self._words.exists():
            self._read()
            assert time.monotonic() < end, "the shell has not run the line"
        return self._words.read_text().split("\0")[:-1]

    def _type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def _until(self, wanted: bytes) -> None:
        seen, end = b"", time.monotonic() + _SECONDS
        while wanted not in seen:
            seen += self._read()
            assert time.monotonic() < end, seen.decode(errors="replace")

    def _read(self) -> bytes:
        ready, _, _ = select.select([self._terminal], [], [], 0.02)
        return os.read(self._terminal, 65536) if ready else b""


@contextmanager
def terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    """A shell in a folder, in which oellm-autoexp is this one."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        _START[shell],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=_environment(folder, TERM="dumb" if shell == "bash" else "xterm"),
        cwd=folder,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(shell, ours, folder)
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def offered_by_fish(lines: Sequence[str], folder: Path) -> list[list[str]]:
    """What fish would offer at the end of each line, which needs no terminal."""
    need("fish")
    commands = ["oellm-autoexp completion fish | source"]
    for number, line in enumerate(lines):
        commands.append(f"complete --do-complete={shlex.quote(line)} > offers.{number}")
    words = ["fish", "--no-config", "-c", "; ".join(commands)]
    subprocess.run(words, env=_environment(folder), cwd=folder, check=True, stdin=subprocess.DEVNULL)
    texts = [(folder / f"offers.{number}").read_text() for number in range(len(lines))]
    return [[line.partition("\t")[0] for line in text.splitlines()] for text in texts]


def _environment(folder: Path, **more: str) -> dict[str, str]:
    programs = folder / "programs"
    programs.mkdir()
    _program(programs / "oellm-autoexp", f'exec "{sys.executable}" -m oellm_autoexp "$@"')
    _program(programs / "keep-words", f"printf '%s\\0' \"$@\" > words.part; mv words.part '{folder}/typed-words'")
    path = f"{programs}:{os.environ['PATH']}"
    return {
        "PATH": path,
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "INPUTRC": "/dev/null",
        **more,
    }


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
