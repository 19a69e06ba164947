"""Run a captioner or a scorer over a data set; an interrupted run resumes where it stopped.

1 waiting: the images whose work is not in the sidecar    2 annotate_batch: read, decode, ask the model
3 annotate: every answer into the sidecar as it comes       4 AnnotationReport: the counts, and the failures

A job defines the work (Captioning, Scoring) and loads its model. `run_here` runs it in this process,
`annotate_on_cluster` of `data/annotate/ray_job.py` in many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from PIL import Image

from sanakit.data.annotate.captioner import Captioner
from sanakit.data.annotate.shown import read_sample
from sanakit.data.read.captions import Caption
from sanakit.data.read.sidecar import Known, SidecarWriter, merged, read_sidecar
from sanakit.errors import DataError, SettingsError

if TYPE_CHECKING:
    from sanakit.data.annotate.scoring import Scorer
    from sanakit.data.read.source import Source

OnProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is)."""
READERS = 4  # threads that read and decode the next batch while the model works


class AnnotationJob(Protocol):
    """Work per sample.

    name: of the model.   verb: for progress.   load: the model, on demand.   apart: whether the model sees
    the frames of a clip one by one, not in one image.
    """

    name: str
    verb: str
    load: Callable[[], Any]
    apart: ClassVar[bool]

    def wants(self, captions: tuple[Caption, ...], known: Known) -> bool:
        """Return whether an image with these captions and this sidecar entry still needs work."""
        ...

    def do(self, model: Any, shown: list[Shown], captions: list[tuple[Caption, ...]]) -> Answers:
        """Return the captions that the sidecar is to get for each sample; none: the model had no answer."""
        ...

    @property
    def scorer(self) -> str:
        """Return the model that scored the written captions, "" for none."""
        ...


