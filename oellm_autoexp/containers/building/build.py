"""Builds an image from a definition, in stages that are done once: a build that was interrupted goes on where it was.

    base       the image it starts from, unpacked where it comes from a registry
    packages   what pip has to add, resolved inside the base with all that it has pinned, and fetched as wheels
    image      the base, this program and the wheels, put together without network
    check      the image runs, has this version, and nothing of the base was changed

Two ways lead to the image. With `fakeroot` it is the runtime's own `build`. Without, the base is copied to a folder in
which the definition's %post runs as the user (`exec --writable`): this needs no fakeroot, no root and no subuid, only
a base whose files are the user's (a sandbox made with --fix-perms).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

from oellm_autoexp import __version__
from oellm_autoexp.containers import inside, mounts
from oellm_autoexp.containers.building import packages, steps
from oellm_autoexp.containers.building.definition import Definition, expand, fill, parse
from oellm_autoexp.containers.contents import check_same_version, environment, look_into
from oellm_autoexp.containers.failures import DISK_HINT
from oellm_autoexp.containers.image import SANDBOX, Image, check_image
from oellm_autoexp.containers.runtime import Runtime
from oellm_autoexp.core.errors import BackendError, Collector, ConfigError, LockedError, Problem
from oellm_autoexp.core.redaction import redact_text
from oellm_autoexp.core.text import plural
from oellm_autoexp.storage.files import write_atomic

PLACE = str(Path(inside.BUILT).parent)
"""Where this program lies in an image, laid out as in a checkout."""
_SHIPPED = ("oellm_autoexp", "config", "examples", "scripts", "apply_megatron_numpy_product_patch.sh", "pyproject.toml")
_SHIPPED_MORE = ("LICENSE", "README.md", "SPEC.md")
_SUBMODULE = "submodules/Megatron-LM"
_CONTEXT = "context"
_HERE = ("files", "post", "environment", "labels", "runscript", "help")
"""The sections of a definition that can be carried out without the runtime's own build."""
_UNPACKED = 2.5  # how much larger an image is when it is unpacked, at most as a rule
_STAGES = ("base", "packages", "image", "check")


