"""The secrets of a plan, taken out of its manifest and of its record: a file beside them that only its owner may read.

`manifests/<plan_id>.provenance/secrets.json` (0600) holds, by file, the places (JSON pointers) from which values were
taken, and the values: what rules, conditions and later attempts need to run. The manifest names it. Whoever can't read
it, such as another user, sees `***` in those places; plans of earlier versions have none.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from oellm_autoexp.core.errors import AutoexpError
from oellm_autoexp.core.nouns import JobSpec, Manifest
from oellm_autoexp.core.redaction import put_back, redact, taken_out
from oellm_autoexp.storage.files import read_json

SECRETS_VERSION = 1
NAME = "secrets.json"
MANIFEST, UNRESOLVED, PLANNING = "manifest", "config_unresolved", "planning"
_OF_THE_PLAN = ("slurm", "scheduler", "monitoring")
_OF_A_JOB = (
    "start_conditions",
    "cancel_conditions",
    "done_conditions",
    "start_condition_cmd",
    "template_values",
    "monitoring",
)
"""What is needed to run; a job's words and environment are in its script."""
_R = TypeVar("_R", JobSpec, Manifest)
_log = logging.getLogger(__name__)


def side_file(manifest: Manifest) -> Path:
    """Where the secrets of a plan are."""
    return Path(manifest.base_output_dir, "manifests", f"{manifest.plan_id}.provenance", NAME)


def record_file(manifest: Manifest, job: JobSpec, name: str) -> Path:
    """Where a file of what all jobs of a plan have in common is: `planning.yaml`, `environment.json`, …

    It is in the plan's own folder; plans of earlier versions have (a link to) it beside each job's script.
    """
    beside = Path(job.script_path).with_name(name)
    return beside if os.path.lexists(beside) else side_file(manifest).with_name(name)


def text(taken: Mapping[str, Mapping[str, Any]]) -> str:
    """The side file's text: by file, place and value. '' where nothing was taken out of any."""
    if not any(taken.values()):
        return ""
    return json.dumps({"version": SECRETS_VERSION, **taken}, indent=1, ensure_ascii=False) + "\n"


def concealed(manifest: Manifest, secrets: Sequence[str] = ()) -> tuple[Manifest, dict[str, Any]]:
    """A manifest for others to read, and what was taken out of it, by place.

    `secrets` are texts that are secrets wherever they stand.
    """
    taken: dict[str, Any] = {}
    conceal = partial(_concealed, secrets=secrets, taken=taken)
    jobs = tuple(conceal(job, _OF_A_JOB, f"/jobs/{number}") for number, job in enumerate(manifest.jobs))
    made = conceal(manifest, _OF_THE_PLAN, "")
    where = str(side_file(manifest)) if taken else ""
    return made.model_copy(update={"jobs": jobs, "secrets_path": where}) if taken else manifest, taken


def _concealed(record: _R, fields: tuple[str, ...], place: str, *, secrets: Sequence[str], taken: dict[str, Any]) -> _R:
    update = {}
    for field in fields:
        if value := getattr(record, field):
            cleaned = redact(value, field, secrets)
            if found := dict(taken_out(value, cleaned, f"{place}/{field}")):
                taken.update(found)
                update[field] = tuple(cleaned) if isinstance(value, tuple) else cleaned
    return record.model_copy(update=update) if update else record


def revealed(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content of the manifest at `path` with its secrets, as far as they can be read by us."""
    where = data.get("secrets_path")
    if not where:
        return data
    try:
        found = read_json(Path(str(where)), "plan's secrets", SECRETS_VERSION).get(MANIFEST)
    except AutoexpError as error:
        if path.stat().st_uid == os.getuid():  # others need none: they only look
            _log.warning("secrets of the plan can't be read, and what needs them will fail: %s", error)
        return data
    return {**put_back(data, found if isinstance(found, dict) else {}), "secrets_path": ""}


def kept(manifest: Manifest) -> str:
    """The text of a plan's side file, '' where there is none to read. Raises nothing."""
    try:
        return json.dumps(read_json(side_file(manifest), "plan's secrets", SECRETS_VERSION))
    except AutoexpError:
        return ""


def with_secrets(recorded: Any, kept_text: str, file: str) -> Any:
    """What a file of the record holds (`UNRESOLVED`, `PLANNING`), with the secrets that were taken out of it."""
    places = json.loads(kept_text).get(file) if kept_text else None
    return put_back(recorded, places) if isinstance(places, dict) else recorded
