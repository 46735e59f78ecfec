"""The command `dfml`: one file per subcommand, which parses its arguments, calls the library and prints.

All subcommands are imported whenever `dfml` starts; a subcommand imports torch and the library when it runs.
"""

from __future__ import annotations

import warnings
from typing import Annotated

import typer

from dfml.cli import adapt, benchmark, evaluate, export, invert, playground, predict, quickstart, train, zoo
from dfml.cli.error_handling import Subcommands, show_warning

app = typer.Typer(
    cls=Subcommands,
    help="Turn a zoo of pre-trained image classifiers into a few-shot learner, without their training data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # of typer: with rich, --help takes twice as long
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(quickstart.quickstart)
app.add_typer(zoo.app, name="zoo")
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(adapt.adapt)
app.command()(predict.predict)
app.command()(playground.playground)
app.command()(export.export)
app.command()(invert.invert)
app.command()(benchmark.benchmark)


def _print_version(requested: bool) -> bool:
    if requested:
        from dfml import __version__

        typer.echo(f"dfml {__version__}")
        raise typer.Exit
    return requested


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done; 1 the work failed; 2 wrong usage; 130 or 143 interrupted by SIGINT or SIGTERM.
    """
    warnings.showwarning = show_warning
    app(prog_name="dfml")
