"""Flow matching on a batch: errors of velocities, losses by caption, images drawn from a model in training.

Shapes: B batch, C H W latents (of clips C T H W), L text tokens, E text width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.dialect import USUAL
from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.guidance import classifier_free
from sanakit.flow.path import interpolate, velocity_target
from sanakit.models.controlnet import ControlledSana
from sanakit.models.gemma2 import Gemma2, Layer
from sanakit.models.sana import Sana
from sanakit.models.video.held_frame import HeldFirstFrame
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.sana_wm import SanaWM
from sanakit.text.encoder import TextEncoder

TIMES_WATCHED = (0.5, 0.85, 0.95)

Transformer = Sana | ControlledSana | SanaVideo | SanaWM
Drawing = Transformer | HeldFirstFrame


def velocity_errors(
    transformer: Transformer, latents: Tensor, noise: Tensor, t: Tensor, text: Tensor, mask: Tensor
) -> Tensor:
    """Flow matching's mean square of each sample, B.

    latents, noise: B C H W. t: B, in [0, 1]. text: B L E. mask: B L, true where a token is real.
    """
    predicted = transformer(interpolate(latents, noise, t), t, text, mask).float()
    return (predicted - velocity_target(latents, noise)).square().flatten(1).mean(1)


@torch.no_grad()
def caption_losses(
    transformer: Transformer,
    latents: Tensor,
    noise: Tensor,
    text: Tensor,
    mask: Tensor,
    others: Sequence[int],
) -> dict[str, float]:
    """Loss with the right, no and another sample's caption at the times watched, by "right_0.5" and so on.

    latents, noise: B C H W. text: B L E, of the right captions. mask: B L. others: B, whose caption is the
    wrong one of each sample, as `other_captions` returns them; (): "wrong" is left out.
    """
    empty = mask.clone()
    empty[:, 1:] = False
    cases = {"right": (text, mask), "empty": (text, empty)}
    if others:
        cases["wrong"] = (text[list(others)], mask[list(others)])
    measured = {}
    for time in TIMES_WATCHED:
        t = torch.full((len(latents),), time, device=latents.device, dtype=torch.float32)
        for case, (features, real) in cases.items():
            errors = velocity_errors(transformer, latents, noise, t, features, real)
            measured[f"{case}_{time}"] = errors.mean().item()
    return measured


def other_captions(captions: Sequence[Hashable]) -> list[int]:
    """Return for each sample one with another caption, about half of the samples away; [] if there is none.

    >>> other_captions(["fox", "cat", "fox", "fox"]), other_captions(["fox", "fox"])
    ([1, 3, 1, 1], [])
    """
    count = len(captions)
    found = []
    for own, caption in enumerate(captions):
        places = [(own - count // 2 - step) % count for step in range(count)]
        other = next((place for place in places if captions[place] != caption), None)
        if other is None:
            return []
        found.append(other)
    return found


@torch.no_grad()
def draw_latents(
    transformer: Drawing,
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
    noise = seeded_noise(count, shape)
    # dropped captions are trained as BOS alone, in every dialect
    features = encoder.encode_negative([""], dialect=USUAL) + encoder.encode(list(prompts), notes=[])
    context = transformer.prepare(features, [count] + [1] * count)
    velocity = classifier_free(lambda x, t: transformer.velocity(x, t, context), guidance)
    solver = FlowDPM(dpm_times(steps, shift))
    state = solver.start(noise.to(next(transformer.parameters()).device))
    while not state.done:
        state = solver.advance(state, velocity(state.sample, state.t))
    return state.sample


def seeded_noise(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of images 0 to count - 1, that of seed i for image i, on the CPU. shape: of one."""
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])


def pad_text(text: Tensor, mask: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
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
