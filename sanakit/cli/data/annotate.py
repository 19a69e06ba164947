"""`sana data caption` and `sana data score`: captions and their scores, into a file beside the data set."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sanakit.cli.data.unused import warn_unused
from sanakit.cli.terminal import AsJson, Debug, print_json, progress_bar
from sanakit.errors import SettingsError

NAMED = 20  # images without an answer or captions that are listed; --json has all

Place = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A folder of images, WebDataset shards, or a dataset.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default="captions.jsonl in SOURCE", help="File to write the results to."
    ),
]
Cluster = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Run N Ray workers; SOURCE must be on shared storage."),
]
Frames = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=64, help="Take clips, each by N of its frames; 1: the middle one."),
]
FolderFps = Annotated[
    str | None,
    typer.Option(metavar="R", show_default=False, help="With --frames: take folders of images as clips."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps; auto picks the best.")]


def caption(
    source: Place,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Folder or Hub repository; with --endpoint, its name there.")
    ],
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="URL of an OpenAI-compatible server, including /v1.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(envvar="SANA_ENDPOINT_KEY", show_envvar=True, help="The endpoint's key, if it has one."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(show_default="asks for two sentences", help="The question to ask.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(show_default="MODEL", help="Name of the captions' source; others are kept.")
    ] = None,
    frames: Frames = None,
    folder_fps: FolderFps = None,
    output: Output = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch, or concurrent requests.")] = 8,
    device: Device = "auto",
    cluster: Cluster = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Have a model describe the images of a data set, or with --frames its clips.

    Images that it described before are skipped, so the same command continues where it was stopped. Run it
    with several models: their captions add up. Needs the extra caption.
    """
    from sanakit.data.annotate.captioner import (
        CLIP_PROMPT,
        PROMPT,
        captioner_name,
        endpoint_captioner,
        transformers_captioner,
    )
    from sanakit.data.annotate.job import Captioning

    _check_fps(folder_fps, frames)
    prompt = prompt or (PROMPT if frames in (None, 1) else CLIP_PROMPT)
    if endpoint is not None:
        load = partial(endpoint_captioner, endpoint, model, key, prompt=prompt, concurrency=batch)
    else:
        load = partial(transformers_captioner, model, prompt, device=device)
    name = name or captioner_name(model, prompt, frames=frames, remote=endpoint is not None)
    job = Captioning(name=name, load=load)
    device = "cpu" if endpoint else device
    report = _annotate(source, job, output, batch, device, cluster, frames=frames, folder_fps=folder_fps)
    _print(report, "captioned", as_json)


def score(
    source: Place,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="pocket-clip, or the folder of a CLIP as transformers saves it."),
    ] = "pocket-clip",
    frames: Frames = None,
    folder_fps: FolderFps = None,
    output: Output = None,
    batch: Annotated[int, typer.Option(min=1, help="Images or clips at once.")] = 32,
    device: Device = "auto",
    cluster: Cluster = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Score how well the captions of a data set fit its images, or with --frames its clips.

    The score is CLIPScore, 100 * max(cos, 0); of a clip it is the mean over N frames. Training draws good
    captions more often by it. Images whose captions have this model's scores are skipped; scores of another
    model, or by another N, are replaced.
    """
    from sanakit.data.annotate.job import Scoring
    from sanakit.data.annotate.scoring import clip_scorer, scorer_name

    _check_fps(folder_fps, frames)
    job = Scoring(name=scorer_name(model, frames=frames), load=partial(clip_scorer, model, device=device))
    report = _annotate(source, job, output, batch, device, cluster, frames=frames, folder_fps=folder_fps)
    _print(report, "scored", as_json)


def _check_fps(folder_fps: str | None, frames: int | None) -> None:
    if folder_fps is not None and frames is None:
        raise SettingsError("--folder-fps is for clips: use it with --frames.")


def _annotate(
    place: str,
    job: Any,
    output: Path | None,
    batch: int,
    device: str,
    cluster: int | None,
    *,
    frames: int | None = None,
    folder_fps: str | None = None,
) -> Any:
    """Do a job on a data set; what its model warns of is told at the end, each once.

    frames: that are shown of each clip; None: the data set is read for its images.
    """
    from sanakit.clips.counts import as_rate
    from sanakit.data.annotate.job import annotate, run_here
    from sanakit.data.medium import CLIPS, IMAGES
    from sanakit.data.read.open import open_source
    from sanakit.data.read.sidecar import sidecar_path

    medium = IMAGES if frames is None else CLIPS
    rate = None if folder_fps is None else as_rate(folder_fps)

    sidecar = output.expanduser() if output is not None else sidecar_path(place)
    with warnings.catch_warnings(record=True) as notes, progress_bar() as show:
        warnings.simplefilter("always")
        show("opening", 0, 0)
        opened = open_source(place, medium, frame_rate=rate)
        warn_unused(opened.ignored)  # before hours of work on what was not meant
        run = partial(run_here, source=opened, batch_size=batch, frames=frames or 1)
        if cluster is not None:
            from sanakit.data.annotate.ray_job import annotate_on_cluster

            run = partial(
                annotate_on_cluster,
                place=place,
                workers=cluster,
                batch_size=batch,
                device=device,
                medium=medium,
                frame_rate=rate,
                frames=frames or 1,
            )
        report = annotate(opened, job, sidecar, run, progress=show)
    ours = [
        str(note.message) for note in notes if note.category is UserWarning
    ]  # not libraries' deprecations
    for note in dict.fromkeys(ours):
        print(f"Warning: {note}", file=sys.stderr)
    return report


def _print(report: Any, done: str, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    warn_unused(report.broken)
    for kind, keys in (
        (" (no answer from the model)", report.unanswered),
        (" (no captions to score)", report.bare),
    ):
        for text in keys[:NAMED]:
            print(f"Warning: {text}{kind}", file=sys.stderr)
        if len(keys) > NAMED:
            print(f"Warning: and {len(keys) - NAMED:,} more{kind}: --json lists them", file=sys.stderr)
    parts = [f"{report.done:,} {report.samples} {done}"]
    parts += [f"{report.kept:,} were before"] if report.kept else []
    parts += [f"{len(report.broken):,} broken"] if report.broken else []
    parts += [f"{len(report.unanswered):,} without an answer"] if report.unanswered else []
    parts += [f"{len(report.bare):,} without captions"] if report.bare else []
    parts += [f"{len(report.ignored):,} not used besides {report.samples}"] if report.ignored else []
    print(f"{report.sidecar}  {', '.join(parts)}")
