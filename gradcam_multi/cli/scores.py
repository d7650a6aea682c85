"""What commands share about the score that is explained: --score, --versus, --model-output."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gradcam_multi.cli.main import class_or_name
from gradcam_multi.targets import (
    Binary,
    ClassDifference,
    ClassScore,
    LogProbability,
    Probability,
    RegionScore,
    Regression,
)

Command = TypeVar("Command", bound=Callable[..., Any])
ClassName = int | str | None

SCORES: dict[str, Callable[[ClassName], Any]] = {
    "logit": ClassScore,
    "probability": Probability,
    "log-probability": LogProbability,
    "region": RegionScore,
    "positive": lambda _: Binary(),
    "negative": lambda _: Binary(positive=False),
    "up": lambda _: Regression(),
    "down": lambda _: Regression(-1),
}
"""What --score names; each makes a target of a class, or of none."""

CLASSLESS = ("positive", "negative", "up", "down")

output_option = click.option(
    "--model-output",
    metavar="NAME",
    help="Output of MODEL to explain, where it has several.",
)


def score_options(command: Command) -> Command:
    """Add --score and --versus to a command that explains a target."""
    for option in (
        click.option(
            "--versus",
            callback=class_or_name,
            metavar="N|NAME",
            help="Explain the class against this one: why not that?",
        ),
        click.option(
            "--score",
            type=click.Choice(list(SCORES)),
            default="logit",
            show_default=True,
            help="What is explained of the class: region is a segmentation's predicted one; "
            "positive and negative are for yes-or-no models, up and down for a value.",
        ),
    ):
        command = option(command)
    return command


def asked_target(target: ClassName, score: str, versus: ClassName) -> Any:
    """Return the target that the options describe; raise UsageError where two clash."""
    if versus is not None:
        if score != "logit":
            raise click.UsageError(f"--versus and --score {score} exclude each other: give one")
        return ClassDifference(target, versus)
    if score in CLASSLESS and target is not None:
        raise click.UsageError(f"--score {score} is about no class: leave out --target")
    return SCORES[score](target)
