"""``gradcam``: the group of commands, and what all of them do about a user's error."""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from gradcam_multi import __version__
from gradcam_multi.errors import GradcamError

COMMANDS = {
    "audit": "Explain a data set of any size; keep maps and figures, say what is suspicious.",
    "compare": "Show whether models still look at the same place; for CI.",
    "concepts": "Show what a layer sees in pictures, whatever the class.",
    "demo": "Explain two small networks, one of which cheats, and show how to tell.",
    "doctor": "Say what a model is, and whether and how it can be explained.",
    "evaluate": "Measure which method explains a model best.",
    "explain": "Show where a model looks in pictures.",
    "export": "Write a model with its explanation as one ONNX file.",
    "layers": "List a model's layers and mark the one that is explained by default.",
    "live": "Write a page that explains pictures in a browser.",
    "methods": "List the methods, what each needs and what it costs.",
    "report": "Write an audit as one HTML file, to look through.",
}


class Commands(click.Group):
    """A group that imports a command only when it is called, and never shows a traceback for a
    user's error: one line on stderr, exit code 2.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, without importing them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"gradcam_multi.cli.{name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Describe the commands, without importing them."""
        with formatter.section("Commands"):  # from the table: --help imports no command
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn what is the user's error into one line."""
        try:
            return super().invoke(ctx)
        except GradcamError as error:
            fail(str(error))
        except BrokenPipeError:
            # The reader (head, less) has gone; keep the interpreter from complaining at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)


def fail(message: str, code: int = 2) -> None:
    """Say in one line what is wrong, and leave."""
    click.echo(f"gradcam: {' '.join(message.split())}", err=True)
    sys.exit(code)


def make_folder(folder: Path) -> None:
    """Make an output folder where there is none; say so where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot write to {str(folder)!r}: {error.strerror}; give another --output")


def class_or_name(_: Any, __: Any, value: str | None) -> int | str | None:
    """Read --target: a class's index where it is a number, else its name."""
    return int(value) if value is not None and value.lstrip("-").isdigit() else value


def _grid(_: Any, __: Any, value: str | None) -> tuple[int, ...] | None:
    """Read ROWSxCOLUMNS."""
    if value is None:
        return None
    sides = value.lower().split("x")
    if not all(side.isdecimal() and int(side) for side in sides):
        raise click.BadParameter(f"{value!r} is no grid: give it as ROWSxCOLUMNS, such as 14x14")
    return tuple(map(int, sides))


layer_option = click.option(
    "--layer", metavar="NAME", help="Layer to explain.  [default: the final feature map]"
)
method_option = click.option(
    "--method",
    default="gradcam",
    show_default=True,
    metavar="NAME",
    help="CAM method; `gradcam methods` lists them.",
)
labels_option = click.option(
    "--labels", type=click.Path(), metavar="FILE", help="Class names: .txt, .csv or .json."
)
preprocess_option = click.option(
    "--preprocess",
    default="imagenet",
    show_default=True,
    metavar="PRESET|FILE",
    help="imagenet, caffe, tf, unit, or a JSON file.",
)
grid_option = click.option(
    "--grid",
    callback=_grid,
    metavar="RxC",
    help="How a layer's tokens lie over the image, where that is ambiguous, such as 14x14.",
)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradcam")
def main() -> None:
    """Where did the network look? Grad-CAM for ONNX, PyTorch and TensorFlow/Keras."""
