"""Velocity prediction from a feed of latents with captions: the objective of flow matching, once.

With x_t = (1 - t) x0 + t noise the loss is |model(x_t, t, text) - (noise - x0)|^2, t logit-normal and shifted
towards noise: it is there that the prompt decides. A teacher, where there is one, sets the target in place of
the samples. A feed says what is shown and in which words; the text encoder is frozen, or learns along.

That the loss falls does not show that the prompt is heard. `evaluate` therefore measures the loss with the
right, no and a wrong caption at several times; the gap between them is the figure to watch. Where all samples
have the same caption, the wrong one is left out.
Shapes: B batch, C h w latents, L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Generic, Required, TypedDict, TypeVar, Unpack, cast

import torch
from PIL import Image
from torch import Tensor, nn

from sanakit.bench.floors import text_context, text_encoding, transformer_step
from sanakit.flow.path import interpolate
from sanakit.flow.schedule import sample_training_times
from sanakit.images.sheets import contact_sheet
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana, SanaConfig
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.sana_wm import SanaWM
from sanakit.seeds import step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.depth import Teacher
from sanakit.train.feeds.feed import Feed, Unencoded
from sanakit.train.objectives.flow_matching import (
    caption_losses,
    draw_latents,
    other_captions,
    pad_text,
    stack_text,
    velocity_errors,
)
from sanakit.train.parts import Part, sample_noise

TRANSFORMER, TEXT = "transformer", "text"  # names in a run's checkpoint
CAPTION_DROPOUT = 0.1  # as published
TEXT_MULTIPLE = 32  # tokens that text is padded to: compiled blocks then meet one length, or two


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """Samples that are measured on. name: before the measures' names, "" or "scenes_"."""

    name: str
    latents: Tensor  # B C h w, scaled; of clips B C T h w
    captions: Sequence[str]


@dataclass(frozen=True, slots=True)
class VelocityBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    latents: Tensor | Unencoded  # B C h w
    noise: Tensor  # B C h w
    t: Tensor  # B, in [0, 1]
    tails: list[list[int]]  # token ids of the captions, behind the instruction
    dropped: Tensor  # B, true where the sample is trained without its caption
    shares: Tensor  # B, what each counts in the global batch; 0: empty or broken
    features: Sequence[Tensor] = ()  # of the captions, L E each; empty: to be computed
    cameras: Tensor | None = None  # of clips along camera paths, as `Shown` has them


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """The contact sheet that is drawn at intervals.

    decode: scaled latents B C h w to images B 3 H W. shape: C h w of one; of clips see `clip_velocity.py`.
    above: images of the same size for a row above, as many as there are prompts.
    """

    prompts: Sequence[str]
    guidance: float
    steps: int
    shape: tuple[int, ...]
    decode: Callable[[Tensor], Tensor]
    above: Tensor | None = None


class VelocitySettings(TypedDict, total=False):
    """The settings of an objective that learns velocities; left out: as there."""

    shift: Required[float]
    sheet: Required[Sheet]
    watched: Sequence[Watched]
    seed: int
    caption_dropout: float
    train_text: bool


Model = TypeVar("Model", bound=Sana | SanaVideo | SanaWM)


