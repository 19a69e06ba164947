"""Velocity prediction from a feed of latents with captions: the objective of flow matching, once.

With x_t = (1 - t) x0 + t noise the loss is |model(x_t, t, text) - (noise - x0)|^2, t logit-normal and shifted
towards noise: it is there that the prompt decides. A feed says what is shown and in which words; the text
encoder stands still, or learns along. Shapes: B batch, C H W latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.bench.floors import text_context, text_encoding, transformer_step
from sanakit.flow.schedule import sample_training_times
from sanakit.images.sheets import contact_sheet
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.seeds import step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.objectives.flow_matching import caption_losses, draw_latents, pad_text, velocity_errors
from sanakit.train.parts import Part, sample_noise

TEXT_MULTIPLE = 32  # tokens that text is padded to: compiled blocks then meet one length, or two


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A part of a step's batch. latents: B C H W, scaled. captions: B."""

    latents: Tensor
    captions: list[str]


class Feed(Protocol):
    """Where samples come from. All of a step's batch have one size."""

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Get ready for these parts of step `first` and of each later one, in turn."""
        ...

    def shown(self, step: int, part: Part) -> Shown:
        """Return a part of a step's batch: a function of the step and of places in the global batch alone."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """Samples that are measured on. name: before the measures' names, "" or "scenes_"."""

    name: str
    latents: Tensor  # B C H W, scaled
    captions: Sequence[str]


@dataclass(frozen=True, slots=True)
class VelocityBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    part: Part
    latents: Tensor  # B C H W
    noise: Tensor  # B C H W
    t: Tensor  # B, in [0, 1]
    tails: list[list[int]]  # token ids of the captions, behind the instruction
    dropped: Tensor  # B, true where the sample is trained without its caption


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """What is drawn now and then. decode: scaled latents B C H W to images B 3 H W. shape: C H W of one."""

    prompts: Sequence[str]
    guidance: float
    steps: int
    shape: tuple[int, int, int]
    decode: Callable[[Tensor], Tensor]


class VelocityObjective:
    """Velocity prediction on a feed's latents, on the models' device.

    train_text: train the text encoder along. shift: moves training and sampling times towards noise. seed: of
    noise, times and dropped captions. caption_dropout: share of samples without a caption, for guidance.
    """

    def __init__(
        self,
        transformer: Sana,
        encoder: TextEncoder,
        feed: Feed,
        *,
        shift: float,
        sheet: Sheet,
        watched: Sequence[Watched] = (),
        seed: int = 0,
        caption_dropout: float = 0.1,
        train_text: bool = False,
    ) -> None:
        self.transformer, self.encoder, self.feed = transformer, encoder, feed
        parts: dict[str, nn.Module] = {"transformer": transformer.train().requires_grad_(True)}
        encoder.model.requires_grad_(train_text)
        if train_text:
            parts["text"] = encoder.model
        self.model: nn.Module = nn.ModuleDict(parts)
        self.device = next(transformer.parameters()).device
        self.shift, self.seed, self.caption_dropout = shift, seed, caption_dropout
        self.drawing, self.watched, self.train_text = sheet, watched, train_text

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feed get ready."""
        self.feed.begin(first, parts)

    def batch(self, step: int, part: Part) -> VelocityBatch:
        """Draw samples, noise and times of a part of a step's batch."""
        shown = self.feed.shown(step, part)
        generator = step_generator(self.seed, step)
        own = slice(part.start, part.stop)
        dropped = torch.rand(part.total, generator=generator)[own] < self.caption_dropout
        t = sample_training_times(part.total, self.shift, generator)[own]
        noise = sample_noise(self.seed, step, part, tuple(shown.latents.shape[1:]))
        return VelocityBatch(
            part=part,
            latents=shown.latents.to(self.device, non_blocking=True),
            noise=noise.to(self.device, non_blocking=True),
            t=t.to(self.device, non_blocking=True),
            tails=self.encoder.tokenize(shown.captions, notes=[]),
            dropped=dropped.to(self.device, non_blocking=True),
        )

    def loss(self, batch: VelocityBatch) -> Tensor:
        """A part's mean square, times its share of the global batch."""
        with nullcontext() if self.train_text else torch.no_grad():
            text, mask = pad_text(*self.encoder.encode_tokens(batch.tails), TEXT_MULTIPLE)
        mask[:, 1:] &= ~batch.dropped[:, None]
        errors = velocity_errors(self.transformer, batch.latents, batch.noise, batch.t, text, mask)
        return errors.mean() * batch.part.weight

    def flops(self, batch: VelocityBatch) -> int:
        """Operations of forward and backward; of a text encoder that stands still forward only."""
        height, width = batch.latents.shape[-2:]
        tokens = [len(tail) + 1 for tail in batch.tails]
        config = self.transformer.config
        own = (transformer_step(config, height, width, tokens) + text_context(config, tokens)).flops
        text = sum(text_encoding(self.encoder.model.config, count).flops for count in tokens)
        return 3 * own + (3 if self.train_text else 1) * text

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Loss with the right, no and a wrong caption at fixed noise, over what is watched."""
        transformer, encoder = self.parts(averaged)
        measured: dict[str, float] = {}
        for one in self.watched:
            noise = torch.randn(one.latents.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
            text, mask = encoder.encode_tokens(encoder.tokenize(one.captions, notes=[]))
            losses = caption_losses(transformer, one.latents.to(self.device), noise, text, mask)
            measured |= {f"{one.name}{case}": loss for case, loss in losses.items()}
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Pictures of the sheet's prompts, image i from the noise of seed i."""
        transformer, encoder = self.parts(averaged)
        drawing = self.drawing
        latents = draw_latents(
            transformer,
            encoder,
            drawing.prompts,
            drawing.shape,
            shift=self.shift,
            guidance=drawing.guidance,
            steps=drawing.steps,
        )
        return contact_sheet(drawing.decode(latents), 8)

    def parts(self, averaged: nn.Module) -> tuple[Sana, TextEncoder]:
        """Return transformer and text encoder with (averaged) weights."""
        parts, encoder = cast(nn.ModuleDict, averaged), self.encoder
        if self.train_text:
            text = cast(Gemma2, parts["text"])
            encoder = TextEncoder(text, encoder.tokenizer, encoder.instruction, encoder.max_tokens)
        return cast(Sana, parts["transformer"]), encoder
