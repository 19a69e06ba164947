"""Train a SANA transformer to predict velocities, alone or together with its text encoder.

The loss is the plain mean square of flow matching: with x_t = (1 - t) x0 + t noise,
|model(x_t, t, text) - (noise - x0)|^2, with t logit-normal and shifted towards noise: it is there that the
prompt decides. Latents are prepared once; captions are tokenised once; the instruction before every prompt is
computed once a batch, with gradients.

That the loss falls does not show that the prompt is heard. `evaluate` therefore gives the loss with the
right, the empty and a wrong caption at several times; the gap between them is the figure to watch.

Shapes: N images, B batch, C H W latents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from sanakit.bench.floors import text_context, text_encoding, transformer_step
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.guidance import classifier_free
from sanakit.flow.path import interpolate, velocity_target
from sanakit.flow.schedule import sample_training_times
from sanakit.images.sheets import contact_sheet
from sanakit.models.gemma2 import Gemma2, Layer
from sanakit.models.sana import Sana, SanaConfig
from sanakit.seeds import step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.train.distill.depth import Teacher
from sanakit.train.parts import Part, sample_noise

TIMES_WATCHED = (0.5, 0.85, 0.95)


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """A part of a global batch, drawn: what the loss is computed from."""

    part: Part
    latents: Tensor  # B C H W
    noise: Tensor  # B C H W
    t: Tensor  # B, in [0, 1]
    tails: list[list[int]]  # token ids of the captions, behind the instruction
    dropped: Tensor  # B, true where the sample is trained without its caption


class FlowMatchingObjective:
    """Velocity prediction on prepared latents, on the models' device; see the module's text.

    latents: N C H W, scaled to about unit variance. captions: N lists of alternative captions. weights: N,
    how often each image is drawn. shift: moves training and sampling times towards noise. seed: of all that
    is drawn. caption_dropout: share of samples trained without a caption, for guidance.
    sheet_prompts: drawn on the sheet, at least one. decode: latents (scaled) to images, for the sheet.
    held_out: latents and captions that are not trained on, but measured as well.
    """

    def __init__(
        self,
        transformer: Sana,
        text: Gemma2,
        tokenizer: Tokenizer,
        latents: Tensor,
        captions: Sequence[Sequence[str]],
        weights: Tensor,
        *,
        shift: float,
        seed: int = 0,
        caption_dropout: float = 0.1,
        sheet_prompts: Sequence[str],
        sheet_guidance: float = 2.5,
        sheet_steps: int = 10,
        decode: Callable[[Tensor], Tensor],
        held_out: tuple[Tensor, Sequence[Sequence[str]]] | None = None,
    ) -> None:
        self.model: nn.Module = nn.ModuleDict({"transformer": transformer, "text": text})
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(text, tokenizer)
        self.device = next(transformer.parameters()).device
        self.latents, self.weights = latents.to(self.device), weights
        self.tails = [self.encoder.tokenize(alternatives) for alternatives in captions]
        self.shift, self.seed, self.caption_dropout = shift, seed, caption_dropout
        self.sheet_prompts, self.sheet_guidance, self.sheet_steps = sheet_prompts, sheet_guidance, sheet_steps
        self.decode = decode
        self.held_out = held_out
        self.teacher: Teacher | None = None

    def with_transformer(self, transformer: Sana, teacher: Teacher | None = None) -> FlowMatchingObjective:
        """The same objective for another transformer, all of which is trained.

        teacher: whose velocities and tokens it learns in place of the images' own velocities; None: nobody's.
        Student and teacher read the same text features: with a teacher the text encoder stays as it is.
        """
        changed = copy(self)
        changed.transformer = transformer.train().requires_grad_(True)
        text = self.encoder.model.requires_grad_(teacher is None)
        changed.model = nn.ModuleDict({"transformer": changed.transformer, "text": text})
        changed.teacher = teacher
        return changed

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        """Nothing to prepare: latents and captions are in memory."""

    def batch(self, step: int, part: Part) -> FlowBatch:
        """Draw images, captions, noise and times of a part of a step's batch."""
        generator = step_generator(self.seed, step)
        own = slice(part.start, part.stop)
        drawn = torch.multinomial(self.weights, part.total, replacement=True, generator=generator)[own]
        choices = torch.rand(part.total, generator=generator)[own].tolist()
        dropped = torch.rand(part.total, generator=generator)[own] < self.caption_dropout
        t = sample_training_times(part.total, self.shift, generator)[own]
        tails = [self.tails[i] for i in drawn.tolist()]
        noise = sample_noise(self.seed, step, part, tuple(self.latents.shape[1:]))
        return FlowBatch(
            part=part,
            latents=self.latents[drawn.to(self.device)],
            noise=noise.to(self.device, non_blocking=True),
            t=t.to(self.device, non_blocking=True),
            tails=[captions[int(u * len(captions))] for captions, u in zip(tails, choices, strict=True)],
            dropped=dropped.to(self.device, non_blocking=True),
        )

    def loss(self, batch: FlowBatch) -> Tensor:
        """A part's loss, or its distance from the teacher, times its share of the global batch."""
        with torch.no_grad() if self.teacher else nullcontext():
            text, mask = pad_text(*self.encoder.encode_tokens(batch.tails))
        mask[:, 1:] &= ~batch.dropped[:, None]
        if self.teacher is None:
            errors = velocity_errors(self.transformer, batch.latents, batch.noise, batch.t, text, mask)
        else:
            noisy = interpolate(batch.latents, batch.noise, batch.t)
            errors = self.teacher.errors(self.transformer, noisy, batch.t, text, mask)
        return errors.mean() * batch.part.weight

    def flops(self, batch: FlowBatch) -> int:
        """Operations of forward and backward, which costs twice as much; of a teacher forward only."""
        height, width = batch.latents.shape[-2:]
        tokens = [len(tail) + 1 for tail in batch.tails]

        def forward(config: SanaConfig) -> int:
            return (transformer_step(config, height, width, tokens) + text_context(config, tokens)).flops

        text = sum(text_encoding(self.encoder.model.config, count).flops for count in tokens)
        if self.teacher is None:
            return 3 * (forward(self.transformer.config) + text)
        return 3 * forward(self.transformer.config) + forward(self.teacher.transformer.config) + text

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Loss with the right, no and a wrong caption at fixed noise, over the images drawn most often.

        And over those held out, where there are any, as "held_out_right_0.5" and so on.
        """
        transformer, encoder = self.parts(averaged)
        chosen = self.weights.topk(min(128, len(self.weights))).indices.tolist()
        watched = {"": (self.latents[chosen], [self.tails[i][0] for i in chosen])}
        if self.held_out is not None:
            latents, captions = self.held_out
            first = encoder.tokenize([alternatives[0] for alternatives in captions])
            watched["held_out_"] = (latents.to(self.device), first)
        measured: dict[str, float] = {}
        for name, (latents, tails) in watched.items():
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
            losses = caption_losses(transformer, latents, noise, *encoder.encode_tokens(tails))
            measured |= {f"{name}{case}": loss for case, loss in losses.items()}
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Pictures of the sheet's prompts, image i from the noise of seed i."""
        transformer, encoder = self.parts(averaged)
        latents = draw_latents(
            transformer,
            encoder,
            self.sheet_prompts,
            tuple(self.latents.shape[1:]),
            shift=self.shift,
            guidance=self.sheet_guidance,
            steps=self.sheet_steps,
        )
        return contact_sheet(self.decode(latents), 8)

    def parts(self, averaged: nn.Module) -> tuple[Sana, TextEncoder]:
        """Transformer and text encoder of (averaged) weights."""
        parts = cast(nn.ModuleDict, averaged)
        return cast(Sana, parts["transformer"]), TextEncoder(cast(Gemma2, parts["text"]), self.tokenizer)


