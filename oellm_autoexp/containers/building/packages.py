"""Python packages of an image: those of its base, and those to add without changing any of the base. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

LIST_PROGRAM = """\
import json
from importlib import metadata
found = {}
for one in metadata.distributions():
    if one.metadata["Name"]:
        found.setdefault(one.metadata["Name"], one.version)
print("\\n" + json.dumps(found))
"""
"""Prints the packages of an environment with their versions; of two with one name, the first in sys.path, which is the
one that `import` finds."""

_VERSION = re.compile(  # PEP 440, without its unusual spellings
    r"(?:\d+!)?\d+(?:\.\d+)*(?:(?:a|b|c|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z\d]+(?:[-_.][a-z\d]+)*)?", re.I
)
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def canonical(name: str) -> str:
    """The normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(installed: Mapping[str, str], unpinned: Iterable[str] = ()) -> dict[str, str]:
    """The versions that must stay, by canonical name.

    Packages of a Linux distribution can have versions that are invalid for pip (`1.14.0-unknown`). pip accepts no
    constraint for these, and changes them only if they are required by name.
    """
    free = set(map(canonical, unpinned))
    found = {canonical(name): version for name, version in installed.items() if _VERSION.fullmatch(version)}
    return {name: version for name, version in sorted(found.items()) if name not in free}


def constraints(pinned: Mapping[str, str]) -> str:
    """The text of a constraints file."""
    return "".join(f"{name}=={version}\n" for name, version in pinned.items())


def locked(report: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The packages to install by pip's installation report: versions by name, and for each the word that requires it.

    The report is that of `pip install --dry-run --report` (pip documentation, "Installation Report"), version 1. A
    package that is required by URL is fetched again from this URL, at the commit that the report names.
    """
    versions, words = {}, []
    for entry in report["install"]:
        name, version = canonical(entry["metadata"]["name"]), entry["metadata"]["version"]
        versions[name] = version
        url = entry["download_info"]["url"]
        if vcs := entry["download_info"].get("vcs_info"):
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        words.append(f"{name} @ {url}" if entry.get("is_direct") else f"{name}=={version}")
    return versions, tuple(words)


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The pinned packages whose version has changed: name → (before, after); after is '' for a removed package."""
    found = {canonical(name): version for name, version in after.items()}
    return {name: (was, found.get(name, "")) for name, was in before.items() if found.get(name, "") != was}


def named_files(text: str) -> list[tuple[int, str]]:
    """The other files that a requirements file names, each with its line (pip: "Requirements File Format")."""
    option = re.compile(r"\s*(?:-[rc]|--(?:requirement|constraint)\b)[\s=]*([^\s#]+)")
    found = ((number, option.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return [(number, word[1]) for number, word in found if word and "://" not in word[1]]


def relative_paths(text: str) -> list[tuple[int, str]]:
    """The relative paths of packages in a requirements file, each with its line: an image has no such folders."""
    path = re.compile(r"\s*(?:(?:-e|--editable)[\s=]*)?(\.{1,2}(?:/\S*)?)(?:\s|$)")
    found = ((number, path.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return [(number, word[1]) for number, word in found if word]


def pip_settings(listing: str) -> dict[str, str]:
    """The settings in the output of `pip config list` (`global.index-url='…'`) as environment variables of pip."""
    settings = {}
    for line in listing.splitlines():
        if found := re.fullmatch(r"(?:global|install|wheel|download|:env:)\.([\w-]+)='(.*)'", line.strip()):
            settings[f"PIP_{found[1].upper().replace('-', '_')}"] = found[2].replace("\\n", " ").strip()
    return settings


def local_places(settings: Mapping[str, str]) -> tuple[str, ...]:
    """The paths of this machine in settings of pip: certificates, folders with wheels, indexes in files."""
    words = [word for value in settings.values() for word in re.split(r"[\s=]", value)]
    return tuple(dict.fromkeys(word.removeprefix("file://") for word in words if re.match(r"(?:file://)?/\w", word)))
