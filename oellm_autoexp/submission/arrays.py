"""The files of an array of jobs, which the scheduler takes as one submission."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from oellm_autoexp.core.errors import Problem, StateError, SubmitError
from oellm_autoexp.core.nouns import Manifest, Submission
from oellm_autoexp.core.text import digest
from oellm_autoexp.planning.batches import Batch, array_folder, log_name
from oellm_autoexp.sbatch.script import array_script
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import link_atomic, write_atomic


def write_array(manifest: Manifest, made: Submission, batch: Batch) -> Submission:
    """The array's script, and for each task a folder with links to its job's script and log folder.

    Returns the submission with the digest of that script. Raises SubmitError.
    """
    first = next(iter(batch.jobs.values()))
    folder = array_folder(manifest, made.token)
    log = Path(log_name(first))
    try:
        for task, job in batch.jobs.items():
            place = folder / str(task)
            place.mkdir(parents=True, exist_ok=True)
            link_atomic(place / "job.sbatch", Path(job.script_path))
            link_atomic(place / log.parts[0], Path(job.output_dir, log.parts[0]))
        text = array_script(trust.read_script(Path(first.script_path), first.script_digest), str(folder), str(log))
        write_atomic(Path(made.script_path), text, 0o700)
        return replace(made, script_digest=digest(text))
    except OSError as error:
        raise SubmitError(Problem(f"can't prepare the array: {error.strerror}: {error.filename}")) from None
    except StateError as error:
        raise SubmitError(Problem(f"can't prepare the array: {error.problems[0]}")) from None


def remove_array(manifest: Manifest, token: str) -> None:
    """Remove the files of `write_array`, as far as possible."""
    shutil.rmtree(array_folder(manifest, token), ignore_errors=True)
