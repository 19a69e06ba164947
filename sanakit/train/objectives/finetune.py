"""Train a finished SANA model on captioned pictures: latents and text features are made as they are needed.

The autoencoder is frozen, and the text encoder too unless it is trained along; both run inside the loss, in
their own dtype, so that pictures of any size and any caption will do and nothing has to be cached before.
What a cache has made already (`sana data cache`) is taken from there: the same batches, encoded.
Objective and times are those of `flow_matching`; each batch has the size of one aspect bucket.

Empty places of a batch and pictures that turn out broken count nothing: the loss is the mean over the sound
pictures of the global batch. How many those are is known once they are decoded, on all ranks; so a rank reads
all of its parts of a step before the first of them is computed.

Shapes: B pictures of a part, H W pixels, C h w latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from sanakit.bench.floors import text_context, text_encoding, transformer_step
from sanakit.data.batches.loader import Batch, Loader
from sanakit.data.cache.loader import CachedBatch, CachedLoader
from sanakit.flow.schedule import sample_training_times
from sanakit.images.sheets import contact_sheet
from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.seeds import step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distributed.parallel import current_share
from sanakit.train.objectives.flow_matching import (
    caption_losses,
    draw_latents,
    pad_text,
    stack_text,
    velocity_errors,
)
from sanakit.train.parts import Part, sample_noise

TRANSFORMER, TEXT = "transformer", "text"  # names in a run's checkpoint
DRAWN = 8  # pictures on a sheet, at most


@dataclass(frozen=True, slots=True)
class Reference:
    """Pictures to measure on, of one bucket, so that they go through the model together.

    pictures: B 3 H W in [-1, 1], at least one.   captions: B.   latents: B C h w, scaled; None: made of them.
    """

    pictures: Tensor
    captions: list[str]
    latents: Tensor | None = None


@dataclass(frozen=True, slots=True)
class CaptionedBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    pictures: Tensor  # B 3 H W in [-1, 1]; of a cache their scaled latents, B C h w
    encoded: bool  # whether they are such latents
    features: list[Tensor]  # of the captions, L E each, from a cache; empty: to be made
    shares: Tensor  # B, what each counts in the mean over the global batch; 0: empty or broken
    noise: Tensor  # B C h w
    t: Tensor  # B, in [0, 1]
    tails: list[list[int]]  # token ids of the captions, behind the instruction
    dropped: Tensor  # B, true where the sample is trained without its caption


class FinetuneObjective:
    """Velocity prediction on a loader's pictures, on the transformer's device; see the module's text.

    transformer, encoder, codec: of one model, the codec whole. loader: on that device, of pictures or of a
    cache that this model made. reference: what to measure on and to draw beside. shift: moves training and
    sampling times towards noise. caption_dropout: share of samples trained without a caption, for guidance.
    train_text: train the text encoder along. sheet_guidance, sheet_steps: of the sheet. on_failure: called
    with all pictures that turned out broken so far, on any rank, by name -> reason, when there are new ones.
    """

    def __init__(
        self,
        transformer: Sana,
        encoder: TextEncoder,
        codec: DCAE,
        loader: Loader | CachedLoader,
        reference: Reference,
        *,
        shift: float,
        seed: int = 0,
        caption_dropout: float = 0.1,
        train_text: bool = False,
        sheet_guidance: float,
        sheet_steps: int,
        on_failure: Callable[[Mapping[str, str]], object] = lambda failed: None,
    ) -> None:
        parts: dict[str, nn.Module] = {TRANSFORMER: transformer.train().requires_grad_(True)}
        encoder.model.requires_grad_(train_text)
        if train_text:
            parts[TEXT] = encoder.model.train()
        self.model: nn.Module = nn.ModuleDict(parts)
        self.transformer, self.encoder, self.train_text = transformer, encoder, train_text
        self.codec = codec.eval().requires_grad_(False)
        self.device = next(transformer.parameters()).device
        self.loader, self.on_failure = loader, on_failure
        self.shift, self.seed, self.caption_dropout = shift, seed, caption_dropout
        self.sheet_guidance, self.sheet_steps = sheet_guidance, sheet_steps
        self.reference = reference
        self.reference_latents = (
            torch.cat([self.encode(part) for part in reference.pictures.split(4)])
            if reference.latents is None
            else reference.latents.to(self.device)
        )
        self._reference_tails = self._tokenize(reference.captions)
        self._parts: list[Part] = []
        self._step, self._sound = -1, 0  # the step that is loaded, and its sound pictures on all ranks
        self._loaded: dict[int, Batch | CachedBatch] = {}
        self._failed: dict[str, str] = {}

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Let the loader read ahead."""
        self._parts, self._step = list(parts), -1
        self.loader.begin(first, parts)

    def batch(self, step: int, part: Part) -> CaptionedBatch:
        """Give a part of a step, one of those told to `begin`: its pictures, noise, times and tokens."""
        if step != self._step:
            self._load(step)
        loaded = self._loaded.pop(part.start)
        generator = step_generator(self.seed, step)
        own = slice(part.start, part.stop)
        dropped = torch.rand(part.total, generator=generator)[own] < self.caption_dropout
        t = sample_training_times(part.total, self.shift, generator)[own]
        cached = isinstance(loaded, CachedBatch)
        if cached:
            height, width = loaded.latents.shape[-2:]
        else:
            height, width = (side // self.codec.config.compression for side in loaded.images.shape[-2:])
        noise = sample_noise(self.seed, step, part, (self.codec.config.latent_channels, height, width))
        without = torch.tensor([not caption for caption in loaded.captions])
        return CaptionedBatch(
            pictures=loaded.latents if cached else loaded.images,
            encoded=cached,
            features=loaded.text if cached and not self.train_text else [],
            shares=loaded.weights / self._sound,
            noise=noise.to(self.device, non_blocking=True),
            t=t.to(self.device, non_blocking=True),
            tails=self._tokenize(loaded.captions),
            dropped=(dropped | without).to(self.device, non_blocking=True),
        )

    def loss(self, batch: CaptionedBatch) -> Tensor:
        """Flow-matching loss of a part's sound pictures, each counting its share of the global batch."""
        latents = batch.pictures if batch.encoded else self.encode(batch.pictures)
        if batch.features:
            text, mask = stack_text(batch.features)
        elif self.train_text:
            text, mask = self.encoder.encode_tokens(batch.tails)
        else:  # in its own dtype and always the same: the instruction's prefix is kept from step to step
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                text, mask = self.encoder.encode_tokens(batch.tails)
        text, mask = pad_text(text, mask)
        mask[:, 1:] &= ~batch.dropped[:, None]
        errors = velocity_errors(self.transformer, latents, batch.noise, batch.t, text, mask)
        return (errors * batch.shares).sum()  # autocast would round a product of matrices

    def flops(self, batch: CaptionedBatch) -> int:
        """Operations of forward and backward of what is trained, and forward of a frozen text encoder.

        The autoencoder's are not counted, nor what a cache spares.
        """
        config, tokens = self.transformer.config, [len(tail) + 1 for tail in batch.tails]
        height, width = batch.noise.shape[-2:]
        work = transformer_step(config, height, width, tokens) + text_context(config, tokens)
        text = sum(text_encoding(self.encoder.model.config, count).flops for count in tokens)
        return 3 * work.flops + (0 if batch.features else 3 if self.train_text else 1) * text

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Loss with the right, no and a wrong caption at fixed noise, on the reference pictures."""
        transformer, encoder = self.parts(averaged)
        latents = self.reference_latents
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        return caption_losses(transformer, latents, noise, *encoder.encode_tokens(self._reference_tails))

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """A row of reference pictures, and below each what the model draws for its caption."""
        transformer, encoder = self.parts(averaged)
        prompts = self.reference.captions[:DRAWN]
        latents = draw_latents(
            transformer,
            encoder,
            prompts,
            tuple(self.reference_latents.shape[1:]),
            shift=self.shift,
            guidance=self.sheet_guidance,
            steps=self.sheet_steps,
        )
        drawn = decoded(self.codec, latents)
        return contact_sheet(torch.cat([self.reference.pictures[:DRAWN].cpu(), drawn]), len(prompts))

    def parts(self, averaged: nn.Module) -> tuple[Sana, TextEncoder]:
        """Transformer and text encoder of (averaged) weights."""
        parts = cast(nn.ModuleDict, averaged)
        encoder = self.encoder
        if self.train_text:
            text = cast(Gemma2, parts[TEXT])
            encoder = TextEncoder(text, encoder.tokenizer, encoder.instruction, encoder.max_tokens)
        return cast(Sana, parts[TRANSFORMER]), encoder

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Scaled latents, B C h w float32, of pictures B 3 H W in [-1, 1], in the codec's own dtype."""
        pictures = pictures.to(self.device, next(self.codec.parameters()).dtype)
        with torch.autocast(self.device.type, enabled=False):
            return self.codec.encode(pictures).float().contiguous() * self.codec.config.scaling_factor

    def _tokenize(self, captions: Sequence[str]) -> list[list[int]]:
        return self.encoder.tokenize(
            captions, notes=[]
        )  # of captions too long for a prompt, the start counts

    def _load(self, step: int) -> None:
        """Read this rank's parts of a step, and count the sound pictures of all ranks."""
        self._loaded = {part.start: self.loader.batch(step, part) for part in self._parts}
        self._step = step
        count = torch.tensor(sum(int(batch.weights.sum()) for batch in self._loaded.values()))
        if current_share().world > 1:
            dist.all_reduce(count)
        self._sound = max(1, int(count))
        if int(count) < int(self.loader.order.batch(step).weights.sum()):  # the same on every rank
            failed = _of_all_ranks(self.loader.report().failed)
            if failed.keys() - self._failed.keys():
                self._failed |= failed
                self.on_failure(self._failed)


@torch.no_grad()
def decoded(codec: DCAE, latents: Tensor) -> Tensor:
    """Pictures, B 3 H W float32 on the CPU, of scaled latents B C h w, one after the other."""
    weight = next(codec.parameters())
    scaled = (latents / codec.config.scaling_factor).to(weight.device, weight.dtype)
    return torch.cat([codec.decode(part).float().cpu() for part in scaled.split(1)])


def _of_all_ranks(named: dict[str, str]) -> dict[str, str]:
    """Join the dicts of all ranks; every rank has to ask."""
    world = current_share().world
    if world == 1:
        return named
    every: list[Any] = [None] * world
    dist.all_gather_object(every, named)
    return {key: reason for one in every for key, reason in one.items()}
