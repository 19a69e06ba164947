"""`sana evaluate`: the figures that a model card quotes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar

SHARES = {  # figures of the report: their beginning -> what was looked up
    "": "things the model drew",
    "styled_": "the same in a named style",
    "ceiling_": "real pictures, other designs",
    "ceiling_other_artist_": "real pictures, another artist",
    "floor_": "random pictures",
}


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="pocket, or a folder trained by its recipe.")],
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure what a model can draw.

    The autoencoder's fidelity, and how many of 200 common things are recognised. Needs the extra eval.
    """
    from sanakit.eval.run import evaluate_pocket

    with progress_bar() as show:
        report = evaluate_pocket(model, progress=show)
    if as_json:
        print_json(report)
        return
    figures = asdict(report)
    print("{model}: {steps} steps, guidance {guidance:g}, seeds from {seed}".format(**figures))
    print(
        "autoencoder: PSNR {autoencoder_psnr:.2f} dB, SSIM {autoencoder_ssim:.3f} "
        "on {held_out_pictures} held-out pictures".format(**figures)
    )
    print("recognised, of {prompts} common things:".format(**figures))
    for name, what in SHARES.items():
        print(f"  {what:<32}top-1 {figures[f'{name}top1']:6.1%}  top-5 {figures[f'{name}top5']:6.1%}")
    print("{seconds_per_picture:.2f} s a picture".format(**figures))
