"""A notifier for oellm-autoexp: each message becomes a file in a folder that another program reads, such as a bot."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from oellm_autoexp.core.errors import NotifyError
from oellm_autoexp.notifiers.base import Message, Notifier


class FolderNotifier(Notifier):
    """Puts messages into `folder`, which must be there; a relative path is in the directory where the plan was made."""

    class_name: Literal["FolderNotifier"]
    folder: str

    def send(self, message: Message, timeout_seconds: float) -> None:  # noqa: ARG002  it waits for nothing
        """Write the message under another name first: who reads the folder finds whole files only."""
        path = Path(self.folder, f"{time.time_ns()}-{os.getpid()}.txt")
        part = path.with_suffix(".part")
        try:
            part.write_text(f"{message.subject}\n\n{message.text}\n")
            part.rename(path)
        except OSError as error:
            raise NotifyError(f"{self.folder}: {error.strerror}") from None

    def lacks(self) -> str:
        """Notes that are shown when a plan is made."""
        return "" if Path(self.folder).is_dir() else f"there is no folder {self.folder}"
