"""Refining the latents of a world, block after block: the loop around a model that is not part of it.

    sharper = refine(model, result.clips)     # result: drawn with output="latent"; 1 C T h w, too

The first latents stay as they are: they are the sink, which every block sees just before the latents that
follow it. Each block begins as a mix of its own latents and noise, takes three Euler steps, and is then seen
by the blocks that follow, the newest ten latents at most. The model keeps all that as keys.
The published model is LTX-2's video transformer, with a text model of its own: it is used through
`RefinerModel`, and no weights of it are read here. A world is complete without it, and softer.
Source: SANA-WM's refiner, `SanaWMLTX2Refiner` of diffusers, equal to it block by block.
Shapes: B clips, C channels, T latent frames, h w sides; S sink frames.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.flow.euler import Euler
from sanakit.flow.path import interpolate

SIGMAS = (0.909375, 0.725, 0.421875, 0.0)  # that the published refiner was distilled to
SEED = 42  # of its noise, as published
BLOCK, SINK, WINDOW = 3, 1, 11  # latent frames: of a block; of the sink; kept in sight, the sink among them

Keys = TypeVar("Keys")


class RefinerModel(Protocol[Keys]):
    """A transformer of clips, bound to a prompt and a frame rate, that sees earlier frames by their keys.

    Keys are values: what is returned is new, and what was given stays as it is. Frames are counted from the
    first of the clip; `sink_first` is the number that the sink's first frame stands at for a block.
    """

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""
        ...

    def sink(self, latents: Tensor) -> Keys:
        """Return the keys of the sink, B C S h w, seen clean, before they are turned to any place."""
        ...

    def velocity(self, latents: Tensor, sigma: float, keys: Keys, first: int, sink_first: int) -> Tensor:
        """Return the velocity noise - clip of a block, B C T h w, that begins at frame `first`."""
        ...

    def extend(self, keys: Keys, latents: Tensor, first: int, sink_first: int, most: int) -> Keys:
        """Return the keys with those of a refined block, seen clean: the sink's and `most` frames."""
        ...


@torch.no_grad()
def refine(
    model: RefinerModel[Keys],
    latents: Tensor,
    *,
    seed: int = SEED,
    sigmas: tuple[float, ...] = SIGMAS,
    block: int = BLOCK,
    sink: int = SINK,
    window: int = WINDOW,
) -> Tensor:
    """Return refined latents, B C T h w; the first `sink` frames are those that came.

    latents: B C T h w, normalised, as from `World` with output="latent". seed: of the noise, which one
    generator draws block by block. sigmas: times of Euler's steps, descending, ending at 0. block, sink:
    latent frames. window: of the sink and the refined ones in sight. Decode all of it, then leave out the
    first frame of pixels, which was not refined.
    Raises SettingsError for too few frames or times that are not a grid; NumericsError.
    """
    if min(block, sink) < 1 or window <= sink:
        raise SettingsError(
            f"block = {block}, sink = {sink} and window = {window}: use a block and a sink from 1 on, and a "
            "window that is longer than the sink."
        )
    frames = latents.shape[2]
    if frames <= sink:
        raise SettingsError(
            f"The clip has {frames} latent frames, {sink} of them the sink: nothing is refined."
        )
    euler = Euler(torch.tensor(sigmas, dtype=torch.float64, device="cpu"))
    generator = torch.Generator("cpu").manual_seed(seed)
    found, seen = latents.to(model.dtype).clone(), 0
    keys = model.sink(found[:, :, :sink])
    for first in range(sink, frames, block):
        clean = found[:, :, first : first + block]
        noise = torch.randn(clean.shape, generator=generator, device="cpu", dtype=model.dtype).to(
            clean.device
        )
        sink_first = first - seen - sink
        state = euler.start(interpolate(clean.float(), noise.to(clean.device).float(), euler.times[0].item()))
        while not state.done:
            sample = state.sample.to(model.dtype)
            state = euler.advance(state, model.velocity(sample, state.sigma, keys, first, sink_first))
        refined = state.sample.to(model.dtype)
        if not bool(torch.isfinite(refined).all()):
            raise NumericsError(
                f"Refined latent frames {first} to {first + refined.shape[2] - 1} became NaN or infinity: "
                "load the refiner in float32, or check its weights."
            )
        seen = min(seen + refined.shape[2], window - sink)
        keys = model.extend(keys, refined, first, sink_first, seen)
        found[:, :, first : first + block] = refined
    return found
