"""Pickled calls and results of submitit: read only where nobody else can have written them.

Loading a pickle runs what is in it. submitit loads whatever lies in its folder when the job begins, which may be hours
after it was written; run through start.py, this module does what `python -m submitit.core._submit FOLDER` does, but
for opening the pickle as any file that is read back (trust.py).
"""

from __future__ import annotations

import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

from oellm_autoexp import start
from oellm_autoexp.core.errors import CorruptError, Problem, StateError
from oellm_autoexp.storage import trust

_MODULE = "oellm_autoexp.engine.pickled"


def command(folder: Path) -> str:
    """The line of a script that runs the pickled call of this job in a folder of submitit's."""
    python, *more = start.words(_MODULE)
    return shlex.join(["env", f"PYTHONPATH={start.search_path()}", python, "-u", *more, str(folder)])


def load(path: Path) -> Any:
    """What a pickle holds.

    Raises StateError where the file, or its folder, is not this user's alone, CorruptError where it is cut or garbage.
    """
    trust.check_private(path.parent)
    try:
        data = trust.read(path, most=trust.WHOLE)
    except OSError as error:
        raise StateError(Problem(f"can't be read: {error.strerror}", str(path))) from None
    try:
        return pickle.loads(data)  # noqa: S301  this user wrote it, where nobody else can
    except Exception as error:  # whatever garbage means to it
        raise CorruptError(Problem(f"not a whole pickle: {type(error).__name__}: {error}", str(path))) from None


def main() -> None:
    """Entry point of a job: run the pickled call, and leave its result; neither in a folder that is not ours alone."""
    try:
        trust.check_private(Path(sys.argv[-1]))
    except StateError as error:
        sys.exit(f"error: {error}")
    from submitit.core import submission, utils

    def load_checked(cls: type, path: str | Path) -> Any:
        call = load(Path(path))
        if type(call).__name__ != cls.__name__:
            raise CorruptError(Problem("this is not a call", str(path)))
        return call

    utils.DelayedSubmission.load = classmethod(load_checked)  # type: ignore[method-assign, assignment]
    submission.submitit_main()


if __name__ == "__main__":
    main()
