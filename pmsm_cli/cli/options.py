"""Options that several commands share, each with one spelling, one default and one help text."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from pmsm_cli.calibration.method import Method
from pmsm_cli.errors import UsageError

# Typer would refuse unreadable paths by itself, as wrong usage and in its own words; our errors say more.
path_argument = functools.partial(typer.Argument, readable=False)
path_option = functools.partial(typer.Option, readable=False)

DEFAULT_PROFILE = "45nm"
AUTO = "auto"
MOST_LEVELS = 65535
DEFAULT_SAMPLES = 512  # that thresholds are chosen on


def parse_levels(text: str) -> str:
    """`auto`, or a number of levels, as it was written.

    Raises:
        BadParameter: it is neither.
    """
    if text != AUTO and not (text.isdecimal() and 1 <= int(text) <= MOST_LEVELS):
        raise typer.BadParameter(f"{text!r} is neither {AUTO} nor a number from 1 to {MOST_LEVELS}")
    return text


def check_samples(samples: int | None, data: Path | None) -> None:
    """Refuse to draw images where there are none to draw from.

    Raises:
        UsageError: a number is stated, and there are no images.
    """
    if samples is not None and data is None:
        raise UsageError(
            f"--samples {samples} draws from --data, which is not given", hint="pass --data IMAGES as well"
        )


def refits(refit: bool | None, data: Path | None) -> bool:
    """Whether weights are refitted where there are images; unless stated otherwise they are.

    Raises:
        UsageError: it is asked for, and there are no images.
    """
    if refit and data is None:
        raise UsageError("--refit needs images to refit weights on", hint="pass --data IMAGES as well")
    return refit is None or refit


def preset_file(preprocess: str | None) -> Path | None:
    """The file that `--preprocess` names; None: it names a preset, or nothing."""
    return Path(preprocess) if preprocess and preprocess.endswith(".json") else None


def levels_number(text: str | None) -> int | None:
    """How many levels are asked for; None: they are to be found."""
    return None if text in (None, AUTO) else int(text)


Source = Annotated[
    Path,
    path_argument(metavar="SOURCE", help="The network: an .onnx file, or timm:NAME.", show_default=False),
]
WeightsFile = Annotated[
    Path | None,
    path_option(
        metavar="FILE",
        help="Weights of a timm model: .safetensors, .pth or .pt.  [default: its pretrained ones, from the network]",
        show_default=False,
    ),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Random weights for a timm model, by --seed: for a dry run.")
]
CheckpointFile = Annotated[
    Path, path_argument(metavar="CHECKPOINT", help="A spiking network made by `pmsm convert`.", show_default=False)
]
DataPath = Annotated[
    Path,
    path_argument(
        metavar="PATH",
        help="A folder of images (class sub-folders give labels), or an .npy or .npz file (x, optional y).",
        show_default=False,
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET",
        help="imagenet, inception, cifar10, none, timm:NAME, or a JSON file.  [default: a timm model's own; else "
        "imagenet, none for grey networks]",
        show_default=False,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="PIXELS", help="For networks that leave the size of their input open, and timm models."
    ),
]
SpikingInput = Annotated[
    bool, typer.Option("--spiking-input", help="Turn the image itself into spikes, so that no layer reads it directly.")
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        metavar="N",
        help=f"How many images to draw for calibration; --levels auto measures on more.  [default: {DEFAULT_SAMPLES}]",
        show_default=False,
    ),
]
SomeSamples = Annotated[
    int | None, typer.Option("--samples", min=1, metavar="N", help="How many images to draw.  [default: all]")
]
Levels = Annotated[
    str | None,
    typer.Option(
        parser=parse_levels,
        metavar="auto|N",
        help="Most spikes of one sign per neuron and step; auto: as few spikes as keep the accuracy.  [default: auto]",
        show_default=False,
    ),
]
TargetDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="PCT",
        help="Points of top-1 (agreement, without labels) that --levels auto may cost; exit with code 5 where that "
        "cannot be kept.  [default: 0.5, kept as well as can be]",
        show_default=False,
    ),
]
ThresholdMethod = Annotated[
    Method, typer.Option("--method", help="What thresholds are chosen by; docs/calibration.md compares them.")
]
MatchMoments = Annotated[
    bool,
    typer.Option(
        "--match-moments/--no-match-moments",
        help="Give each layer's channels the source's mean and deviation back, after the neurons are in.",
    ),
]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        help="Refit each layer's weights on --data to what its spikes carry (least squares).  [default: refit]",
        show_default=False,
    ),
]
Profile = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Energy constants: 45nm, 45nm-memory, loihi2, or a TOML or JSON file.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed for drawing images, and of random weights.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, metavar="N", help="Threads to compute with.  [default: one a core]")
]
AGAINST_HELP = "The source network, to compare with."
Against = Annotated[Path | None, path_option(metavar="SOURCE", help=AGAINST_HELP, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
