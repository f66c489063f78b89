"""What an action asks to be started, as the program that does it: a command, a run of our own, a message.

Everything becomes a plain `Program`: its words as they are, with no shell, `cwd` absolute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from oellm_autoexp import start
from oellm_autoexp.config.values.braces import literal
from oellm_autoexp.core.commands import PARENT_VARIABLE
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redacted_text import REDACTED, redact_message
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.core.text import escaped, in_quotes
from oellm_autoexp.notifiers.base import Message
from oellm_autoexp.rules.actions import NotifyAction, Program, RunAutoexpAction
from oellm_autoexp.rules.events import Event
from oellm_autoexp.session.session import Session
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic
from oellm_autoexp.storage.session_files import SessionFiles

_MOST_GENERATIONS = 20
_SEND_GRACE_SECONDS = 5.0  # for the program itself, which counts the seconds of the network alone


def launch(
    request: Program | RunAutoexpAction | NotifyAction,
    *,
    manifest: Manifest,
    event: Event,
    id: str,  # noqa: A002
    state_dir: Path,
) -> Program:
    """The program that does what an action asks for. `id` is the action's (a queue id); the same id gives the same.

    A run of our own is looked for on disk first: one that was planned before is submitted (which goes on where it
    stopped) and not planned again; its recorded config, if it needs that, is written beside the queue's entry.
    Raises ConfigError, SweepError or StateError if it can't be made, OSError.
    """
    match request:
        case Program():
            words, cwd, env = request.words, _cwd(request.cwd, manifest, event), request.env
            _check_secrets((*words, *env.values()), manifest)
            return Program(words, cwd, env, request.timeout_seconds, redact_message(request.text))
        case NotifyAction():
            message = Message(request.subject or f"{event.name} of {event.job}", request.message)
            return sending(request, message, manifest=manifest, event=event)
        case RunAutoexpAction():
            return _run(request, manifest, event, id, state_dir)


def sending(action: NotifyAction, message: Message, *, manifest: Manifest, event: Event) -> Program:
    """The program that sends a message in the way of an action. Raises ConfigError."""
    subject, text = redact_message(message.subject), redact_message(message.text)
    if (way := action.way) is None:
        _check_secrets(action.command, manifest)
        return Program(action.command, _cwd(None, manifest, event), {}, action.timeout_seconds, text)
    asked = {
        "notifier": way.model_dump(mode="json", by_alias=True),
        "subject": subject,
        "text": text,
        "timeout_seconds": action.timeout_seconds,
    }
    words = start.words("oellm_autoexp.notifiers.send")
    limit = action.timeout_seconds + _SEND_GRACE_SECONDS
    return Program(words, work_dir(manifest), own_path(), limit, json.dumps(asked))


def _cwd(asked: str | None, manifest: Manifest, event: Event) -> str:
    job = next((job for job in manifest.jobs if job.name == event.job), None)
    return str(Path(job.work_dir if job else work_dir(manifest), Path(asked or "").expanduser()))


def work_dir(manifest: Manifest) -> str:
    """The directory in which the plan was made."""
    return str(manifest.provenance.get("work_dir") or manifest.base_output_dir)


def own_path() -> dict[str, str]:
    """What keeps a Python of ours from importing what lies in the folder that it starts in."""
    return {"PYTHONPATH": start.search_path()} if os.environ.get("PYTHONPATH") else {}


def _run(request: RunAutoexpAction, manifest: Manifest, event: Event, key: str, state_dir: Path) -> Program:
    for word in (*request.overrides, *request.config_dirs):
        if word.startswith("-"):  # what came from a log must not become an option
            raise ConfigError(
                Problem(f"{word!r} can't be an override or a folder: it begins with '-'", CONFIG / "overrides")
            )
    generation = int(manifest.provenance.get("generation", 0)) + 1
    _check_descent(request, manifest, event, generation)
    folder = SessionFiles.named(state_dir, manifest.plan_id).actions / event.id
    copy = folder / f"{key}.manifest"
    plan_id, planned = _earlier(manifest, event, key, state_dir, copy)
    program = start.words("oellm_autoexp")
    env = {**own_path(), PARENT_VARIABLE: f"{generation}/{manifest.plan_id}/{event.job}/{event.id}"}
    words: tuple[str, ...]
    if planned is not None:
        words = (*program, "submit", "--no-monitor", "--manifest", str(planned))
        return Program(words, work_dir(manifest), env, request.timeout_seconds)
    config_ref = request.reference
    if config_ref is None:
        from oellm_autoexp.planning.record.job_config import config_file  # a watch seldom needs the planner

        path = folder / f"{key}.yaml"
        text = config_file(manifest, _job_of(manifest, event))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text, 0o600)
        config_ref = str(path)
    words = (
        *(*program, "run", "--no-monitor", f"--plan-id={plan_id}", f"--manifest={copy}", f"--config-ref={config_ref}"),
        *(
            f"--config-dir={directory}"
            for directory in (*request.config_dirs, *manifest.provenance.get("config_dirs", ()))
        ),
        *_overrides(request.overrides, folder / f"{key}.overrides"),
        f"project.monitoring_state_dir={in_quotes(escaped(literal(str(state_dir.absolute()))))}",
    )
    return Program(words, work_dir(manifest), env, request.timeout_seconds)


def _job_of(manifest: Manifest, event: Event) -> JobSpec:
    """The job that an event is about. Raises ConfigError."""
    for job in manifest.jobs:
        if job.name == event.job:
            return job
    raise ConfigError(Problem(f"the plan has no job '{event.job}'", manifest.plan_id))


def _overrides(words: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """Overrides for a command line; those with secrets go into a file, as everybody may list processes."""
    if redact_words(words) == [*words]:
        return words
    if any("\n" in word for word in words):
        raise ConfigError(Problem("an override with a secret can't have several lines", CONFIG / "overrides"))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, "".join(f"{word}\n" for word in words), 0o600)
    return (f"--overrides-from={path}",)


def _check_secrets(words: tuple[str, ...], manifest: Manifest) -> None:
    """Raises ConfigError where a word lacks its secret, since the plan's secrets could not be read."""
    if manifest.secrets_path and any(REDACTED in word for word in words):
        raise ConfigError(Problem("the secret that this needs can't be read", manifest.secrets_path, "plan again"))


