"""Secrets are told by their names and their looks, wherever they stand; what is none stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oellm_autoexp.redaction import REDACTED, Redactor, is_secret, redact, redact_text, redact_words

WORDS = st.sampled_from(["train", "--api-key", "--lr", "x", "hf_abcdefghijklmnopqrst", "HF_TOKEN=x", "lr=1"])
KEYS = st.sampled_from(["lr", "HF_TOKEN", "env", "url", "b"])
LEAVES = st.sampled_from(["x", "", "https://me:pw@host/x", "hf_abcdefghijklmnopqrst", 1, 1.5, None, True])
TREES = st.dictionaries(
    KEYS, st.recursive(LEAVES, lambda part: st.lists(part, max_size=2) | st.dictionaries(KEYS, part, max_size=3))
)


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
        (("--train-tokens", "10B", "--hf-token", "abc"), ["--train-tokens", "10B", "--hf-token", REDACTED]),
        (("tokens=300000000000", "tokens=x1"), ["tokens=300000000000", f"tokens={REDACTED}"]),
        (("s.params={tokens:[10B,50B],x.token:59}",), [f"s.params={{tokens:[10B,50B],x.token:{REDACTED}}}"]),
        (("env={A_TOKEN:x,B:1}",), [f"env={{A_TOKEN:{REDACTED},B:1}}"]),
    ],
)
def test_command_lines_keep_all_but_their_secrets(words: tuple[str, ...], cleaned: list[str]) -> None:
    assert redact_words(words) == cleaned


def test_amounts_of_tokens_are_no_secrets() -> None:
    data = {"tokens": "10B", "train_tokens": ["1.5T", "3e11"], "token_budget": "5_0", "password": "10B", "token": "x1"}
    assert redact(data) == {**data, "password": REDACTED, "token": REDACTED}


def test_private_keys_are_hidden_in_texts() -> None:
    assert "BEGIN" not in redact_text("x -----BEGIN RSA PRIVATE KEY----- y")


@given(st.lists(TREES, max_size=4), st.lists(st.lists(WORDS, max_size=5).map(tuple), max_size=4))
def test_what_is_redacted_job_after_job_is_what_each_would_be_alone(
    trees: list[dict[str, Any]], commands: list[tuple[str, ...]]
) -> None:
    # each job shares the values of the one before it, but for one
    jobs = [tree | ({"shared": trees[0]} if number else {}) for number, tree in enumerate(trees)]
    redactor = Redactor()
    assert [redactor.redact(job) for job in jobs] == [redact(job) for job in jobs]
    assert [redactor.words(words) for words in commands] == [tuple(redact_words(words)) for words in commands]
