"""Reads the files of a plan's record, and says why one can't be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from oellm_autoexp.core.errors import CorruptError, Problem, StateError
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.files import loads


def read(path: Path) -> str:
    """A file of the record. Raises StateError."""
    with readable(path):
        return trust.read(path, most=trust.WHOLE).decode()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise StateError: a file of the record can't be read, and why."""
    try:
        yield
    except FileNotFoundError:
        hint = "without it the job can't be planned again; make a new plan"
        raise StateError(Problem("this file is missing in the record of the job's plan", str(path), hint)) from None
    except OSError as error:
        raise StateError(Problem(f"can't be read: {error.strerror}", str(path))) from None
    except UnicodeDecodeError:
        raise CorruptError(Problem("is not text", str(path), "plan again")) from None


@lru_cache(maxsize=4)
def json_value(text: str) -> Any:
    return loads(text.encode(), any_bytes=True)


@contextmanager
def whole(folder: Path) -> Iterator[None]:
    """Raise CorruptError: a record lacks something, or has it in another form."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        what = f"the record of the job's plan is not valid: {type(error).__name__}: {error}".splitlines()[0]
        raise CorruptError(Problem(what, str(folder), "it was cut off or edited; plan again")) from None


def mapping(parse: Callable[[str], Any], path: Path) -> dict[str, Any]:
    """What a file of the record holds. Raises StateError."""
    try:
        found = parse(read(path))
    except (yaml.YAMLError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise CorruptError(Problem("is incomplete, or not a file of oellm-autoexp", str(path), "plan again"))
    return found
