"""Builds an image from a definition in stages, each of which is done once: an interrupted build continues.

    base       the image to start from, unpacked if it comes from a registry
    packages   what pip has to add, resolved inside the base with all versions of the base pinned, and fetched as wheels
    image      the base, this program and the wheels, put together without network
    check      the image runs, has this version, and no package of the base was changed

There are two ways to make the image. With `fakeroot` it is the runtime's own `build`. Without, the base is copied to a
folder in which the definition's %post runs as the user (`exec --writable`): this needs no fakeroot, no root and no
subuid, only a base whose files belong to the user (a sandbox made with --fix-perms).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from oellm_autoexp import __version__
from oellm_autoexp.containers.building import packages, steps
from oellm_autoexp.containers.building.assemble import assembled
from oellm_autoexp.containers.building.definition import Definition, expand, fill, parse
from oellm_autoexp.containers.building.files import read_input, remove
from oellm_autoexp.containers.building.wheels import fetched_packages
from oellm_autoexp.containers.building.workspace import CONTEXT, PLACE, Request, Workspace
from oellm_autoexp.containers.contents import check_same_version, look_into
from oellm_autoexp.containers.failures import DISK_HINT
from oellm_autoexp.containers.image import Image, check_image
from oellm_autoexp.core.errors import BackendError, Collector, ConfigError, LockedError, Problem


def build(request: Request, say: steps.Say = steps.to_stderr) -> Path | None:
    """Build an image; returns its path, or None if only the packages and the base were to be fetched.

    Raises ConfigError: wrong options, definition or base; BackendError: a stage failed, with the cause; LockedError.
    """
    if os.path.lexists(request.image) and not (request.force or request.download_only):
        hint = "--force replaces it, --append-date adds the date to the name"
        raise ConfigError(Problem("an image of this name exists already", str(request.image), hint))
    try:
        request.work.mkdir(parents=True, exist_ok=True)
        with _locked(request.work), (request.work / "build.log").open("a", encoding="utf-8") as log:
            log.write(f"\n=== {datetime.now(UTC).isoformat(timespec='seconds')} {shlex.join(request.command_line)}\n")
            return _all_stages(request, say, log)
    except OSError as error:
        raise ConfigError(_not_written(error, request.output)) from None


def _not_written(error: OSError, output: Path) -> Problem:
    """The problem of a build that could not write."""
    place = str(error.filename or output)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(
            "the disk is full" if error.errno == errno.ENOSPC else "a disk quota is used up", place, DISK_HINT
        )
    hint = "name folders that you may write to: --output DIR; CONTAINER_CACHE_DIR, if it is set, for the base image"
    return Problem(f"can't write here: {error.strerror}", place, hint)


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """One build at a time in a folder. Raises LockedError."""
    with (work / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "wait for it, or use another --output"
            raise LockedError(Problem("another build of this definition is running here", str(work), hint)) from None
        except OSError:  # a file system without locks (Lustre without the mount option flock)
            pass
        yield


def _all_stages(request: Request, say: steps.Say, log: TextIO) -> Path | None:
    """See `build`."""
    found = Collector()
    with found.step():
        definition = _definition(request)
    with found.step():
        requirements = _requirements(request.requirements, "--requirements")
    found.raise_all()
    workspace = Workspace(request, definition, requirements, say, log)
    temporary = request.work / "tmp"
    remove(temporary)  # of a build that was killed
    temporary.mkdir()
    try:
        base = _base(workspace)
        pinned, added = fetched_packages(workspace, base)
        if request.download_only:
            say(f"all that the image needs is in {request.work}; the same command without --download-only builds it")
            return None
        made = assembled(workspace, base, pinned, added)
        _check(workspace, made, pinned)
        _publish(request, made)
    finally:
        with suppress(OSError):
            remove(temporary)
    return request.image


def _definition(request: Request) -> Definition:
    """The definition of the request, filled in. Raises ConfigError."""
    values = {
        "context": CONTEXT,
        "place": PLACE,
        "name": request.name,
        "version": __version__,
        "commit": str(request.git.get("commit", "unknown")),
    }
    where = request.definition.name
    found = parse(fill(read_input(request.definition, "--definition"), values, where), where)
    if request.base_image is not None:
        return Definition("localimage", str(request.base_image), found.sections)
    return Definition(found.bootstrap, expand(found.base, os.environ.get, where), found.sections)


def _requirements(path: Path, where: str, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The text of a requirements file, and of those that it names, by path. Raises ConfigError.

    They are read here, before pip reads them, so that a mistake is reported before a base image is fetched.
    """
    text = read_input(path, where)
    texts = {**known, str(path): text}
    found = Collector()
    for number, word in packages.relative_paths(text):
        hint = "write the absolute path of a wheel, or of a folder with a pyproject.toml"
        found.add([Problem(f"a relative path does not exist in an image: {word}", f"{path}:{number}", hint)])
    for number, word in packages.named_files(text):
        further = path.parent / word
        if str(further) not in texts:
            with found.step():
                texts |= _requirements(further, f"{path}:{number}", texts)
    found.raise_all()
    return texts


