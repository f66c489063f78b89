"""What an action asks to be started, as the program that does it: a command, a run of our own, a message.

Everything becomes a plain `Program`: its words as they are, with no shell, `cwd` absolute.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from oellm_autoexp import start
from oellm_autoexp.config.values.braces import literal
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redacted_text import REDACTED, redact_message
from oellm_autoexp.core.redaction import redact_words
from oellm_autoexp.planning import side_file
from oellm_autoexp.planning.plan import PARENT_VARIABLE
from oellm_autoexp.rules.actions import NotifyAction, Program, RunAutoexpAction
from oellm_autoexp.rules.events import Event
from oellm_autoexp.session.session import Session, session_path
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import write_atomic

_MOST_GENERATIONS = 20
_TELL_GRACE_SECONDS = 5.0  # for the program itself, which counts the seconds of the network alone


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
    Raises ConfigError if it can't be made, OSError.
    """
    match request:
        case Program():
            words, cwd, env = request.words, _cwd(request.cwd, manifest, event), request.env
            _check_secrets((*words, *env.values()), manifest)
            return Program(words, cwd, env, request.timeout_seconds, redact_message(request.text))
        case NotifyAction():
            message = {
                "url": request.webhook,
                "text": redact_message(request.message),
                "timeout": request.timeout_seconds,
            }
            words = start.words("oellm_autoexp.storage.webhook")
            limit = request.timeout_seconds + _TELL_GRACE_SECONDS
            return Program(words, _work_dir(manifest), _own_path(), limit, json.dumps(message))
        case RunAutoexpAction():
            return _run(request, manifest, event, id, state_dir)


def _cwd(asked: str | None, manifest: Manifest, event: Event) -> str:
    job = next((job for job in manifest.jobs if job.name == event.job), None)
    work_dir = job.work_dir if job else _work_dir(manifest)
    return str(Path(work_dir, Path(asked or "").expanduser()))


def _work_dir(manifest: Manifest) -> str:
    """The directory in which the plan was made."""
    return str(manifest.provenance.get("work_dir") or manifest.base_output_dir)


def _own_path() -> dict[str, str]:
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
    folder = session_path(state_dir, manifest.plan_id).with_suffix(".actions") / event.id
    copy = folder / f"{key}.manifest"
    plan_id, planned = _earlier(manifest, event, key, state_dir, copy)
    program = start.words("oellm_autoexp")
    env = {**_own_path(), PARENT_VARIABLE: f"{generation}/{manifest.plan_id}/{event.job}/{event.id}"}
    words: tuple[str, ...]
    if planned is not None:
        words = (*program, "submit", "--no-monitor", "--manifest", str(planned))
        return Program(words, _work_dir(manifest), env, request.timeout_seconds)
    config_ref = request.reference
    if config_ref is None:
        path = folder / f"{key}.yaml"
        config = recorded_config(manifest, event)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, _as_config(config), 0o600)
        config_ref = str(path)
    words = (
        *(*program, "run", "--no-monitor", f"--plan-id={plan_id}", f"--manifest={copy}", f"--config-ref={config_ref}"),
        *(
            f"--config-dir={directory}"
            for directory in (*request.config_dirs, *manifest.provenance.get("config_dirs", ()))
        ),
        *_overrides(request.overrides, folder / f"{key}.overrides"),
        f"project.monitoring_state_dir={_quoted(literal(str(state_dir.absolute())))}",
    )
    return Program(words, _work_dir(manifest), env, request.timeout_seconds)


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
        session = session_path(state_dir, plan_id)
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


def _quoted(text: str) -> str:
    """A text as a value of Hydra's overrides, where only backslashes before a quote or at the end need another one."""
    if "${" in text:
        raise ConfigError(Problem("no override can name this path: it holds '${'", text))
    inside = re.sub(r"(\\*)'", r"\1\1\\'", text)
    end = len(inside) - len(inside.rstrip("\\"))
    return f"'{inside}{inside[len(inside) - end :]}'"


# ---- the recorded config, for one job


def recorded_config(manifest: Manifest, event: Event) -> dict[str, Any]:
    """The config that the plan was made of, with what the sweep set for the event's job, and without the sweep.

    Raises ConfigError if it is gone, holds secrets that were taken out, or can't be made without its sweep.
    """
    job = next((job for job in manifest.jobs if job.name == event.job), None)
    if job is None:
        raise ConfigError(Problem(f"the plan has no job '{event.job}'", manifest.plan_id))
    path = side_file.record_file(manifest, job, "config_unresolved.yaml")
    config: dict[str, Any] = side_file.with_secrets(_read(path), side_file.kept(manifest), side_file.UNRESOLVED)
    config["sweep"] = {}
    for key, value in job.parameters.items():
        _lay(config, key, value, job)
    hidden = [place for place, text in _texts(config, "$") if REDACTED in text]
    if hidden:
        hint = "give config_ref and take secrets from the environment: ${oc.env:NAME}"
        raise ConfigError(
            Problem(f"the recorded config has no secrets any more: {', '.join(hidden[:5])}", str(path), hint)
        )
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(trust.read(path, most=trust.WHOLE).decode())
    except OSError as error:
        raise ConfigError(Problem(f"can't read the recorded config: {error.strerror}", str(path))) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(f"the recorded config is not YAML: {error}", str(path))) from None
    if not isinstance(config, dict):
        raise ConfigError(Problem("the recorded config holds no keys and values", str(path)))
    return config


def _lay(config: dict[str, Any], key: str, value: Any, job: JobSpec) -> None:
    """Set (or with `~key` delete) a value by its dotted key, as the sweep does."""
    *parents, last = key.lstrip("+~").split(".")
    if "/" in key or "@" in key or (not parents and isinstance(config.get(last), Mapping) and isinstance(value, str)):
        hint = "give config_ref, and the choice among the overrides"
        raise ConfigError(
            Problem(f"the sweep chooses a config for job '{job.name}': {key}={value}", CONFIG / "sweep", hint)
        )
    node = config
    for part in parents:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    if key.startswith("~"):
        node.pop(last, None)
    elif isinstance(value, Mapping) and isinstance(node.get(last), Mapping):
        node[last] = _merged(node[last], value)
    else:
        node[last] = value


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings, merged as Hydra merges a mapping into a mapping."""
    made = dict(below)
    for key, value in above.items():
        old = made.get(key)
        made[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return made


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text of a tree, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, f"{place}[{index}]")


class _Dumper(yaml.SafeDumper):
    """Texts always in quotes: what is a number differs between readers of YAML."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _as_config(config: Mapping[str, Any]) -> str:
    """A config as the text of a file that stands alone: a defaults list that brings in nothing but `sweep: none`."""
    whole = {"defaults": [{"sweep": "none"}, "_self_"], **config}
    return "# @package _global_\n" + yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
