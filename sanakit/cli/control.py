"""Options of control images, for the commands that draw, and their check before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from sanakit.errors import SettingsError

if TYPE_CHECKING:
    from sanakit.pipelines.control import ControlImage

Kind = Literal["as-is", "edges", "soft-edges", "blocks", "mask"]  # as `images.hints.HintKind`

ControlFile = Annotated[
    Path | None,
    typer.Option("--control", metavar="FILE", show_default=False, help="Image that steers a ControlNet."),
]
ControlKind = Annotated[
    Kind | None,
    typer.Option(
        metavar="KIND",
        show_default="the ControlNet's own, or as-is",
        help="edges, soft-edges, blocks, mask: hint to make of the image; as-is: it is one.",
    ),
]
ControlScale = Annotated[
    float, typer.Option(metavar="X", help="How strongly it steers; 0 not at all, 1 as trained.")
]
ControlRange = Annotated[
    tuple[float, float],
    typer.Option(metavar="A B", help="Shares of the steps from which and until which it steers."),
]
ControlModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        show_default="the model's own",
        help="ControlNet: a folder, .pth file or Hub org/repo.",
    ),
]


def control_image(
    file: Path | None,
    kind: Kind | None,
    scale: float,
    span: tuple[float, float],
    *,
    model: str,
    control_model: str | None,
) -> ControlImage | None:
    """Return the control image of a command line, or None without one. Only headers of weights are read.

    kind: None: the kind that the ControlNet says it was trained on, else "as-is".

    Raises SettingsError for options that need another one, or an image that cannot be read.
    """
    if file is None:
        given = {"--control-model": control_model, "--control-kind": kind}
        given |= {"--control-scale": scale != 1, "--control-range": span != (0, 1)}
        if option := next((name for name, value in given.items() if value), None):
            raise SettingsError(f"{option} needs an image to steer by: give it with --control, or omit both.")
        return None
    from sanakit.images.opening import open_image
    from sanakit.pipelines.control import ControlImage
    from sanakit.weights.control import controlnets_of, hint_of

    nets = controlnets_of(model, control_model)
    if not nets:
        raise SettingsError(
            f"{model} has no ControlNet, which --control needs: name one with --control-model, or omit it."
        )
    picture = open_image(file.expanduser(), str(file))
    kind = kind or cast(Kind, hint_of(nets[0]) or "as-is")
    return ControlImage(picture, kind=kind, scale=scale, start=span[0], end=span[1])
