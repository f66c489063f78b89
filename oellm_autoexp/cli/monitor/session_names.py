"""Which session a person means (by an option, a word, or the path of one of its files), and what is recorded of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from oellm_autoexp.cli.steps import hints, session_steps
from oellm_autoexp.cli.steps.backoff import with_backoff
from oellm_autoexp.cli.steps.misuse import is_override
from oellm_autoexp.core.errors import ConfigError, CorruptError, Problem, StateError

if TYPE_CHECKING:
    from oellm_autoexp.core.nouns import Manifest
    from oellm_autoexp.session.session import Session, Stamp

_HEAD_BYTES = 4096
_SUFFIXES = (".json", ".yaml", ".yml")


def understand(options: argparse.Namespace, commands: Iterable[str]) -> None:
    """Take a word alone for `--session`, and a path in either option for what its file is. Raises ConfigError."""
    words = [word for word in options.overrides if not is_override(word)]
    options.metrics = []
    if options.cmd == "plot":  # its words are metrics; the first one is a session where no option names that
        first = 0 if options.session or options.manifest else 1
        words, options.metrics = words[:first], words[first:]
    options.overrides = [word for word in options.overrides if is_override(word)]
    if words and words[0] in commands:
        raise ConfigError(Problem("a command of monitor is an option", words[0], f"write --cmd {words[0]}"))
    named = [word for word in (options.session, options.manifest, "--all" if options.all else None) if word]
    if words and len(words) + len(named) > 1:
        hint = "--all watches every unfinished one"
        raise ConfigError(Problem("one session at a time", " ".join(map(str, [*named, *words])), hint))
    if words:
        options.session = words[0]
    if options.overrides and options.cmd not in ("try", "why"):
        hint = (
            "key=value goes with --cmd try or why --log; else with plan or run, or --cmd restart --override KEY=VALUE"
        )
        raise ConfigError(Problem("the plan of a session is fixed", options.overrides[0], hint))
    if options.session is not None and ("/" in options.session or options.session.endswith(_SUFFIXES)):
        _by_path(options, Path(options.session))
    elif options.manifest is not None and _is_session(options.manifest):
        _by_path(options, options.manifest)


def _by_path(options: argparse.Namespace, path: Path) -> None:
    """Take the path of a session's file for its folder and id, and that of a manifest for `--manifest`."""
    if not path.exists():
        raise ConfigError(Problem("there is no such file", str(path), "--cmd list shows the ids of sessions"))
    if _is_session(path):
        options.session, options.manifest = path.stem, None
        options.monitoring_state_dir = path.absolute().parent
    else:
        options.session, options.manifest = None, path


def _is_session(path: Path) -> bool:
    """Whether a file begins as sessions do; what can't be read is judged where it is used."""
    from oellm_autoexp.storage import trust

    try:
        with trust.open_file(path, most=None, named=True, lenient=True) as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
    except (OSError, StateError):
        return False
    return re.search(r'^ ?"manifest_path": ', head, re.MULTILINE) is not None


def directory_of(options: argparse.Namespace) -> Path:
    directory: Path | None = options.monitoring_state_dir
    return directory or hints.default_state_dir()


def session_file(options: argparse.Namespace) -> Path:
    """The file of the session that --session names. Raises ConfigError."""
    from oellm_autoexp.session.session import all_sessions, find_session

    directory = directory_of(options)
    if options.monitoring_state_dir is None and not all_sessions(directory):
        what = f"no session '{options.session}', as there are none here"
        raise ConfigError(Problem(what, str(directory.absolute()), hints.other_folder()))
    return find_session(directory, options.session)


def manifest_of(options: argparse.Namespace) -> tuple[Manifest, Path]:
    """The manifest that --session or --manifest means. Raises ConfigError."""
    from oellm_autoexp.storage.session_files import SessionFiles

    if options.manifest is not None:
        manifest = session_steps.load_manifest(options.manifest)
        if not SessionFiles.of(manifest).path.exists():
            hint = f"submit it: {hints.command('submit', '--manifest', str(options.manifest))}"
            raise ConfigError(Problem("this plan was not submitted yet", str(options.manifest), hint))
        return manifest, options.manifest
    if options.session is None and options.all:
        raise ConfigError(
            Problem(f"--cmd {options.cmd} is for one session", "--all", "give --session ID; --cmd list shows them")
        )
    if options.session is None:
        raise ConfigError(
            Problem("no session is given", hint="give --session ID, --manifest PATH or --all; --cmd list shows them")
        )
    path = _named(options).manifest_path
    return session_steps.load_manifest(path), path


def _named(options: argparse.Namespace) -> Session:
    """The session that --session names. Raises ConfigError, CorruptError."""
    from oellm_autoexp.session.session import Session

    return with_backoff(lambda: Session.load(session_file(options)))


def recorded(manifest: Manifest) -> Session:
    """The session of a plan as it is on disk. Raises ConfigError, CorruptError (also where it has other jobs)."""
    from oellm_autoexp.session.session import Session
    from oellm_autoexp.storage.session_files import SessionFiles

    return _of_plan(with_backoff(lambda: Session.load(SessionFiles.of(manifest).path)), manifest)


def _of_plan(session: Session, manifest: Manifest) -> Session:
    """A session that has the jobs of its plan. Raises CorruptError."""
    if session.jobs.keys() != {job.name for job in manifest.jobs}:
        raise CorruptError(Problem("it has other jobs than its plan", str(session.path), str(session.manifest_path)))
    return session


def stamps_of(path: Path) -> tuple[Stamp | None, Stamp | None]:
    """What differs once a session's file, or its journal, has changed."""
    from oellm_autoexp.session.session import stamp_of
    from oellm_autoexp.storage.session_files import SessionFiles

    return stamp_of(path), stamp_of(SessionFiles(path).journal)


def manifest_and_session(options: argparse.Namespace) -> tuple[Manifest, Session]:
    """The manifest and the session as it is on disk, which is read once. Raises ConfigError, CorruptError."""
    from oellm_autoexp.storage.session_files import SessionFiles

    if options.manifest is None and options.session is not None:
        session = _named(options)
        manifest = session_steps.load_manifest(session.manifest_path)
        if SessionFiles.of(manifest).path == session.path:
            return manifest, _of_plan(session, manifest)
    else:
        manifest, _ = manifest_of(options)
    return manifest, recorded(manifest)
