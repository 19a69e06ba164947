"""`sana data cache`: latents and text features of a data set, made once, for training to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar, size_in_bytes

NAMED = 20  # images and files that are not used, and cut captions, of each kind; --json has all


def cache(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder of images, WebDataset shards, or a dataset."),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DST", help="Cache folder: a new one, or one to continue.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="The model to train; its encoders are used.")
    ] = "pocket",
    resolution: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="the model's", help="Side of a square image in pixels."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Also cache text features; 1.4 MB for 300 Gemma tokens.")
    ] = False,
    square: Annotated[bool, typer.Option("--square", help="Crop all images to squares.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto picks the best.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Compute dtype: auto, float32, bfloat16.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Encode the images of a data set once.

    Training on DST then reads latents instead of encoding images at every step, with the same batches. The
    same command goes on where it was stopped. A cache belongs to the encoders of MODEL: training checks them.
    """
    from sanakit.data.cache.build import build_cache, plan_cache

    with progress_bar() as show:
        show("opening", 0, 0)
        plan = plan_cache(source, folder, model, resolution, text=text, square=square, progress=show)
        print(_announce(plan), file=sys.stderr)
        built = build_cache(plan, device=device, dtype=dtype, batch=batch, progress=show)
    if as_json:
        print_json(built)
        return
    unused = (built.broken, built.left_out, built.ignored)
    for named in (*([f"{key}: {reason}" for key, reason in kind.items()] for kind in unused), built.cut):
        for line in named[:NAMED]:
            print(f"Warning: {line}", file=sys.stderr)
        if len(named) > NAMED:
            print(f"Warning: and {len(named) - NAMED:,} more: --json lists them", file=sys.stderr)
    parts = [f"{built.pictures:,} images", size_in_bytes(built.size), f"{built.shards:,} shards"]
    parts += [f"{built.kept:,} were before"] if built.kept else []
    parts += [f"{len(built.broken):,} broken"] if built.broken else []
    parts += [f"{len(built.left_out):,} too small or narrow"] if built.left_out else []
    parts += [f"{len(built.ignored):,} not used besides images"] if built.ignored else []
    print(f"{built.folder}  {', '.join(parts)}")


def _announce(plan: Any) -> str:
    """Return a line about the files that are about to be written."""
    about = plan.about
    said = (
        f"{len(plan.buckets):,} of {about.pictures:,} images at {about.resolution} px in "
        f"{len(about.sizes)} sizes: latents {size_in_bytes(plan.latent_bytes)}"
    )
    if plan.text_bytes:
        said += (
            f", text features about {size_in_bytes(plan.text_bytes)} ({plan.captions:,} captions of "
            f"{plan.tokens:.0f} tokens, {about.text_width} wide)"
        )
    return f"{said}; {size_in_bytes(plan.free_bytes)} free."
