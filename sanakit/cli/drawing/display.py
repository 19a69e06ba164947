"""How far a drawing is, shown in the terminal: a bar, and above it the image so far where that is wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import Console
    from rich.segment import Segments

    from sanakit.pipelines.result import Step
    from sanakit.pipelines.video.in_chunks import ClipChunk
    from sanakit.pipelines.video.result import ClipStep

PREVIEW_COLUMNS = 64  # of the terminal, at most
SIGNS = "@#*+=-:. "  # from dark to light, on a light ground


@contextmanager
def display(
    preview: bool, first: str = "loading the model"
) -> Iterator[Callable[[Step | ClipStep | ClipChunk], None]]:
    """Yield the function that shows a step: a bar on standard error, above it the image so far if wanted.

    first: what is done before the first step. Where standard error is not a terminal, nothing is shown and
    rich is not imported.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console)
    task = bar.add_task(first, total=None, done="", pace="")
    last = time.monotonic()

    with Live(bar, console=console, transient=not preview) as live:

        def show(step: Step | ClipStep | ClipChunk) -> None:
            nonlocal last
            last, since = time.monotonic(), last
            # the first one waited for the model
            pace = f"{last - since:.2f} s/step" if step.index > 1 else ""
            done = f"{step.index}/{step.total}"
            bar.update(
                task, description="drawing", completed=step.index, total=step.total, done=done, pace=pace
            )
            if preview:
                live.update(Group(half_blocks(_so_far(step), console), bar), refresh=True)

        yield show


def show_image(picture: Image) -> None:
    """Show an image on standard error, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return
    from rich.console import Console

    console = Console(stderr=True)
    console.print(half_blocks(picture, console), end="")


def _so_far(step: Step | ClipStep | ClipChunk) -> Image:
    """Return what a step shows: the image itself where it is finished, else a preview."""
    images = getattr(getattr(step, "result", None), "images", None)  # clips have none
    return images[0] if isinstance(images, list) and images else step.preview()


def half_blocks(picture: Image, console: Console) -> Segments:
    """Draw an image, two pixels to a character, as large and in as many colours as the terminal has.

    A terminal without colours gets one sign for two pixels, the denser the darker.
    """
    from rich.color import Color
    from rich.segment import Segment, Segments
    from rich.style import Style

    lines = max(1, console.height - 3)  # less the bar and the line of the cursor
    columns = min(console.width, PREVIEW_COLUMNS, lines * 2 * picture.width // picture.height)
    rows = min(lines, columns * picture.height // picture.width // 2)
    columns, rows = max(1, columns), max(1, rows)
    if console.no_color or console.color_system is None:
        return _signs(picture.convert("L").resize((columns, rows)))
    pixels = picture.convert("RGB").resize((columns, rows * 2)).tobytes()

    def colour(row: int, column: int) -> Color:
        start = 3 * (row * columns + column)
        return Color.from_rgb(*pixels[start : start + 3])

    segments = []
    for row in range(0, 2 * rows, 2):
        for column in range(columns):
            style = Style(color=colour(row, column), bgcolor=colour(row + 1, column))
            segments.append(Segment("▀", style))
        segments.append(Segment.line())
    return Segments(segments)


def _signs(grey: Image) -> Segments:
    """Return a grey image, a sign to a pixel."""
    from rich.segment import Segment, Segments

    levels = grey.tobytes()
    lines = (levels[start : start + grey.width] for start in range(0, len(levels), grey.width))
    segments = []
    for line in lines:
        segments.append(Segment("".join(SIGNS[level * len(SIGNS) // 256] for level in line)))
        segments.append(Segment.line())
    return Segments(segments)