@dataclass(frozen=True)
class Request:
    """What is to be built. `checkout` is where this program and its `container/` are; `git` its state there.

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
        """The folder of what is in the making; it has no date in its name, so that tomorrow goes on in it."""
        return self.output / f".{self.definition.name.removesuffix('.def.in')}.build"


def build(request: Request, say: steps.Say = steps.to_stderr) -> Path | None:
    """Build an image; returns its path, or None where only what it needs was to be fetched.

    Raises ConfigError: wrong options, definition or base; BackendError: a stage failed, with the cause; LockedError.
    """
    if os.path.lexists(request.image) and not (request.force or request.download_only):
        hint = "--force replaces it, --append-date adds the date to the name"
        raise ConfigError(Problem("an image of this name exists already", str(request.image), hint))
    try:
        request.work.mkdir(parents=True, exist_ok=True)
        with _locked(request.work), (request.work / "build.log").open("a", encoding="utf-8") as log:
            log.write(f"\n=== {datetime.now(UTC).isoformat(timespec='seconds')} {shlex.join(request.command_line)}\n")
            return _Build(request, say, log).run()
    except OSError as error:
        raise ConfigError(_not_written(error, request.output)) from None


def _not_written(error: OSError, output: Path) -> Problem:
    """What it was that kept a build from writing."""
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
            raise LockedError(Problem("another build of this definition is at work here", str(work), hint)) from None
        except OSError:  # a file system without locks (Lustre without the mount option flock)
            pass
        yield


class _Build:
    """One run through the stages."""

    def __init__(self, request: Request, say: steps.Say, log: TextIO) -> None:
        self._request = request
        self._work = request.work
        self._say = say
        self._log = log
        found = Collector()
        with found.step():
            self._definition = self._read_definition()
        with found.step():
            self._requirements = _requirements(request.requirements, "--requirements")
        found.raise_all()
        temporary = {}
        if not any(os.environ.get(f"{flavour}_TMPDIR") for flavour in ("APPTAINER", "SINGULARITY")):
            # /tmp is small on login nodes, or counts as memory
            temporary = {f"{flavour}_TMPDIR": str(self._work / "tmp") for flavour in ("APPTAINER", "SINGULARITY")}
        self._env = environment(temporary)

    def run(self) -> Path | None:
        """All stages; see `build`."""
        request = self._request
        remove(self._work / "tmp")  # of a build that was killed
        (self._work / "tmp").mkdir()
        try:
            base = self._base()
            pinned, added = self._packages(base)
            if request.download_only:
                self._say(
                    f"all that the image needs is in {self._work}; the same command without --download-only builds it"
                )
                return None
            made = self._image(base, pinned, added)
            self._check(made, pinned)
            self._publish(made)
        finally:
            with suppress(OSError):
                remove(self._work / "tmp")
        return request.image

    # ---- base

    def _base(self) -> Image:
        """The image to start from, on this machine. Raises ConfigError, BackendError."""
        request = self._request
        if request.base_image is not None:
            self._title("base", str(request.base_image))
            return check_image(request.base_image, "--base-image")
        if self._definition.bootstrap == "localimage":
            self._title("base", self._definition.base)
            return check_image(self._definition.base, f"{request.definition.name}, From:")
        place = Path(os.environ.get("CONTAINER_CACHE_DIR") or self._work)
        name = self._definition.base.rsplit("/", 1)[-1].replace(":", "__")
        unpacked = place / f"{name}_sandbox"
        if unpacked.exists():
            self._title("base", f"{unpacked} is there")
            return check_image(unpacked, "the base image")
        self._title("base", f"fetching {self._definition.source}, which can take an hour, into {unpacked}")
        partial = unpacked.with_name(f".{unpacked.name}.partial")
        remove(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        self._runtime(
            "fetching the base image",
            ["build", "--sandbox", "--fix-perms", str(partial), self._definition.source],
            watched=partial,
        )
        partial.rename(unpacked)
        return check_image(unpacked, "the base image")

    # ---- packages

    def _packages(self, base: Image) -> tuple[dict[str, str], dict[str, str]]:
        """The packages that the base has pinned, and those that are added, whose wheels are then in the work folder."""
        request = self._request
        own = "".join(f"{line}\n" for line in self._own_requirements())
        key = _key(own, json.dumps(list(self._requirements.items())), _identity(base.path), *request.unpinned)
        if known := self._done("packages", key):
            self._title("packages", f"{plural(len(known['added']), 'wheel')} are there")
            return known["pinned"], known["added"]
        self._title("packages", f"what {request.requirements} asks for, beside what the base has")
        pinned = packages.pins(self._installed(base), request.unpinned)
        names = ("own.txt", "constraints.txt", "report.json", "wheels")
        ours, limits, report, wheels = (self._work / name for name in names)
        write_atomic(ours, own)
        write_atomic(limits, packages.constraints(pinned))
        given = ["-c", str(limits), "-r", str(request.requirements), "-r", str(ours)]
        self._pip("resolving the requirements", base, ["install", "--dry-run", "--report", str(report), *given])
        added, words = packages.locked(json.loads(report.read_text(encoding="utf-8")))
        wheels.mkdir(exist_ok=True)
        if words:
            fetched = self._work / "fetched.txt"
            write_atomic(fetched, "".join(f"{word}\n" for word in words))
            asked = ["wheel", "--no-deps", "--wheel-dir", str(wheels), "-r", str(fetched)]
            self._pip("fetching the packages", base, asked, watched=wheels)
        self._mark("packages", key, {"pinned": pinned, "added": added})
        torch = f"torch {pinned['torch']}" if "torch" in pinned else "no torch"
        self._say(f"    the base has {plural(len(pinned), 'package')}, {torch}; {len(added)} are added")
        return pinned, added

    def _own_requirements(self) -> list[str]:
        """What this program itself needs, as pyproject.toml says."""
        import tomllib

        with (self._request.checkout / "pyproject.toml").open("rb") as file:
            found: list[str] = tomllib.load(file)["project"]["dependencies"]
        return found

    def _installed(self, image: Image) -> dict[str, str]:
        """The packages in an image, as its Python finds them. Raises BackendError."""
        words = self._request.runtime.exec_words(
            str(image.path), ["python3", "-s", "-c", packages.LIST_PROGRAM], cwd="/"
        )
        done = subprocess.run(
            words,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        line = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
        if not line:
            last = (done.stderr.strip().splitlines() or ["it prints nothing"])[-1]
            hint = "a base image needs python3 (3.11 or newer) with pip"
            raise BackendError(Problem(f"the image's python3 can't tell its packages: {last}", str(image.path), hint))
        found: dict[str, str] = json.loads(line)
        return found

    def _pip(self, title: str, base: Image, words: Sequence[str], watched: Path | None = None) -> None:
        """Run the base's own pip, with this machine's settings of pip (indexes, certificates)."""
        settings = {**packages.pip_settings(_pip_config()), **_set(packages.CERTIFICATES)}
        named = packages.local_places({**settings, **self._requirements})
        binds = mounts.outermost([str(self._work), *filter(os.path.exists, named), *self._requirements])
        env = {
            **self._env,
            **settings,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_BREAK_SYSTEM_PACKAGES": "1",  # PEP 668 protects a Debian's own Python, which here is the image's
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "TMPDIR": str(self._work / "tmp"),
        }
        program = ["python3", "-s", "-m", "pip", *words]
        command = self._request.runtime.exec_words(str(base.path), program, binds=binds, cwd=str(self._work))
        self._step(title, command, env=env, watched=watched)

    # ---- image

    def _image(self, base: Image, pinned: Mapping[str, str], added: Mapping[str, str]) -> Path:
        """The image, put together in the work folder. Raises BackendError."""
        request = self._request
        self._title("image", f"{request.name}, from {base.path}")
        self._check_space(base)
        self._write_context(base, pinned, added)
        root, partial = self._work / "root", self._work / "image.partial"
        for left in (root, partial):
            remove(left)
        if request.fakeroot:
            file = self._work / f"{request.name}.def"
            write_atomic(file, self._definition.text(str(base.path)))
            fake = ["--fakeroot"] if os.geteuid() else []
            kind = ["--sandbox"] if request.sandbox else []
            self._runtime("building the image", ["build", *fake, *kind, str(partial), file.name], watched=partial)
            return partial
        self._runtime(
            "copying the base image", ["build", "--sandbox", "--fix-perms", str(root), str(base.path)], watched=root
        )
        self._carry_out(root, base)
        if request.sandbox:
            return root
        self._runtime("packing the image", ["build", str(partial), str(root)], watched=partial)
        remove(root)
        return partial

    def _check_space(self, base: Image) -> None:
        """Raises BackendError where the image can't fit: better now than in an hour."""
        stored, files = steps.folder_size(base.path)
        size = stored * (1 if base.kind == SANDBOX else _UNPACKED)
        needed = int(size * (1.2 if self._request.sandbox else 1.7))
        places = {self._work, Path(self._env["APPTAINER_TMPDIR"])} if "APPTAINER_TMPDIR" in self._env else {self._work}
        for place in places:
            free = shutil.disk_usage(place).free
            if free < needed:
                what = f"{_size(free)} are free here, and about {_size(needed)} are needed"
                raise BackendError(Problem(what, str(place), DISK_HINT))
        room = os.statvfs(self._work)  # only there it is unpacked
        if room.f_files and room.f_favail < files:
            what = f"{room.f_favail} more files (inodes) are allowed here, and at least {files} are needed"
            raise BackendError(Problem(what, str(self._work), DISK_HINT))

    def _write_context(self, base: Image, pinned: Mapping[str, str], added: Mapping[str, str]) -> None:
        """All that goes into the image, as a folder: this program, wheels, the script that installs, the record."""
        request, context = self._request, self._work / _CONTEXT
        remove(context)
        for name in (*_SHIPPED, *_SHIPPED_MORE):
            _copy(request.checkout / name, context / name)
        if (request.checkout / _SUBMODULE / "megatron").is_dir():
            _copy(request.checkout / _SUBMODULE, context / _SUBMODULE)
        else:
            self._say(f"    note: {_SUBMODULE} is empty, so the image has no Megatron-LM (git submodule update --init)")
        made = context / "build"
        _copy(request.checkout / "container/install.sh", made / "install.sh")
        wheels = self._work / "wheels"
        _copy(wheels, made / "wheels") if wheels.is_dir() else (made / "wheels").mkdir()
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
            "definition": {"name": request.definition.name, "sha256": _key(_text(request.definition, "--definition"))},
            "requirements": redact_text("\n".join(self._requirements.values())).splitlines(),
            "base": {"source": self._definition.source, "path": str(base.path), **_identity_facts(base.path)},
            "kept": dict(pinned),
            "added": dict(added),
        }
        write_atomic(context / Path(inside.BUILT).name, json.dumps(record, indent=1) + "\n")

    def _carry_out(self, root: Path, base: Image) -> None:
        """What a definition's sections ask for, in an unpacked image that is the user's. Raises BackendError."""
        sections = self._definition.sections
        if unknown := [name for name in sections if name not in _HERE]:
            what = f"the section %{unknown[0]} needs the runtime's own build"
            hint = "use container/build_container.sh where fakeroot is available"
            raise BackendError(Problem(what, str(self._request.definition), hint))
        for line in sections.get("files", "").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                _copy(self._work / words[0], root / words[-1].lstrip("/"))
        own = root / ".singularity.d"
        own.mkdir(exist_ok=True)
        (own / "env").mkdir(exist_ok=True)
        if text := sections.get("environment", "").strip():
            # 91: behind those of the base, which are in 10-docker2singularity.sh and 90-environment.sh
            _write_program(own / "env/91-environment.sh", f"#!/bin/sh\n{text}\n")
        if text := sections.get("runscript", "").strip():
            _write_program(own / "runscript", f"#!/bin/sh\n{text}\n")
        labels = own / "labels.json"
        known = json.loads(labels.read_text()) if labels.is_file() else {}
        given = (line.split(None, 1) for line in sections.get("labels", "").splitlines() if line.strip())
        write_atomic(labels, json.dumps({**known, **{words[0]: words[-1].strip() for words in given}}, indent=1) + "\n")
        write_atomic(own / "Singularity", self._definition.text(str(base.path)))
        post = root / PLACE.lstrip("/") / "build/post.sh"
        _write_program(post, sections.get("post", ""))
        command = self._request.runtime.exec_words(
            str(root),
            ["/bin/sh", "-ex", f"{PLACE}/build/post.sh"],
            cwd="/",
            options=("--writable", "--no-home", "--cleanenv"),
        )
        self._step("installing in the image", command, watched=None)

    # ---- check

    def _check(self, made: Path, pinned: Mapping[str, str]) -> None:
        """Raises BackendError if the image has not become what it should be."""
        self._title("check", "it runs, has this version, and keeps what the base had")
        image = check_image(made)
        contents = look_into(self._request.runtime, image)
        try:
            notes = check_same_version(contents, image)
        except ConfigError as error:
            raise BackendError(*error.problems) from None
        if notes or not contents.build:
            what = "the image has another oellm-autoexp than the one that was put into it"
            hint = f"its python3 finds the one in {contents.root}: the base image has one of its own"
            raise BackendError(Problem(what, str(made), hint))
        if other := packages.changed(pinned, self._installed(image)):
            told = ", ".join(f"{name} {was} → {now or 'gone'}" for name, (was, now) in sorted(other.items()))
            hint = "the definition's %post must not do that; --unpin NAME allows it for a package"
            raise BackendError(Problem(f"packages of the base image were changed: {told}", str(made), hint))

    def _publish(self, made: Path) -> None:
        """Let the image exist under its name, whole, and remove what is not needed any more."""
        image = self._request.image
        if os.path.lexists(image):  # --force
            old = self._work / "replaced"
            remove(old)
            image.rename(old)
        made.rename(image)
        for left in ("replaced", "root", _CONTEXT, "wheels"):
            remove(self._work / left)
        for stamp in self._work.glob("*.done"):
            stamp.unlink()
        shutil.copy(self._work / "build.log", image.with_name(f"{self._request.name}.build.log"))
        if self._request.base_image is None and any(self._work.glob("*_sandbox")):
            return  # the unpacked base, for the next build
        remove(self._work)

    # ---- what stages share

    def _read_definition(self) -> Definition:
        request = self._request
        values = {
            "context": _CONTEXT,
            "place": PLACE,
            "name": request.name,
            "version": __version__,
            "commit": str(request.git.get("commit", "unknown")),
        }
        where = request.definition.name
        found = parse(fill(_text(request.definition, "--definition"), values, where), where)
        if request.base_image is not None:
            return Definition("localimage", str(request.base_image), found.sections)
        return Definition(found.bootstrap, expand(found.base, os.environ.get, where), found.sections)

    def _title(self, stage: str, text: str) -> None:
        self._say(f"[{_STAGES.index(stage) + 1}/{len(_STAGES)}] {stage}: {text}")

    def _runtime(self, title: str, words: Sequence[str], watched: Path) -> None:
        self._step(title, [self._request.runtime.program, *words], watched=watched)

    def _step(
        self, title: str, words: Sequence[str], *, env: Mapping[str, str] | None = None, watched: Path | None
    ) -> None:
        steps.run(
            title,
            words,
            log=self._log,
            env=env or self._env,
            cwd=self._work,
            say=self._say,
            watched=watched,
            verbose=self._request.verbose,
        )

    def _done(self, stage: str, key: str) -> dict[str, Any] | None:
        """What a stage came to, if it was done with the same input."""
        try:
            found: dict[str, Any] = json.loads((self._work / f"{stage}.done").read_text())
        except (OSError, ValueError):
            return None
        return found["result"] if found.get("key") == key else None

    def _mark(self, stage: str, key: str, result: dict[str, Any]) -> None:
        write_atomic(self._work / f"{stage}.done", json.dumps({"key": key, "result": result}))


