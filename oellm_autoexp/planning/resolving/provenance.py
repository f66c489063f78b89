"""Where a plan came from: time, command line, git state and environment, with secrets taken out."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oellm_autoexp.core.errors import StateError
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.text import digest
from oellm_autoexp.storage import trust

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest

_DIFF_LIMIT_BYTES = 4 << 20
_GIT_TIMEOUT_SECONDS = 20
_SUBMODULE = "160000"
"""The mode of a submodule in git's index (gitformat-index(5))."""
_WITHOUT_THEIRS = "--ignore-submodules=dirty"  # of a submodule, its commit; what differs in it is read there
NO_PROGRAMS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
"""A checkout that several people share may name programs of any of them (git-config(1)); none of these is run."""


@dataclass(frozen=True)
class PlanContext:
    """What planning takes from the world around it; gathered once, so that planning itself is pure."""

    now: datetime
    work_dir: Path
    python: str
    environment: Mapping[str, str]
    command_line: tuple[str, ...]
    user: str
    host: str
    nonce: str
    """Eight hexadecimal digits that distinguish plans made within one second, also by hundreds of people."""
    git: Mapping[str, Any] = field(default_factory=dict)
    git_diff: str = ""
    git_trouble: str = ""
    """Why the state of git is not known where there is a checkout."""
    image: Mapping[str, Any] = field(default_factory=dict)
    """The container image that planning runs in, as the manifest records it; `shipped` in it is the folder in the image
    that holds what comes with the program. Empty outside of containers."""
    notes: tuple[str, ...] = ()
    """What a person should know of what could not be gathered."""
    code_dir: Path | None = None
    """Where the jobs of a plan that is there run; None: of a new one, as its config says."""


def gather(argv: list[str] | None = None) -> PlanContext:
    """The circumstances of this process, now."""
    work_dir = Path.cwd()
    git, diff, trouble = git_state(work_dir)
    return PlanContext(
        now=datetime.now(UTC),
        work_dir=work_dir,
        python=sys.executable,
        environment=dict(os.environ),
        command_line=tuple(argv if argv is not None else sys.argv),
        user=_user(),
        host=socket.gethostname(),
        nonce=secrets.token_hex(4),
        git=git,
        git_diff=diff,
        git_trouble=trouble,
        notes=(f"the state of git is not recorded: {trouble}",) if trouble else (),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no passwd entry
        return str(os.getuid())


def changed_code(manifest: Manifest) -> str:
    """A warning where the code in a plan's working directory is not what it was when the plan was made; else ''.

    Jobs run what is there when they begin. Compared are the commit of the checkout, and what differs from it in files
    that git tracks, in submodules, too. Files that git does not track, and other checkouts, are not compared.
    """
    was = manifest.provenance.get("git") or {}
    own_copy = all(job.work_dir != manifest.provenance["work_dir"] for job in manifest.jobs)
    if not was.get("commit") or own_copy:
        return ""
    now, _, _ = git_state(Path(manifest.provenance["work_dir"]))
    if not now:
        return ""
    if was["commit"] != now["commit"]:
        how = f"its commit was {was['commit'][:10]} and is {now['commit'][:10]}"
    elif any(was.get(key, now[key]) != now[key] for key in ("diff", "submodules")):
        how = f"files have been edited since commit {was['commit'][:10]}"
    else:
        return ""
    where = manifest.provenance["work_dir"]
    return f"the code in {where} has changed since the plan was made ({how}): jobs that start now run the changed code"


def git_state(directory: Path) -> tuple[dict[str, Any], str, str]:
    """Commit, branch, whether the tree is clean, digests of the diffs; the diff to the commit; why not, in words.

    All are empty outside of a checkout. The diff ends with those of the submodules, which have a digest of their own.

    A checkout into whose configuration others can write is not asked: it may name programs of theirs.
    """
    program = shutil.which("git")
    if program is None:
        return {}, "", ""

    def git(*words: str, at: Path = directory) -> str:
        result = subprocess.run(
            [program, "-C", str(at), *NO_PROGRAMS, *words],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_SECONDS,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return result.stdout

    def check(at: Path) -> None:
        folders = {Path(at, line) for line in git("rev-parse", "--git-dir", "--git-common-dir", at=at).splitlines()}
        for folder in folders:
            for name in ("config", "config.worktree"):
                with contextlib.suppress(FileNotFoundError):
                    trust.open_file(folder / name, most=trust.LINE).close()

    def diff_of(at: Path, *prefixes: str) -> str:
        return git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", _WITHOUT_THEIRS, *prefixes, at=at)

    def submodules(at: Path, name: str = "") -> Iterator[str]:
        for line in git("ls-files", "--stage", "-z", at=at).split("\0"):
            mode, _, path = line.partition("\t")
            if mode.startswith(_SUBMODULE) and (at / path / ".git").exists():  # else it is not checked out
                check(at / path)
                yield diff_of(at / path, f"--src-prefix=a/{name}{path}/", f"--dst-prefix=b/{name}{path}/")
                yield from submodules(at / path, f"{name}{path}/")

    try:
        check(directory)
        commit = git("rev-parse", "HEAD").strip()
        branch = git("rev-parse", "--abbrev-ref", "HEAD").strip()
        top = git("rev-parse", "--show-toplevel").strip()
        diff, inside = diff_of(directory), "".join(submodules(Path(top)))
    except StateError as error:
        found = error.problems[0]
        return {}, "", f"{found.sentence} ({found.hint})"
    except (OSError, subprocess.SubprocessError):
        return {}, "", ""
    state = {
        "commit": commit,
        "branch": branch,
        "clean": not diff and not inside,
        "diff": digest(diff) if diff else "",
        "submodules": digest(inside) if inside else "",
        "top": top,
    }
    diff += inside
    if len(diff) > _DIFF_LIMIT_BYTES:
        diff = f"{diff[:_DIFF_LIMIT_BYTES]}\n[cut: the diff has {len(diff)} characters]\n"
    return state, redact_text(diff), ""
