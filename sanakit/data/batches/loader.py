"""Training batches, read ahead by worker processes; the same for any number of workers and ranks.

The order decides on a batch's images (`order`), a number drawn for (seed, step, image) on their captions;
workers only load them. They are processes, not threads: a file that crashes a decoder does not crash the
training, and the interpreter is free for the step itself. An image that cannot be decoded gets weight 0, and
the report names it.
Samples are images, or clips, of which a window begins anywhere, by a number drawn like that of captions.
Shapes: B the samples of a part, H W its bucket's size; of clips T H W.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sanakit.data.batches.buckets import ENLARGE, Buckets, fill_buckets
from sanakit.data.batches.clip_buckets import ClipSampling, fill_clip_buckets
from sanakit.data.batches.order import Order, repeated
from sanakit.data.batches.prepare import PreparedPart, Preparer, Task
from sanakit.data.medium import CLIPS
from sanakit.data.read.captions import TEMPERATURE, THRESHOLD, Caption, draw_caption
from sanakit.data.read.index import Index
from sanakit.data.read.reasons import lines_of
from sanakit.data.read.source import Source
from sanakit.errors import DataError, SettingsError
from sanakit.images.image import from_levels

AHEAD = 3  # parts that each worker reads ahead
NO_CAPTION = "It has no caption, and is trained on with an empty one."
_LINES = 5  # of each kind in a report's text; its fields name all


class SampleRange(Protocol):
    """A range of samples of a global batch: from start to stop (not included) of total."""

    @property
    def start(self) -> int:
        """Index of the first sample in the global batch."""
        ...

    @property
    def stop(self) -> int:
        """Index after the last sample."""
        ...

    @property
    def total(self) -> int:
        """Size of the global batch."""
        ...


@dataclass(slots=True)
class LoadedBatch:
    """A part of a global batch.

    images: B 3 H W, float32 in [-1, 1]; of clips B 3 T H W.   captions: B, "" where an image has none.
    weights: B, 1, or 0 for empty places and images that turned out broken (their images are grey).   keys: B,
    "" for empty places.   fps: frames a second of clips; None: images.
    """

    images: Tensor
    captions: list[str]
    weights: Tensor
    keys: list[str]
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class LoaderReport:
    """The state of a source's images or clips, by name -> reason."""

    pictures: int  # the key of a run's report.json
    used: int
    broken: dict[str, str]  # found by the scan
    left_out: dict[str, str]  # sound, but too small, too narrow or too short
    failed: dict[str, str]  # found in training, on this rank, since its loader was made
    ignored: dict[str, str]  # no images at all
    uncaptioned: int  # samples given so far whose image has no caption
    empty_share: float  # of the places in batches: buckets do not come in whole batches
    notes: dict[str, str] = field(default_factory=dict)  # what is lost of clips that are trained on
    samples: str = "images"  # or clips

    def __str__(self) -> str:
        """Return the report as sentences; a kind has at most a few lines, one for each reason."""
        groups = (
            ("Cannot be read", self.broken),
            ("Left out at this resolution", self.left_out),
            ("Found to be broken in training", self.failed),
            ("Trained on, with a remark", self.notes),
            (f"Not used, besides {self.samples}", self.ignored),
        )
        lines = [f"{self.used} of {self.pictures} {self.samples} are trained on."]
        for what, named in groups:
            if named:
                lines.append(f"{what} ({len(named)}):")
                told, rest = lines_of(named, _LINES)
                lines += [f"  {line}" for line in told]
                lines += [f"  and {rest} more"] if rest else []
        if self.uncaptioned:
            lines.append(f"{self.uncaptioned} samples had no caption and got an empty one.")
        if self.empty_share > 0.1:
            lines.append(
                f"{self.empty_share:.0%} of the places in batches stay empty: use smaller batches "
                "(--batch-size)."
            )
        return "\n".join(lines)


