"""Secrets are told by their names and their looks, wherever they stand; what is none stays."""

from __future__ import annotations

import pytest

from oellm_autoexp.workflow.provenance import REDACTED, is_secret, redact, redact_text, redact_words


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "db.password",
        "GITHUB_PAT",
        "slurm.env.HF_TOKEN",
        "api_key",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "PWD", "tokenizer_type", "monkey", "lr", "keyboard", "author", "SSH_AUTH_SOCK"]
)
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret(name)


def test_values_are_hidden_by_their_keys_and_by_their_looks_at_any_depth() -> None:
    data = {"a": [{"HF_TOKEN": "x", "lr": 1.5}], "url": "https://me:pw@host/x", "note": "hf_abcdefghijklmnopqrst"}
    assert redact(data) == {
        "a": [{"HF_TOKEN": REDACTED, "lr": 1.5}],
        "url": f"https://me:{REDACTED}@host/x",
        "note": REDACTED,
    }


@pytest.mark.parametrize(
    ("words", "cleaned"),
    [
        (("--api-key", "x", "y"), ["--api-key", REDACTED, "y"]),
        (("--api-key=x",), [f"--api-key={REDACTED}"]),
        (("slurm.env.HF_TOKEN=x", "lr=1"), [f"slurm.env.HF_TOKEN={REDACTED}", "lr=1"]),
        (("s.grids=[{e.HF_TOKEN: [x, y], lr: [1, 2]}]",), [f"s.grids=[{{e.HF_TOKEN: {REDACTED}, lr: [1, 2]}}]"]),
        (("env={A_TOKEN:x,B:1}",), [f"env={{A_TOKEN:{REDACTED},B:1}}"]),
    ],
)
def test_command_lines_keep_all_but_their_secrets(words: tuple[str, ...], cleaned: list[str]) -> None:
    assert redact_words(words) == cleaned


def test_private_keys_are_hidden_in_texts() -> None:
    assert "BEGIN" not in redact_text("x -----BEGIN RSA PRIVATE KEY----- y")
