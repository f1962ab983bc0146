"""The command ``albert-fast``: the table of its commands, and what they share: arguments, errors, exit codes.

Exit codes: 0 done; 1 it could not be done, one line on stderr says why; 2 the command line is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

import albert_fast
from albert_fast.errors import EngineError, MissingDependencyError

__all__ = ["COMMANDS", "Command", "main", "print_json"]


@dataclass(frozen=True)
class Command:
    """One row of ``COMMANDS``.

    Attributes:
        module: offers ``add_arguments(parser)`` and ``run(arguments) -> exit code``; imported when the command is used.
        summary: its line in ``--help``.
    """

    module: str
    summary: str


COMMANDS: Mapping[str, Command] = {
    "export": Command("albert_fast.cli.export", "build an engine file from a recipe, a folder or a hub name"),
    "calibrate": Command("albert_fast.cli.calibrate", "find the ranges that int8 needs on text of yours"),
    "run": Command("albert_fast.cli.run", "answer texts with an engine file"),
    "verify": Command("albert_fast.cli.verify", "compare an engine file with its model on texts of yours"),
    "inspect": Command("albert_fast.cli.inspect", "say what an engine file is and whether it runs here"),
    "bench": Command("albert_fast.cli.bench", "time engine files beside each other and the machine's own limit"),
    "demo": Command("albert_fast.cli.demo", "from the embedded checkpoint to engine files, predictions and timings"),
}
FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _report(f"{message} (see {self.prog} --help)")
        raise SystemExit(WRONG_USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (None: this process's own) and return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not sys.warnoptions:  # what torch will change some day is nothing that whoever types a command can act on
        warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(format="albert-fast: %(levelname)s: %(message)s", level=logging.WARNING)
    try:
        options = _parser(arguments).parse_args(arguments)
        code: int = import_module(COMMANDS[options.command].module).run(options)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version and wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    except (ValueError, EngineError, MissingDependencyError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader of stdout, for example head, has left; that is no error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        _report(str(error))
        return FAILED
    except KeyboardInterrupt:
        _report("interrupted")
        return INTERRUPTED


def print_json(value: Any) -> None:
    """Write a JSON document to stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The whole command line; only the arguments of the command in use are filled in, so the others cost no import."""
    parser = _Parser(prog="albert-fast", description="ALBERT as engine files, with the proof of how close they are.")
    parser.add_argument("--version", action="version", version=f"albert-fast {albert_fast.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    named = next((word for word in arguments if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        sentence = f"{command.summary[:1].upper()}{command.summary[1:]}."
        sub = commands.add_parser(name, help=command.summary, description=sentence)
        sub.add_argument("--json", action="store_true", help="write JSON to stdout; progress and errors go to stderr")
        if name == named:
            import_module(command.module).add_arguments(sub)
    return parser


def _report(message: str) -> None:
    print("albert-fast: error:", " ".join(message.split()), file=sys.stderr)