class Loader:
    """Loads parts of global batches.

    index: of the same source (see `scan`).   resolution, square, multiple, enlarge: see `fill_buckets`; of
    clips, resolution is how they are sampled, and there is neither square nor multiple.
    batch_size: of the global batch, all ranks and micro-batches together.   seed: of order and captions.
    workers: processes; 0 reads in this one. More need the usual `if __name__ == "__main__":` around the
    calling script.   temperature, threshold: of the caption sampler, see `captions`.   repeats: how often
    each image of the source comes in an epoch, whole numbers of at least 1; None: once.   device: where
    batches are put; images go there as bytes, a quarter of their size as float32.
    Use it in a `with` statement, or call `close`. Raises DataError for an index of other images or if no
    image is usable, SettingsError for settings out of range.
    """

    def __init__(
        self,
        source: Source,
        index: Index,
        *,
        resolution: int | ClipSampling,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        square: bool = False,
        multiple: int | None = None,
        enlarge: float = ENLARGE,
        temperature: float = TEMPERATURE,
        threshold: float = THRESHOLD,
        repeats: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        what = source.medium.plural
        if len(index) != len(source):
            raise DataError(
                f"The index covers {len(index)} {what}, but the source has {len(source)}: scan it again."
            )
        if workers < 0:
            raise SettingsError(f"workers = {workers}: give 0 or the number of reading processes.")
        self.source, self.index = source, index
        if isinstance(resolution, ClipSampling) != (source.medium is CLIPS):
            raise SettingsError(
                f"The samples are {what}: give a resolution for images, a sampling for clips."
            )
        self.rate: Fraction | None = None  # frames a second of clips
        if isinstance(resolution, ClipSampling):
            if square or multiple is not None:
                raise SettingsError("square and multiple are settings of images: leave them out.")
            self.rate = resolution.rate
            self.buckets: Buckets = fill_clip_buckets(index, resolution, enlarge)
            resolution = resolution.resolution
        else:
            self.buckets = fill_buckets(
                index, resolution, square=square, multiple=multiple or 32, enlarge=enlarge
            )
        self.workers, self.device = workers, torch.device(device)
        self._failed: dict[str, str] = {}
        self._uncaptioned = 0
        self._bare: dict[str, str] = {}  # clips without captions that were given so far
        self._parts: list[tuple[int, int]] = []
        self._reading: Iterator[PreparedPart] | None = None
        self._next: Iterator[tuple[int, tuple[int, int]]] = iter(())
        self._preparer = Preparer(source, seed, temperature, threshold, self.rate)
        if not len(self.buckets):
            lines = (line.strip() for line in str(self._report(None)).splitlines())
            told = " ".join(line if line.endswith((".", ":")) else f"{line}." for line in lines)
            raise DataError(f"No {source.medium.name} can be trained on at {resolution} px. {told}")
        # made here, so that wrong numbers are told before a worker starts
        draw_caption([Caption("")], 0.0, temperature=temperature, threshold=threshold)
        self.order = Order(repeated(self.buckets.members, repeats), batch_size, seed)

    def begin(self, first: int, parts: Sequence[SampleRange]) -> None:
        """Start reading ahead. first: number of the first global batch. parts: of every batch, that this
        process will ask for, in their order. Raises SettingsError for parts of another batch size."""
        for part in parts:
            self._check(part)
        self._start(first, [(part.start, part.stop) for part in parts])

    def batch(self, step: int, part: SampleRange) -> LoadedBatch:
        """Return a part of global batch `step`.

        It is ready at once if parts are requested in the order given to `begin`; otherwise reading restarts
        there. Raises DataError when a worker was killed.
        """
        self._check(part)
        asked = (step, (part.start, part.stop))
        if not self.workers:
            prepared = self._preparer[self._task(*asked)]
        else:
            if self._reading is None or next(self._next) != asked:
                # Restart at the requested part; read an unknown part alone.
                known = self._parts if asked[1] in self._parts else [asked[1]]
                self._start(step, known, skip=known.index(asked[1]))
                next(self._next)
            prepared = self._receive()
        self._failed.update(prepared.failed)
        self._uncaptioned += len(prepared.uncaptioned)
        if self.rate is not None:
            self._bare |= dict.fromkeys(prepared.uncaptioned, NO_CAPTION)
        return LoadedBatch(
            from_levels(prepared.images.to(self.device)),
            prepared.captions,
            prepared.weights.to(self.device),
            prepared.keys,
            None if self.rate is None else float(self.rate),
        )

    def report(self) -> LoaderReport:
        """Say what became of the source's images so far; print it."""
        return self._report(self.order)

    def close(self) -> None:
        """End the workers. A later call of `batch` starts new ones."""
        self._reading = None  # the last reference: DataLoader's iterator ends its workers when it goes
        self._next = iter(())

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check(self, part: SampleRange) -> None:
        if not 0 <= part.start < part.stop <= part.total == self.order.batch_size:
            raise SettingsError(
                f"Samples {part.start} to {part.stop} of {part.total} were requested, but the global batch "
                f"has {self.order.batch_size}: create the loader with the batch size of all ranks together."
            )

    def _report(self, order: Order | None) -> LoaderReport:
        def named(numbers: dict[int, str]) -> dict[str, str]:
            return {self.source.key(number): reason for number, reason in numbers.items()}

        return LoaderReport(
            pictures=len(self.source),
            used=len(self.buckets),
            broken=named(self.index.broken),
            left_out=named(self.buckets.left_out),
            failed=dict(self._failed),
            ignored=dict(self.source.ignored),
            uncaptioned=self._uncaptioned,
            empty_share=0.0 if order is None else order.empty_share,
            notes=named(self.buckets.notes) | self._bare,
            samples=self.source.medium.plural,
        )

    def _task(self, step: int, span: tuple[int, int]) -> Task:
        batch = self.order.batch(step)
        return Task(step, self.buckets.sizes[batch.bucket], batch.images[slice(*span)])

    def _start(self, first: int, spans: list[tuple[int, int]], skip: int = 0) -> None:
        self.close()
        self._parts = spans
        if not self.workers:
            return

        def calls() -> Iterator[tuple[int, tuple[int, int]]]:
            every = ((step, span) for step in itertools.count(first) for span in spans)
            return itertools.islice(every, skip, None)

        self._next = calls()
        self._reading = iter(
            DataLoader(
                self._preparer,  # pyright: ignore[reportArgumentType] - map-style, keyed by tasks
                sampler=(self._task(*call) for call in calls()),  # pyright: ignore[reportArgumentType]
                batch_size=None,  # a task is a batch already
                num_workers=self.workers,
                prefetch_factor=AHEAD,
                multiprocessing_context=_context(),
                worker_init_fn=_end_with_parent,
                generator=torch.Generator(),  # or it would draw from torch's own, that others count on
            )
        )

    def _receive(self) -> PreparedPart:
        assert self._reading is not None
        try:
            return next(self._reading)
        except (RuntimeError, OSError, EOFError) as error:
            # OSError, EOFError: it died between announcing a batch and handing its memory over
            if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                raise  # our own mistake, made in a worker
            self.close()
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DataError(
                f"A reading process died ({reason}). It was killed, or memory ran out: "
                "main memory, or shared memory (/dev/shm, in Docker --shm-size). Lower WORKERS in the "
                "recipe, then continue with --resume: the order goes on where it stopped."
            ) from error


def _context() -> Any:
    """Return how to start workers: from a clean process, as forking threads or CUDA can deadlock."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # torch is imported once, in the clean process: the second and every later worker starts in milliseconds
    context.set_forkserver_preload(["__main__", __name__])
    return context


def _end_with_parent(worker: int) -> None:
    """Have a worker end when the training was killed: torch watches the clean process, which lives on."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch the training").start()
