"""A program that an image's Python runs; it prints what the image contains, as one JSON object on a line of its own.

It needs only the standard library (Python 3.6 or newer), since the image may have nothing else; its text is passed with
`-c`, since the image may lack this file, too. This package uses its functions, so that both sides compute the same.
"""

import hashlib
import json
import os
import sys

PACKAGE = "oellm_autoexp"
BUILT = "/opt/oellm-autoexp/build.json"
"""The path of the record that a build writes into an image (containers/building)."""
TALK = 1
"""The version of the protocol between the program outside and the one in an image (containers/dialogue)."""


def source_digest(folder: str) -> str:
    """SHA-256 of the Python files of a package, with their paths: it identifies the sources beyond the version."""
    total = hashlib.sha256()
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(place, name)  # noqa: PTH118
                with open(path, "rb") as file:  # noqa: PTH123
                    total.update(os.path.relpath(path, folder).encode() + b"\0" + file.read() + b"\0")
    return total.hexdigest()


def look() -> "dict[str, object]":
    """The version of this package in this Python, and the record of the image's build."""
    found: dict[str, object] = {"python": sys.executable, "python_version": "{}.{}.{}".format(*sys.version_info[:3])}
    try:
        with open(BUILT, encoding="utf-8") as file:  # noqa: PTH123
            found["build"] = json.load(file)
    except (OSError, ValueError):
        pass
    try:
        package = __import__(PACKAGE)
        folder = os.path.dirname(os.path.abspath(package.__file__ or ""))  # noqa: PTH100, PTH120
        found["version"] = package.__version__
        found["root"] = os.path.dirname(folder)  # noqa: PTH120
        found["digest"] = source_digest(folder)
        found["manifest_version"] = __import__(PACKAGE + ".core.nouns", fromlist=["x"]).MANIFEST_VERSION
        found["talk"] = getattr(__import__(PACKAGE + ".containers.inside", fromlist=["x"]), "TALK", 0)
    except Exception as error:  # every error is part of the report
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    print("\n" + json.dumps(look()))  # noqa: T201
