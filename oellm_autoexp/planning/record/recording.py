"""What a plan records, as texts of files without secrets: its config, and what it took from the world. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_json

from oellm_autoexp import MANIFEST_VERSION
from oellm_autoexp.backends.command import CommandBackend
from oellm_autoexp.config.hydra.yaml_rules import yaml_text
from oellm_autoexp.config.loader import Composed
from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.core.redaction import redact, redact_words, taken_out
from oellm_autoexp.planning.record import side_file
from oellm_autoexp.planning.resolving.group_choices import Choices
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.sbatch.shell_code import Parts


def record(
    composed: Composed, chosen: Mapping[Choices, Composed], templates: Mapping[str, str], context: PlanContext
) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The texts of what all jobs of a plan have in common, by file; and the secrets that were taken out, by place.

    `chosen` are the configs of the group choices that the sweep makes, `templates` those of scripts by their paths.
    """
    planning, of_planning = _without_secrets(_planning(composed, chosen, templates, context), templates)
    unresolved, of_config = _without_secrets({**composed.base, "sweep": composed.sweep})
    texts = {
        "config_unresolved.yaml": yaml_text(unresolved),
        "planning.yaml": yaml_text(planning),
        "overrides.txt": "".join(f"{word}\n" for word in redact_words(composed.source.overrides)),
        "command_line.json": _json(redact_words(context.command_line)),
        "environment.json": _json(redact(dict(sorted(context.environment.items())))),
        "git.json": _json(dict(context.git)),
        "git.diff": context.git_diff,
    }
    return texts, {side_file.UNRESOLVED: of_config, side_file.PLANNING: of_planning}


def _planning(
    composed: Composed, chosen: Mapping[Choices, Composed], templates: Mapping[str, str], context: PlanContext
) -> dict[str, Any]:
    """What a plan was made from beside the config and the environment (read by `plan_record`)."""
    return {
        "version": MANIFEST_VERSION,
        "now": context.now.isoformat(),
        "groups": sorted(composed.groups),
        "choices": [
            {"chosen": list(choices), "config": config.base, **_recorded_code(config.code)}
            for choices, config in chosen.items()
        ],
        **_recorded_code(composed.code),
        "templates": dict(templates),
        "option_style": CommandBackend.model_fields["option_style"].default,
    }


def _recorded_code(code: Mapping[str, Parts]) -> dict[str, Any]:
    """The shell code of a config as it is recorded: the parts of values by dotted key; nothing where there is none."""
    return {"code": {key: list(parts) for key, parts in code.items()}} if code else {}


def _without_secrets(
    tree: dict[str, Any], templates: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tree without secrets, and those that were in it, by place. Half a template is none: null stands for it."""
    cleaned = redact(tree)
    if templates is not None:
        cleaned["templates"] = {path: text if redact_text(text) == text else None for path, text in templates.items()}
    return cleaned, dict(taken_out(tree, cleaned))


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def sweep_json(manifest: Manifest) -> str:
    """The text of a plan's expanded sweep."""
    of_script = ("script_path", "script_digest")
    keys = ("index", "name", "stage", "parameters", "argv", "env", "work_dir", "output_dir", *of_script)
    entries = [{key: getattr(job, key) for key in keys} for job in manifest.jobs]
    sweep = {"version": manifest.version, "plan_id": manifest.plan_id, "entries": entries}
    return to_json(sweep, indent=2, inf_nan_mode="strings").decode() + "\n"
