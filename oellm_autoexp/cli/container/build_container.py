"""build_container.sh and build_container_user.py: build an image from a definition in container/."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from oellm_autoexp.cli.steps import app
from oellm_autoexp.containers import runtime
from oellm_autoexp.core.errors import Collector, ConfigError, Problem
from oellm_autoexp.core.text import did_you_mean

CHECKOUT = Path(__file__).resolve().parents[3]
EXAMPLES = """\
  ./container/build_container.sh --backend megatron --definition MegatronTraining --output ./artifacts
  python ./container/build_container_user.py --backend megatron --definition MegatronTrainingLumi \\
      --requirements container/megatron/requirements_latest.txt --output ./artifacts
  python build_container_user.py --backend megatron --definition MegatronTrainingNoRoot --append-date \\
      --container-cmd singularity --base-image $CONTAINER_CACHE_DIR/pytorch__25.08-py3_sandbox

build_container.sh uses the runtime's own `build --fakeroot`; build_container_user.py needs no fakeroot and no root.
A build that was interrupted goes on where it stopped when the same command is given again."""
EXIT_CODES = (
    "exit codes: 0 the image is there; 2 wrong use, or the build failed (the cause is printed); 130 interrupted"
)


def parser() -> app.Parser:
    """The command's options."""
    what = "Build an image for training: a base image, this program, and the packages that the base lacks."
    made = app.Parser(what, EXAMPLES, EXIT_CODES)
    made.add_argument(
        "--backend", default="megatron", metavar="NAME", help="a folder of container/ (default: megatron)"
    )
    made.add_argument("--definition", required=True, metavar="NAME", help="a NAME.def.in in it, or a path")
    made.add_argument(
        "--requirements", metavar="FILE", type=Path, help="what pip adds (default: the backend's requirements.txt)"
    )
    made.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="where the image goes (default: $CONTAINER_CACHE_DIR, else ./artifacts)",
    )
    made.add_argument("--append-date", action="store_true", help="name it NAME_YYYYMMDD.sif")
    made.add_argument("--container-cmd", metavar="PROGRAM", help="apptainer or singularity (default: what is there)")
    made.add_argument(
        "--base-image", metavar="PATH", type=Path, help="an image on this machine to start from: a SIF or a sandbox"
    )
    made.add_argument(
        "--fakeroot", action="store_true", help="use the runtime's own build with fakeroot, as build_container.sh does"
    )
    made.add_argument("--sandbox", action="store_true", help="make a folder and no SIF")
    made.add_argument("--force", action="store_true", help="replace an image of the same name")
    made.add_argument(
        "--download-only", action="store_true", help="fetch the base and the packages, for a build without network"
    )
    made.add_argument(
        "--unpin",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="a package of the base image that may change; may be repeated",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return app.run(parser(), _build, argv)


def _build(options: argparse.Namespace) -> int:
    from oellm_autoexp.containers.building.build import build
    from oellm_autoexp.containers.building.workspace import Request
    from oellm_autoexp.core.redaction import redact_words
    from oellm_autoexp.planning.resolving.provenance import git_state

    wrong = Collector()
    with wrong.step():
        hint = runtime.NOT_FOUND_HINT.replace("--container-runtime", "--container-cmd")
        program = runtime.find(options.container_cmd, "--container-cmd", hint)
    with wrong.step():
        definition = _definition(options.backend, options.definition)
    with wrong.step():
        unpinned = _unpinned(options.unpin)
    if options.requirements and not options.requirements.is_file():
        wrong.add([Problem("there is no such file", f"--requirements {options.requirements}")])
    wrong.raise_all()
    git, _, note = git_state(CHECKOUT)
    if note:
        app.note(note, on_stderr=True)
    name = definition.name.removesuffix(".def.in")
    made = build(
        Request(
            runtime=program,
            checkout=CHECKOUT,
            definition=definition,
            requirements=_absolute(options.requirements or definition.parent / "requirements.txt"),
            output=_absolute(options.output or Path(os.environ.get("CONTAINER_CACHE_DIR") or "artifacts")),
            name=f"{name}_{date.today():%Y%m%d}" if options.append_date else name,
            base_image=_absolute(options.base_image) if options.base_image else None,
            fakeroot=options.fakeroot,
            sandbox=options.sandbox,
            force=options.force,
            download_only=options.download_only,
            unpinned=unpinned,
            verbose=options.verbose or options.debug,
            git=git,
            command_line=tuple(redact_words(tuple(sys.argv))),
        )
    )
    if made is not None:
        print(made)
    return app.OK


def _definition(backend: str, name: str) -> Path:
    """The file of a definition. Raises ConfigError."""
    if "/" in name or name.endswith(".def.in"):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise ConfigError(Problem("there is no such file", f"--definition {name}"))
    folder = CHECKOUT / "container" / backend
    backends = [found.parent.name for found in sorted(CHECKOUT.glob("container/*/*.def.in"))]
    if backend not in backends:
        raise ConfigError(Problem(f"no definitions of {backend!r}", "--backend", did_you_mean(backend, backends)))
    path = folder / f"{name}.def.in"
    if not path.is_file():
        known = [found.name.removesuffix(".def.in") for found in folder.glob("*.def.in")]
        raise ConfigError(Problem(f"no definition {name!r} in {folder}", "--definition", did_you_mean(name, known)))
    return path


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  without `..`, links kept


def _unpinned(names: Sequence[str]) -> tuple[str, ...]:
    """Raises ConfigError for torch, on which all else in a base image is built."""
    if "torch" in {name.lower() for name in names}:
        hint = "packages of the base image need its torch; use a base image with another torch"
        raise ConfigError(Problem("the torch of the base image can't be changed", "--unpin torch", hint))
    return tuple(names)
