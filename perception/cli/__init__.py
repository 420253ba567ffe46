"""The `perception` command. Each subcommand is thin: one plain function elsewhere does the work."""

from __future__ import annotations

import importlib
import logging
import sys

import typer

from perception import __version__
from perception.errors import PerceptionError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Camera frames in, road, lane and pedestrian masks with stable ids out, at frame rate, over ZeroMQ.",
    epilog="Start with [bold]perception replay[/bold]; in a second shell [bold]perception watch front/road[/bold].",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on stderr."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Run a command; what a user can mend is one line on stderr and exit code 2."""
    for room in (
        "play",
        "replay",
        "view",
        "foxglove",
        "record",
        "prompt",
        "compare",
        "test",
        "inspect",
        "build",
        "train",
        "evaluate",
        "export",
        "memory",
        "drive",
        "drive_tools",
        "pictures",
    ):  # importing one registers its commands, in the order of --help
        importlib.import_module(f"perception.cli.{room}")

    try:
        app(prog_name="perception")
    except PerceptionError as error:
        print(f"perception: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `perception ... | head` has read enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a path that can't be read or written; anything else is a bug and shows its traceback
        if error.filename is None:
            raise
        print(f"perception: {error.filename}: {(error.strerror or '').lower()}", file=sys.stderr)
        sys.exit(2)
