"""What the stages of a build share: its inputs, its work folder, its log, and the results of finished stages."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from oellm_autoexp.containers import inside
from oellm_autoexp.containers.building import packages, steps
from oellm_autoexp.containers.building.definition import Definition
from oellm_autoexp.containers.contents import environment
from oellm_autoexp.containers.image import Image
from oellm_autoexp.containers.runtime import Runtime
from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.storage.files import write_atomic

PLACE = str(Path(inside.BUILT).parent)
"""Where this program lies in an image, with the folders of a checkout."""
CONTEXT = "context"
"""The folder with all that goes into the image, inside of the work folder."""
_STAGES = ("base", "packages", "image", "check")


@dataclass(frozen=True)
class Request:
    """What is to be built. `checkout` is the folder with this program and its `container/`; `git` is its git state.

    `unpinned` are packages of the base that may change; `sandbox`: the image is a folder and no SIF.
    """

    runtime: Runtime
    checkout: Path
    definition: Path
    requirements: Path
    output: Path
    name: str
    base_image: Path | None = None
    fakeroot: bool = False
    sandbox: bool = False
    force: bool = False
    download_only: bool = False
    unpinned: tuple[str, ...] = ()
    verbose: bool = False
    git: Mapping[str, Any] = field(default_factory=dict)
    command_line: tuple[str, ...] = ()

    @property
    def image(self) -> Path:
        """Where the image will be."""
        return self.output / (self.name if self.sandbox else f"{self.name}.sif")

    @property
    def work(self) -> Path:
        """The folder of unfinished work. Its name has no date, so that a build can continue on the next day."""
        return self.output / f".{self.definition.name.removesuffix('.def.in')}.build"


class Workspace:
    """A build that runs."""

    def __init__(
        self, request: Request, definition: Definition, requirements: Mapping[str, str], say: steps.Say, log: TextIO
    ) -> None:
        self.request = request
        self.definition = definition
        self.requirements = requirements
        """The texts of the requirements files, by path."""
        self.folder = request.work
        self.say = say
        self._log = log
        temporary = {}
        if not any(os.environ.get(f"{flavour}_TMPDIR") for flavour in ("APPTAINER", "SINGULARITY")):
            # /tmp is small on login nodes, or is in memory
            temporary = {f"{flavour}_TMPDIR": str(self.folder / "tmp") for flavour in ("APPTAINER", "SINGULARITY")}
        self.environment = environment(temporary)

    def title(self, stage: str, text: str) -> None:
        """Print the number and the name of a stage that begins."""
        self.say(f"[{_STAGES.index(stage) + 1}/{len(_STAGES)}] {stage}: {text}")

    def runtime(self, title: str, words: Sequence[str], watched: Path) -> None:
        """Run the container runtime as a step. Raises BackendError."""
        self.step(title, [self.request.runtime.program, *words], watched=watched)

    def step(
        self, title: str, words: Sequence[str], *, env: Mapping[str, str] | None = None, watched: Path | None
    ) -> None:
        """Run a program as a step; see steps.run. Raises BackendError."""
        steps.run(
            title,
            words,
            log=self._log,
            env=env or self.environment,
            cwd=self.folder,
            say=self.say,
            watched=watched,
            verbose=self.request.verbose,
        )

    def done(self, stage: str, key: str) -> dict[str, Any] | None:
        """The result of a stage; None if the stage is not finished, or had another input."""
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{stage}.done").read_text())
        except (OSError, ValueError):
            return None
        return found["result"] if found.get("key") == key else None

    def mark_done(self, stage: str, key: str, result: dict[str, Any]) -> None:
        """Keep the result of a finished stage; `key` stands for its input."""
        write_atomic(self.folder / f"{stage}.done", json.dumps({"key": key, "result": result}))

    def installed(self, image: Image) -> dict[str, str]:
        """The versions of the packages in an image, as its Python finds them. Raises BackendError."""
        words = self.request.runtime.exec_words(
            str(image.path), ["python3", "-s", "-c", packages.LIST_PROGRAM], cwd="/"
        )
        done = subprocess.run(
            words,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
        if not line:
            last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            hint = "a base image needs python3 (3.11 or newer) with pip"
            raise BackendError(Problem(f"the image's python3 can't list its packages: {last}", str(image.path), hint))
        found: dict[str, str] = json.loads(line)
        return found
