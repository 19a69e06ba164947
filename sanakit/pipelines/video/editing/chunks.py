"""Chunks of a clip edited one after another, in memory that does not grow with it.

    for latents in edited(ChunkEditor(transformer=model, prompt=prompt), sources, 122, seed=0):
        ...  # 1 C T h w, as soon as it is drawn

Each chunk begins as noise, sees the source's latents of its own frames in every step, and reads the state of
the chunks before. Finished, it passes through the transformer at t = 0 once more, which adds it to the state.
The distilled model takes four Euler steps at fixed times and knows no guidance.
Source: SANA-Streaming's released sampler (NVlabs/Sana, sana_streaming_sampler.py).
Shapes: one clip; C channels, T frames of a chunk, h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from sanakit.errors import NumericsError, SettingsError, SizeError
from sanakit.flow.euler import Euler
from sanakit.flow.solver import Solver
from sanakit.models.sana import TextContext
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.models.world.blocks import ChunkState
from sanakit.models.world.config import check_streams
from sanakit.pipelines.memory import memory_limit
from sanakit.pipelines.video.streaming import chunk_lengths

EDIT_TIMES = (1.0, 0.961, 0.893, 0.743)  # that the released model was distilled to
CHUNK = 3  # latent frames of a chunk, as it was trained


def _usual_solver() -> Solver:
    return Euler(torch.tensor([*EDIT_TIMES, 0.0], dtype=torch.float64))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkEditor:
    """Edits a clip chunk by chunk.

    prompt: from `prepare`, for one clip. solver: of every chunk. after_block: as for
    `SanaStreaming.velocity`. Raises SettingsError for weights that see whole clips, and for a prompt of
    several clips.
    """

    transformer: SanaStreaming
    prompt: TextContext
    solver: Solver = field(default_factory=_usual_solver)
    after_block: Callable[[nn.Module], object] | None = None

    def __post_init__(self) -> None:
        check_streams(self.transformer.config.variant)
        if self.prompt.batch != 1:
            raise SettingsError(f"The prompt is for {self.prompt.batch} clips: prepare it for one.")

    @torch.no_grad()
    def edit(
        self, source: Tensor, state: ChunkState | None, generator: Generator
    ) -> tuple[Tensor, ChunkState]:
        """Return the edited chunk, 1 C T h w, and the state behind it.

        source: 1 C T h w, normalised latents of its frames. state: of the chunks before; None: there are
        none. generator: on the CPU; draws the chunk's noise. Raises SizeError, NumericsError or
        MemoryLimitError.
        """
        first = state.frames if state else 0
        noise = torch.randn(source.shape, generator=generator, device="cpu", dtype=torch.float32)
        wide = torch.promote_types(self.transformer.dtype, torch.float32)
        step = self.solver.start(noise.to(source.device, wide), generator)
        with memory_limit("editing a chunk: take a smaller size"):
            while not step.done:
                velocity = self.transformer.velocity(
                    step.sample, step.t, self.prompt, source=source, after_block=self.after_block, state=state
                )
                step = self.solver.advance(step, velocity.to(step.sample.dtype))
            latents = step.sample
            if not bool(torch.isfinite(latents).all()):
                raise NumericsError(
                    f"Latent frames {first} to {first + latents.shape[2] - 1} became NaN or infinity: load "
                    "the model in float32, or check its weights."
                )
            given = {"source": source, "after_block": self.after_block}
            return latents, self.transformer.extend(state, latents, self.prompt, **given)


def edited(editor: ChunkEditor, sources: Iterable[Tensor], frames: int, *, seed: int) -> Iterator[Tensor]:
    """Return the edited chunks of a clip, 1 C T h w; each is drawn when it is asked for.

    sources: normalised latents of the source from its first frame on, in pieces of any length, which are read
    as they are needed. frames: latent frames in all. seed: of the noise, which one generator draws chunk by
    chunk. Raises SettingsError or SizeError at once for a clip without frames or of too many; the iterator
    raises as `ChunkEditor.edit`, and SizeError for a source that ends early.
    """
    lengths, most = chunk_lengths(frames, CHUNK), editor.transformer.config.max_positions
    if frames > most:
        raise SizeError(
            f"The clip has {frames} latent frames, but this model has positions for {most}: edit fewer."
        )
    return _edited(editor, iter(sources), lengths, Generator("cpu").manual_seed(seed))


def _edited(
    editor: ChunkEditor, sources: Iterator[Tensor], lengths: list[int], generator: Generator
) -> Iterator[Tensor]:
    state, read = None, None
    for length in lengths:
        while read is None or read.shape[2] < length:
            more = next(sources, None)
            if more is None:
                have = (state.frames if state else 0) + (0 if read is None else read.shape[2])
                raise SizeError(
                    f"The source ends after {have} latent frames of {sum(lengths)}: pass all of it."
                )
            read = more if read is None else torch.cat([read, more], dim=2)
        latents, state = editor.edit(read[:, :, :length], state, generator)
        read = read[:, :, length:].clone()  # what was used is not kept alive
        yield latents
