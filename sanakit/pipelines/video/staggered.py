"""A clip whose later chunks begin later: weights that see chunks without a state, as published.

All chunks are in sight of each other's past in one pass, each at a time of its own. Of n chunks in S steps,
chunk i takes its first step after i S / n of the first one's. One that has not begun is not seen; one that
is done stays in sight at time 0, and no step moves it.
Source: ChunkFlowEuler of NVlabs/Sana (flow_euler_sampler.py), with its script's interval 1 / n. Only Euler's
steps are published; here each chunk keeps its own state of any solver.
Shapes: one clip; C channels, T frames of latents, h w sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from sanakit.models.contracts import VelocityModel
from sanakit.models.sana import TextContext
from sanakit.pipelines.denoise import Batch, Sample
from sanakit.pipelines.memory import memory_limit


class StaggeredClip:
    """One clip on its way, in the place of a `Batch`.

    transformer: takes a time for each frame, and the first frames of a clip alone. samples: the clip, as
    `begin` returns it. lengths: latent frames of each chunk, T in all. Raises ValueError for several clips,
    or lengths of another clip.
    """

    def __init__(
        self, transformer: VelocityModel, samples: Sequence[Sample], *, lengths: Sequence[int]
    ) -> None:
        (sample,) = samples
        frames = sample.state.sample.shape[2]
        if sum(lengths) != frames:
            raise ValueError(f"The chunks have {sum(lengths)} latent frames, the clip {frames}.")
        self.transformer = transformer
        parts = sample.state.sample.split(list(lengths), dim=2)
        self._chunks = [
            replace(sample, state=replace(sample.state, sample=part), clean=part) for part in parts
        ]
        self._starts = chunk_starts(len(lengths), sample.state.total)
        self._index = 0
        negative, prompt = sample.negative, sample.prompt
        self._prompt, self._both = prompt, None if negative is None else TextContext.join([negative, prompt])

    @property
    def latents(self) -> Tensor:
        """The current latents, 1 C T h w; noise where a chunk has not begun."""
        return torch.cat([chunk.state.sample for chunk in self._chunks], dim=2)

    @property
    def clean(self) -> Tensor:
        """The predicted clean latents of each chunk's last step, 1 C T h w."""
        return torch.cat([chunk.clean for chunk in self._chunks], dim=2)

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done, and steps until the last chunk is done."""
        return self._index, self._starts[-1] + self._chunks[-1].state.total

    @torch.no_grad()
    def step(self, after_block: Callable[[nn.Module], object] | None = None) -> None:
        """Take every chunk that has begun one step further; if it fails, all stand where they stood.

        after_block: see `Sana.velocity`. Raises MemoryLimitError.
        """
        seen = self._chunks[: sum(start <= self._index for start in self._starts)]
        latents = torch.cat([chunk.state.sample for chunk in seen], dim=2)
        lengths = [chunk.state.sample.shape[2] for chunk in seen]
        t = torch.tensor([chunk.state.t for chunk in seen], dtype=torch.float32, device="cpu")
        times = t.repeat_interleave(torch.tensor(lengths, device="cpu"))[None]  # 1 T
        moving = [chunk for chunk in seen if not chunk.state.done]
        guided = self._both is not None and any(chunk.kind.at(chunk.state.sigma) for chunk in moving)
        context = self._both if guided and self._both is not None else self._prompt
        with memory_limit("denoising: draw fewer frames, or a smaller size"):
            found = self.transformer.velocity(latents, times, context, after_block=after_block)
        # they are close: their differences, amplified by scales, must not be taken in half precision
        branches = [part.split(lengths, dim=2) for part in found.to(latents.dtype).chunk(1 + guided)]
        moved = [
            None
            if chunk.state.done
            else Batch.moved(chunk, branches[0][number] if guided else None, branches[-1][number], None)
            for number, chunk in enumerate(seen)
        ]
        for chunk, after in zip(seen, moved, strict=True):
            if after is not None:
                chunk.state, chunk.clean, chunk.kept = after
        self._index += 1


def chunk_starts(count: int, steps: int) -> list[int]:
    """Return after how many steps of the first chunk each chunk takes its own first step.

    The product is rounded as the published code rounds it, which now and then is one step early.

    >>> chunk_starts(3, 60), chunk_starts(3, 4)
    ([0, 20, 40], [0, 1, 2])
    """
    return [int(number * (1 / count) * steps) for number in range(count)]
