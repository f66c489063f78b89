"""A program that an image's own Python runs to tell what is in it: one JSON object on a line of its own.

It needs nothing but the standard library (of Python 3.6 on), as the image may lack everything else; its text is handed
over with `-c`, as the image may lack this file, too. This package uses its functions, so that both sides count alike.
"""

import hashlib
import json
import os
import sys

PACKAGE = "oellm_autoexp"
BUILT = "/opt/oellm-autoexp/build.json"
"""Where a build leaves its record in an image (see container.build)."""
TALK = 1
"""The version of what the program outside and the one in an image say to each other (see container.dialogue)."""


def source_digest(folder: str) -> str:
    """SHA-256 of a package's Python files, by their paths in it: which sources these are, whatever their version."""
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
    """What this Python has of our package, and the record of the image's build."""
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
    except Exception as error:  # whatever is wrong with it is what is to be told
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    print("\n" + json.dumps(look()))  # noqa: T201
