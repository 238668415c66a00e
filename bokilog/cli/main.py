"""The command line: which commands there are, and what their failures look like.

Decides names, the order of the help, exit codes and the one line of an error. A command's module is
imported when the command is used, so `bokilog --help` imports none; a module that is not there (a
part that was not installed) is not listed.

Exit codes: 0 done; 1 it failed; 2 the command line or a value in it is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from codecs import lookup
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Final

import click

from bokilog import __version__
from bokilog.errors import BokilogError, UsageError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130  # as a shell says of SIGINT
EXIT_PIPE: Final = 141  # and of SIGPIPE

# Command to its module in this folder and its line in the help, which a test compares with its own.
COMMANDS: Final = {
    "up": ("cluster", "Start a cluster on this machine."),
    "status": ("status", "Show what runs and how far it is."),
    "down": ("cluster", "Stop the cluster of a directory."),
    "restart": ("restart", "Restart a running cluster, one process after the other."),
    "dev": ("serving", "Run an app on this machine while you write it."),
    "serve": ("serving", "Run an app's functions beside a log that runs already."),
    "call": ("calling", "Call a function and print what it returns."),
    "logs": ("calling", "Print what a call wrote to stdout and stderr."),
    "append": ("records", "Append one record and print its seqnum."),
    "read": ("records", "Print one record: by seqnum, the next or the last."),
    "scan": ("records", "Print the records there are, then end."),
    "follow": ("records", "Print records as they come."),
    "trim": ("books", "Let go of what lies below a seqnum."),
    "hold": ("books", "Keep trims back for some time."),
    "release": ("books", "End a hold."),
    "books": ("books", "List all LogBooks."),
    "info": ("books", "Show what is known of a LogBook."),
    "create-book": ("books", "Create a LogBook with properties of its own."),
    "delete-book": ("books", "Delete a LogBook with all it holds."),
    "calls": ("calls", "List an app's durable calls that are not over."),
    "verify": ("verify", "Check the files of a stopped log, and say what is wrong."),
    "backup": ("backup", "Copy a log, while it runs, to a folder or an object store."),
    "restore": ("backup", "Make a new log of a backup."),
    "recover": ("recover", "Go on with a stopped cluster whose majority is lost for good."),
    "bench": ("bench", "Measure this machine and compare."),
}


class LazyGroup(click.Group):
    """A group whose commands are named here and live in modules that are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands whose modules are there, in the order of the table."""
        there = {
            module: find_spec(f"bokilog.cli.{module}") is not None
            for module in dict.fromkeys(module for module, _ in COMMANDS.values())
        }
        return [name for name, (module, _) in COMMANDS.items() if there[module]]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; its module is imported now."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f"bokilog.cli.{COMMANDS[cmd_name][0]}")
        command: object = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="bokilog %(version)s")
def cli() -> None:
    """A totally ordered, tagged, durable log shared by functions.

    Start a cluster with `bokilog up`. Commands on LogBooks reach it at --url or $BOKILOG_URL, else
    at bokilog://127.0.0.1:7300, and read linearizably. Exit codes: 0 done, 1 it failed, 2 the
    command line or a value in it is wrong.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; the entry point of `bokilog`."""
    _make_streams_usable()
    try:
        done: object = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="bokilog",
            standalone_mode=False,
            color=False if os.environ.get("NO_COLOR") else None,
        )
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:
        if abort.__cause__ is None:  # of a question, whose line still stands open
            click.echo(err=True)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BokilogError as error:
        from bokilog.cli.output import printable_lines  # what it names may be anybody's

        click.echo(f"error: {type(error).__name__}: {printable_lines(str(error))}", err=True)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has had enough, as `head` does; click turns that into its only
        # SystemExit here. Python flushes once more at exit, which must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        if not place and _current_folder_is_gone():
            place = ": the current folder is gone"  # `getcwd` names no file
        click.echo(f"error: {error.strerror or error}{place}", err=True)
        return EXIT_FAILED
    return done if isinstance(done, int) else 0


def _current_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _make_streams_usable() -> None:
    """Output that somebody closed goes nowhere, and no character is an error: names and data may
    hold any, whatever the locale says (UTF-8 where it says ASCII, as click has it)."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            ascii_only = lookup(stream.encoding).name == "ascii"
            encoding = "utf-8" if ascii_only else stream.encoding
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
