"""Clips that a student of few steps draws while it is trained: to look at, and to tell whether it obeys.

A clip of words alone is drawn of a prompt. One of a world begins with the true first frame of a clip that is
watched, along the clip's own path, and along another one. Of these the latents are compared with the true
ones: "path_own" and "path_other" are mean squares over the frames behind the first, and "obeyed" is the share
of clips whose own path is the nearer one; chance is one half.
Shapes: B clips, C latent channels, T frames, h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from sanakit.pipelines.video.streaming import chunk_lengths
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.dmd import roll_out
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import NOTHING, ClipNetwork, Given
from sanakit.train.objectives.clip_velocity import sheet_of_clips
from sanakit.train.objectives.flow_matching import seeded_noise
from sanakit.train.objectives.velocity import Sheet, Watched
from sanakit.train.objectives.world_velocity import DRAWN, WatchedPaths, given_of, other_paths, sheet_of_paths


class StudentClips:
    """Clips of a sheet's prompts, or of clips that are watched, as a student draws them.

    drawing: guidance and steps are not used. watched: `WatchedPaths` for worlds. chunk: latent frames of a
    chunk. compression: frames and pixels of each latent, for worlds.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        drawing: Sheet,
        *,
        chunk: int,
        sampler: FewTimes,
        watched: Sequence[Watched] = (),
        compression: tuple[int, int] = (1, 1),
    ) -> None:
        self.encoder, self.drawing, self.watched = encoder, drawing, watched
        self.chunk, self.sampler, self.compression = chunk, sampler, compression

    def sheet(self, student: ClipNetwork) -> Image.Image:
        """Draw prompts: middle frames, and strips of some; or watched clips, as `sheet_of_paths` lays out."""
        device = next(student.parameters()).device
        paths = [one for one in self.watched if isinstance(one, WatchedPaths)]
        if not paths:
            text, mask = self._words(self.drawing.prompts)
            return sheet_of_clips(self.drawing.decode(self.draw(student, text, mask, self.drawing.shape)))
        shown, rows = paths[0], list[Tensor]()
        latents = shown.latents[:DRAWN].to(device)
        others = other_paths(shown.cameras)
        ways = [self.along(student, shown, way, DRAWN) for way in (list(range(len(shown.captions))), others)]
        for number in range(len(latents)):
            rows += [one[number][None] for one in (latents, *ways) if len(one)]
        return sheet_of_paths(self.drawing.decode(torch.cat(rows)), self.compression[0])

    def obedience(self, student: ClipNetwork) -> dict[str, float]:
        """Measure clips along their own paths, and along others; {} where nothing is known of paths."""
        measured: dict[str, float] = {}
        for one in self.watched:
            if not isinstance(one, WatchedPaths) or not (others := other_paths(one.cameras)):
                continue
            own = list(range(len(others)))
            true = one.latents[:, :, 1:].to(next(student.parameters()).device)
            errors = [
                (self.along(student, one, way)[:, :, 1:] - true).square().flatten(1).mean(1)
                for way in (own, others)
            ]
            measured[f"{one.name}path_own"] = errors[0].mean().item()
            measured[f"{one.name}path_other"] = errors[1].mean().item()
            measured[f"{one.name}obeyed"] = (errors[0] < errors[1]).float().mean().item()
        return measured

    def along(
        self, student: ClipNetwork, one: WatchedPaths, paths: Sequence[int], most: int | None = None
    ) -> Tensor:
        """Draw watched clips, each along the path of a clip, B C T h w; the first `most` of them.

        paths: of each clip, the number of the clip whose path it is; []: none are drawn.
        """
        paths = list(paths)[:most]
        latents = one.latents[: len(paths)].to(next(student.parameters()).device)
        if not paths:
            return latents
        text, mask = self._words(one.captions[: len(paths)])
        given = given_of(latents, one.cameras[paths], self.compression)
        return self.draw(student, text, mask, tuple(latents.shape[1:]), given)

    @torch.no_grad()
    def draw(
        self, student: ClipNetwork, text: Tensor, mask: Tensor, shape: tuple[int, ...], given: Given = NOTHING
    ) -> Tensor:
        """Draw clips in all steps, B C T h w, clip i from noise of its own. shape: C T h w of one."""
        steps = self.sampler.steps
        noise = seeded_noise(len(text) * steps, shape).to(text.device)
        return roll_out(
            student,
            noise.split(len(text)),
            text,
            mask,
            chunks=chunk_lengths(shape[1], self.chunk),
            sampler=self.sampler,
            last=steps - 1,
            given=given,
        )

    def _words(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.encoder.encode_tokens(self.encoder.tokenize(list(captions), notes=[]))
