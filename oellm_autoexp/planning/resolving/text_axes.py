"""Axes of a sweep that are one text: an interpolation to a list of the config is an axis of its values. Pure."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any

from oellm_autoexp.config.values.interpolation import MISSING
from oellm_autoexp.config.values.overlay import Applied, Overlay
from oellm_autoexp.core.errors import ConfigError, Problem, SweepError
from oellm_autoexp.core.location import CONFIG
from oellm_autoexp.planning.resolving.group_choices import ChosenConfigs
from oellm_autoexp.planning.resolving.trees import value_at
from oellm_autoexp.sweep.expander import Point, keys_set
from oellm_autoexp.sweep.paths import path_of, plain


class TextAxes:
    """The values of such axes, as the config has them beside its sweep."""

    def __init__(self, sweep: Any, configs: ChosenConfigs) -> None:
        self._sweep = sweep
        self._configs = configs
        self._unknown: set[str] = set()  # texts that nothing could be found for beside the sweep

    def values(self, key: str, text: str) -> list[Any] | None:
        """The values of an axis of one text: an interpolation to a list, or a text where the config has one, too."""
        if "${" not in text:
            now = value_at(self._configs.config(()).base, path_of(key))
            return [text] if isinstance(now, str) and "," in now else None
        overlay, tree = self._beside
        try:
            found = overlay.select(tree, text)
        except ConfigError:
            self._unknown.add(text)
            return None
        return found if isinstance(found, list) else None

    @cached_property
    def _beside(self) -> tuple[Overlay, Applied]:
        """The config beside the sweep, in which a value that the sweep sets, or that reads one, is an error."""
        overlay = self._configs.overlay(())
        keys = {key.partition("@")[0].replace("/", ".") for key in keys_set(self._sweep)}
        for unknown in ({f"++{key}": MISSING for key in keys}, {}):
            with suppress(ConfigError):
                tree = overlay.apply(unknown)
                break
        tree["index"] = MISSING
        return overlay, tree

    def check(self, point: Point, config: dict[str, Any]) -> None:
        """Raises SweepError for a list that came out of an axis of one text, which was to be an axis of its values."""
        for key, text in point.chosen.items() if self._unknown else ():
            if isinstance(text, str) and text in self._unknown and isinstance(value_at(config, path_of(key)), list):
                what = f"'{text}' becomes a list only in each job, too late for an axis of the sweep"
                hint = (
                    f'write the list, refer to a value that the sweep does not set, or write ["{text}"] for one value'
                )
                raise SweepError(Problem(what, CONFIG / plain(key), hint))
