"""Python packages of an image: what its base has, and what is to be added without changing any of that. Pure."""

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
"""Prints an environment's packages and versions; of two with one name the first in sys.path, which is imported."""

_VERSION = re.compile(  # PEP 440, without its spellings that nobody writes
    r"(?:\d+!)?\d+(?:\.\d+)*(?:(?:a|b|c|rc)\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[a-z\d]+(?:[-_.][a-z\d]+)*)?", re.I
)
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def canonical(name: str) -> str:
    """A package's name as it is compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(installed: Mapping[str, str], unpinned: Iterable[str] = ()) -> dict[str, str]:
    """The versions that must stay, by canonical name.

    A distribution's own packages can have versions that are none for pip (`1.14.0-unknown`); pip knows of no
    constraint for these, and touches them only if they are required by name.
    """
    free = set(map(canonical, unpinned))
    found = {canonical(name): version for name, version in installed.items() if _VERSION.fullmatch(version)}
    return {name: version for name, version in sorted(found.items()) if name not in free}


def constraints(pinned: Mapping[str, str]) -> str:
    """The text of a constraints file."""
    return "".join(f"{name}=={version}\n" for name, version in pinned.items())


def locked(report: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What pip's installation report says is to be installed: versions by name, and the words that name each to pip.

    The report is that of `pip install --dry-run --report` (pip documentation, "Installation Report"), version 1. What
    is required by URL is fetched from there again, at the commit that was found.
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
    """Of what was pinned, what has another version now ('' : is gone): name → (before, after)."""
    found = {canonical(name): version for name, version in after.items()}
    return {name: (was, found.get(name, "")) for name, was in before.items() if found.get(name, "") != was}


def named_files(text: str) -> list[tuple[int, str]]:
    """The files that a requirements file has as further ones, each with its line (pip: "Requirements File Format")."""
    option = re.compile(r"\s*(?:-[rc]|--(?:requirement|constraint)\b)[\s=]*([^\s#]+)")
    found = ((number, option.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return [(number, word[1]) for number, word in found if word and "://" not in word[1]]


def relative_paths(text: str) -> list[tuple[int, str]]:
    """The packages in a requirements file that are named by a path from a folder which an image does not have."""
    path = re.compile(r"\s*(?:(?:-e|--editable)[\s=]*)?(\.{1,2}(?:/\S*)?)(?:\s|$)")
    found = ((number, path.match(line)) for number, line in enumerate(text.splitlines(), 1))
    return [(number, word[1]) for number, word in found if word]


def pip_settings(listing: str) -> dict[str, str]:
    """The variables that say what `pip config list` prints (`global.index-url='…'`), for a pip elsewhere."""
    settings = {}
    for line in listing.splitlines():
        if found := re.fullmatch(r"(?:global|install|wheel|download|:env:)\.([\w-]+)='(.*)'", line.strip()):
            settings[f"PIP_{found[1].upper().replace('-', '_')}"] = found[2].replace("\\n", " ").strip()
    return settings


def local_places(settings: Mapping[str, str]) -> tuple[str, ...]:
    """The paths of this machine that settings name: certificates, folders with wheels, indexes in files."""
    words = [word for value in settings.values() for word in re.split(r"[\s=]", value)]
    return tuple(dict.fromkeys(word.removeprefix("file://") for word in words if re.match(r"(?:file://)?/\w", word)))