def _check_descent(request: RunAutoexpAction, manifest: Manifest, event: Event, generation: int) -> None:
    """Raises ConfigError where runs would start runs without end."""
    parent = str(manifest.provenance.get("parent", ""))
    hint = f"set monitoring.log_events.{event.name}=null (or state_events) in the action's overrides"
    if request.reference is None and parent.rpartition("/")[2].rpartition("-")[0] == event.name:
        raise ConfigError(Problem(f"this run was itself started by '{event.name}', and would go on so", hint=hint))
    if generation > _MOST_GENERATIONS:
        raise ConfigError(Problem(f"{_MOST_GENERATIONS} runs have started each other: is this a circle?", hint=hint))


def _earlier(
    manifest: Manifest,
    event: Event,
    key: str,
    state_dir: Path,
    copy: Path,
) -> tuple[str, Path | None]:
    """The id of the plan that an action makes, and its manifest if it was made before.

    What a planner that was killed left half-written has taken its id for good; the next one is used then.
    """
    for plan_id in _plan_ids(event, key):
        session = SessionFiles.named(state_dir, plan_id).path
        own = Path(manifest.base_output_dir, "manifests", f"{plan_id}.json")
        if session.exists():
            return plan_id, Session.load(session).manifest_path
        for path in (own, copy):
            if path.exists():
                trust.check_owner(path)
                return plan_id, path
        if not own.with_suffix(".provenance").exists():
            return plan_id, None
    raise AssertionError


def _plan_ids(event: Event, key: str) -> Iterator[str]:
    first = f"{event.name}-{key.replace('-', '')[:12]}"
    return (first if number == 1 else f"{first}-{number}" for number in count(1))
