"""The steps of drawing clips, and the result that the last one carries.

Shapes: B clips, C latent channels, t h w latents, T frames, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.errors import SettingsError
from sanakit.images.image import Metadata
from sanakit.whole import numbered

ClipOutput = Literal["clip", "pt", "latent"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipResult:
    """The clips of one call, prompt after prompt, and how they were made."""

    clips: list[VideoClip] | Tensor  # "clip"; "pt": B 3 T H W in [-1, 1]; "latent": B C t h w
    seeds: list[int]  # one per clip; empty where the caller gave the noise
    timings: dict[str, float]  # seconds for text, denoise, decode; of causal models for chunks
    metadata: list[Metadata]  # one per clip: all it takes to draw it again, but for an image or clip
    warnings: list[str]  # what the user should know, such as a prompt that was cut

    @property
    def frames(self) -> np.ndarray:
        """The frames of the only clip, T H W 3 uint8. Raises SettingsError for several, or for tensors."""
        clips = self._files()
        if len(clips) != 1:
            raise SettingsError(f"The result has {len(clips)} clips: take the frames of one of its `clips`.")
        return clips[0].frames

    def save(
        self, path: str | os.PathLike[str], quality: int | None = None
    ) -> list[tuple[Path, tuple[str, ...]]]:
        """Write each clip with its settings; return the paths, and notes on what a format cannot hold.

        path: its suffix says the format, see `clips.writing`; several clips get -1, -2, ... in their names.
        quality: as for `clips.writing.writing`. Raises as that does, and SettingsError for tensors.
        """
        clips = self._files()
        names = numbered(Path(path).expanduser(), len(clips))
        return [clip.save(name, quality) for clip, name in zip(clips, names, strict=True)]

    def _files(self) -> list[VideoClip]:
        if isinstance(self.clips, Tensor):
            raise SettingsError('The result holds tensors: draw with output="clip" for frames and files.')
        return self.clips


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipStep:
    """One finished step of a drawing; stop iterating and the rest is never computed."""

    index: int  # 1 is the first
    total: int
    latents: Tensor  # B C t h w, float32: where the clips stand; after the last step the clean latents
    clean: Tensor  # B C t h w, float32: the clean latents that were in sight at this step
    draw: Callable[[Tensor], Image.Image] = field(repr=False)  # latents C h w of one frame, small

    @property
    def result(self) -> ClipResult | None:
        """Return the result, which the last step alone has."""
        return None

    def preview(self, clip: int = 0) -> Image.Image:
        """Show the middle of clip number `clip`: a linear map of `clean`, without the decoder.

        The map is fitted at a pipeline's first preview, which decodes sixteen tiny images.
        """
        return self.draw(self.clean[clip, :, self.clean.shape[2] // 2])


@dataclass(frozen=True, kw_only=True, slots=True)
class LastClipStep(ClipStep):
    """The step after which the clips were decoded."""

    drawn: ClipResult

    @property
    def result(self) -> ClipResult:
        """Return the clips and how they were made."""
        return self.drawn


def clips_of(last: ClipStep) -> ClipResult:
    """Return the result of the last step."""
    assert isinstance(last, LastClipStep), "a drawing ends with its last step"
    return last.result