Answers = list[tuple[Caption, ...]]
Shown = list[Image.Image]  # what is shown of a sample: one image, or where `apart` one a frame of a clip


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioning:
    """Caption every image that this model has not captioned yet.

    name: stored as the captions' source. Captions of several models are kept side by side.
    """

    name: str
    load: Callable[[], Captioner]
    verb: str = "captioning"
    scorer: str = ""
    apart: ClassVar[bool] = False

    def wants(self, captions: tuple[Caption, ...], known: Known) -> bool:
        """Return whether no caption is by this model."""
        return all(caption.source != self.name for caption in captions)

    def do(self, model: Captioner, shown: list[Shown], captions: list[tuple[Caption, ...]]) -> Answers:
        """Ask for a caption an image. Raises SettingsError for a captioner that answers another number."""
        texts = model([image for (image,) in shown])
        _check_number(self.name, len(shown), len(texts))
        return [(Caption(text=text, source=self.name),) if text else () for text in texts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Score every image or clip that has captions this model has not scored yet.

    A clip's score is the mean over its frames that are shown (CLIPSIM, Wu et al. 2021, arXiv:2104.14806).
    name: stored with the scores. Scores of another model are not comparable and are replaced.
    """

    name: str
    load: Callable[[], Scorer]
    verb: str = "scoring"
    apart: ClassVar[bool] = True

    @property
    def scorer(self) -> str:
        """The model itself."""
        return self.name

    def wants(self, captions: tuple[Caption, ...], known: Known) -> bool:
        """Return whether a caption lacks this model's score."""
        by_us = {
            (caption.text, caption.source)
            for caption, scorer in zip(known.captions, known.scorers, strict=True)
            if scorer == self.name
        }
        return any((caption.text, caption.source) not in by_us for caption in captions)

    def do(self, model: Scorer, shown: list[Shown], captions: list[tuple[Caption, ...]]) -> Answers:
        """Score every caption. Raises DataError for NaN, SettingsError for another number of answers."""
        asked = [(frames, one) for frames, all_of in zip(shown, captions, strict=True) for one in all_of]
        pairs = [(image, one.text) for frames, one in asked for image in frames]
        scores = model([image for image, _ in pairs], [text for _, text in pairs])
        _check_number(self.name, len(pairs), len(scores))
        coming = iter(scores)
        scored = iter([replace(one, score=fmean(islice(coming, len(frames)))) for frames, one in asked])
        return [tuple(next(scored) for _ in all_of) for all_of in captions]


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """An image that needs work: its index in the source, its key, and its captions so far."""

    index: int
    key: str
    captions: tuple[Caption, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result for one image: captions for the sidecar, if any. broken: why it could not be opened."""

    key: str
    captions: tuple[Caption, ...] = ()
    broken: str = ""


RunJob = Callable[[AnnotationJob, Sequence[Waiting]], Iterable[Outcome]]
"""Does a job on images, giving each outcome as soon as it is there, in any order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnnotationReport:
    """The result of a run. done, kept: number of images, by this run and by earlier ones.

    broken: key and reason of unreadable images or captions.   unanswered: keys of those
    for which the model had no answer.   bare: keys of those without captions to score. The next run tries all
    three again.   ignored: what the source holds besides images and is not used, by name -> reason.
    samples: "images" or "clips", which all of this holds for alike.
    """

    sidecar: Path
    samples: str = "images"
    done: int = 0
    kept: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)


def annotate(
    source: Source, job: AnnotationJob, sidecar: Path, run: RunJob, *, progress: OnProgress | None = None
) -> AnnotationReport:
    """Run a job on all images of a source without a result in the sidecar; add the results to it.

    run: `run_here` or `annotate_on_cluster`, with their settings bound. progress: see OnProgress. Each result
    is in the sidecar as soon as `run` yields it, so the next run resumes a killed one.
    Raises SettingsError without the model's name, DataError for a damaged sidecar, OutputError if it cannot
    be written, and the model's errors.
    """
    if not job.name.strip():
        raise SettingsError("The model has no name: pass one, as it identifies captions and scores.")
    show = progress or (lambda what, done, total: None)
    show("reading", 0, len(source))
    todo, bare, broken = waiting(source, job, sidecar)
    kept = len(source) - len(todo) - len(bare) - len(broken)
    ignored, samples = dict(source.ignored), source.medium.plural
    if not todo:
        return AnnotationReport(
            sidecar=sidecar, samples=samples, kept=kept, broken=broken, bare=bare, ignored=ignored
        )
    done, unanswered = 0, []
    with SidecarWriter(sidecar) as writer:
        show(job.verb, 0, len(todo))
        for count, outcome in enumerate(run(job, todo), start=1):
            if outcome.broken:
                broken[outcome.key] = outcome.broken
            elif not outcome.captions:
                unanswered.append(outcome.key)
            else:
                writer.add(outcome.key, outcome.captions, scorer=job.scorer)
                done += 1
            show(job.verb, count, len(todo))
    return AnnotationReport(
        sidecar=sidecar,
        samples=samples,
        done=done,
        kept=kept,
        broken=broken,
        unanswered=sorted(unanswered),
        bare=bare,
        ignored=ignored,
    )


def waiting(
    source: Source, job: AnnotationJob, sidecar: Path
) -> tuple[list[Waiting], list[str], dict[str, str]]:
    """Return the images that a job is still to do, the keys of those without captions to score, and, key to
    reason, those whose captions cannot be read.

    Raises DataError for a sidecar that is damaged.
    """
    known = read_sidecar(sidecar)
    todo, bare, broken = [], [], {}
    for index in range(len(source)):
        key = source.key(index)
        about = known.get(key, Known())
        try:
            captions = merged(source.captions(index), about)
        except (DataError, OSError) as error:
            broken[key] = str(error)
            continue
        if isinstance(job, Scoring) and not captions:
            bare.append(key)
        elif job.wants(captions, about):
            todo.append(Waiting(index=index, key=key, captions=captions))
    return todo, bare, broken


def run_here(
    job: AnnotationJob, images: Sequence[Waiting], *, source: Source, batch_size: int = 8, frames: int = 1
) -> Iterator[Outcome]:
    """Run a job in this process; the next batch is read while the model works on one.

    batch_size: samples the model gets at once. frames: of a clip that it is shown. Raises SettingsError for
    either below 1.
    """
    for name, value in (("batch_size", batch_size), ("frames", frames)):
        if value < 1:
            raise SettingsError(f"{name} is {value}: it must be at least 1.")
    read = partial(read_sample, source, frames=frames, apart=job.apart)
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        coming = [pool.submit(read, one.index) for one in batches[0]]
        model = job.load()
        for number, batch in enumerate(batches):
            opened = [one.result() for one in coming]
            following = batches[number + 1] if number + 1 < len(batches) else []
            coming = [pool.submit(read, one.index) for one in following]
            yield from annotate_batch(job, model, batch, opened)


def annotate_batch(
    job: AnnotationJob, model: Any, batch: Sequence[Waiting], opened: Sequence[Shown | str]
) -> list[Outcome]:
    """Run a job on opened samples. opened: results of `read_sample`."""
    good = [(one, shown) for one, shown in zip(batch, opened, strict=True) if not isinstance(shown, str)]
    broken = [
        Outcome(key=one.key, broken=reason)
        for one, reason in zip(batch, opened, strict=True)
        if isinstance(reason, str)
    ]
    if not good:
        return broken
    answers = job.do(model, [shown for _, shown in good], [one.captions for one, _ in good])
    return broken + [
        Outcome(key=one.key, captions=captions) for (one, _), captions in zip(good, answers, strict=True)
    ]


def _check_number(name: str, wanted: int, came: int) -> None:
    if wanted != came:
        raise SettingsError(
            f"{name} returned {came} answers to {wanted} questions: it must return one for each."
        )
