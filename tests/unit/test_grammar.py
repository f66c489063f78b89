"""What config/values/grammar.py takes from OmegaConf without its word for it is there, and means what it meant."""

from __future__ import annotations

from typing import Any

import pytest

from oellm_autoexp.config.values.grammar import GrammarError, decode, parses, split_key, visit


def test_a_text_is_read_with_its_nodes_and_resolvers() -> None:
    seen: list[Any] = []

    def node(key: str) -> str:
        seen.append(key)
        return f"<{key}>"

    def resolver(name: str, arguments: tuple[Any, ...]) -> str:
        seen.append((name, arguments))
        return "r"

    assert visit("x ${a.b[0]} ${..c} ${f:1, [d, 2e3]}", node, resolver) == "x <a.b[0]> <..c> r"
    assert seen == ["a.b[0]", "..c", ("f", (1, ["d", 2000.0]))]


@pytest.mark.parametrize("text", ["${a", "${a:}${", "${" * 5000])
def test_what_does_not_parse_is_one_kind_of_error(text: str) -> None:
    assert not parses(text)
    with pytest.raises(GrammarError, match=r".+"):
        visit(text, str, lambda name, arguments: name)


def test_texts_are_decoded_and_keys_split() -> None:
    assert decode("[1e-4, {a: null}, true]", str) == [1e-4, {"a": None}, True]
    with pytest.raises(GrammarError):
        decode("[1, ", str)
    assert split_key("..a[b].c") == ["", "", "a", "b", "c"]
