"""An action for oellm-autoexp: copies a file or a folder, such as a checkpoint, to a place that is kept."""

from __future__ import annotations

from typing import Literal

from oellm_autoexp.rules.actions import Action, Engine, Program, R


class CopyAction(Action):
    """Copies `source`, a file or a folder, to `target`. A relative path is in the job's working directory."""

    starts_program = True
    class_name: Literal["CopyAction"]
    source: str
    target: str

    def perform(self, engine: Engine[R]) -> R:
        """Run `cp` beside the monitor, or as a job where the action has an executor."""
        return engine.run(Program(("cp", "-a", "--", self.source, self.target)))

    def summary(self) -> str:
        """What it does, in a line for a table."""
        return f"copy {self.source} to {self.target}"
