"""The words that make folders of the host visible in Apptainer and Singularity. Pure, without other modules."""

from __future__ import annotations

import re
from collections.abc import Iterable


def words(source: str, target: str | None = None, *, read_only: bool = False) -> tuple[str, str]:
    """The option of Apptainer and Singularity that makes a path of the host visible, and its value.

    `--bind` splits at commas and colons without a way to quote them; `--mount` takes quoted CSV (Apptainer 1.0,
    SingularityCE 3.9: user guide, "Bind paths and mounts").
    """
    place = target or source
    if re.search("[,:]", source + place):
        fields = ["type=bind", f"source={source}", f"destination={place}", *(["ro"] if read_only else [])]
        return "--mount", ",".join(map(_csv, fields))
    if place == source and not read_only:
        return "--bind", source
    return "--bind", f"{source}:{place}{':ro' if read_only else ''}"


def _csv(field: str) -> str:
    return '"' + field.replace('"', '""') + '"' if re.search('[",]', field) else field


def outermost(folders: Iterable[str], seen: Iterable[str] = ()) -> list[str]:
    """Those folders that are in no other folder of the list, nor in one of `seen`; never the root."""
    above = list(seen)
    found: list[str] = []
    for folder in sorted(dict.fromkeys(folders), key=len):
        if folder != "/" and not any(f"{folder}/".startswith(f"{each.rstrip('/')}/") for each in above):
            above.append(folder)
            found.append(folder)
    return found
