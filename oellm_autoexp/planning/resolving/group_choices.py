"""The configs that a sweep's points are applied to: one for each set of group choices (`backend: tiny_lm`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from oellm_autoexp.config.loader import Composed
from oellm_autoexp.config.values.overlay import Applied, Overlay
from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import CONFIG, Location
from oellm_autoexp.planning.resolving.provenance import PlanContext
from oellm_autoexp.sweep.expander import Point
from oellm_autoexp.sweep.paths import plain

Choices = tuple[str, ...]
"""Group choices as overrides of Hydra: `backend=tiny_lm`."""


class ChosenConfigs:
    """The config of each set of group choices, composed once, also if it is wrong. Pure but for composing a choice."""

    def __init__(self, composed: Composed, context: PlanContext) -> None:
        self._composed = composed
        self._context = context
        self._configs: dict[Choices, Composed] = {}
        self._overlays: dict[Choices, Overlay] = {}
        self._wrong: dict[Choices, tuple[Problem, ...]] = {}

    def choices(self, point: Point) -> Choices:
        """The group choices of a point."""
        chosen = ((key, value) for key, value in point.values.items() if self._composed.is_choice(key, value))
        return tuple(key if value is None else f"{key}={value}" for key, value in chosen)

    def config(self, choices: Choices) -> Composed:
        """The config with these choices. Raises ConfigError."""
        if choices in self._wrong:
            raise ConfigError(*self._wrong[choices])
        if choices not in self._configs:
            try:
                self._configs[choices] = self._composed.choosing(choices) if choices else self._composed
            except ConfigError as error:
                places = {Location(text=choice): CONFIG / plain(choice.partition("=")[0]) for choice in choices}
                self._wrong[choices] = at_places(error, places).problems
                raise ConfigError(*self._wrong[choices]) from None
        return self._configs[choices]

    def overlay(self, choices: Choices) -> Overlay:
        """What a point with these choices is applied to. Raises ConfigError."""
        if choices not in self._overlays:
            context, config = self._context, self.config(choices)
            self._overlays[choices] = config.overlay(
                context.environment, context.now, context.python, context.image.get("shipped", "")
            )
        return self._overlays[choices]

    def overlay_of(self, point: Point) -> Overlay:
        """What a point is applied to. Raises ConfigError."""
        return self.overlay(self.choices(point))

    def apply(self, point: Point) -> Applied:
        """The config with a point's values, unresolved. Raises ConfigError."""
        values = {key: value for key, value in point.values.items() if not self._composed.is_choice(key, value)}
        try:
            return self.overlay_of(point).apply(values)
        except ConfigError as error:
            raise at_places(error, {Location(text=key): CONFIG / plain(key) for key in values}) from None

    def made(self) -> dict[Choices, Composed]:
        """The configs of the choices that points have made so far; not the one without any."""
        return {choices: config for choices, config in self._configs.items() if choices}


def at_places(error: ConfigError, places: Mapping[Location, Location]) -> ConfigError:
    """An error whose problems are at these places, with the places that are meant by them."""
    return ConfigError(*(replace(p, where=places.get(p.where, p.where)) for p in error.problems))
