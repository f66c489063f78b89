"""A real Apptainer and a base image for tests, on Debian (amd64).

    python tests/containers/apptainer.py install    # as root; about half a minute, 180 MB in /opt/autoexp-containers
    python tests/containers/apptainer.py remove

Apptainer is in no stable release of Debian, so the binary of the suite sid is unpacked into a folder of its own. The
base image is a small Debian with Python and pip, and stands in for those with torch that sites start from: it has a
package of that name and version. No registry of images is asked.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: the modules beside this one have the names that tests give them
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.containers.elf import ElfError, make_startable

PLACE = Path("/opt/autoexp-containers")
"""Where ordinary users find it: the runtime executes its own parts as them."""
INSTALL_COMMAND = "python tests/containers/apptainer.py install"
TORCH = "2.8.0a0+5228986c39.nv25.8"
"""A version such as those of NVIDIA's images, which no index has."""
_PACKAGES = ("squashfs-tools", "squashfuse", "fakeroot", "uidmap", "mmdebstrap")
_BASE = [
    "python3",
    "python3-pip",
    "bash",
    "coreutils",
    "findutils",
    "sed",
    "grep",
    "gzip",
    "tar",
    "base-files",
    "base-passwd",
    "libc-bin",
    "dash",
]
_SMALLER = ("man", "doc", "locale", "info", "perl", "i18n")


class InstallError(RuntimeError):
    """Apptainer or the base image can't be installed; the message says why."""


def program() -> Path:
    return PLACE / "apptainer/usr/bin/apptainer"


def base_archive() -> Path:
    """A tar archive of the base image's root file system, which each user unpacks for themselves."""
    return PLACE / "base.tar"


def missing() -> str | None:
    """Why there are no containers here, or None if there are."""
    if (PLACE / "complete").exists():
        return None
    return f"Apptainer is not installed; install it as root: {INSTALL_COMMAND}"


def install() -> None:
    """Install what is missing. Raises InstallError."""
    if missing() is None:
        return
    if platform.machine() != "x86_64":
        raise InstallError("only for x86_64 so far")
    if os.getuid() != 0:
        raise InstallError(f"to be run as root: {INSTALL_COMMAND}")
    remove()
    PLACE.mkdir(parents=True)
    _run("apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *_PACKAGES)
    mirror = next(
        place for place in _run("apt-get", "indextargets", "--format", "$(REPO_URI)").split() if "security" not in place
    )
    _install_apptainer(mirror)
    _make_base(mirror)
    if Path("/dev/fuse").exists():
        Path("/dev/fuse").chmod(0o666)  # SIF files are mounted by those who run them
    (PLACE / "complete").touch()


def remove() -> None:
    if PLACE.exists():
        shutil.rmtree(PLACE)


def _install_apptainer(mirror: str) -> None:
    """Unpack sid's package, with apt's own lists and keys but a configuration apart from the machine's."""
    apt, target = PLACE / "apt", PLACE / "apptainer"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sid.list").write_text(f"deb [signed-by={keys}] {mirror} sid main\n")
    settings = {
        "Dir::Etc::sourcelist": apt / "sid.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "download", "apptainer", cwd=apt)
    _run("dpkg", "--extract", str(next(apt.glob("apptainer_*.deb"))), str(target))
    shutil.rmtree(apt)
    # Debian's build looks for its configuration and state from two places, as its helper lies two folders deeper
    (target / "usr/var/lib/apptainer/mnt/session").mkdir(parents=True)
    (target / "usr/etc").symlink_to("../etc")
    (target / "usr/lib/etc").symlink_to("../../etc")
    (target / "usr/lib/var").symlink_to("../var")
    (target / "usr/bin/singularity").symlink_to("apptainer")
    if subprocess.run([program(), "--version"], capture_output=True, check=False).returncode:
        for name in ("usr/bin/apptainer", "usr/lib/x86_64-linux-gnu/apptainer/bin/starter"):
            make_startable(target / name)
    _run(str(program()), "--version")


def _make_base(mirror: str) -> None:
    """The base image, without what no program in it needs."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _SMALLER]
    root = PLACE / "base"
    include = f"--include={','.join(_BASE)}"
    _run("mmdebstrap", "--variant=extract", include, *excluded, suite, str(root), mirror)
    for folder in ("dev", "var/cache/apt", "var/lib/apt"):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "dev").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(root / "usr/share/base-passwd" / f"{name}.master", root / "etc" / name)
    packages = root / "usr/lib/python3/dist-packages"
    (packages / "torch").mkdir()
    (packages / "torch/__init__.py").write_text(f'__version__ = "{TORCH}"\n')
    (packages / f"torch-{TORCH}.dist-info").mkdir()
    (packages / f"torch-{TORCH}.dist-info/METADATA").write_text(
        f"Metadata-Version: 2.1\nName: torch\nVersion: {TORCH}\n"
    )
    _run("tar", "--create", "--file", str(base_archive()), "--directory", str(root), ".")
    shutil.rmtree(root)


def _run(*command: str, cwd: Path | None = None) -> str:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InstallError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(arguments: Sequence[str]) -> int:
    commands = {"install": install, "remove": remove}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(f"usage: apptainer.py {'|'.join(commands)}\n")
        return 2
    try:
        commands[arguments[0]]()
    except (InstallError, ElfError, OSError) as error:
        sys.stderr.write(f"apptainer.py: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
