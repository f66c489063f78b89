"""The one door to files that are read back or appended to: whose they are is checked before they are believed.

A file is opened without following a link and without waiting (a FIFO has a writer that may never come), and must be a
regular file of bounded size that belongs to this user, or to root and is closed to other writers. Folders from the
file up to a root likewise; docs/decisions/004-whose-files.md is about group-writable folders, links and hard links.

`reading_as` opens the files of another user for looking, never for acting: theirs are then the trusted ones.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from oellm_autoexp.core.errors import CorruptError, Problem, StateError

SMALL = 1 << 16
"""Maximum size in bytes of a lock file, a status file or an exit code."""
LINE = 64 << 20
"""Maximum size in bytes of a request, a queue entry, a script, or one line of a journal."""
WHOLE = 2 << 30
"""Maximum size in bytes of a manifest or a session; one with 100,000 jobs has about 200 MB."""

_MOST_LINKS = 40  # path_resolution(7)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_whose: ContextVar[int | None] = ContextVar("whose", default=None)


@dataclass(frozen=True)
class Owner:
    """A user of this machine, by number."""

    uid: int

    def __str__(self) -> str:
        import pwd

        try:
            return f"user {pwd.getpwuid(self.uid).pw_name} ({self.uid})"
        except KeyError:
            return f"user {self.uid}"


def stranger(path: Path) -> Owner | None:
    """The owner of a file, if that is neither this user nor root; None also where there is no file."""
    try:
        owner = os.lstat(path).st_uid
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    return None if owner in (os.geteuid(), 0) else Owner(owner)


@contextlib.contextmanager
def reading_as(owner: Owner | None) -> Iterator[None]:
    """Trust the files of `owner` (None: this user) in a block that looks at them and does nothing with them."""
    before = _whose.set(owner.uid if owner else None)
    try:
        yield
    finally:
        _whose.reset(before)


def reading_of_others() -> bool:
    """Whether files of another user are looked at now (`reading_as`)."""
    return _whose.get() is not None


def _trusted() -> tuple[int, int]:
    whose = _whose.get()
    return (os.geteuid() if whose is None else whose), 0


def open_file(
    path: Path,
    *,
    most: int | None,
    root: Path | None = None,
    named: bool = False,
    lenient: bool = False,
    anyone: bool = False,
) -> BinaryIO:
    """A file of this user, open for reading.

    `most`: the bytes that it may have (None: whoever reads it does so in bounded pieces). `root`: folders from the file
    up to this one are checked, too; by default its own folder. `named`: a person named this path, so links of theirs
    are followed and its folder may be anybody's. `lenient`: a file of this user that others can write to will do, for
    what is only shown. `anyone`: whoever it belongs to, for files that can do no more than make us wait.
    Raises OSError; StateError for what is not to be trusted, and CorruptError for a file that is too large.
    """
    try:
        if named:
            path = _followed(path)
        elif not anyone:
            check_folders(path.parent, root)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError:  # a NUL in the path
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _irregular(path) from None
        if error.errno != errno.ELOOP:
            raise
        raise _link(path) from None
    return _checked(descriptor, path, "rb", most=most, lenient=lenient, anyone=anyone)


def read(
    path: Path,
    *,
    most: int,
    root: Path | None = None,
    named: bool = False,
    lenient: bool = False,
    anyone: bool = False,
) -> bytes:
    """The content of a file, as `open_file` opens it. Raises as that."""
    with open_file(path, most=most, root=root, named=named, lenient=lenient, anyone=anyone) as file:
        data = file.read(most + 1)
    if len(data) > most:  # it has grown
        raise _too_large(path, len(data), most)
    return data


def open_of(path: Path, owner: Owner) -> BinaryIO:
    """A file that `owner` alone can write to, open for reading; its folder may be anybody's. Raises as `open_file`."""
    file = open_file(path, most=None, anyone=True)
    try:
        with reading_as(owner):
            status = os.fstat(file.fileno())
            _check_owner(status, path)
            _check_writers(status, path)
    except BaseException:
        file.close()
        raise
    return file


