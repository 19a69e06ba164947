"""`sana data`: builders of data sets, their captions, and caches of what models make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sanakit.cli.data import annotate, cache
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar


def commands() -> typer.Typer:
    """Return the group `sana data`."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback()(_group)
    group.command()(pocket)
    group.command()(pocket_clips)
    group.command()(pocket_worlds)
    group.command()(annotate.caption)
    group.command()(annotate.score)
    group.command()(cache.cache)
    return group


def pocket(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A new folder, 1.4 GB; FOLDER-more takes 0.4 GB."),
    ],
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="FOLDER-packages", help="Folder for downloaded packages, 42 MB."
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build the data set of pocket, and beside it, as FOLDER-more, one of two further designs.

    Captioned emoji of 256 px, MIT and Apache-2.0 art only. Needs npm and the extra train.
    """
    from sanakit.pocket.data.dataset import build_pocket, more_of, packages_of
    from sanakit.pocket.data.more_art import build_more

    with progress_bar() as show:
        built = build_pocket(folder, cache=cache, progress=show)
        more = build_more(more_of(folder), cache=cache or packages_of(folder), progress=show)
    if as_json:
        further = {"folder": more_of(folder), "images": len(more.rows), "sources": more.sources}
        print_json(
            {"folder": folder, "images": len(built.rows), "sources": built.sources, "further": further}
        )
    else:
        print(f"{folder}  {len(built.rows):,} images")
        print(f"{more_of(folder)}  {len(more.rows):,} images of two further designs")


def pocket_clips(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, 1.6 GB; 3.7 GB at 96 px.")],
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the frames in pixels: 64 or 96.")] = 64,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="FOLDER-packages", help="Folder for downloaded packages, 0.7 GB."
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Build the data set of pocket-video: 1,976 captioned, looping clips of animated emoji.

    MIT art only. Needs npm.
    """
    from sanakit.pocket.data.clips.dataset import build_clips

    with progress_bar() as show:
        built = build_clips(folder, side=size, cache=cache, progress=show)
    if as_json:
        print_json({"folder": folder, "clips": len(built.rows), "sources": built.sources})
    else:
        print(f"{folder}  {len(built.rows):,} clips, {len(built.frames):,} frames of {built.side} px")


def pocket_worlds(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, 0.9 GB; 2 GB at 96 px.")],
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the frames in pixels: 64 or 96.")] = 64,
    scenes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rooms, each seen along about four paths.")
    ] = 480,
    frames: Annotated[int, typer.Option(metavar="N", min=2, help="Frames of a clip.")] = 37,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of rooms, things and paths.")] = 0,
    made: Annotated[bool, typer.Option("--made", help="Made furniture alone: no package is needed.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default="FOLDER-packages", help="Folder for the package of furniture, 120 MB."
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Render the data set of pocket-world: clips along camera paths through made rooms, with exact poses.

    CC0 furniture of Debian's sweethome3d-furniture, fetched by apt-get. Rendered on the CPU.
    """
    from sanakit.pocket.data.worlds.dataset import build_worlds

    with progress_bar() as show:
        built = build_worlds(
            folder,
            side=size,
            scenes=scenes,
            length=frames,
            seed=seed,
            made=made,
            cache=cache,
            progress=show,
        )
    if as_json:
        print_json({"folder": folder, "clips": len(built.rows), "sources": built.sources})
    else:
        print(f"{folder}  {len(built.rows):,} clips of {built.length} frames of {built.side} px")


def _group() -> None:
    """Build, caption, score and cache data sets to train on."""
