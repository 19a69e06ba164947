"""`sana video`: a sentence in, a clip out; with an image, its first frame; with a clip, that clip redrawn.

The request is checked by the model's configuration before any weights are read. Options, display and saving
are those of `sana generate`; torch is imported inside the functions, as there.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sanakit.cli.clips.chunks import write_chunks
from sanakit.cli.clips.edit import check_typed, edit_clip
from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.display import display
from sanakit.cli.drawing.edit import FORMATS, keep_inputs
from sanakit.cli.terminal import AsJson, Debug
from sanakit.cli.together import Together, together
from sanakit.cli.typer_seams import typed_options
from sanakit.errors import SettingsError
from sanakit.whole import claimed, numbered, written_new

if TYPE_CHECKING:
    from sanakit.images.image import Metadata
    from sanakit.pipelines.video.in_chunks import ClipChunk
    from sanakit.pipelines.video.request import ClipRequest
    from sanakit.pipelines.video.result import ClipResult, ClipStep
    from sanakit.pipelines.video.text_to_video import TextToVideo

SUFFIX = ".mp4"  # of a name that is chosen
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed", "-s", metavar="N", min=0, show_default="random", help="The same seed draws the same clip."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=f"sana-SEED{SUFFIX}",
        help="Ends in .mp4, .webm, .webp, .gif, or nothing for a folder; several get -1, -2, ...",
    ),
]
Negative = Annotated[
    str | None, typer.Option(show_default=option.OWN, help="What not to draw; '' for nothing.")
]
Preview = Annotated[bool, typer.Option("--preview", help="Preview the clip in the terminal.")]


def video(
    context: typer.Context,
    prompt: Annotated[
        str,
        typer.Argument(metavar="PROMPT", help='What to draw; - reads it. "<split>" parts causal chunks.'),
    ],
    model: Annotated[
        str, typer.Option(help="pocket-video is embedded; or a video model's folder, or Hub org/repo.")
    ] = "pocket-video",
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Image that the clip begins with.")
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Clip, or folder of frames, to redraw."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="S", show_default="0.6", help="With --clip: 0 keeps it, 1 ignores it."),
    ] = None,
    edit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Clip, or folder of frames, to edit (SANA-Streaming)."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=option.OWN, help="4 k + 1 for Wan 2.1, 8 k + 1 for LTX-2."),
    ] = None,
    seconds: Annotated[
        str | None,
        typer.Option(
            metavar="S", show_default=False, help="Instead of --frames; the nearest number is drawn."
        ),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            show_default="model's own, or the clip's",
            help="Frames a second, such as 16 or 24000/1001; a clip is read at this rate.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=option.OWN, help="Size in pixels, such as 832x480."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", "-W", metavar="N", show_default=option.OWN, help="Instead of --size."),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option("--height", "-H", metavar="N", show_default=option.OWN, help="Instead of --size."),
    ] = None,
    motion: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=option.OWN, help="How much moves, 1 to 100; 0: not said."),
    ] = None,
    negative: Negative = None,
    prompt_weights: option.PromptWeights = False,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    guidance_kind: option.GuidanceKind = None,
    solver: option.Solver = None,
    dialect: option.DialectOption = None,
    seed: Seed = None,
    num_clips: Annotated[
        int,
        typer.Option(
            "--num-clips",
            "-n",
            metavar="N",
            min=1,
            max=64,
            help="Clips to draw: this seed and those after it.",
        ),
    ] = 1,
    output: Output = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    memory: option.Memory = "auto",
    as_json: AsJson = False,
    preview: Preview = False,
    debug: Debug = False,
) -> None:
    """Draw a clip from a sentence, an image, or another clip.

    The file named by --output is replaced if it exists, but never --image, --clip or --edit; without it, a
    new name is chosen. The file carries the settings it was drawn with. Causal models draw chunk after chunk,
    in memory that does not grow, and so do models that edit a clip (--edit). Processes that torchrun starts
    draw each clip together.
    """
    # 1. The request
    if size is not None and (width is not None or height is not None):
        raise SettingsError("--size and --width or --height cannot be combined: give one or the other.")
    loading: dict[str, Any] = {"device": device, "dtype": dtype, "memory": memory}
    if edit is not None:
        check_typed(typed := typed_options(context))
        fps = fps if "fps" in typed else None  # a user's default is of clips that are drawn
        from sanakit.images.image import parse_size

        sides = parse_size(size) if size is not None else (width, height)
        given = {"frames": frames, "fps": fps, "size": sides, "motion": motion, "seed": seed}
        given |= {"output": output, "name": chosen_name, "loading": loading, "preview": preview}
        edited, path, timings, told = edit_clip(option.prompt_of(prompt), edit.expanduser(), model, **given)
        report(edited.rate, [edited.settings], [path], timings, told, as_json=as_json)
        return
    image, clip = (None if file is None else file.expanduser() for file in (image, clip))
    settings: dict[str, Any] = {"frames": frames, "seconds": seconds, "rate": fps, "motion": motion}
    settings |= {"steps": steps, "guidance": guidance, "guidance_kind": guidance_kind, "solver": solver}
    settings |= {"dialect": dialect, "num_clips": num_clips, "strength": strength}
    settings["prompt_weights"] = prompt_weights

    with (
        together("drawing") as processes,
        display(preview) if processes.chief else nullcontext(lambda step: None) as show,
        warnings.catch_warnings(action="ignore"),  # the result tells them
    ):
        from sanakit.images.image import parse_size
        from sanakit.images.opening import open_image
        from sanakit.pipelines.memory import parse_budget
        from sanakit.pipelines.video.request import VideoSpec, check_clip_request
        from sanakit.pipelines.video.source import read_source
        from sanakit.pipelines.video.text_to_video import TextToVideo

        if preview and processes.world > 1:
            raise SettingsError("--preview is for one process: leave it out, or start one.")
        typed, given = prompt, seed
        prompt = processes.of_chief(lambda: option.prompt_of(typed))
        seed = processes.of_chief(lambda: secrets.randbelow(2**32) if given is None else given)
        settings["seed"] = seed
        parse_budget(memory)
        width, height = parse_size(size) if size is not None else (width, height)
        paths = [] if output is None else numbered(output.expanduser(), num_clips)
        keep_inputs(paths, [file for file in (image, clip) if file is not None])
        if image is not None:
            settings["image"] = open_image(image, str(image), FORMATS)
        spec = VideoSpec.read(model)
        if clip is not None:
            wanted = {"frames": frames, "seconds": seconds, "rate": fps}
            settings["clip"] = read_source(clip, spec.rule, usual=spec.settings.frames, **wanted)
        request = check_clip_request(spec, prompt, negative, width=width, height=height, **settings)
        check_output(paths or [chosen_name(seed)], request)

        # 2. The clips, step by step
        loading["device"] = processes.device(device)
        pipe = TextToVideo.from_pretrained(model, **loading, encoder=request.encoded)
        if processes.world > 1:
            share_drawing(pipe, request, processes)
        drawn = pipe.draw(request) if request.chunks is None else pipe.chunks(request)
        if not processes.chief:
            deque(drawn, maxlen=0)  # its part of the work; the first process writes
            return
        paths, timings, told = save_drawn(drawn, request, paths, chosen_name(seed), show)

    # 3. Print
    report(request.rate, request.metadata, paths, timings, told, as_json=as_json)


def share_drawing(pipe: TextToVideo, request: ClipRequest, processes: Together) -> None:
    """Have all processes draw each clip together, and tell so."""
    from sanakit.pipelines.video.sharing import share_clips, told_parts

    share_clips(pipe)
    told = told_parts(pipe, request)
    if processes.chief:
        print(told, file=sys.stderr)


def check_output(paths: list[Path], request: ClipRequest) -> None:
    """Raise what saving would raise for names, sizes and formats, before anything is drawn."""
    from sanakit.clips.writing import check_writable

    height, width = request.sampling.size
    for path, settings in zip(paths, request.metadata, strict=False):
        check_writable(path, width=width, height=height, rate=request.rate, settings=settings)


def chosen_name(seed: int) -> Path:
    """Return the name of a clip whose file was not named."""
    return Path(f"sana-{seed}{SUFFIX}")


def save_drawn(
    drawn: Iterator[ClipStep] | Iterator[ClipChunk],
    request: ClipRequest,
    paths: list[Path],
    name: Path,
    show: Callable[[ClipStep | ClipChunk], None],
) -> tuple[list[Path], dict[str, float], list[str]]:
    """Draw a request's clips and save them; return files, timings and warnings. A replaced file is told.

    drawn: steps, or chunks where the request has them, which are written as they come. paths: of the files;
    none: new names are made of `name`. show: is told of each step or chunk.
    """
    there, count = [path for path in paths if os.path.lexists(path)], len(request.metadata)
    if request.chunks is not None:
        with nullcontext((paths, paths)) if paths else written_new(name, count) as (partial, paths):
            timings, told = write_chunks(cast("Iterator[ClipChunk]", drawn), request, partial, show)
    else:
        result = None
        for step in cast("Iterator[ClipStep]", drawn):
            show(step)
            result = step.result
        assert result is not None  # the last step carries it
        with nullcontext(paths) if paths else claimed(name, count) as paths:
            timings, told = _saved(result, paths)
    for path in there:
        print(f"{path} is replaced.", file=sys.stderr)
    return paths, timings, told


def _saved(result: ClipResult, paths: list[Path]) -> tuple[dict[str, float], list[str]]:
    """Save clips to the paths; return timings and warnings."""
    told: list[str] = []
    for path, clip in zip(paths, result.clips, strict=True):
        told += [note for note in clip.save(path)[1] if note not in told]  # pyright: ignore
    return result.timings, [*result.warnings, *told]


def report(
    rate: Fraction,
    metadata: list[Metadata],
    paths: list[Path],
    timings: dict[str, float],
    warned: list[str],
    *,
    as_json: bool,
) -> None:
    """Print what was made: paths and seeds, or as JSON all that is known."""
    for warning in warned:
        print(f"Warning: {warning}", file=sys.stderr)
    made = list(zip(paths, metadata, strict=True))
    if as_json:
        clips = [{"path": str(path), "fps": str(rate), **one} for path, one in made]
        print(json.dumps({"clips": clips, "timings": timings, "warnings": warned}, indent=2))
    else:
        for path, one in made:
            print(f"{path}  seed {one['seed']}")