def _base(workspace: Workspace) -> Image:
    """The stage `base`: the image to start from, on this machine. Raises ConfigError, BackendError."""
    request, definition = workspace.request, workspace.definition
    if request.base_image is not None:
        workspace.title("base", str(request.base_image))
        return check_image(request.base_image, "--base-image")
    if definition.bootstrap == "localimage":
        workspace.title("base", definition.base)
        return check_image(definition.base, f"{request.definition.name}, From:")
    place = Path(os.environ.get("CONTAINER_CACHE_DIR") or request.work)
    name = definition.base.rsplit("/", 1)[-1].replace(":", "__")
    unpacked = place / f"{name}_sandbox"
    if unpacked.exists():
        workspace.title("base", f"{unpacked} is there")
        return check_image(unpacked, "the base image")
    workspace.title("base", f"fetching {definition.source}, which can take an hour, into {unpacked}")
    partial = unpacked.with_name(f".{unpacked.name}.partial")
    remove(partial)
    partial.parent.mkdir(parents=True, exist_ok=True)
    workspace.runtime(
        "fetching the base image",
        ["build", "--sandbox", "--fix-perms", str(partial), definition.source],
        watched=partial,
    )
    partial.rename(unpacked)
    return check_image(unpacked, "the base image")


def _check(workspace: Workspace, made: Path, pinned: Mapping[str, str]) -> None:
    """The stage `check`. Raises BackendError if the image is not as requested."""
    workspace.title("check", "it runs, has this version, and keeps what the base had")
    image = check_image(made)
    contents = look_into(workspace.request.runtime, image)
    try:
        notes = check_same_version(contents, image)
    except ConfigError as error:
        raise BackendError(*error.problems) from None
    if notes or not contents.build:
        what = "the image uses another oellm-autoexp than the one that this build installed"
        hint = f"its python3 finds the one in {contents.root}: the base image has one of its own"
        raise BackendError(Problem(what, str(made), hint))
    if other := packages.changed(pinned, workspace.installed(image)):
        listed = ", ".join(f"{name} {was} → {now or 'gone'}" for name, (was, now) in sorted(other.items()))
        hint = "the definition's %post must not do that; --unpin NAME allows it for a package"
        raise BackendError(Problem(f"packages of the base image were changed: {listed}", str(made), hint))


def _publish(request: Request, made: Path) -> None:
    """Give the whole image its name, and remove what is not needed any more."""
    image, work = request.image, request.work
    if os.path.lexists(image):  # --force
        old = work / "replaced"
        remove(old)
        image.rename(old)
    made.rename(image)
    for left in ("replaced", "root", CONTEXT, "wheels"):
        remove(work / left)
    for stamp in work.glob("*.done"):
        stamp.unlink()
    shutil.copy(work / "build.log", image.with_name(f"{request.name}.build.log"))
    if request.base_image is None and any(work.glob("*_sandbox")):
        return  # the unpacked base, for the next build
    remove(work)
