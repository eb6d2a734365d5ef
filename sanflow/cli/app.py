"""The command line itself: its global options, and how every failure becomes one message.

Ctrl-C anywhere ends with exit code 130. A `SanflowError` ends with its own exit code; a missing
package with the command that installs it; anything unexpected with one line and the way to its
traceback. Nothing a user can cause prints a traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
import typer.core

from .. import __version__
from ..errors import InputError, SanflowError

INTERRUPTED = 130

# What `import` calls a package, and the extra of ours that brings it.
_EXTRAS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ray": "ray",
    "tensorrt": "tensorrt",
    "filelock": "cuda",
    **dict.fromkeys(
        ("jinja2", "matplotlib", "onnx", "safetensors", "scipy", "sklearn", "tensorboard"), "train"
    ),
    **dict.fromkeys(("tomli", "torch", "torchvision"), "train"),
}


class Commands(typer.core.TyperGroup):
    """The group of all commands: the one place where an exception becomes an exit code."""

    def __init__(self, **given: Any) -> None:
        """Join the lines of each docstring's paragraphs: a terminal may be narrower than code."""
        super().__init__(**given)
        for command in self.commands.values():
            paragraphs = (command.help or "").split("\n\n")
            command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for; leave with a message and a code if it fails."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _stop("interrupted", INTERRUPTED) from None
        except (SanflowError, ModuleNotFoundError, OSError) as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            raise _stop(*_explain(error)) from None
        except Exception as error:
            # typer's own ways to end a command carry an exit code, except Abort.
            if ctx.params["debug"] or isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise
            text = f"unexpected {type(error).__name__}: {error}"
            again = "for the traceback: sanflow --debug " + " ".join(sys.argv[1:])
            raise _stop(f"{text}\n{again}", 1) from None


def _explain(error: SanflowError | ModuleNotFoundError | OSError) -> tuple[str, int]:
    if isinstance(error, SanflowError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            command = f'pip install "sanflow[{_EXTRAS[package]}]"'
            return f"this command needs {package}, which is not installed: {command}", 1
        return str(error), 1
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}", InputError.exit_code


def _stop(message: str, code: int) -> typer.Exit:
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {message}", err=True)
    return typer.Exit(code)


app = typer.Typer(
    name="sanflow",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sanflow {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the Python traceback of an error.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """From photographs of good parts to a verified engine that judges every part on a line.

    Exit codes:

    0  done
    1  unexpected, or a package is missing
    2  input or configuration
    3  done, but at least one image or part got no decision (infer, run)
    4  bundle refused
    5  engine missing or failed
    6  parity: an engine does not give PyTorch's verdicts
    7  the false-alarm bound cannot be given
    8  a camera or another source is missing
    9  an output cannot be opened, or results were never written
    130  interrupted
    """


def main() -> None:
    """The entry point `sanflow`."""
    app(prog_name="sanflow")
