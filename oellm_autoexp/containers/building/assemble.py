"""The stage `image`: the base, this program and the wheels become one image, without network."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from oellm_autoexp import __version__
from oellm_autoexp.containers import inside
from oellm_autoexp.containers.building import packages, steps
from oellm_autoexp.containers.building.files import copy, digest, identity_facts, read_input, remove, write_program
from oellm_autoexp.containers.building.workspace import CONTEXT, PLACE, Workspace
from oellm_autoexp.containers.failures import DISK_HINT
from oellm_autoexp.containers.image import SANDBOX, Image
from oellm_autoexp.core.errors import BackendError, Problem
from oellm_autoexp.core.redacted_text import redact_text
from oellm_autoexp.storage.files import write_atomic

_SHIPPED = ("oellm_autoexp", "config", "examples", "scripts", "apply_megatron_numpy_product_patch.sh", "pyproject.toml")
_SHIPPED_MORE = ("LICENSE", "README.md", "SPEC.md")
_SUBMODULE = "submodules/Megatron-LM"
_APPLICABLE = ("files", "post", "environment", "labels", "runscript", "help")
"""The sections of a definition that can be applied without the runtime's own build."""
_UNPACKED = 2.5  # an unpacked image is at most this many times larger, as a rule


def assembled(workspace: Workspace, base: Image, pinned: Mapping[str, str], added: Mapping[str, str]) -> Path:
    """The image, put together in the work folder. Raises BackendError."""
    request = workspace.request
    workspace.title("image", f"{request.name}, from {base.path}")
    _check_space(workspace, base)
    _write_context(workspace, base, pinned, added)
    root, partial = workspace.folder / "root", workspace.folder / "image.partial"
    for left in (root, partial):
        remove(left)
    if request.fakeroot:
        file = workspace.folder / f"{request.name}.def"
        write_atomic(file, workspace.definition.text(str(base.path)))
        fake = ["--fakeroot"] if os.geteuid() else []
        kind = ["--sandbox"] if request.sandbox else []
        workspace.runtime("building the image", ["build", *fake, *kind, str(partial), file.name], watched=partial)
        return partial
    workspace.runtime(
        "copying the base image", ["build", "--sandbox", "--fix-perms", str(root), str(base.path)], watched=root
    )
    _apply_sections(workspace, root, base)
    if request.sandbox:
        return root
    workspace.runtime("packing the image", ["build", str(partial), str(root)], watched=partial)
    remove(root)
    return partial


def _check_space(workspace: Workspace, base: Image) -> None:
    """Raises BackendError if there is no space for the image: now, and not after an hour of work."""
    stored, files = steps.folder_size(base.path)
    size = stored * (1 if base.kind == SANDBOX else _UNPACKED)
    needed = int(size * (1.2 if workspace.request.sandbox else 1.7))
    temporary = workspace.environment.get("APPTAINER_TMPDIR")
    places = {workspace.folder, Path(temporary)} if temporary is not None else {workspace.folder}
    for place in places:
        free = shutil.disk_usage(place).free
        if free < needed:
            what = f"{_size(free)} are free here; about {_size(needed)} are needed"
            raise BackendError(Problem(what, str(place), DISK_HINT))
    room = os.statvfs(workspace.folder)  # the image is unpacked only there
    if room.f_files and room.f_favail < files:
        what = f"{room.f_favail} more files (inodes) are allowed here; at least {files} are needed"
        raise BackendError(Problem(what, str(workspace.folder), DISK_HINT))


def _write_context(workspace: Workspace, base: Image, pinned: Mapping[str, str], added: Mapping[str, str]) -> None:
    """Write the folder that goes into the image: this program, the wheels, the script that installs, the record."""
    request, context = workspace.request, workspace.folder / CONTEXT
    remove(context)
    for name in (*_SHIPPED, *_SHIPPED_MORE):
        copy(request.checkout / name, context / name)
    if (request.checkout / _SUBMODULE / "megatron").is_dir():
        copy(request.checkout / _SUBMODULE, context / _SUBMODULE)
    else:
        workspace.say(f"    note: {_SUBMODULE} is empty, so the image has no Megatron-LM (git submodule update --init)")
    made = context / "build"
    copy(request.checkout / "container/install.sh", made / "install.sh")
    wheels = workspace.folder / "wheels"
    copy(wheels, made / "wheels") if wheels.is_dir() else (made / "wheels").mkdir()
    write_atomic(made / "locked.txt", packages.constraints(added))
    record = {
        "format": 1,
        "name": request.name,
        "version": __version__,
        "git": dict(request.git),
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": list(request.command_line),
        "runtime": str(request.runtime),
        "way": "build --fakeroot" if request.fakeroot else "exec --writable",
        "machine": base.machine,
        "definition": {
            "name": request.definition.name,
            "sha256": digest(read_input(request.definition, "--definition")),
        },
        "requirements": redact_text("\n".join(workspace.requirements.values())).splitlines(),
        "base": {"source": workspace.definition.source, "path": str(base.path), **identity_facts(base.path)},
        "kept": dict(pinned),
        "added": dict(added),
    }
    write_atomic(context / Path(inside.BUILT).name, json.dumps(record, indent=1) + "\n")


def _apply_sections(workspace: Workspace, root: Path, base: Image) -> None:
    """Apply the sections of the definition to an unpacked image that the user owns. Raises BackendError."""
    sections = workspace.definition.sections
    if unknown := [name for name in sections if name not in _APPLICABLE]:
        what = f"the section %{unknown[0]} needs the runtime's own build"
        hint = "use container/build_container.sh where fakeroot is available"
        raise BackendError(Problem(what, str(workspace.request.definition), hint))
    for line in sections.get("files", "").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            copy(workspace.folder / words[0], root / words[-1].lstrip("/"))
    own = root / ".singularity.d"
    own.mkdir(exist_ok=True)
    (own / "env").mkdir(exist_ok=True)
    if text := sections.get("environment", "").strip():
        # 91: after those of the base, which are in 10-docker2singularity.sh and 90-environment.sh
        write_program(own / "env/91-environment.sh", f"#!/bin/sh\n{text}\n")
    if text := sections.get("runscript", "").strip():
        write_program(own / "runscript", f"#!/bin/sh\n{text}\n")
    labels = own / "labels.json"
    known = json.loads(labels.read_text()) if labels.is_file() else {}
    given = (line.split(None, 1) for line in sections.get("labels", "").splitlines() if line.strip())
    write_atomic(labels, json.dumps({**known, **{words[0]: words[-1].strip() for words in given}}, indent=1) + "\n")
    write_atomic(own / "Singularity", workspace.definition.text(str(base.path)))
    post = root / PLACE.lstrip("/") / "build/post.sh"
    write_program(post, sections.get("post", ""))
    command = workspace.request.runtime.exec_words(
        str(root),
        ["/bin/sh", "-ex", f"{PLACE}/build/post.sh"],
        cwd="/",
        options=("--writable", "--no-home", "--cleanenv"),
    )
    workspace.step("installing in the image", command, watched=None)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
