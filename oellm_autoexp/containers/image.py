"""Whether an image can be used: it exists, may be read, is whole, and is made for this machine's processor."""

from __future__ import annotations

import os
import platform
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from oellm_autoexp.core.errors import ConfigError, Problem
from oellm_autoexp.core.location import Location

SIF, SQUASHFS, SANDBOX = "sif", "squashfs", "sandbox"
BUILD_HINT = "build it (docs/containers.md), or name another one"
READ_HINT = "ask its owner for the right to read it (chmod a+r, and a+x on the folders above)"
_ENROOT_HINT = "enroot import -o IMAGE.sqsh docker://… makes one; or name an image of a registry, registry#name:tag"
_HEADER_BYTES = 128
_SQUASHFS_MAGIC = b"hsqs"
_SIF_MAGIC = b"SIF_MAGIC\0"
_SIF_MACHINES = {b"01": "i386", b"02": "x86_64", b"03": "arm", b"04": "aarch64", b"06": "ppc64le", b"11": "s390x"}
"""Machines by the code in a SIF's header (sylabs/sif, pkg/sif: arch.go), in the words of uname(1)."""
_ELF_MACHINES = {3: "i386", 62: "x86_64", 40: "arm", 183: "aarch64", 21: "ppc64le", 22: "s390x"}
"""Machines by e_machine of an ELF file (elf(5)), in the words of uname(1)."""
_SAME = {"amd64": "x86_64", "arm64": "aarch64", "i686": "i386"}
_PROGRAMS = ("bin/sh", "usr/bin/env", "bin/ls", "usr/bin/python3")
_MOST_LINKS = 40


@dataclass(frozen=True)
class Image:
    """An image: its absolute path, its kind (a SANDBOX is a folder, the others are files), its machine ('' unknown)."""

    path: Path
    kind: str
    machine: str


def check_image(path: str | Path, where: Location | str = "", machine: str | None = None) -> Image:
    """The image at `path`. Raises ConfigError if it can't be used on `machine` (default: this one's; '': any).

    `where` names the option or key that the path is from. `machine` is a word of uname(1): x86_64, aarch64.
    """
    image = _found(Path(path).expanduser().absolute(), where)
    wanted = own_machine() if machine is None else _SAME.get(machine, machine)
    if image.machine and wanted and image.machine != wanted:
        here = "this machine is" if machine is None else "the nodes are"
        hint = f"build it on a machine with {wanted} processors, or run this where they are {image.machine}"
        if isinstance(where, Location):
            hint += f"; for nodes that have these: container.machine={image.machine}"
        raise _problem(f"the image is made for {image.machine}, and {here} {wanted}", image.path, where, hint)
    return image


def own_machine() -> str:
    """The type of this machine's processors, as in Image.machine."""
    return _SAME.get(platform.machine(), platform.machine())


def check_squashfs(path: Path, where: Location | str) -> None:
    """Raise ConfigError if there is no image of Enroot at a path: a squashfs file (its first bytes: hsqs)."""
    with _readable(path, where, _ENROOT_HINT):
        header, size = _header(path)
    if not header.startswith(_SQUASHFS_MAGIC):
        raise _problem("is not an image of Enroot: it is not a squashfs file", path, where, _ENROOT_HINT)
    _squashfs(path, header, size, where)


def _found(path: Path, where: Location | str) -> Image:
    with _readable(path, where, BUILD_HINT):
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return _sandbox(path, where)
        if not stat.S_ISREG(mode):
            raise _problem("is not an image: neither a file nor a folder", path, where, BUILD_HINT)
        header, size = _header(path)
    whole = header.startswith(_SQUASHFS_MAGIC)  # a bare squashfs, which Apptainer and SingularityCE run like a SIF
    return _squashfs(path, header, size, where) if whole else _sif(path, header, size, where)


@contextmanager
def _readable(path: Path, where: Location | str, absent_hint: str) -> Iterator[None]:
    """Raises ConfigError if an image can't be read."""
    try:
        yield
    except FileNotFoundError:
        link = f": it is a link to {os.readlink(path)}" if path.is_symlink() else ""  # noqa: PTH115
        raise _problem(f"there is no image here{link}", path, where, absent_hint) from None
    except PermissionError:
        raise _problem("you have no permission to read the image", path, where, READ_HINT) from None
    except OSError as error:
        raise _problem(f"can't read the image: {error.strerror}", path, where, absent_hint) from None


def _header(path: Path) -> tuple[bytes, int]:
    """The first bytes of a file, and its size."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size


def _whole(size: int, wanted: int, path: Path, where: Location | str) -> None:
    """Raises ConfigError for a file of fewer bytes than it should have."""
    if size < wanted:
        what = f"the image is incomplete: it has {size} bytes of {wanted}"
        raise _problem(what, path, where, "copy or build it again")


def _squashfs(path: Path, header: bytes, size: int, where: Location | str) -> Image:
    """A squashfs by its first bytes (squashfs_fs.h in Linux: `squashfs_super_block`, of 96 bytes)."""
    _whole(size, 96, path, where)
    (used,) = struct.unpack_from("<Q", header, 40)
    _whole(size, used, path, where)
    return Image(path, SQUASHFS, "")


def _sif(path: Path, header: bytes, size: int, where: Location | str) -> Image:
    """A SIF by its header (sylabs/sif, pkg/sif: `header`): launch script 32, magic 10, version 3, machine 3, id 16,
    two times, then free, total, offset and size of descriptors, offset and size of data; numbers of 8 bytes.
    """
    if header[32:42] == _SIF_MAGIC or not header:
        _whole(size, _HEADER_BYTES, path, where)
    if header[32:42] != _SIF_MAGIC:
        what = "is not an image: neither a SIF file nor a folder with a root file system"
        raise _problem(what, path, where, "`apptainer build NEW.sif docker-archive:FILE` makes one of a Docker archive")
    offset, length = struct.unpack_from("<qq", header, 112)
    _whole(size, offset + length, path, where)
    return Image(path, SIF, _SIF_MACHINES.get(header[45:47], ""))


def _sandbox(path: Path, where: Location | str) -> Image:
    if not os.access(path, os.R_OK | os.X_OK):
        raise PermissionError
    programs = [found for name in _PROGRAMS if (found := _within(path, name)) is not None]
    if not programs:
        what = "is not an image: a folder without a root file system (no bin/sh in it)"
        raise _problem(what, path, where, BUILD_HINT)
    return Image(path, SANDBOX, next(filter(None, map(_elf_machine, programs)), ""))


def _within(root: Path, name: str) -> Path | None:
    """A file in a root file system, whose links are followed inside of this file system."""
    todo, place, links = name.split("/"), root, 0
    while todo:
        part, *todo = todo
        if part in ("", "."):
            continue
        if part == "..":
            place = root if place == root else place.parent
            continue
        try:
            target = os.readlink(place / part)  # noqa: PTH115
        except OSError:
            place /= part
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        place = root if target.startswith("/") else place
        todo = [*target.split("/"), *todo]
    return place if place.is_file() else None


def _elf_machine(program: Path) -> str:
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError:
        return ""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    (number,) = struct.unpack_from(">H" if head[5] == 2 else "<H", head, 18)
    return _ELF_MACHINES.get(number, "")


def _problem(what: str, path: Path, where: Location | str, hint: str) -> ConfigError:
    place = replace(where, value=str(path)) if isinstance(where, Location) else f"{where} {path}".strip()
    return ConfigError(Problem(what, place, hint))
