"""What is needed of a monitor to show it; what is only read from a session's file can be shown as well."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.session.session import Session


class Shown(Protocol):
    """A session with what its watcher has to say; see engine.loop.Monitor."""

    @property
    def manifest(self) -> Manifest:
        """Its plan."""
        ...

    @property
    def session(self) -> Session:
        """Its jobs."""
        ...

    @property
    def scheduler_error(self) -> str:
        """Message of the last failed scheduler call."""
        ...

    @property
    def storage_error(self) -> str:
        """Which file could not be written."""
        ...

    @property
    def messages(self) -> deque[str]:
        """Lines for people; whoever shows them removes them."""
        ...
