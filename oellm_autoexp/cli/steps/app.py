"""What all commands share: options, log level, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import argparse
import codecs
import io
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

from oellm_autoexp.core import commands
from oellm_autoexp.core.errors import AutoexpError, ConfigError, Problem, unforeseen
from oellm_autoexp.core.text import printable, printable_json
from oellm_autoexp.storage.files import read_text, room_hint, shipped

if TYPE_CHECKING:
    from oellm_autoexp.config.loader import Source

OK, FAILED, USAGE, SCHEDULER, INTERRUPTED, PIPE = 0, 1, 2, 3, 130, 141
PLAN_EXIT_CODES = "exit codes: 0 done; 2 wrong use or configuration; 141 the output was closed"
EXIT_CODES = """\
exit codes: 0 every job succeeded; 1 a job failed or was cancelled; 2 wrong use or configuration;
3 the scheduler refused or could not be reached; 130 interrupted (jobs go on); 141 the output was closed"""
MANY = 1_000_000
"""More than there can be of anything that an option counts: jobs, lines, programs."""
_MOST_DIGITS, _SHOWN = 18, 40
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Parser(argparse.ArgumentParser):
    """An argument parser with the options that every command has."""

    def __init__(self, description: str, examples: str, exit_codes: str = EXIT_CODES) -> None:
        names = {command.script: name for name, command in commands.COMMANDS.items()}
        super().__init__(
            prog=commands.program(),
            description=description,
            epilog=f"examples:\n{commands.in_examples(examples.rstrip(), names)}\n\n{exit_codes}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--verbose", action="store_true", help="log what is done (level INFO)")
        self.add_argument("--debug", action="store_true", help="log every detail (level DEBUG), show tracebacks")
        self.words: Sequence[str] = ()
        """What is being parsed."""
        self.dashed: tuple[str, ...] = ()
        """Options whose value may begin with a dash: `--sort -loss`, which argparse takes for another option."""

    def joined(self, words: Sequence[str]) -> list[str]:
        """Words in which a value that begins with a dash stands with its option (`--sort=-loss`), see `dashed`."""
        found: list[str] = []
        for word in words:
            if found and found[-1] in self.dashed and re.fullmatch("-[^-].*", word, re.DOTALL):
                found[-1] += f"={word}"
            else:
                found.append(word)
        return found

    def error(self, message: str) -> NoReturn:
        """End with exit code 2: what is wrong, and what may have been meant."""
        from oellm_autoexp.cli.steps import misuse
        from oellm_autoexp.core.text import did_you_mean

        hint = ""
        if unknown := re.search("unrecognized arguments: (--?[^ =]+)", message):
            hint = misuse.unknown_option(unknown[1], self._option_string_actions)
        elif choice := re.search(r"(--\w[\w-]*): invalid choice: '([^']*)'", message):
            hint = did_you_mean(choice[2], map(str, self._option_string_actions[choice[1]].choices or ()))
        self.refuse(message, hint)

    def refuse(self, message: str, hint: str = "") -> NoReturn:
        """End with exit code 2: what is wrong with the words of the command, and what to write instead."""
        problem = Problem(message, hint=hint or f"{self.prog} --help lists the options")
        if "--json" in self.words and "--json" in self._option_string_actions:
            print(problems_document([problem], USAGE))
        report(AutoexpError(problem))
        raise SystemExit(USAGE)

    def check_overrides(self, overrides: Sequence[str], folders: Sequence[Path]) -> None:
        """Return if no override is meant for an option of the command.

        Such are an option as a key of the config (`plan-id=x`), and the name or file of a config (`./e1.yaml`), which
        is looked for here and in `folders`, those of `--config-dir`.
        """
        from oellm_autoexp.cli.steps import misuse

        found = misuse.option_as_key(overrides, self._option_string_actions)
        options = self._option_string_actions.keys()
        if found is None and "--config-ref" in options and "--session" not in options:  # else a word is a session
            found = misuse.config_as_word(overrides, (*folders, shipped("config")))
        if found is not None:
            self.refuse(*found)

    def add_json(self) -> None:
        """`--json`: stdout is one JSON document and nothing else."""
        self.add_argument("--json", action="store_true", help="print one JSON document, for programs")

    def add_state_dir(self) -> None:
        """`--monitoring-state-dir`: the folder in which sessions are looked for."""
        self.add_argument(
            "--monitoring-state-dir",
            metavar="DIR",
            type=Path,
            help="where sessions are (default: $OELLM_MONITORING_STATE_DIR, else below $OUTPUT_DIR or ./outputs)",
        )

    def add_config(self, title: str = "configuration") -> None:
        """The options that choose a config, and Hydra overrides."""
        group = self.add_argument_group(title)
        group.add_argument(
            "--config-ref",
            "--config-name",
            dest="config_ref",
            metavar="NAME",
            default="autoexp",
            help="a config's name, with or without experiments/, or a .yaml file (default: autoexp)",
        )
        group.add_argument(
            "-C",
            "--config-dir",
            dest="config_dirs",
            metavar="DIR",
            action="append",
            type=Path,
            default=[],
            help="a folder of your own with configs, searched before the shipped one; may be repeated",
        )
        group.add_argument(
            "--overrides-from",
            metavar="FILE",
            type=Path,
            help="more overrides, one a line, before those given here; secrets in it are in no list of processes",
        )
        group.add_argument(
            "overrides", nargs="*", metavar="key=value", help="Hydra overrides: group=choice a.b=1 +new=2 ~drop"
        )


def write_any_text() -> None:
    """Have stdout and stderr write what their encoding lacks (LC_ALL=C, Latin-1) as `\\u2014`, which is no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number, in decimal digits, within bounds."""

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS and least <= int(text) <= most:
            return int(text)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise argparse.ArgumentTypeError(f"{printable(shown)!r} is not a whole number from {least} to {most}")

    return parse


def source(options: argparse.Namespace) -> Source:
    """The config that the options ask for."""
    from oellm_autoexp.config.loader import Source

    listed = _overrides_in(options.overrides_from) if options.overrides_from else ()
    return Source(options.config_ref, tuple(options.config_dirs), (*listed, *options.overrides))


def _overrides_in(path: Path) -> tuple[str, ...]:
    """The overrides in a file, one a line. Raises ConfigError."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(Problem(f"can't read the overrides: {why}", f"--overrides-from {path}")) from None
    return tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def run(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Parse, run, and turn errors into messages: the exit code of a command. A user's mistake shows no traceback."""
    write_any_text()
    if isinstance(parser, Parser):
        parser.words = sys.argv[1:] if argv is None else argv
        argv = parser.joined(parser.words)
    options = parser.parse_intermixed_args(argv)
    if isinstance(parser, Parser):
        parser.check_overrides(getattr(options, "overrides", ()), getattr(options, "config_dirs", ()))
    as_json = getattr(options, "json", False) or getattr(options, "format", "") == "json"
    stdout = _Watched(sys.stdout)

    def failed(problems: Sequence[Problem], code: int) -> int:
        if as_json and not stdout.used:
            print(problems_document(problems, code))
        return code

    try:
        set_log_level(options)
        with redirect_stdout(cast("TextIO", stdout)) if as_json else nullcontext():
            code = command(options)
        print(end="", flush=True)  # here, where a reader who has gone is still an error that is understood
        return code
    except AutoexpError as error:
        if options.debug:
            logging.getLogger(__name__).debug("where it was raised", exc_info=True)
        report(error)
        return failed(error.problems, error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return failed([Problem("interrupted")], INTERRUPTED)
    except (OSError, UnicodeError) as error:
        if isinstance(error, BrokenPipeError):
            return _reader_gone()
        if options.debug:
            raise
        where = str(error.filename or "") if isinstance(error, OSError) else ""
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        hint = room_hint(error) if isinstance(error, OSError) else ""
        problem = Problem(f"{what} (--debug shows where this came from)", where, hint)
        report(AutoexpError(problem))
        return failed([problem], USAGE)
    except Exception as error:
        if options.debug:
            raise
        if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("oellm_autoexp"):
            absent = _package_missing(error)
            report(AutoexpError(absent))
            return failed([absent], USAGE)
        kind, place, message = unforeseen(error)
        hint = "this is an error in oellm-autoexp: please report it, with the output of --debug"
        problem = Problem(f"{kind} in {place}: {message}", hint=hint)
        report(AutoexpError(problem))
        return failed([problem], USAGE)


def _package_missing(error: ModuleNotFoundError) -> Problem:
    """The problem of a Python that lacks a package of ours."""
    what = f"oellm-autoexp needs its packages; the Python {sys.executable} has no '{error.name}'"
    hint = "use the Python that it was installed into, such as .venv/bin/python, or install it: pip install -e ."
    return Problem(what, hint=hint)


class _Watched:
    """A text stream that remembers whether anything was written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.used = False

    def write(self, text: str) -> int:
        """Write to the stream."""
        self.used = self.used or bool(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def problems_document(problems: Sequence[Problem], code: int) -> str:
    """What `--json` prints where a command fails: `problems` (each `what`, `where`, `hint`) and `exit_code`."""
    return printable_json(json.dumps({"problems": problem_facts(problems), "exit_code": code}))


def problem_facts(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Problems for programs: `what`, `where` and `hint` of each, without secrets."""
    from oellm_autoexp.core.redacted_text import redact_message  # whose patterns take long: `--help` does without
    from oellm_autoexp.core.redaction import redact_words

    return [
        {
            "what": redact_message(each.what),
            "where": redact_message(redact_words((str(each.where),))[0]),  # it may be a whole override
            "hint": redact_message(each.hint),
        }
        for each in problems
    ]


def _reader_gone() -> int:
    """The reader of our output (head, less) has enough: stop there, with the exit code of a SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE


def report(error: AutoexpError) -> None:
    """Print an error's problems."""
    count = len(error.problems)
    if count > 1:
        print(f"{count} problems:", file=sys.stderr)
    for facts in problem_facts(error.problems):
        print(f"error: {printable(str(Problem(facts['what'], facts['where'], facts['hint'])))}", file=sys.stderr)


class _Formatter(logging.Formatter):
    """Lines of a log, tracebacks included, without secrets and without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        from oellm_autoexp.core.redacted_text import redact_message  # see problem_facts

        return printable(redact_message(super().format(record)))


def set_log_level(options: argparse.Namespace) -> None:
    """Flag > OELLM_LOG_LEVEL > WARNING. Raises ConfigError for an unknown level."""
    level = "DEBUG" if options.debug else "INFO" if options.verbose else ""
    level = level or os.environ.get("OELLM_LOG_LEVEL", "").upper() or "WARNING"
    if level not in _LEVELS:
        raise ConfigError(Problem(f"{level!r} is not a log level", "OELLM_LOG_LEVEL", f"one of {', '.join(_LEVELS)}"))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("hydra", "omegaconf", "git"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def note(text: str, *, on_stderr: bool = False) -> None:
    """Print one line for people."""
    from oellm_autoexp.view.tables import console

    console(stderr=on_stderr).print(text)
