"""One call for a clip along a camera path, checked and complete before any work begins.

Prompts, guidance, solver, seeds, frames and sizes are those of a clip's request
(`pipelines/video/request.py`), which a `WorldRequest` holds. New are the path, and the camera's lens: the
image is scaled until it covers the size that is drawn, and cut from its middle, and the lens with it.
Source: SANA-WM's pipeline in diffusers cuts images and lenses the same way.
Shapes: F frames, T latent frames, H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sanakit.arguments import OF_WORLDS, check_arguments
from sanakit.errors import SettingsError, of_setting
from sanakit.images.image import Metadata
from sanakit.images.opening import flatten
from sanakit.models.world.camera import CameraInputs, camera_inputs
from sanakit.pipelines.request import plain, whole_number
from sanakit.pipelines.video.request import ClipRequest, VideoSpec, check_clip_request
from sanakit.pipelines.video.result import ClipOutput
from sanakit.pipelines.video.source import SAME_SHAPE
from sanakit.pipelines.world.actions import TURNING, action_poses, find_dialect
from sanakit.pipelines.world.paths import CameraPath, check_poses, pinhole
from sanakit.wording import counted

FOV = 60.0  # degrees across, where no lens is known
FOV_RANGE = (25.0, 120.0)  # that SANA-WM was trained on

Lens = Tensor | Sequence[float]  # fx, fy, cx, cy in pixels of the image


class WorldDrawSettings(TypedDict, total=False):
    """The settings of a call, as for `World.__call__`; left out: the model's own."""

    path: str | Tensor | CameraPath
    keys: str
    fov: float | None
    intrinsics: Lens | None
    frames: int | None
    rate: int | float | str | Fraction | None
    width: int | None
    height: int | None
    steps: int | None
    guidance: float | None
    guidance_kind: str | None
    seed: int | None
    solver: str | None
    latents: Tensor | None
    output: ClipOutput
    prompt_weights: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WorldRequest:
    """One call, checked and complete."""

    clip: ClipRequest
    inputs: CameraInputs  # of each latent frame
    lens: Tensor  # fx, fy, cx, cy in pixels of what is drawn, of each frame: F 4


def check_world_request(
    spec: VideoSpec,
    image: Image.Image,
    prompt: str = "",
    negative_prompt: str | None = None,
    *,
    path: str | Tensor | CameraPath | None = None,
    keys: str = TURNING.name,
    fov: float | None = None,
    intrinsics: Lens | None = None,
    frames: int | None = None,
    rate: int | float | str | Fraction | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_kind: str | None = None,
    seed: int | None = None,
    solver: str | None = None,
    latents: Tensor | None = None,
    output: ClipOutput = "clip",
    prompt_weights: bool = False,
    **others: object,
) -> WorldRequest:
    """Check one call and complete it with the model's own settings; all as for `World.__call__`.

    Raises SettingsError or SizeError.
    """
    check_arguments(others, WorldDrawSettings.__annotations__, OF_WORLDS)
    if path is None:
        text = 'The camera path is missing: pass path, such as path="w-24,d-48".'
        raise SettingsError(text, setting="path")
    if not isinstance(image, Image.Image):
        text = f"The image came as {type(image).__name__}: open it with PIL.Image.open."
        raise SettingsError(text, setting="image")
    image, own, notes = flatten(image), spec.settings, list[str]()
    seen, told = _camera_path(path, keys, fov, intrinsics, image.size, notes)
    width = own.shared.width if width is None else plain(width)
    height = own.shared.height if height is None else plain(height)
    drawn = spec.of_images(unit=spec.unit).drawn_size(width, height)
    frames = _frames(seen, frames, spec, notes)
    if spec.causal and spec.lookahead and output != "latent":
        raise SettingsError(
            f"{own.shared.name} draws chunk after chunk, but its autoencoder looks {spec.lookahead} latents "
            'ahead: use a folder with the causal autoencoder, or draw output="latent".'
        )
    came = image.size
    if abs(came[0] * drawn[0] / (came[1] * drawn[1]) - 1) > SAME_SHAPE:
        notes.append(
            f"The image of {came[0]}x{came[1]} px is cut to the shape of {drawn[1]}x{drawn[0]} px, its lens "
            "with it."
        )
    clip = check_clip_request(
        spec,
        prompt,
        negative_prompt,
        frames=frames,
        rate=rate,
        width=width,
        height=height,
        image=covering(image, drawn[1], drawn[0]),
        steps=steps,
        guidance=guidance,
        guidance_kind=guidance_kind,
        seed=seed,
        solver=solver,
        latents=latents,
        output=output,
        prompt_weights=prompt_weights,
    )
    seen = seen.covering(drawn[1], drawn[0])
    lens = seen.intrinsics[:frames]
    compression = (spec.rule.per_latent, spec.compression)
    inputs = camera_inputs(seen.poses[:frames], lens, size=drawn, compression=compression)
    metadata = [
        {name: value for name, value in one.items() if name != "motion"} | told
        for one in clip.sampling.metadata
    ]
    sampling = replace(clip.sampling, metadata=metadata, notes=(*notes, *clip.sampling.notes))
    return WorldRequest(clip=replace(clip, sampling=sampling), inputs=inputs, lens=lens)