def _requirements(path: Path, where: str, known: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """The text of a requirements file, and of those that it names, by path. Raises ConfigError.

    They are read before pip does: a mistake in them is told before a base image is fetched.
    """
    text = _text(path, where)
    texts = {**known, str(path): text}
    found = Collector()
    for number, word in packages.relative_paths(text):
        hint = "write the whole path, which must be one of a wheel or a folder with a pyproject.toml"
        found.add([Problem(f"a path from a folder that an image does not have: {word}", f"{path}:{number}", hint)])
    for number, word in packages.named_files(text):
        further = path.parent / word
        if str(further) not in texts:
            with found.step():
                texts |= _requirements(further, f"{path}:{number}", texts)
    found.raise_all()
    return texts


def _text(path: Path, where: str) -> str:
    """What a person has written in a file that `where` names. Raises ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        what = "there is no such file" if isinstance(error, FileNotFoundError) else f"can't read it: {error.strerror}"
        raise ConfigError(Problem(what, f"{where} {path}")) from None
    except UnicodeDecodeError as error:
        what = f"can't read it: byte {error.start} is none of a text in UTF-8"
        raise ConfigError(Problem(what, f"{where} {path}")) from None


def _key(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _identity(path: Path) -> str:
    return json.dumps([str(path), _identity_facts(path)])


def _identity_facts(path: Path) -> dict[str, Any]:
    """What tells an image from another one at the same place, without reading its many GB."""
    status = path.stat()
    return {"bytes": status.st_size, "changed_at": int(status.st_mtime)}


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _set(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _pip_config() -> str:
    """What pip is told on this machine, in its files and by variables; '' where there is no pip."""
    words = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _write_program(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # that of the base may be a link
    write_atomic(path, text, 0o755)
    path.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder, without what Python and git leave in it."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", ".git", "*.egg-info")
        shutil.copytree(source, target, ignore=ignored, dirs_exist_ok=True)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def remove(path: Path) -> None:
    """Remove a file or folder, if there is one, also where an image's own folders may not be written to."""

    def open_and_retry(function: Callable[..., Any], name: str, _error: object) -> None:
        for place in (os.path.dirname(name), name):  # noqa: PTH120
            with suppress(OSError):
                if not os.path.islink(place):  # noqa: PTH114
                    os.chmod(place, stat.S_IRWXU)  # noqa: PTH101
        function(name)

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=open_and_retry)
    else:
        path.unlink(missing_ok=True)
