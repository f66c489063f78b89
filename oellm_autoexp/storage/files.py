"""Files that are never half-written, and the checks of files that this program has written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import posixpath
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oellm_autoexp.core.errors import ConfigError, CorruptError, Problem, StateError
from oellm_autoexp.core.location import Location
from oellm_autoexp.storage import trust

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # link(2): FAT, CIFS and some FUSE


def shipped(relative: str) -> Path:
    """A file or folder of this program: in an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "shipped" / relative
    return installed if installed.exists() else package.parent / relative


def parsed_yaml(text: str) -> Any:
    """Plain YAML that this program wrote or ships, by the library in C where that is there. Raises yaml.YAMLError."""
    import yaml

    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  the safe ones


def shipped_text(relative: str) -> str:
    """The text of a file of this program. Raises OSError."""
    return read_text(shipped(relative))


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644, *, sync: bool = True) -> None:
    """Write `path` so that a reader sees the old content or the new, never a part, also after a crash.

    `sync=False` leaves out the fsync, for files whose content can be made again from other files.
    Raises OSError; the old content then stands.
    """
    with _written_beside(path, data, mode, sync) as beside:
        os.replace(beside.path, path)
        beside.renamed = True
    if sync:
        _sync_directory(path.parent)


def create_atomic(path: Path, data: str | bytes, mode: int = 0o644, *, sync: bool = True) -> bool:
    """Create `path` with this content, unless it exists; of several callers, only one gets True.

    The file appears whole. Only on a file system without hard links it is empty for a moment, or for ever if its writer
    is killed in that moment. `sync` as in write_atomic. Raises OSError.
    """
    with _written_beside(path, data, mode, sync) as beside:
        try:
            os.link(beside.path, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            except FileExistsError:
                return False
            os.replace(beside.path, path)
            beside.renamed = True
    if sync:
        _sync_directory(path.parent)
    return True


@dataclass
class _Beside:
    """A temporary file, and whether it was renamed to its final name."""

    path: Path
    renamed: bool = False


@contextlib.contextmanager
def _written_beside(path: Path, data: str | bytes, mode: int, sync: bool) -> Iterator[_Beside]:
    """A temporary file with this content in the same folder; it is removed at the end unless it was renamed."""
    beside = _Beside(_beside(path))
    payload = data.encode() if isinstance(data, str) else data
    try:
        with os.fdopen(os.open(beside.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(payload)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        yield beside
    finally:
        if not beside.renamed:
            with contextlib.suppress(OSError):
                os.unlink(beside.path)


def _beside(path: Path) -> Path:
    """A new hidden name in the same folder; short, since the name of `path` may have the greatest length."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


def _sync_directory(path: Path) -> None:
    """Write a rename to the disk. Some network file systems refuse this, and do not need it."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def link_atomic(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, replacing an older link but never a real file.

    Raises StateError if something else than a link has this name.
    """
    with contextlib.suppress(FileExistsError):
        os.symlink(target, link)
        return
    if not link.is_symlink():
        raise StateError(Problem("a file is at the place where a link must be created", str(link), "move it away"))
    temporary = _beside(link)
    try:
        os.symlink(target, temporary)
        os.replace(temporary, link)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_text(path: Path) -> str:
    """The text of a file that a person named, or of a pipe that a shell made (`<(…)`), of at most trust.LINE bytes.

    Raises OSError, UnicodeDecodeError.
    """
    refuse_named_pipe(path)
    with path.open("rb") as file:
        data = file.read(trust.LINE + 1)
    if len(data) > trust.LINE:
        raise OSError(errno.EFBIG, f"it has more than {trust.LINE} bytes", str(path))
    return data.decode()


def refuse_named_pipe(path: Path) -> None:
    """Raise OSError for a pipe in a folder: to open it waits until a process writes to it, maybe for ever."""
    if stat.S_ISFIFO(path.stat().st_mode) and path.parts[1:2] not in (("dev",), ("proc",)):
        raise OSError(errno.ESPIPE, "is a named pipe, not a file", str(path))


def writable_directory(
    path: Path, where: Location | str, known: dict[str, Obstacle | None] | None = None
) -> Problem | None:
    """Why the folder `path` can't be created or written to; None if it can. Nothing is created to find out.

    `known` keeps the answers for the folders above, for callers with many paths.
    """
    obstacle = _obstacle(str(path), {} if known is None else known)
    return None if obstacle is None else Problem(obstacle[0], where, obstacle[1])


_ELSEWHERE = "remove files there, or write to another file system (set OUTPUT_DIR)"


def room_hint(error: OSError, place: str | Path = "") -> str:
    """Which resource is used up if a file could not be written, and what to do; '' for an error of another kind.

    `place` is the path that was written, if the error does not name it. The number of files can be used up, too.
    """
    if error.errno == errno.EDQUOT:
        return f"your disk quota is used up: {_ELSEWHERE}"
    if error.errno != errno.ENOSPC:
        return ""
    path = Path(str(error.filename or place or "."))
    with contextlib.suppress(OSError, ValueError):
        room = os.statvfs(next(folder for folder in (path, *path.parents) if os.path.lexists(folder)))
        if room.f_files and not room.f_favail:
            return f"no more files can be created on this file system: its inodes are used up; {_ELSEWHERE}"
    return f"the file system is full: {_ELSEWHERE}"


Obstacle = tuple[str, str]
"""What is wrong with a folder, and a hint."""


def _obstacle(path: str, known: dict[str, Obstacle | None]) -> Obstacle | None:
    if path not in known:
        known[path] = _look_for_obstacle(path, known)
    return known[path]


def _look_for_obstacle(path: str, known: dict[str, Obstacle | None]) -> Obstacle | None:
    parent = posixpath.dirname(path) or "."
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  a thousand times: without making Paths
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        if os.path.islink(path):  # noqa: PTH114  Path's raises where a folder above is closed to us
            return f"is a broken link: {path}", "choose another directory"
        return _obstacle(parent, known)  # the part of it that exists decides
    except OSError as error:
        return f"can't be a directory: {error.strerror}", "choose another directory"
    if not stat.S_ISDIR(mode):
        return f"is not a directory: {path}", "choose another directory"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"can't write below {path}", "choose a directory that you may write to"
    return None


def read_json(
    path: Path,
    kind: str,
    version: int,
    *,
    missing: str = "",
    most: int = trust.WHOLE,
    root: Path | None = None,
    named: bool = False,
) -> dict[str, Any]:
    """The JSON object in a state file of ours, checked to be complete and not newer than `version`.

    `kind` names it in messages ("manifest", "session"); `most`, `root` and `named` as in trust.open_file. Raises
    ConfigError if it is missing, StateError if it is not to be trusted, CorruptError if it is cut short, is not ours,
    or comes from a newer program.
    """
    try:
        text = trust.read(path, most=most, root=root, named=named)
    except FileNotFoundError:
        raise ConfigError(Problem(f"there is no {kind} here", str(path), missing)) from None
    except OSError as error:
        raise ConfigError(Problem(f"can't read the {kind}: {error.strerror}", str(path))) from None
    return parse_json(text, path, kind, version)


def loads(text: bytes, *, any_bytes: bool = False) -> Any:
    """JSON in UTF-8 as our files hold it. Raises ValueError.

    Halves of surrogate pairs, which no text of ours has and no file can be given, are refused; with `any_bytes` those
    that Python makes of a path or a variable that is not UTF-8 will do.
    """
    decoded = text.decode()
    try:
        data = json.loads(decoded)
        if _SURROGATE.search(decoded):
            json.dumps(data, ensure_ascii=False).encode(errors="surrogateescape" if any_bytes else "strict")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return data


def parse_json(text: bytes, path: Path, kind: str, version: int, *, any_bytes: bool = False) -> dict[str, Any]:
    """What `read_json` does with the content of the file `path`. Raises CorruptError."""
    try:
        data = loads(text, any_bytes=any_bytes)
    except ValueError as error:
        raise CorruptError(
            Problem(
                f"the {kind} is not valid JSON ({error})", str(path), "it was cut off or edited; restore it from a copy"
            )
        ) from None
    if not isinstance(data, dict) or type(data.get("version")) is not int:
        raise CorruptError(Problem(f"this is not a {kind} of oellm-autoexp: it has no key 'version'", str(path)))
    if data["version"] > version:
        raise CorruptError(
            Problem(
                f"the {kind} has version {data['version']}; this program reads versions up to {version}",
                str(path),
                "update oellm-autoexp (a newer one wrote this file)",
            )
        )
    return data