def covering(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return an image that is scaled to cover a size, and cropped at its centre.

    Whole pixels are cropped, as from `CameraPath.covering`, which takes the same part of the camera.
    """
    scale = max(width / image.width, height / image.height)
    wide, high = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    scaled = image.resize((wide, high), Image.Resampling.LANCZOS)
    return scaled.crop((left, top, left + width, top + height))


def lens_of(fov: float | None, intrinsics: Lens | None, size: tuple[int, int]) -> Tensor:
    """Return fx, fy, cx, cy in pixels of an image, float64. size: its width and height.

    fov: degrees across the image; None: 60. intrinsics: instead of it. Raises SettingsError for both, and for
    numbers out of range.
    """
    if intrinsics is None:
        return pinhole(size[0], size[1], _angle(FOV if fov is None else fov))
    if fov is not None:
        raise SettingsError("fov and intrinsics cannot be combined: give one of them.")
    lens = torch.as_tensor(intrinsics, dtype=torch.float64)
    if lens.shape != (4,) or not bool(torch.isfinite(lens).all()) or not bool((lens[:2] > 0).all()):
        raise SettingsError(
            f"intrinsics are {lens.tolist()}: pass fx, fy, cx, cy in pixels of the image, fx and fy above 0.",
            setting="intrinsics",
        )
    return lens


@of_setting("fov")
def _angle(fov: float) -> float:
    fov, (least, most) = plain(fov), FOV_RANGE
    if isinstance(fov, bool) or not isinstance(fov, int | float) or not least <= fov <= most:
        raise SettingsError(
            f"fov = {fov!r}, but the angle of view must be from {least:g} to {most:g} degrees."
        )
    return float(fov)


def _camera_path(
    path: str | Tensor | CameraPath,
    keys: str,
    fov: float | None,
    intrinsics: Lens | None,
    size: tuple[int, int],
    notes: list[str],
) -> tuple[CameraPath, Metadata]:
    """Return the path for images of a size, and what of it is recorded."""
    dialect = find_dialect(keys)
    if isinstance(path, CameraPath):
        if fov is not None or intrinsics is not None:
            raise SettingsError("The path has a lens of its own: omit fov and intrinsics.")
        if abs(path.width * size[1] / (path.height * size[0]) - 1) > SAME_SHAPE:
            raise SettingsError(
                f"The path is of images of {path.width}x{path.height} px, but the image has "
                f"{size[0]}x{size[1]}: crop the image to that shape."
            )
        return path.covering(*size), {"path": _fingerprint(path)}
    lens = lens_of(fov, intrinsics, size)
    if isinstance(path, str):
        poses = action_poses(path, dialect)
    elif isinstance(path, Tensor):
        poses = check_poses(path.detach().cpu().double(), "The path", "poses")
    else:
        raise SettingsError(
            f"The path came as {type(path).__name__}: pass keys, poses F 4 4, or what `read_path` returns."
        )
    found = CameraPath(poses, lens.expand(len(poses), 4), *size)
    if isinstance(path, str):
        told: Metadata = {"path": "".join(path.split()).lower(), "keys": dialect.name}
    else:
        told = {"path": _fingerprint(found)}
    if intrinsics is None:
        told["fov"] = _angle(FOV if fov is None else fov)
        if fov is None:
            notes.append(
                f"The angle of view is not known; {FOV:g} degrees are taken. Give the camera's own (fov)."
            )
    else:
        told["intrinsics"] = " ".join(f"{number:g}" for number in lens.tolist())
    return found, told


def _fingerprint(path: CameraPath) -> str:
    """Return which poses a clip was drawn along: their number, and eight digits that tell them apart."""
    content = b"".join(np.ascontiguousarray(part.numpy()).tobytes() for part in (path.poses, path.intrinsics))
    return f"{len(path.poses)} poses@{hashlib.sha256(content).hexdigest()[:8]}"


def _frames(path: CameraPath, frames: int | None, spec: VideoSpec, notes: list[str]) -> int:
    """Return the number of frames to draw. Raises SettingsError for more than the path has."""
    there, rule = len(path.poses), spec.rule
    found = rule.frames(1 + (there - 1) // rule.per_latent)
    if found == 1:
        raise SettingsError(
            f"The path has {counted(there, 'frame')} with its start; {rule.frames(2)} are the fewest that "
            f"can be drawn. Go {rule.per_latent} frames or further."
        )
    if frames is not None:
        frames = whole_number("frames", frames, 1, there)
        if frames < rule.frames(2):
            text = f"frames = {frames}, but {rule.frames(2)} are the fewest that can be drawn."
            raise SettingsError(text, setting="frames")
        rule.latents(frames)
        return frames
    if found < there:
        notes.append(
            f"The path has {there} frames with its start; the first {found} are drawn (1 + a multiple of "
            f"{rule.per_latent})."
        )
    return found
