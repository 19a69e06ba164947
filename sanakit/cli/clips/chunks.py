"""Clips of causal models in `sana video`: each chunk's frames go into the file as soon as they are drawn.

Memory does not grow with a clip. A file appears, or is replaced, when its clip is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sanakit.pipelines.video.in_chunks import ClipChunk
    from sanakit.pipelines.video.request import ClipRequest


def write_chunks(
    chunks: Iterator[ClipChunk],
    request: ClipRequest,
    paths: Sequence[Path],
    show: Callable[[Any], None],
) -> tuple[dict[str, float], list[str]]:
    """Write the clips of a request to the paths, one after another; return timings and warnings.

    show: is told of each chunk. Raises as `writing` and the drawing do.
    """
    from sanakit.clips.writing import writing

    height, width = request.sampling.size
    started, told = perf_counter(), list[str]()
    for (clip, own), path in zip(groupby(chunks, lambda chunk: chunk.clip), paths, strict=True):
        settings = request.metadata[clip]
        with writing(path, width=width, height=height, rate=request.rate, settings=settings) as writer:
            for warnings in _added(own, writer.add, show):
                told += [note for note in warnings if note not in told]
        told += [note for note in writer.notes if note not in told]
    return {"chunks": perf_counter() - started}, told


def _added(
    chunks: Iterable[ClipChunk], add: Callable[[Any], None], show: Callable[[Any], None]
) -> Iterator[list[str]]:
    """Add the frames of chunks to a file, and yield each chunk's warnings."""
    for chunk in chunks:
        for frame in chunk.frames:
            add(frame)
        show(chunk)
        yield chunk.warnings
