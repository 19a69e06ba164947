"""`sana data cache`: latents and text features of a data set, made once, for training to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sanakit.cli.data.unused import warn_unused
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar, size_in_bytes
from sanakit.wording import counted

_LEFT_OUT = {"images": "small or narrow", "clips": "small, narrow or short"}
NAMED = 20  # cut captions that are listed; --json has all


def cache(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder of images or clips, WebDataset shards, or a dataset."
        ),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DST", help="Cache folder: a new one, or one to continue.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="The model to train; its encoders are used. Of a video model: on clips."
        ),
    ] = "pocket",
    resolution: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="the model's", help="Side of a square image in pixels."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Also cache text features; 1.4 MB for 300 Gemma tokens.")
    ] = False,
    square: Annotated[bool, typer.Option("--square", help="Crop all images to squares.")] = False,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WxH",
            show_default="model's",
            help="Of clips: a size to train at; may be repeated.",
        ),
    ] = None,
    frames: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            show_default="model's",
            help="Of clips: a length to train at; may be repeated.",
        ),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(metavar="R", show_default="model's", help="Of clips: frames a second to take."),
    ] = None,
    folder_fps: Annotated[
        str | None,
        typer.Option(metavar="R", show_default=False, help="Frames a second of folders of numbered images."),
    ] = None,
    repeat_short: Annotated[
        bool, typer.Option("--repeat-short", help="Show clips that are too short more than once.")
    ] = False,
    motion: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="model's", help="Motion score behind captions; 0: none."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once; clips are encoded one by one.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto picks the best.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Compute dtype: auto, float32, bfloat16.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Encode the images or clips of a data set once.

    Training on DST then reads latents instead of encoding images at every step, with the same batches. The
    same command goes on where it was stopped. A cache belongs to the encoders of MODEL: training checks them.
    """
    from sanakit.data.cache.build import build_cache, plan_cache

    clips = _clips(size, frames, fps, folder_fps, repeat_short, motion)
    with progress_bar() as show:
        show("opening", 0, 0)
        plan = plan_cache(
            source, folder, model, resolution, text=text, square=square, clips=clips, progress=show
        )
        for note in plan.notes:
            print(f"Note: {note}", file=sys.stderr)
        print(_announce(plan), file=sys.stderr)
        warn_unused(plan.source.ignored)  # before hours of work on what was not meant
        warn_unused(plan.about.notes)
        built = build_cache(plan, device=device, dtype=dtype, batch=batch, progress=show)
    if as_json:
        print_json(built)
        return
    warn_unused(built.broken)
    warn_unused(built.left_out)
    for line in built.cut[:NAMED]:
        print(f"Warning: {line}", file=sys.stderr)
    if len(built.cut) > NAMED:
        print(f"Warning: and {len(built.cut) - NAMED:,} more: --json lists them", file=sys.stderr)
    cached = counted(built.pictures, built.samples.removesuffix("s"))
    parts = [cached, size_in_bytes(built.size), counted(built.shards, "shard")]
    parts += [f"{built.kept:,} were before"] if built.kept else []
    parts += [f"{len(built.broken):,} broken"] if built.broken else []
    parts += [f"{len(built.left_out):,} too {_LEFT_OUT[built.samples]}"] if built.left_out else []
    parts += [f"{len(built.ignored):,} not used besides {built.samples}"] if built.ignored else []
    print(f"{built.folder}  {', '.join(parts)}")


def _clips(
    size: list[str] | None,
    frames: list[int] | None,
    fps: str | None,
    folder_fps: str | None,
    repeat_short: bool,
    motion: int | None,
) -> Any:
    """Return the choices for clips; None where nothing was chosen."""
    from sanakit.data.batches.clip_sampling import ClipOptions
    from sanakit.images.image import parse_size

    options = ClipOptions(
        sizes=tuple((height, width) for width, height in map(parse_size, size or ())),
        lengths=tuple(frames or ()),
        rate=fps,
        repeat=repeat_short,
        frame_rate=folder_fps,
        motion=motion,
    )
    return None if options == ClipOptions() else options


def _lengths(about: Any) -> str:
    return "" if about.clips is None else f", {about.clips}"


def _announce(plan: Any) -> str:
    """Return a line about the files that are about to be written."""
    about = plan.about
    said = (
        f"{len(plan.buckets):,} of {about.pictures:,} {about.samples} at {about.resolution} px in "
        f"{counted(len(about.sizes), 'size')}{_lengths(about)}: latents {size_in_bytes(plan.latent_bytes)}"
    )
    if plan.text_bytes:
        said += (
            f", text features about {size_in_bytes(plan.text_bytes)} ({counted(plan.captions, 'caption')} of "
            f"{plan.tokens:.0f} tokens, {about.text_width} wide)"
        )
    return f"{said}; {size_in_bytes(plan.free_bytes)} free."