def open_to_append(path: Path, *, root: Path | None = None, mode: int = 0o644, named: bool = False) -> BinaryIO:
    """A file of this user, made if there is none, open for adding to its end (and for reading).

    Others lose the right to write to it. `named`: a person named its folder, which may be anybody's. Raises as
    `open_file`; StateError also for a file with a second name, which may be anything of this user's.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        if not named:
            check_folders(path.parent, root)
        descriptor = os.open(path, flags, mode & ~_OTHERS_WRITE)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise _irregular(path) from None
        if error.errno != errno.ELOOP:
            raise
        raise _link(path) from None
    file = _checked(descriptor, path, "r+b", most=None, lenient=True, anyone=False)
    status = os.fstat(file.fileno())
    if status.st_nlink > 1:
        file.close()
        what = "has a second name (a hard link): what is written here would also change that file"
        raise StateError(Problem(what, str(path), "find out who made it, and remove it"))
    if status.st_mode & _OTHERS_WRITE and status.st_uid == os.geteuid():
        os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE)
    return file


def _checked(descriptor: int, path: Path, mode: str, *, most: int | None, lenient: bool, anyone: bool) -> BinaryIO:
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise _irregular(path)
        if not anyone:
            _check_owner(status, path)
            if not (lenient and status.st_uid == _trusted()[0]):
                _check_writers(status, path)
        if most is not None and status.st_size > most:
            raise _too_large(path, status.st_size, most)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, mode)  # type: ignore[return-value]
    except BaseException:
        os.close(descriptor)
        raise


def _check_owner(status: os.stat_result, path: Path) -> None:
    mine, root = _trusted()
    if status.st_uid not in (mine, root):
        whom = "you" if _whose.get() is None else str(Owner(mine))
        remove = "ask them to remove it" + (", or remove it: the folder is yours" if _is_mine(path.parent) else "")
        looks = (
            "; --cmd status, tail, events and list also work with files of other users" if _whose.get() is None else ""
        )
        hint = f"use a directory of your own, or {remove}{looks}"
        raise StateError(Problem(f"belongs to {Owner(status.st_uid)}, not to {whom}", str(path), hint))


def _is_mine(folder: Path) -> bool:
    """Whether this user owns a folder, and so may remove what others have put there."""
    try:
        return folder.stat().st_uid == os.geteuid()
    except (OSError, ValueError):
        return False


def _check_writers(status: os.stat_result, path: Path) -> None:
    """Raise StateError for a file that other users can reach and write to."""
    open_to = status.st_mode & _OTHERS_WRITE
    if not open_to or (open_to == stat.S_IWGRP and _is_own_group(status)) or _out_of_reach(path, open_to):
        return
    whom = "everybody" if open_to & stat.S_IWOTH else f"the group {_group(status.st_gid)}"
    hint = f"check its content; if nobody changed it: chmod go-w {path}"
    raise StateError(Problem(f"{whom} can write to it, so its content may be someone else's", str(path), hint))


def _is_own_group(status: os.stat_result) -> bool:
    """Whether a file's group has the name of its owner and no other member, as Debian and Red Hat make one per user."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    return group.gr_gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _out_of_reach(path: Path, open_to: int) -> bool:
    """Whether some folder above keeps those out who could write to a file: no right to search it."""
    search = (stat.S_IXGRP if open_to & stat.S_IWGRP else 0) | (stat.S_IXOTH if open_to & stat.S_IWOTH else 0)
    for folder in path.absolute().parents:
        try:
            status = folder.stat()
        except OSError:
            return False
        if status.st_uid in _trusted() and not status.st_mode & search:
            return True
    return False


def check_owner(path: Path) -> None:
    """Refuse a file or folder, or a link, that belongs to another user (root's are trusted). Raises StateError."""
    with contextlib.suppress(OSError, ValueError):  # not there, or out of reach: whoever opens it will say so
        _check_owner(os.lstat(path), path)


