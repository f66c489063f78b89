"""Secrets are recognised by their names and their looks, wherever they stand; what is none stays."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from oellm_autoexp.core.redacted_text import REDACTED, redact_message, redact_text
from oellm_autoexp.core.redaction import Redactor, put_back, redact, redact_words, taken_out
from oellm_autoexp.core.secret_names import is_secret
from oellm_autoexp.core.text import shell
from tests import secrets

ROOT = Path(__file__).resolve().parents[2]

WORDS = st.sampled_from(
    ["train", "--api-key", "--lr", "x", "hf_abcdefghijklmnopqrst", "HF_TOKEN=x", "lr=1", "sshpass", "-p", "-u", "me:pw"]
)
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
        "TOKENIZER_HF_TOKEN",
        "tokenizer-hf-token",
        "SSL_HOST_KEY_PASSWORD",
        "PUBLIC_KEY_PASSWORD",
        "STATE_KEY_PASSPHRASE",
        "CHECK_AUTH_TOKEN",
        "AUTH_METHOD_SECRET",
        "TOKEN_LEVEL_API_KEY",
        "PASS_RATE_TOKEN",
        "NUM_API_KEYS_TOKEN",
        *("PIN", "BEARER", "CI_JOB_JWT", "CI_JOB_JWT_V2", "TOTP_SEED", "EXTRA_TOKENS", "MONITOR_KEY"),
        *("api%5Fkey", "api%255Fkey", "data[token]", "slurm.env.HOST_KEY"),
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "KeyError",
        "builtins.KeyError",
        "TokenException",
        "PATH",
        "PWD",
        "tokenizer_type",
        "monkey",
        "lr",
        "keyboard",
        "author",
        "SSH_AUTH_SOCK",
        "eos_token_id",
        "num_key_value_heads",
        "num_api_keys",
        "public_key",
        "moe_token_drop_policy",
        *("key_value", "key_values", "extra_tokens", "monitor_key", "seed", "data_seed", "pin_memory", "a%5Fb"),
    ],
)
def test_other_names_are_not_taken_for_secrets(name: str) -> None:
    assert not is_secret(name)


def test_of_all_keys_of_the_schema_only_those_that_hold_secrets_are_taken_for_such() -> None:
    schema = json.loads((Path(__file__).parents[2] / "config" / "schema.json").read_text())
    assert {key for key in _keys(schema) if is_secret(key)} == {"webhook"}
    assert redact_text("iteration_key: step") == "iteration_key: step"


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from _keys(item)
    elif isinstance(schema, dict):
        if isinstance(keys := schema.get("properties"), dict):
            yield from keys
        for item in schema.values():
            yield from _keys(item)


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


RANDOM = "s3cr3tV4lue99x"


@pytest.mark.parametrize(
    "name",
    [
        *("API_KEY_ENV", "TOKEN_FIELDS", "SECRET_ROTATION", "EXTRA_TOKENS", "MONITOR_KEY", "apiKeyEnv"),
        *("PIN", "db_pin", "BEARER", "CI_JOB_JWT", "TOTP_SEED"),
    ],
)
def test_a_value_that_looks_like_a_secret_is_one_if_its_name_speaks_of_any(name: str) -> None:
    assert redact({name: RANDOM}) == {name: REDACTED}
    assert redact_text(f"export {name}={RANDOM}") == f"export {name}={REDACTED}"
    assert redact_words((f"{name}={RANDOM}",)) == [f"{name}={REDACTED}"]


@pytest.mark.parametrize(
    "value",
    [
        {"api_key_env": "MY_KEY_OF_2026"},
        {"token_fields": "text,meta"},
        {"extra_tokens": "1_000_000_000_000"},
        {"train_tokens": "1000000000000B"},
        {"monitor_key": "val/loss_1000k"},
        {"pin_memory": "true"},
        {"secret_rotation": "30d"},
        {"bearer_format": "JWT"},
        {"seed": "1234567890123x4"},
        {"kv_channels": "64"},
    ],
    ids=str,
)
def test_other_values_of_such_names_stay(value: dict[str, str]) -> None:
    assert redact(value) == value
    ((name, text),) = value.items()
    assert redact_text(f"{name}={text}") == f"{name}={text}"


@pytest.mark.parametrize(
    "words",
    [
        ("--password", f"${RANDOM}"),
        ("--api-key", f"--{RANDOM}"),
        ("--token", f"-{RANDOM}"),
        ("--password=", RANDOM),
        ("mysql", f"-p{RANDOM}"),
        ("/usr/bin/mysqldump", "-u", "me", "-h", "db", f"-p{RANDOM}", "all"),
        ("curl", f"https://x.org/?a=1&api%5Fkey={RANDOM}"),
    ],
    ids=" ".join,
)
def test_secrets_in_unusual_places_of_a_command_are_hidden(words: tuple[str, ...]) -> None:
    assert RANDOM not in " ".join(redact_words(words))
    assert RANDOM not in redact_text(" ".join(words))
    redactor = Redactor()
    redactor.words((*words[:-1], "x"))
    assert list(redactor.words(words)) == redact_words(words)


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
    for known in ((), ("a", "0")):
        redactor = Redactor(known)
        assert [redactor.redact(job) for job in jobs] == [redact(job, secrets=known) for job in jobs]
        assert [redactor.words(words) for words in commands] == [
            tuple(redact([*words], secrets=known)) for words in commands
        ]


def test_a_secret_that_is_known_is_hidden_under_any_key() -> None:
    data = {"note": f"x {RANDOM}", "words": ["run", f"--report={RANDOM}"], "deep": [{"a": RANDOM, "b": 1}]}
    hidden = {"note": f"x {REDACTED}", "words": ["run", f"--report={REDACTED}"], "deep": [{"a": REDACTED, "b": 1}]}
    assert redact(data) == data
    assert redact(data, secrets=[RANDOM]) == Redactor([RANDOM]).redact(data) == hidden


@pytest.mark.parametrize("words", secrets.COMMANDS, ids=lambda words: " ".join(words)[:40])
def test_no_way_to_hand_a_command_its_secret_leaves_it_readable(words: tuple[str, ...]) -> None:
    for cleaned in (redact_words(words), redact_text(shell(words)), redact_message(shell(words))):
        assert secrets.S not in str(cleaned)
    assert redact_words(words)[0] == words[0]
    assert len(redact_words(words)) == len(words)
    assert secrets.S not in str(redact({"backend": {"argv": list(words)}, "c": [{"command": shell(words)}]}))


@pytest.mark.parametrize("text", [*secrets.TEXTS, *secrets.FORMS], ids=lambda text: text[:40])
def test_no_text_keeps_a_secret_whatever_is_around_it(text: str) -> None:
    assert secrets.S not in redact_text(text)
    assert secrets.S not in redact_text(f"first\n{text}\nlast")
    assert redact_text(f"first\n{text}\nlast").startswith("first\n")
    assert redact_text(f"first\n{text}\nlast").endswith("last")
    diff = "\n".join(f"+{line}" for line in text.splitlines())
    assert secrets.S not in redact_text(f"@@ -1 +1 @@\n{diff}\n unchanged")
    for data in ({"x": text}, {"x": [{"y": ["a", text]}]}, {"note": {"x": f"a\n{text}"}}):
        assert secrets.S not in str(redact(data))


@pytest.mark.parametrize("form", [*secrets.FORMS, *secrets.BARE])
def test_tokens_that_tell_themselves_are_known_in_words_texts_and_messages(form: str) -> None:
    end = form[-8:]
    for around in ("{}", "see {} there", '"{}"', "x={},y=1", "({})"):
        text = around.format(form)
        assert end not in redact_text(text)
        assert end not in redact_message(text)
        assert end not in redact_words((text,))[0]


@pytest.mark.parametrize(
    "data",
    [
        {"secrets": {"db": "pl4nted", "hf": ["pl4nted"]}},
        {"env": [{"name": "HF_TOKEN", "value": "pl4nted"}]},
        {"name": "DB_PASSWORD", "value": "pl4nted"},
        {"headers": {"Authorization": "pl4nted", "X-Api-Key": "pl4nted"}},
        {"accessToken": "pl4nted", "dbpass": {"x": "pl4nted"}, "mypassword": "pl4nted"},
        {"credentials": [{"user": "pl4nted"}]},
    ],
)
def test_structures_hide_what_stands_below_the_name_of_a_secret(data: dict[str, Any]) -> None:
    assert "pl4nted" not in str(redact(data))
    assert "pl4nted" not in str(Redactor().redact(data))


def test_a_value_that_one_key_of_a_mapping_calls_a_secret_is_one_under_its_other_keys() -> None:
    found = {"token": "pl4nted-word", "renamed": "pl4nted-word", "match": "key is pl4nted-word!", "number": 7}
    cleaned = {"token": "***", "renamed": "***", "match": "key is ***!", "number": 7}
    redactor = Redactor()
    for data in (found, {"metadata": found}):
        wanted = cleaned if data is found else {"metadata": cleaned}
        assert (redact(data), redactor.redact(data), redact(wanted)) == (wanted, wanted, wanted)
        assert put_back(wanted, dict(taken_out(data, wanted))) == data
    short = {"token": "word", "other": "words"}
    assert redact(short) == {"token": "***", "other": "words"}, "a short secret may be part of any word"


def test_a_password_of_digits_is_one() -> None:
    assert redact({"db_password": 86753090, "tokens": 86753090, "lr": 3, "max_token": 50000}) == {
        "db_password": REDACTED,
        "tokens": 86753090,
        "lr": 3,
        "max_token": 50000,
    }


@pytest.mark.parametrize("text", secrets.HARMLESS_TEXTS)
def test_texts_without_a_secret_stay_as_they_are(text: str) -> None:
    assert redact_text(text) == text
    assert redact_message(text) == text
    assert redact({"x": text}) == {"x": text}


@pytest.mark.parametrize("words", secrets.HARMLESS_WORDS, ids=lambda words: words[0])
def test_commands_without_a_secret_are_complete(words: tuple[str, ...]) -> None:
    assert redact_words(words) == list(words)


PLACES = (
    "/home/me/token: Permission denied",
    "failed   output root: /p/token: Permission denied",
    "can't read ~/hf_token: Permission denied (--debug shows where this came from)",
    "--output=/p/secret: Read-only file system",
    "$.project.base_output_dir /p/password: 12.5 GiB free",
    "/home/me/secrets.yaml:12: $.backend is wrong",
    "conf/secrets.yaml:12",
    "in api_keys.yaml:7, and /etc/passwd:3",
    "api_keys.yaml: Is a directory",
)


@pytest.mark.parametrize("text", PLACES)
def test_messages_keep_paths_whatever_their_names_and_what_is_reported_of_them(text: str) -> None:
    assert redact_message(text) == text


@pytest.mark.parametrize("text", ["a/password:hunter2", "password: hunter2", "--token: abc123", "db.password: Hunter2"])
def test_messages_do_not_keep_what_only_looks_like_told_of_a_path(text: str) -> None:
    assert redact_message(text).endswith(REDACTED)


def test_messages_keep_what_they_say_of_a_variable() -> None:
    for text in ("HF_TOKEN: not set", "$.slurm.env.HF_TOKEN: must be text", "the variable HF_TOKEN is not set"):
        assert redact_message(text) == text
    assert redact_message("HF_TOKEN: abc123") == f"HF_TOKEN: {REDACTED}"


SCRIPTS = [*(ROOT / "tests/golden").rglob("*.sbatch"), ROOT / "oellm_autoexp/sbatch/job.sbatch.template"]


@pytest.mark.parametrize("path", sorted(SCRIPTS), ids=lambda path: path.name)
def test_scripts_of_ordinary_jobs_have_nothing_to_hide(path: Path) -> None:
    text = path.read_text()
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_shipped_configs_have_nothing_to_hide(path: Path) -> None:
    text = path.read_text()
    data = yaml.safe_load(text)
    assert redact(data) == data
    assert redact_text(text) == text


@example("token:[:]:")
@example("token:[:]a")
@given(st.text(alphabet="aT=: \n\"'\\{}[],-*k", max_size=60).map(lambda text: text.replace("k", "token")))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
    words = tuple(text.split(" "))
    assert redact_words(tuple(redact_words(words))) == redact_words(words)


@given(TREES)
def test_what_was_taken_out_can_be_put_back(tree: dict[str, Any]) -> None:
    cleaned = redact(tree)
    assert put_back(cleaned, dict(taken_out(tree, cleaned))) == tree


def _texts(tree: ast.Module) -> Iterator[str]:
    """The texts of a module but its docstrings, with a word in the place of each value in them."""
    said = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "xyz" for part in node.values)


@pytest.mark.slow
def test_nothing_is_taken_out_of_the_programs_own_messages() -> None:
    package = ROOT / "oellm_autoexp"
    texts = [
        (file.name, text)
        for file in package.rglob("*.py")
        if file.name not in ("redaction.py", "redacted_text.py", "secret_names.py")
        if not file.name.endswith("_help.py")  # Megatron-LM's words, which no message holds
        for text in _texts(ast.parse(file.read_text()))
        if "\n" not in text and len(text) < 1000
    ]
    assert len(texts) > 5000
    assert [(name, text) for name, text in texts if redact_message(text) != text] == []


@pytest.mark.parametrize("text", ["'+x.token=two words' adds it", "write '~x.token=two words'", "'x.token=two words'"])
def test_of_a_quoted_override_with_signs_the_whole_value_is_taken_out(text: str) -> None:
    assert "words" not in redact_message(text)
    assert redact_message(text).replace("***", "two words") == text


def test_a_redactor_of_mappings_is_as_redact_whatever_its_keys_tell_of_each_other() -> None:
    redactor = Redactor()
    planted = "pl4nted-by-us"
    texts: list[dict[str, Any]] = [
        {"HF_TOKEN": value, "note": f"with {planted}", "lr": lr}
        for value, lr in [("none", 1), (planted, 1), (planted, 2), ("none", 2), ("none", 3), (planted, 3)]
    ]
    for data in [*texts, {"note": f"with {planted}"}, *reversed(texts)]:
        assert redactor.redact(data) == redact(data)
    assert planted not in str(redact(texts[1]))
    assert planted in str(redact(texts[0]))


def test_a_working_directory_is_no_password() -> None:
    assert redact_text("apptainer exec --pwd /scratch/project image.sif train") == (
        "apptainer exec --pwd /scratch/project image.sif train"
    )
    assert "hunter2x" not in redact_text("mysql --pwd hunter2x")
