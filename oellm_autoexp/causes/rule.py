"""The YAML of `monitoring.causes`: lines that show, follow or confirm a cause of failure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BeforeValidator, ValidationInfo, model_validator

from oellm_autoexp.causes.cause import BLAMES_NODES, Category
from oellm_autoexp.core.fields import TEXTS_IN_YAML, Section, listed
from oellm_autoexp.core.text import fill
from oellm_autoexp.search.escapes import without_escapes
from oellm_autoexp.search.patterns import Pattern, group_names

Role = Literal["root", "confirms", "either", "follows"]
ROLES: dict[str, str] = {
    "root": "the cause itself",
    "confirms": "shows a cause if no line of role root does, as a record of the system about an end",
    "either": "may be the cause or follow from one: it counts if nothing better is found",
    "follows": "usually follows from a failure elsewhere: it counts last",
}
"""What a line may be, the strongest first."""


TRIED = "tried"
"""The context of a validation of rules that need not be tried at their examples again, which takes half a second."""
_BEGINNING = re.compile(r"(?<![\\\[])\^")


class CauseRule(Section):
    """One kind of line. `pattern` is a regular expression, whose `^` means: behind labels of ranks, times and levels.

    Of several rules that match a line, the first one counts. `unless` excludes lines; with `within`, the line must be
    that of a Python exception, and a frame of its traceback (`path/file.py:function`) must match this expression; with
    `after`, one of the 20 lines above it must match this expression, of the same rank as far as labels name ranks.
    `says` is the text for people, with groups of the pattern in braces; without it, the line itself is shown.
    `blames_node`: whether the node where the line comes from, or the group `node`, is at fault; by default it is for
    the categories gpu-hardware and node; `several`: if several ranks of this node alone report it; `alone`: if they do,
    or one rank does and ranks of other nodes go on; `other_process`: if one rank alone reports it, and a process that
    is none of the job's holds more of its GPU than itself; `former`: that which a line above it blames. `otherwise` is
    the category if no node is at fault. `repeated`: whether the line says that the failure was repeated on another
    node: it counts as two attempts. The groups `rank` and `node` name where it happened. `examples` are lines that it
    must match, `others` lines that it must not.
    """

    category: Category
    pattern: str
    role: Role = "root"
    unless: str | None = None
    within: str | None = None
    after: str | None = None
    says: str | None = None
    blames_node: Literal[True, False, "several", "alone", "other_process", "former"] | None = None
    otherwise: Category | None = None
    repeated: bool = False
    examples: Annotated[tuple[str, ...], BeforeValidator(listed), TEXTS_IN_YAML] = ()
    others: Annotated[tuple[str, ...], BeforeValidator(listed), TEXTS_IN_YAML] = ()

    @model_validator(mode="after")
    def _compiles(self, info: ValidationInfo) -> CauseRule:
        if info.context is TRIED:
            return self
        for name in ("pattern", "unless", "within", "after"):
            text = getattr(self, name)
            if text is None:
                continue
            if not text:
                raise ValueError(f"{name} is empty")
            try:
                group_names(text)
            except re.error as error:
                raise ValueError(f"{name} is no regular expression: {error}") from None
        known = group_names(self.pattern)
        fill(self.says or "", lambda key: self._group(key, known))
        wrong = [line for line in self.examples if not self.matches(line)]
        wrong += [line for line in self.others if self.matches(line)]
        if wrong:
            raise ValueError(f"the pattern and its examples disagree about this line: {wrong[0]}")
        return self

    @staticmethod
    def _group(key: str, known: Collection[str]) -> str:
        if key not in known:
            raise ValueError(f"says has {{{key}}}, which is no group of the pattern")
        return ""

    @property
    def at_fault(self) -> bool:
        """Whether the node is."""
        return self.category in BLAMES_NODES if self.blames_node is None else self.blames_node is True

    @cached_property
    def compiled(self) -> Pattern:
        """The pattern, for a whole line with its labels.

        Lines that may match are looked for without labels, which would make most of what is to be looked for.
        """
        from oellm_autoexp.causes.labels import LABELS  # which takes long, and plans do without

        return Pattern.of(_BEGINNING.sub(lambda _: LABELS, self.pattern), core=_BEGINNING.sub("", self.pattern))

    @cached_property
    def place(self) -> Pattern | None:
        """The pattern for frames of a traceback; None: it needs none."""
        return None if self.within is None else Pattern.of(self.within)

    @cached_property
    def above(self) -> Pattern | None:
        """The pattern for a line above it; None: it needs none."""
        return None if self.after is None else Pattern.of(self.after)

    @cached_property
    def _excluded(self) -> Pattern | None:
        return None if self.unless is None else Pattern.of(self.unless)

    def excludes(self, line: str) -> bool:
        """True if `unless` matches."""
        return self._excluded is not None and self._excluded.search(line) is not None

    def matches(self, line: str) -> bool:
        """True if it is about this line."""
        line = without_escapes(line)
        return self.compiled.search(line) is not None and not self.excludes(line)


CauseRules = Annotated[dict[str, CauseRule | None], BeforeValidator(lambda value: value or {})]
"""Rules by name, in the order in which they are asked; null switches a shipped one off."""


def combined(own: Mapping[str, CauseRule | None], shipped: Mapping[str, CauseRule | None]) -> dict[str, CauseRule]:
    """The rules of a config, then the shipped ones that it neither replaces nor switches off."""
    found = {**own, **{name: rule for name, rule in shipped.items() if name not in own}}
    return {name: rule for name, rule in found.items() if rule is not None}
