"""`sana world`: an image and a camera path in, a clip of what the camera sees on its way out.

The path is held keys (`pipelines/world/actions.py`) or a file of poses (`pipelines/world/camera_files.py`).
All is checked by the model's configuration before any weights are read. Display, saving and printing are
those of `sana video`; torch is imported inside the function, as there.
"""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sanakit.cli.clips.video import (
    Negative,
    Output,
    Preview,
    Seed,
    check_output,
    chosen_name,
    report,
    save_drawn,
)
from sanakit.cli.drawing import options as option
from sanakit.cli.drawing.display import display
from sanakit.cli.drawing.edit import FORMATS, keep_inputs
from sanakit.cli.terminal import AsJson, Debug
from sanakit.errors import SettingsError


def world(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The first frame; its file is not changed.")],
    path: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS", show_default=False, help='Held keys and frames, such as "w-24,wd-48,none-8".'
        ),
    ] = None,
    camera: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Instead of --path: poses in JSON, nerfstudio's transforms.json, RealEstate10K's .txt, or a "
            "folder of COLMAP.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(show_default=False, help="A world model's folder, or Hub org/repo. Needed."),
    ] = None,
    prompt: Annotated[str, typer.Option(help="Sentence on the image; - reads it.")] = "",
    keys: Annotated[
        Literal["turning", "strafing"],
        typer.Option(help="a and d: turn, as the authors' code has it; or step aside, as diffusers has it."),
    ] = "turning",
    fov: Annotated[
        float | None,
        typer.Option(
            metavar="DEGREES",
            show_default="60, and told",
            help="Angle that the image spans across, 25 to 120.",
        ),
    ] = None,
    intrinsics: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(
            metavar="FX FY CX CY", show_default=False, help="Instead of --fov, in pixels of the image."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="all", help="Only so many of the path; 8 k + 1 for LTX-2."),
    ] = None,
    fps: Annotated[
        str | None,
        typer.Option(metavar="R", show_default=option.OWN, help="Frames a second of the file, such as 16."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WxH", show_default=option.OWN, help="Size in pixels; the image is cut to it."),
    ] = None,
    negative: Negative = None,
    prompt_weights: option.PromptWeights = False,
    steps: option.Steps = None,
    guidance: option.Guidance = None,
    guidance_kind: option.GuidanceKind = None,
    solver: option.Solver = None,
    seed: Seed = None,
    output: Output = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "auto",
    memory: option.Memory = "auto",
    as_json: AsJson = False,
    preview: Preview = False,
    debug: Debug = False,
) -> None:
    """Walk through an image along a camera path.

    w and s walk forward and back, i and k look up and down; a, d, j and l turn and step aside (--keys). The
    file named by --output is replaced if it exists, but never IMAGE or the camera's; without it, a new name
    is chosen. The file carries the settings it was drawn with. Streaming models draw chunk after chunk, in
    memory that does not grow.
    """
    # 1. The request
    if model is None:
        raise SettingsError(
            "No world model is embedded: name one with --model, a folder or a Hub repository such as "
            "Efficient-Large-Model/SANA-WM_bidirectional-diffusers."
        )
    if (path is None) == (camera is None):
        raise SettingsError('The camera path is needed once: give --path "w-24,d-48", or --camera FILE.')
    seed = secrets.randbelow(2**32) if seed is None else seed
    image, camera = image.expanduser(), None if camera is None else camera.expanduser()
    settings: dict[str, Any] = {"keys": keys, "fov": fov, "intrinsics": intrinsics, "frames": frames}
    settings |= {"rate": fps, "steps": steps, "guidance": guidance, "guidance_kind": guidance_kind}
    settings |= {"solver": solver, "seed": seed, "prompt_weights": prompt_weights}

    with display(preview) as show, warnings.catch_warnings(record=True, action="always") as told_of_file:
        from sanakit.images.image import parse_size
        from sanakit.images.opening import flatten, open_image
        from sanakit.pipelines.memory import parse_budget
        from sanakit.pipelines.video.request import VideoSpec
        from sanakit.pipelines.world.camera_files import read_cameras
        from sanakit.pipelines.world.request import check_world_request
        from sanakit.pipelines.world.world import World
        from sanakit.weights.video.settings import load_world_configs, load_world_settings

        parse_budget(memory)
        width, height = parse_size(size) if size is not None else (None, None)
        paths = [] if output is None else [output.expanduser()]
        keep_inputs(paths, [file for file in (image, camera) if file is not None])
        picture = flatten(open_image(image, str(image), FORMATS))
        way = path if camera is None else read_cameras(camera, picture.size)[0]
        unused = [str(one.message) for one in told_of_file]  # of the camera's file
        spec = VideoSpec.of(load_world_settings(model), *load_world_configs(model))
        words = option.prompt_of(prompt) if prompt else ""
        asked: dict[str, Any] = {"path": way, "width": width, "height": height, **settings}
        request = check_world_request(spec, picture, words, negative, **asked)
        check_output(paths or [chosen_name(seed)], request.clip)

        # 2. The clip, step by step
        pipe = World.from_pretrained(model, device=device, dtype=dtype, memory=memory)
        drawn = pipe.draw(request) if request.clip.chunks is None else pipe.chunks(request)
        paths, timings, told = save_drawn(drawn, request.clip, paths, chosen_name(seed), show)

    # 3. Print
    clip = request.clip
    report(clip.rate, clip.metadata, paths, timings, [*unused, *told], as_json=as_json)
