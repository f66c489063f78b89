"""report --export: results for other programs, by the exporters of the plan or as the command line says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from oellm_autoexp.cli.steps import app
from oellm_autoexp.core.errors import AutoexpError, ConfigError, ExportError, Problem, unforeseen
from oellm_autoexp.core.redacted_text import redact_message
from oellm_autoexp.core.text import did_you_mean
from oellm_autoexp.exporters.base import EXPORTERS, Exporter, short_name
from oellm_autoexp.report.document import Source
from oellm_autoexp.report.for_exporters import results_of
from oellm_autoexp.storage import trust
from oellm_autoexp.storage.lock import locked
from oellm_autoexp.storage.session_files import SessionFiles

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Wanted:
    """What one `--export` says: a kind, and where to (None: as the plan says, else where that kind does by itself)."""

    kind: type[Exporter]
    class_name: str
    place: str | None
    option: str


def wanted(words: Sequence[str]) -> list[Wanted]:
    """What `--export NAME[=PLACE]` asks for. Raises ConfigError, also where a library is not installed."""
    kinds = EXPORTERS.classes()
    by_name = {short_name(name): name for name in kinds} | {name.lower(): name for name in kinds}
    found = []
    for word in words:
        name, equals, place = word.partition("=")
        option = f"--export {word}"
        class_name = by_name.get(name.lower())
        if class_name is None:
            short = sorted(map(short_name, kinds))
            hint = did_you_mean(name.lower(), short) or f"known: {', '.join(short)}"
            raise ConfigError(Problem(f"there is no exporter '{name}'", option, hint))
        if equals and not place:
            raise ConfigError(Problem("the place is empty", option, f"--export {name}=PLACE"))
        found.append(Wanted(kinds[class_name], class_name, place or None, option))
    return found


def export(asked: Sequence[Wanted], sources: Sequence[Source]) -> list[dict[str, str]]:
    """Do all exports of all sessions; one that fails keeps no other from being done. Returns what went where.

    Raises ExportError with all that failed, ConfigError for a section that is wrong.
    """
    exporters = [(source, each) for source in sources for one in asked for each in _exporters(one, source)]
    done: list[dict[str, str]] = []
    problems: list[Problem] = []
    for source, exporter in exporters:
        try:
            place = _exported(exporter, source)
        except AutoexpError as error:
            problems += [Problem(_line(problem), exporter.kind) for problem in error.problems]
        except OSError as error:
            problems.append(Problem(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), exporter.kind))
        except Exception as error:  # of a library, or another package's code; its text may hold an address
            kind, where, _ = unforeseen(error)
            problems.append(Problem(f"{kind} in {where}", exporter.kind))
        else:
            done.append({"session": source.manifest.plan_id, "exporter": exporter.kind, "place": place})
    if problems:
        raise ExportError(*problems)
    return done


def _line(problem: Problem) -> str:
    """A problem in one line, as a watch repeats it."""
    text = f"{problem.sentence}; {problem.hint}" if problem.hint else problem.sentence
    return redact_message(" ".join(text.split()))


def _exporters(asked: Wanted, source: Source) -> Iterator[Exporter]:
    """The exporters for a session: those of its plan of this kind; one that has the place which was named."""
    sections = [
        section
        for section in source.manifest.monitoring.get("exporters", ())
        if section.get("class_name") == asked.class_name
    ] or [{"class_name": asked.class_name}]
    if asked.place is not None:
        sections = [{**sections[0], asked.kind.place: _absolute(asked.place)}]
    for section in sections:
        exporter = _valid(asked, section)
        if why := exporter.lacks():
            raise ConfigError(Problem(f"{exporter.kind} can't work here: {why}", asked.option))
        yield exporter


def _absolute(place: str) -> str:
    """A path of the command line is relative to here; an address, or `$NAME`, stays as it is."""
    return place if ":" in place or place.startswith("$") else str(Path(place).expanduser().absolute())


def _valid(asked: Wanted, section: dict[str, Any]) -> Exporter:
    try:
        return asked.kind.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(Problem(f"{asked.class_name}.{where}: {first['msg']}", asked.option)) from None


def _exported(exporter: Exporter, source: Source) -> str:
    """Do one export, as the only one of this kind and session. Raises LockedError, and what `export` does."""
    session = source.session
    if session is None:
        raise ExportError(f"{source.manifest.plan_id} was not submitted")
    lock: AbstractContextManager[object] = nullcontext()
    if trust.stranger(session.path) is None:  # the watch of another user exports to places of theirs
        path = SessionFiles(session.path).exports / f"{exporter.kind}.lease"
        what = f"the export of {source.manifest.plan_id} by {exporter.kind}"
        lock = locked(path, what, wait_seconds=_PATIENCE_SECONDS, waiting=lambda line: app.note(line, on_stderr=True))
    with lock:
        return exporter.export(results_of(source))