class CaptionedVelocity(Generic[Model]):
    """Velocity prediction on a feed's captioned latents: the part that images and clips share.

    train_text: train the text encoder along. shift: moves training and sampling times towards noise. seed: of
    noise, times and dropped captions. caption_dropout: share of samples trained without a caption, for
    guidance.
    """

    def __init__(
        self,
        transformer: Model,
        encoder: TextEncoder,
        feed: Feed,
        *,
        shift: float,
        sheet: Sheet,
        watched: Sequence[Watched] = (),
        seed: int = 0,
        caption_dropout: float = CAPTION_DROPOUT,
        train_text: bool = False,
    ) -> None:
        self.encoder, self.feed = encoder, feed
        self.device = next(transformer.parameters()).device
        self.shift, self.seed, self.caption_dropout = shift, seed, caption_dropout
        self.drawing, self.watched = sheet, watched
        self._train(transformer, train_text)

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the feed get ready."""
        self.feed.begin(first, parts)

    def batch(self, step: int, part: Part) -> VelocityBatch:
        """Draw samples, noise and times of a part of a step's batch."""
        shown = self.feed.shown(step, part)
        generator = step_generator(self.seed, step)
        own = slice(part.start, part.stop)
        dropped = torch.rand(part.total, generator=generator, dtype=torch.float32)[own] < self.caption_dropout
        t = sample_training_times(part.total, self.shift, generator)[own]
        noise = sample_noise(self.seed, step, part, tuple(shown.latents.shape[1:]))
        latents, shares = shown.latents, shown.shares
        if isinstance(latents, Tensor):
            latents = latents.to(self.device, non_blocking=True)
        if shares is None:
            shares = torch.full((len(part),), 1 / part.total, dtype=torch.float32)
        without = torch.tensor([not caption for caption in shown.captions])
        return VelocityBatch(
            latents=latents,
            noise=noise.to(self.device, non_blocking=True),
            t=t.to(self.device, non_blocking=True),
            tails=self.encoder.tokenize(shown.captions, notes=[]),
            dropped=(dropped | without).to(self.device, non_blocking=True),
            shares=shares.to(self.device, non_blocking=True),
            features=() if self.train_text else shown.features,
            cameras=shown.cameras,
        )

    def loss(self, batch: VelocityBatch) -> Tensor:
        """Return the sum of the samples' errors, each times its share of the global batch."""
        errors = self.errors(batch, *self.inputs(batch))
        return (errors * batch.shares).sum()  # autocast would round a product of matrices

    def errors(self, batch: VelocityBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the mean square error of each sample, B. latents, text, mask: as from `inputs`."""
        return velocity_errors(self.transformer, latents, batch.noise, batch.t, text, mask)

    def inputs(self, batch: VelocityBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return latents B C h w, text features B L E and their mask B L, without dropped captions."""
        latents = batch.latents if isinstance(batch.latents, Tensor) else batch.latents.encode()
        return latents, *self.words(batch)

    def words(self, batch: VelocityBatch) -> tuple[Tensor, Tensor]:
        """Return text features B L E and their mask B L, without dropped captions; no latents are encoded."""
        text, mask = pad_text(*self._text(batch), TEXT_MULTIPLE)
        mask[:, 1:] &= ~batch.dropped[:, None]
        return text, mask

    def filled(self, batch: VelocityBatch) -> Tensor:
        """Return the share of the global batch that the part's samples are."""
        return batch.shares.sum()

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Measure the loss with the right, no and a wrong caption at fixed noise, over what is watched."""
        transformer, encoder = self.parts(averaged)
        measured: dict[str, float] = {}
        for one in self.watched:
            generator = torch.Generator().manual_seed(1)
            noise = torch.randn(one.latents.shape, generator=generator, dtype=torch.float32).to(self.device)
            tails = encoder.tokenize(one.captions, notes=[])
            text, mask = encoder.encode_tokens(tails)
            others = other_captions([tuple(tail) for tail in tails])
            losses = caption_losses(transformer, one.latents.to(self.device), noise, text, mask, others)
            measured |= {f"{one.name}{case}": loss for case, loss in losses.items()}
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Draw the sheet's prompts, image i from the noise of seed i."""
        drawn, above = self.drawn(averaged), self.drawing.above
        if above is None:
            return contact_sheet(drawn, 8)
        return contact_sheet(torch.cat([above.cpu(), drawn.cpu()]), len(drawn))

    def drawn(self, averaged: nn.Module) -> Tensor:
        """Draw the sheet's prompts with (averaged) weights, decoded, sample i from the noise of seed i."""
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
        return drawing.decode(latents)

    def parts(self, averaged: nn.Module) -> tuple[Model, TextEncoder]:
        """Return transformer and text encoder with (averaged) weights."""
        parts, encoder = cast(nn.ModuleDict, averaged), self.encoder
        if self.train_text:
            text = cast(Gemma2, parts[TEXT])
            words = (encoder.tokenizer, encoder.instruction, encoder.max_tokens)
            encoder = TextEncoder(text, *words, dialect=encoder.dialect)
        return cast(Model, parts[TRANSFORMER]), encoder

    def _train(self, transformer: Model, train_text: bool) -> None:
        """Set what is trained."""
        self.transformer, self.train_text = transformer, train_text
        parts: dict[str, nn.Module] = {TRANSFORMER: transformer.train().requires_grad_(True)}
        self.encoder.model.requires_grad_(train_text)
        if train_text:
            parts[TEXT] = self.encoder.model.train()
        self.model: nn.Module = nn.ModuleDict(parts)

    def _text(self, batch: VelocityBatch) -> tuple[Tensor, Tensor]:
        """Return the captions' features B L E and their mask B L."""
        if batch.features:
            return stack_text(batch.features)
        if self.train_text:
            return self.encoder.encode_tokens(batch.tails)
        # In its own dtype and always the same: the instruction's prefix is kept from step to step.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.encoder.encode_tokens(batch.tails)


class VelocityObjective(CaptionedVelocity[Sana]):
    """Velocity prediction of images, on the transformer's device.

    teacher: whose velocities and tokens are the target; None: the samples' own velocities. settings: as for
    `CaptionedVelocity`.
    """

    def __init__(
        self,
        transformer: Sana,
        encoder: TextEncoder,
        feed: Feed,
        *,
        teacher: Teacher | None = None,
        **settings: Unpack[VelocitySettings],
    ) -> None:
        super().__init__(transformer, encoder, feed, **settings)
        self.teacher = teacher

    def with_transformer(self, transformer: Sana, teacher: Teacher | None = None) -> VelocityObjective:
        """Return the same objective for another transformer, all of which is trained.

        teacher: as for a new objective; student and teacher read the same text features, so that with a
        teacher the text encoder is frozen.
        """
        changed = copy(self)
        changed.teacher = teacher
        changed._train(transformer, self.train_text and teacher is None)
        return changed

    def errors(self, batch: VelocityBatch, latents: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the distance of each sample's velocity from its own or the teacher's, B."""
        if self.teacher is None:
            return super().errors(batch, latents, text, mask)
        noisy = interpolate(latents, batch.noise, batch.t)
        return self.teacher.errors(self.transformer, noisy, batch.t, text, mask)

    def flops(self, batch: VelocityBatch) -> int:
        """Count operations: three forwards of what is trained, one of a frozen text encoder and of a teacher.

        Encoding of images is not counted, nor what a cache saves.
        """
        height, width = batch.noise.shape[-2:]
        tokens = [len(tail) + 1 for tail in batch.tails]

        def forward(config: SanaConfig) -> int:
            return (transformer_step(config, height, width, tokens) + text_context(config, tokens)).flops

        text = sum(text_encoding(self.encoder.model.config, count).flops for count in tokens)
        text *= 0 if batch.features else 3 if self.train_text else 1
        taught = 0 if self.teacher is None else forward(self.teacher.transformer.config)
        return 3 * forward(self.transformer.config) + taught + text
