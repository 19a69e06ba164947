"""`sana video PROMPT --edit CLIP`: a clip and a sentence in, the edited clip out (SANA-Streaming).

The file is read as it is needed, and each chunk's frames are written as soon as they are drawn: memory does
not grow with the clip. All is checked by the model's configuration before any weights are read.
"""

from __future__ import annotations

import os
import secrets
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sanakit.cli.drawing.display import display
from sanakit.cli.drawing.edit import keep_inputs
from sanakit.cli.together import check_alone
from sanakit.errors import SettingsError
from sanakit.whole import written_new

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from sanakit.pipelines.video.editing.request import ClipEditRequest
    from sanakit.pipelines.video.editing.video_to_video import EditedFrames

TAKEN = {"frames", "size", "width", "height", "motion", "seed", "fps"}  # what changes the result
BESIDE = {"prompt", "edit", "model", "output", "device", "dtype", "memory", "as_json", "preview", "debug"}


@dataclass(frozen=True, slots=True)
class _Shown:
    """Some finished frames as the display takes a step."""

    part: EditedFrames

    @property
    def index(self) -> int:
        return self.part.first + len(self.part.frames)

    @property
    def total(self) -> int:
        return self.part.total

    def preview(self) -> Image:
        from PIL import Image

        return Image.fromarray(self.part.frames[len(self.part.frames) // 2])


def check_typed(typed: set[str]) -> None:
    """Raise SettingsError for options of drawing that were typed for an edit, and for several processes."""
    check_alone("--edit")
    if unused := sorted(typed - TAKEN - BESIDE):
        named = f"--{unused[0].replace('_', '-')}"
        raise SettingsError(
            f"{named} cannot be used with --edit: a model that edits clips has no such setting."
        )


def edit_clip(
    prompt: str,
    clip: Path,
    model: str,
    *,
    frames: int | None,
    fps: str | None,
    size: tuple[int | None, int | None],
    motion: int | None,
    seed: int | None,
    output: Path | None,
    name: Callable[[int], Path],
    loading: dict[str, Any],
    preview: bool,
) -> tuple[ClipEditRequest, Path, dict[str, float], list[str]]:
    """Edit a clip into a file; return the request, the file, timings and what the user should know.

    clip: a file, or a folder of frames, of which one without clip.json needs its rate (fps). size: width and
    height. name: of the file for a seed, where output names none; it gets a number if it is taken. loading:
    settings of `VideoToVideo.from_pretrained`. Raises as that and `check_edit_request` do.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    with display(preview) as show, warnings.catch_warnings(action="ignore"):  # the result tells them
        from sanakit.clips.formats.folder import frame_names, is_frame_folder
        from sanakit.clips.reading import open_clip
        from sanakit.clips.writing import check_writable
        from sanakit.pipelines.memory import parse_budget
        from sanakit.pipelines.video.editing.request import check_edit_request
        from sanakit.pipelines.video.editing.video_to_video import VideoToVideo
        from sanakit.weights import load_settings
        from sanakit.weights.video.settings import load_edit_configs

        parse_budget(loading["memory"])
        paths = [] if output is None else [output.expanduser()]
        keep_inputs(paths, [clip])
        plain = os.path.isdir(clip) and not is_frame_folder(clip)
        if plain and fps is None:
            frame_names(os.fspath(clip))  # which refuses a folder without any
            raise SettingsError(f"{clip} does not say its frames a second: give the rate (--fps).")
        if fps is not None and not plain:
            raise SettingsError("--fps cannot be used with --edit: an edited clip keeps its own rate.")
        configs, own = load_edit_configs(model), load_settings(model)
        with open_clip(clip, folder_rate=fps if plain else None) as file:
            settings: dict[str, Any] = {"frames": frames, "width": size[0], "height": size[1], "seed": seed}
            settings["motion"] = 0 if motion is None else motion
            request = check_edit_request(own, *configs, prompt, file, **settings)
            height, width = request.size
            facts = {"width": width, "height": height, "rate": request.rate, "settings": request.settings}
            check_writable((paths or [name(seed)])[0], **facts)

            pipe = VideoToVideo.from_pretrained(model, **loading)
            there, started = bool(paths) and os.path.lexists(paths[0]), perf_counter()
            with nullcontext((paths, paths)) if paths else written_new(name(seed), 1) as (partial, paths):
                told = _written(pipe.edit(file, request), partial[0], facts, show)
    if there:
        print(f"{paths[0]} is replaced.", file=sys.stderr)
    return request, paths[0], {"chunks": perf_counter() - started}, told


def _written(
    parts: Iterator[EditedFrames], path: Path, facts: dict[str, Any], show: Callable[[Any], None]
) -> list[str]:
    """Write frames as they come; return warnings."""
    from sanakit.clips.writing import writing

    told: list[str] = []
    with writing(path, **facts) as writer:
        for part in parts:
            for frame in part.frames:
                writer.add(frame)
            show(_Shown(part))
            told = part.warnings
    return list(dict.fromkeys([*told, *writer.notes]))
