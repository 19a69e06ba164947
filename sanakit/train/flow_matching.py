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
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from sanakit.flow.dpm import FlowDPM
from sanakit.flow.guidance import classifier_free
from sanakit.flow.path import interpolate, velocity_target
from sanakit.flow.schedule import dpm_times, sample_training_times
from sanakit.models.gemma2 import Gemma2, Layer
from sanakit.models.sana import Sana
from sanakit.text.encoder import TextEncoder
from sanakit.train.sheets import contact_sheet

TIMES_WATCHED = (0.5, 0.85, 0.95)


class FlowMatchingObjective:
    """Velocity prediction on prepared latents, on the models' device; see the module's text.

    latents: N C H W, scaled to about unit variance. captions: N lists of alternative captions. weights: N,
    how often each image is drawn. shift: moves training and sampling times towards noise. caption_dropout:
    share of samples trained without a caption, for guidance. sheet_prompts: what is drawn on the sheet, at
    least one. decode: latents (scaled) to images, for the sheet.
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
        batch_size: int,
        shift: float,
        caption_dropout: float = 0.1,
        sheet_prompts: Sequence[str],
        sheet_guidance: float = 2.5,
        sheet_steps: int = 10,
        decode: Callable[[Tensor], Tensor],
    ) -> None:
        self.model: nn.Module = nn.ModuleDict({"transformer": transformer, "text": text})
        self.transformer = transformer
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(text, tokenizer)
        self.device = next(transformer.parameters()).device
        self.latents, self.weights = latents.to(self.device), weights
        self.tails = [self.encoder.tokenize(alternatives) for alternatives in captions]
        self.batch_size, self.shift, self.caption_dropout = batch_size, shift, caption_dropout
        self.sheet_prompts, self.sheet_guidance, self.sheet_steps = sheet_prompts, sheet_guidance, sheet_steps
        self.decode = decode

    def loss(self, step: int, generator: torch.Generator) -> Tensor:
        """Flow-matching loss of a batch drawn with the generator."""
        drawn = torch.multinomial(
            self.weights, self.batch_size, replacement=True, generator=generator
        ).tolist()
        choices = torch.rand(self.batch_size, generator=generator).tolist()
        tails = [self.tails[i][int(u * len(self.tails[i]))] for i, u in zip(drawn, choices, strict=True)]
        text, mask = pad_text(*self.encoder.encode_tokens(tails))
        dropped = torch.rand(self.batch_size, generator=generator) < self.caption_dropout
        mask[dropped.to(self.device), 1:] = False
        latents = self.latents[drawn]
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        t = sample_training_times(self.batch_size, self.shift, generator).to(self.device)
        predicted = self.transformer(interpolate(latents, noise, t), t, text, mask)
        return F.mse_loss(predicted.float(), velocity_target(latents, noise))

    @torch.no_grad()
    def evaluate(self, averaged: nn.Module) -> dict[str, float]:
        """Loss with the right, no and a wrong caption at fixed noise, over the images drawn most often."""
        transformer, encoder = self.parts(averaged)
        chosen = self.weights.topk(min(128, len(self.weights))).indices.tolist()
        latents = self.latents[chosen]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        text, mask = encoder.encode_tokens([self.tails[i][0] for i in chosen])
        empty = mask.clone()
        empty[:, 1:] = False
        away = len(chosen) // 2
        cases = {
            "right": (text, mask),
            "empty": (text, empty),
            "wrong": (text.roll(away, 0), mask.roll(away, 0)),
        }
        measured = {}
        for time in TIMES_WATCHED:
            t = torch.full((len(chosen),), time, device=self.device)
            for case, (features, real) in cases.items():
                predicted = transformer(interpolate(latents, noise, t), t, features, real)
                measured[f"{case}_{time}"] = F.mse_loss(predicted, velocity_target(latents, noise)).item()
        return measured

    @torch.no_grad()
    def sheet(self, averaged: nn.Module) -> Image.Image:
        """Pictures of the sheet's prompts, image i from the noise of seed i."""
        transformer, encoder = self.parts(averaged)
        count = len(self.sheet_prompts)
        shape = self.latents.shape[1:]
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(count)]
        )
        features = encoder.encode_negative([""]) + encoder.encode(list(self.sheet_prompts))
        context = transformer.prepare(features, [count] + [1] * count)
        velocity = classifier_free(lambda x, t: transformer.velocity(x, t, context), self.sheet_guidance)
        solver = FlowDPM(dpm_times(self.sheet_steps, self.shift))
        state = solver.start(noise.to(self.device))
        while not state.done:
            state = solver.advance(state, velocity(state.sample, state.t))
        return contact_sheet(self.decode(state.sample), 8)

    def parts(self, averaged: nn.Module) -> tuple[Sana, TextEncoder]:
        """Transformer and text encoder of (averaged) weights."""
        parts = cast(nn.ModuleDict, averaged)
        return cast(Sana, parts["transformer"]), TextEncoder(cast(Gemma2, parts["text"]), self.tokenizer)


def pad_text(text: Tensor, mask: Tensor, multiple: int = 16) -> tuple[Tensor, Tensor]:
    """Pad B L E features and their B L mask to a multiple of tokens: compiled blocks then meet few shapes."""
    missing = -text.shape[1] % multiple
    return F.pad(text, (0, 0, 0, missing)), F.pad(mask, (0, missing))


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
