"""Variables of a shell (`${HOME}`) where an interpolation of a config is expected. Pure."""

from __future__ import annotations

import re

_OF_A_SHELL = re.compile(
    r"\$\{(?:([A-Z_][A-Z0-9_]*)(?:\[[^]]*\])?[}:+=?#%/^,@-]"  # ${HOME}, ${PATH:+…}, ${JOB%%_*}, ${A[0]}
    r"|[#!](\w+)\}|[#!]?(\w+)(?:\[[@*]\]|:?[-+=?]|[#%/^]))"  # ${#x}, ${!x}, ${x[@]}, ${x:-y}, ${x//a/b}
)


def of_a_shell(text: str) -> str:
    """A hint for an interpolation that does not work if a shell would take it (`${HOME}`, `${X-unset}`); else ''."""
    found = _OF_A_SHELL.search(text)
    if found is None:
        return ""
    name = found[1] or found[2] or found[3]
    return (
        f"for a variable of the job's shell write ${name} in slurm.env or backend.env, "
        f"for the plain text write \\${{…}}, for the value at planning time write ${{oc.env:{name}}}"
    )
