"""The ``eyebright`` command: its parts, and how errors end it.

Owns the list of commands, and the one place where an exception becomes a line on standard error and an exit code: 1 for
what went wrong, 2 for a wrong use of the command, 130 for Ctrl-C.
"""

import signal
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import typer
from eyebright_client import EyebrightError, Unavailable
from rich.text import Text

from eyebright_cli import index, records, search, serve, snapshots, token, tune
from eyebright_cli.demo import command as demo
from eyebright_cli.doctor import command as doctor
from eyebright_cli.errors import CliError
from eyebright_cli.evaluate import command as evaluate
from eyebright_cli.presentation import make_console


@dataclass(slots=True)
class _Switches:
    debug: bool = False


_switches = _Switches()

app = typer.Typer(
    name="eyebright",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eyebright {version('eyebright')}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", envvar="EYEBRIGHT_DEBUG", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Find pictures by words or by other pictures.

    Start with `eyebright demo`, or for pictures of your own with `eyebright serve` in one terminal, and then
    `eyebright index FOLDER` and `eyebright search "a red heart"` in another.
    """
    _switches.debug = debug


app.command("demo", epilog=demo.EXAMPLES)(demo.demo)
app.command("serve", epilog=serve.EXAMPLES)(serve.serve)
app.command("index", epilog=index.EXAMPLES)(index.index_pictures)
app.command("search", epilog=search.SEARCH_EXAMPLES)(search.search)
app.command("like", epilog=search.LIKE_EXAMPLES)(search.like)
app.command("delete", epilog=records.DELETE_EXAMPLES)(records.delete)
app.command("stats", epilog=records.STATS_EXAMPLES)(records.stats)
app.command("tune", epilog=tune.EXAMPLES)(tune.tune)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(snapshots.app, name="snapshot")
app.add_typer(token.app, name="token")


def main() -> None:
    """Entry point of the ``eyebright`` command."""
    _end_on_signals()
    try:
        app()
    except Exception as error:
        if _switches.debug:
            raise
        make_console(stderr=True).print(Text(f"eyebright: {_message(error)}", "red"), soft_wrap=True)
        sys.exit(1)


def _message(error: Exception) -> str:
    """What the person should read."""
    match error:
        case Unavailable():
            return f"{error}; start it with `eyebright serve`, or say where it is with --embedder and --index"
        case CliError() | EyebrightError() | OSError():
            return str(error)
        case _:
            return f"unexpected {type(error).__name__}: {error}; `eyebright --debug ...` shows where"


def _end_on_signals() -> None:
    """SIGTERM and SIGHUP end a command like Ctrl-C does, so that children are stopped; nohup's choice is respected."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
