"""A tiny causal transformer of random numbers, one that points to known clips, and what samples from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sanakit.flow.few_step import FewStep
from sanakit.models.layers import TextKeysValues
from sanakit.models.sana import TextContext
from sanakit.models.video.sana_video import ClipState, SanaVideo, SanaVideoConfig
from sanakit.models.video.sana_video_blocks import BlockState
from sanakit.ops.rotary_linear_attention import RotarySums
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from tests.models.video.clips import TINY, randomised

CAUSAL = replace(TINY, causal=True)
HEIGHT, WIDTH = 4, 6  # of latents: 6 tokens a frame
STILL = replace(CAUSAL, latent_channels=1, patch=1)  # sizes of `Pointing`


def tiny(dtype: torch.dtype = torch.float32, config: SanaVideoConfig = CAUSAL) -> SanaVideo:
    torch.manual_seed(0)
    return randomised(config).to(dtype).eval()


def words(model: SanaVideo, *seeds: int) -> list[TextContext]:
    """A prompt for each seed, of its own length."""
    dtype = model.dtype
    return [
        model.prepare([torch.randn(3 + seed, model.config.text_width, generator=draw(seed)).to(dtype)])
        for seed in seeds
    ]


def draw(seed: int) -> Generator:
    return Generator("cpu").manual_seed(seed)


def sampler(model: Any, **settings: Any) -> ChunkSampler:
    return ChunkSampler(
        **{"transformer": model, "height": HEIGHT, "width": WIDTH, "solver": FewStep()} | settings
    )


@dataclass(eq=False)
class Pointing(nn.Module):
    """A stand-in whose velocity is x - target, and whose state only counts frames.

    calls: "velocity" or "extend", the time, the frames and the state of each.
    """

    target: float = 0.5

    def __post_init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, float | Tensor, int, ClipState | None]] = []
        self.config, self.dtype = STILL, torch.float32
        self.blocks: list[Any] = []

    def prepare(self, features: Any, counts: Any = None, eps: float | None = None) -> TextContext:
        return TextContext([[TextKeysValues(1, constant=torch.zeros(1))]])

    def velocity(self, latents, t, context, guidance=None, *, after_block=None, state=None) -> Tensor:
        self.calls.append(("velocity", t, latents.shape[2], state))
        return latents - self.target

    def extend(self, state, latents, context, t=0.0, *, after_block=None) -> ClipState:
        self.calls.append(("extend", t, latents.shape[2], state))
        sums = RotarySums(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1))
        frames = latents.shape[2] + (state.frames if state else 0)
        return ClipState(frames, HEIGHT, WIDTH, [BlockState(sums, torch.zeros(1, 1, 1))])


def state_tensors(state: ClipState | None) -> list[Tensor]:
    return [] if state is None else [part for block in state.blocks for part in (*block.sums, block.last)]


def point_tensors(point: ClipPoint) -> Iterator[Tensor]:
    """All that a point holds but its prompt."""
    yield point.random
    yield from state_tensors(point.state)
    yield from (part for sums in point.recent for block in sums for part in block)
    if point.last is not None:
        yield point.last.latents
        yield from state_tensors(point.last.state)
        yield from (part for sums in point.last.recent for block in sums for part in block)


def same(one: ClipState | None, other: ClipState | None) -> bool:
    """Whether two states are equal, bit for bit."""
    pairs = zip(state_tensors(one), state_tensors(other), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)