def check_folders(folder: Path, root: Path | None = None) -> None:
    """Refuse a folder, and those above it up to `root`, that others own, or that everybody may change.

    A link counts as what it leads to, if it is this user's or root's. What is not there is passed over. Raises
    StateError.
    """
    sound = _found_sound.get()
    for place in _up_to(folder, root):
        if sound is not None and place in sound:
            continue
        try:
            found = os.lstat(place)
            _check_owner(found, place)
            if stat.S_ISLNK(found.st_mode):
                found = place.stat()
                _check_owner(found, place)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX and not _out_of_reach(place, stat.S_IWOTH):
            hint = f"chmod o-w {place}"
            raise StateError(Problem("every user may remove and replace the files in this folder", str(place), hint))
        if sound is not None:
            sound.add(place)


_found_sound: ContextVar[set[Path] | None] = ContextVar("_found_sound", default=None)


@contextlib.contextmanager
def each_folder_once() -> Iterator[None]:
    """Look at each folder once in a block that reads many files: one that was found sound stays so.

    Nobody but its owner, who is this user or root, can give it away or open it to others. A block is one pass over the
    jobs of a plan.
    """
    known = _found_sound.get()
    before = _found_sound.set(set() if known is None else known)
    try:
        yield
    finally:
        _found_sound.reset(before)


def _up_to(folder: Path, root: Path | None) -> Iterator[Path]:
    yield folder
    if root is not None and folder != root and folder.is_relative_to(root):
        for above in folder.parents:
            yield above
            if above == root:
                return


def private_folder(path: Path, root: Path | None = None) -> None:
    """Make a folder that only this user can enter; one that is there must be this user's, and is closed to others.

    Raises OSError, StateError.
    """
    check_folders(path.parent, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError:
        _check_owner(os.lstat(path), path)
        raise
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise StateError(Problem("is at the place where a folder must be created", str(path), "move it away")) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid():
            hint = "it may contain that user's programs: remove it, or use a state directory of your own"
            raise StateError(Problem(f"belongs to {Owner(status.st_uid)}, not to you", str(path), hint))
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            os.fchmod(descriptor, stat.S_IRWXU)
    finally:
        os.close(descriptor)


def check_private(folder: Path) -> None:
    """Refuse a folder that is not this user's alone: others could have put something into it. Raises StateError."""
    check_folders(folder)
    try:
        status = os.lstat(folder)
    except OSError as error:
        raise StateError(Problem(f"can't be read: {error.strerror}", str(folder))) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StateError(Problem("is not a folder", str(folder)))
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
        hint = f"if all its files are yours: chmod 700 {folder}"
        raise StateError(Problem("others can put files into this folder", str(folder), hint))


def read_script(path: Path, expected: str = "", root: Path | None = None) -> str:
    """The text of a script of this user. `expected`: its text.digest; '' (an older plan) accepts any.

    Raises OSError, StateError.
    """
    data = read(path, most=LINE, root=root)
    if expected and hashlib.sha256(data).hexdigest() != expected:
        hint = "it was changed after planning; plan again"
        raise StateError(Problem("this is not the script that was planned", str(path), hint))
    return data.decode(errors="replace")


def _followed(path: Path) -> Path:
    """Resolve a path through links of this user or root. Raises StateError for a link of another user, OSError."""
    for _ in range(_MOST_LINKS):
        try:
            status = os.lstat(path)
        except ValueError:
            return path
        if not stat.S_ISLNK(status.st_mode):
            return path
        _check_owner(status, path)
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def _link(path: Path) -> StateError:
    hint = "find out who made it, and remove it; oellm-autoexp creates no link here"
    return StateError(Problem("is a link; links are not followed here", str(path), hint))


def _irregular(path: Path) -> StateError:
    hint = "remove it, or name a regular file"
    return StateError(Problem("is a device, pipe or socket, not a regular file", str(path), hint))


def _too_large(path: Path, size: int, most: int) -> CorruptError:
    hint = "oellm-autoexp writes no file of this size; remove it if nobody needs it"
    return CorruptError(Problem(f"has {size} bytes; at most {most} are allowed", str(path), hint))
