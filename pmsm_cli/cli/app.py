"""The Typer app, and the one boundary that turns errors into messages and exit codes."""

import errno
import os
import sys
import warnings
from io import TextIOWrapper

import typer

from pmsm_cli import __version__
from pmsm_cli.cli import commands, comparing, console, converting, diffing, racing, running, tuning
from pmsm_cli.errors import PmsmError, SetupError, UsageError
from pmsm_cli.runtime.library import unusable_library

INTERRUPTED = 130
_HELP = """Turn pretrained image networks into spiking networks that work at the first timestep.

pmsm convert resnet.onnx --data images/ --timesteps 1
"""

app = typer.Typer(
    name="pmsm",
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(converting.convert)
app.command()(converting.calibrate)
app.command()(commands.inspect)
app.command("eval")(commands.evaluate)
app.command()(running.run)
app.command()(commands.report)
app.command()(comparing.compare)
app.command()(diffing.diff)
app.command()(tuning.finetune)
app.command()(racing.bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"pmsm {__version__}\n")
        raise typer.Exit


@app.callback()
def _pmsm(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass


# The parser's own errors have no public name under every release of Typer; all are bases of this public one.
_ParserError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main() -> None:
    """Run the command line and leave with its exit code."""
    for closed in [name for name in ("stdout", "stderr") if getattr(sys, name) is None]:  # as `pmsm ... >&-` has it
        setattr(sys, closed, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be valid in any encoding
    # Pillow warns of odd files without naming them; those that cannot be read are skipped by name.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors that are not the user's keep their traceback."""
    try:
        return _run(arguments)
    finally:
        if library := unusable_library():
            console.warn(f"the native library is left aside, which takes longer: {library.path}: {library.reason}")


def _run(arguments: list[str]) -> int:
    try:
        if "" in arguments:  # a path of that name would be the folder that one is in
            raise UsageError("an argument is empty", hint="is a variable of the shell not set?")
        code = app(arguments, prog_name="pmsm", standalone_mode=False)
    except PmsmError as error:
        console.print_error(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError:
        console.print_error(
            "there is not enough memory\nhint: fewer --samples do not help; smaller images or a smaller network do"
        )
        return 4
    except _ParserError as error:
        return _usage_error(error)
    except OSError as error:
        # What files and results meet is in our words by now; what help and temporary files meet is not.
        if error.errno != errno.ENOSPC:
            raise
        console.drop_what_is_left()
        console.print_error("there is no room left on a disk: that of the standard output, or of temporary files")
        return SetupError.exit_code
    if code == INTERRUPTED:  # some releases of Typer raise, others return it
        console.print_error("interrupted; nothing was written")
    return code if isinstance(code, int) else 0


def _usage_error(error: BaseException) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        if message:  # empty where Typer has printed the help by now
            console.print_text(message + "\n")
        return 2
    path = context.command_path if context is not None else "pmsm"
    console.print_error(f"{message}\nhint: {path} --help")
    return 2
