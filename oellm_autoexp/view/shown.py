"""What is needed of a monitor to show it; what is only read from a session's file can be shown as well."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from oellm_autoexp.core.nouns import Manifest
from oellm_autoexp.session.session import Session


class News(Protocol):
    """Has lines that nobody has been told yet."""

    @property
    def news(self) -> deque[str]:
        """The lines; whoever tells them removes them."""
        ...


class Shown(Protocol):
    """A session with what its watcher has to say; see monitor.loop.Monitor."""

    @property
    def manifest(self) -> Manifest:
        """Its plan."""
        ...

    @property
    def session(self) -> Session:
        """Its jobs."""
        ...

    @property
    def trouble(self) -> str:
        """What the scheduler last failed with."""
        ...

    @property
    def obstacle(self) -> str:
        """What can't be written."""
        ...

    @property
    def reactions(self) -> News:
        """What has been done."""
        ...