def velocity_errors(
    transformer: Sana, latents: Tensor, noise: Tensor, t: Tensor, text: Tensor, mask: Tensor
) -> Tensor:
    """Flow matching's mean square of each sample, B.

    latents, noise: B C H W. t: B, in [0, 1]. text: B L E. mask: B L, true where a token is real.
    """
    predicted = transformer(interpolate(latents, noise, t), t, text, mask).float()
    return (predicted - velocity_target(latents, noise)).square().flatten(1).mean(1)


@torch.no_grad()
def caption_losses(
    transformer: Sana, latents: Tensor, noise: Tensor, text: Tensor, mask: Tensor
) -> dict[str, float]:
    """Loss with the right, no and another sample's caption at the times watched, by "right_0.5" and so on.

    latents, noise: B C H W. text: B L E, of the right captions. mask: B L.
    """
    empty = mask.clone()
    empty[:, 1:] = False
    away = len(latents) // 2
    cases = {"right": (text, mask), "empty": (text, empty), "wrong": (text.roll(away, 0), mask.roll(away, 0))}
    measured = {}
    for time in TIMES_WATCHED:
        t = torch.full((len(latents),), time, device=latents.device)
        for case, (features, real) in cases.items():
            errors = velocity_errors(transformer, latents, noise, t, features, real)
            measured[f"{case}_{time}"] = errors.mean().item()
    return measured


@torch.no_grad()
def draw_latents(
    transformer: Sana,
    encoder: TextEncoder,
    prompts: Sequence[str],
    shape: tuple[int, ...],
    *,
    shift: float,
    guidance: float,
    steps: int,
) -> Tensor:
    """Draw prompts with the model being trained: B C H W, scaled latents, image i from the noise of seed i.

    shape: C H W of one. shift, guidance, steps: of the DPM solver.
    """
    count = len(prompts)
    noise = torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    )
    features = encoder.encode_negative([""]) + encoder.encode(list(prompts), notes=[])
    context = transformer.prepare(features, [count] + [1] * count)
    velocity = classifier_free(lambda x, t: transformer.velocity(x, t, context), guidance)
    solver = FlowDPM(dpm_times(steps, shift))
    state = solver.start(noise.to(next(transformer.parameters()).device))
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    return state.sample


def pad_text(text: Tensor, mask: Tensor, multiple: int = 16) -> tuple[Tensor, Tensor]:
    """Pad B L E features and their B L mask to a multiple of tokens: compiled blocks then meet few shapes."""
    missing = -text.shape[1] % multiple
    return F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))


def stack_text(features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features L E of B texts as B L E, float32, padded on the right with zeros, and their mask B L."""
    lengths = torch.tensor([len(one) for one in features], device=features[0].device)
    text = nn.utils.rnn.pad_sequence(list(features), batch_first=True).float()
    return text, torch.arange(text.shape[1], device=text.device) < lengths[:, None]


def start_text_encoder(model: Gemma2) -> None:
    """Initial weights for training a small Gemma 2 from nothing.

    Its norms scale by 1 + weight, which makes every sublayer's output as large as the token's own embedding,
    and drowns the token in it. Embeddings of unit length and sublayers of 0.3 keep tokens apart from the
    first step.
    """
    nn.init.normal_(model.embed_tokens.weight, std=model.config.width**-0.5)
    for layer in model.layers:
        assert isinstance(layer, Layer)
        nn.init.constant_(layer.post_attention_layernorm.weight, -0.7)
        nn.init.constant_(layer.post_feedforward_layernorm.weight, -0.7)
