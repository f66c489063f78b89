"""Our resolvers, given to OmegaConf itself, which tests compare ours with."""

from collections.abc import Callable
from typing import Any

import omegaconf
from omegaconf import OmegaConf

_OF_2_3 = omegaconf.__version__.startswith("2.3.")


def register_resolver(name: str, function: Callable[..., Any]) -> None:
    """Give OmegaConf a resolver, in place of one of this name: 2.4 has another name for what 2.3 does."""
    register: Any = OmegaConf.register_new_resolver if _OF_2_3 else OmegaConf.register_resolver
    register(name, function, replace=True)
