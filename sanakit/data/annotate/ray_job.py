"""Captioning and scoring on several processes, on this machine or a cluster, with Ray Data.

Each process opens the data set and has the model; only indices and captions travel between processes, no
images. So the data set has to lie at the same place on all machines, on shared storage. This process, which
asked for the work, writes the sidecar: its content is that of `annotate.run_here`, in another order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from functools import cached_property
from typing import Any

from sanakit.data.annotate.job import AnnotationJob, Outcome, Waiting, annotate_batch
from sanakit.data.annotate.shown import read_sample
from sanakit.data.medium import IMAGES, Medium
from sanakit.data.read.captions import Caption
from sanakit.data.read.open import open_source
from sanakit.errors import DataError, MissingExtraError, SanaError, SettingsError
from sanakit.pipelines.batch_ray import workers_on


def annotate_on_cluster(
    job: AnnotationJob,
    images: Sequence[Waiting],
    *,
    place: str,
    workers: int,
    batch_size: int = 8,
    device: str = "auto",
    medium: Medium = IMAGES,
    frame_rate: Fraction | None = None,
    frames: int = 1,
) -> Iterator[Outcome]:
    """Do a job on several processes, giving each image's outcome when it comes, in any order.

    place, medium, frame_rate: of the data set, as for `open_source`.   workers: processes, each with the
    model, and with one GPU, or its share of the CPU cores.   batch_size: images the model gets at once.
    device: the job's model is loaded for; "cpu" asks Ray for no GPU.   frames: of a clip that it is shown.
    Ray is used as it was started, found by the variable RAY_ADDRESS, or begun here and ended afterwards.
    Raises MissingExtraError without the extra [cluster], SettingsError for more workers than GPUs or cores.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "cluster") from None
    for number, what in ((workers, "workers"), (batch_size, "images in a batch"), (frames, "frames")):
        if number < 1:
            raise SettingsError(f"{number} {what} is too few: use at least 1.")
    with workers_on(device, workers) as needs:
        rows = [{"picture": json.dumps(asdict(one))} for one in images]
        # Blocks of one batch come back as soon as they are done, but a million blocks would cost more than
        # the images: with many there are up to 64 batches in one.
        blocks = max(1, min(len(rows) // batch_size, max(1000, len(rows) // (64 * batch_size))))
        table = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            _Worker,
            fn_constructor_args=(place, job, medium, frame_rate, frames),
            compute=ray.data.ActorPoolStrategy(size=workers),
            batch_size=batch_size,
            **needs,
        )
        for row in table.iter_rows():
            if row["error"]:
                raise SanaError(row["error"])
            captions = tuple(Caption(**one) for one in json.loads(row["captions"]))
            yield Outcome(key=row["key"], captions=captions, broken=row["broken"])


class _Worker:
    """One process's data set and model, opened for its first batch and kept; Ray calls it for each batch."""

    def __init__(
        self, place: str, job: AnnotationJob, medium: Medium, frame_rate: Fraction | None, frames: int
    ) -> None:
        self.place, self.job = place, job
        self.medium, self.frame_rate, self.frames = medium, frame_rate, frames

    @cached_property
    def source(self) -> Any:
        return open_source(self.place, self.medium, frame_rate=self.frame_rate)

    @cached_property
    def model(self) -> Any:
        return self.job.load()

    def __call__(self, rows: dict[str, Any]) -> dict[str, list]:
        """Do the job on a batch; a mistake of the user's comes back as a sentence."""
        try:
            batch = [_waiting(json.loads(str(text))) for text in rows["picture"]]
            for one in batch:
                if one.index >= len(self.source) or self.source.key(one.index) != one.key:
                    raise DataError(
                        f"{self.place} holds other {self.medium.plural} on another machine: number "
                        f"{one.index} is not {one.key} there. Put the data set on storage that all machines "
                        "share."
                    )
            apart = self.job.apart
            opened = [read_sample(self.source, one.index, self.frames, apart=apart) for one in batch]
            outcomes = annotate_batch(self.job, self.model, batch, opened)
        except SanaError as error:
            return {"key": [""], "captions": ["[]"], "broken": [""], "error": [str(error)]}
        return {
            "key": [one.key for one in outcomes],
            "captions": [json.dumps([asdict(caption) for caption in one.captions]) for one in outcomes],
            "broken": [one.broken for one in outcomes],
            "error": [""] * len(outcomes),
        }


def _waiting(row: dict[str, Any]) -> Waiting:
    captions = tuple(Caption(**one) for one in row["captions"])
    return Waiting(index=row["index"], key=row["key"], captions=captions)
