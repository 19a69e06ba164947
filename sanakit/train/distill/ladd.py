"""LADD, SANA-Sprint's second loss: heads on the frozen teacher tell real latents from a student's.

The teacher itself reads noised latents, so what its blocks know about images need not be learned again. A
small head behind each of some blocks judges every token of it. Hinge losses:

    heads     (mean relu(1 - real) + mean relu(1 + fake)) / 2
    student   -mean fake

Fakes are the student's clean latents in sight of a sample at an angle of its own, pure noise by a chance of
one half: one-step drawing is trained where it is used. Reals with another sample's caption ("misaligned
pairs") teach the heads to read; without them only the student's own loss binds images to captions.

The norm inside the heads takes its statistics over the samples of a group, at most 8, and their tokens, as
published; where a batch is cut otherwise, judgements differ slightly, and misaligned pairs too. A group of 1
makes a judgement a sample's own.
Source: Sauer et al. 2024, LADD (arXiv:2403.12015); StyleGAN-T (arXiv:2301.09515) for the heads; SANA-Sprint
(arXiv:2503.09641), section 3.3. Convolutions run over tokens in the order of rows, as published.
Shapes: B samples, N tokens, D width, K judgements of a sample: N for each head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana

SLOPE = 0.2  # of negative values
REACH = 9  # tokens that a head's second convolution looks at
EPSILON = 1e-5
PUBLISHED_BLOCKS = {20: (2, 8, 14, 19), 28: (2, 8, 14, 20, 27)}  # by a model's number of blocks


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversarial:
    """Settings of LADD; the defaults are the published ones.

    weight: of the student's loss, above 0. blocks: of the teacher that have a head. mean, std: of the
    logarithm of the noise level at which latents are judged, as for `Consistency`. pure_noise: chance that a
    fake is drawn from pure noise. misaligned: whether reals with other captions are fakes, too. group: most
    samples that share the norm's statistics. Raises SettingsError.
    """

    weight: float = 0.5
    blocks: tuple[int, ...] = PUBLISHED_BLOCKS[20]
    mean: float = -0.6
    std: float = 1.0
    pure_noise: float = 0.5
    misaligned: bool = True
    group: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise SettingsError(
                f"weight = {self.weight!r}, but it must be a number above 0; train without LADD by None."
            )
        if not self.blocks or min(self.blocks) < 0 or list(self.blocks) != sorted({*self.blocks}):
            raise SettingsError(f"blocks = {self.blocks!r}, but they must be rising numbers from 0 on.")
        if not 0 <= self.pure_noise <= 1 or self.group < 1:
            raise SettingsError(
                f"pure_noise = {self.pure_noise}, group = {self.group}: use a share from 0 to 1, and at "
                "least 1."
            )


def judged_blocks(depth: int) -> tuple[int, ...]:
    """Return which blocks of a model have a head: the published ones, or those of 20 in proportion.

    >>> judged_blocks(20), judged_blocks(28), judged_blocks(12)
    ((2, 8, 14, 19), (2, 8, 14, 20, 27), (1, 4, 8, 11))
    """
    if depth in PUBLISHED_BLOCKS:
        return PUBLISHED_BLOCKS[depth]
    scaled = (round((block + 1) * depth / 20) - 1 for block in PUBLISHED_BLOCKS[20])
    return tuple(sorted({max(0, block) for block in scaled}))


class GroupedBatchNorm(nn.Module):
    """Batch norm over the samples of a group and their tokens, without running averages."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()
        self.group = group
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """B D N -> B D N, in float32. Groups are consecutive samples, of nearly one size."""
        count = -(-len(x) // self.group)
        normed = []
        for some in x.float().tensor_split(count):
            variance, mean = torch.var_mean(some, dim=(0, 2), correction=0, keepdim=True)
            normed.append((some - mean) * torch.rsqrt(variance + EPSILON))
        return torch.cat(normed) * self.weight[:, None] + self.bias[:, None]


class Head(nn.Module):
    """Tokens behind a block, B N D, to a judgement of each, B N, positive for real."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()

        def layer(reach: int) -> nn.Sequential:
            return nn.Sequential(
                _convolution(width, width, reach), GroupedBatchNorm(width, group), nn.LeakyReLU(SLOPE)
            )

        self.single, self.around = layer(1), layer(REACH)
        self.judge = _convolution(width, 1, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """B N D -> B N."""
        x = self.single(tokens.transpose(1, 2))  # B D N
        x = (x + self.around(x)) / math.sqrt(2)
        return self.judge(x).squeeze(1)


class Heads(nn.Module):
    """One head behind each of some blocks of a teacher of this width."""

    def __init__(self, width: int, settings: Adversarial) -> None:
        super().__init__()
        # By name: a list's members would count as a model's repeated blocks, which are computed twice.
        self.behind = nn.ModuleDict({str(block): Head(width, settings.group) for block in settings.blocks})

    @property
    def blocks(self) -> list[int]:
        """The numbers of the teacher's blocks that are judged."""
        return [int(name) for name in self.behind]

    def forward(self, tokens: Sequence[Tensor]) -> Tensor:
        """Tokens behind each of `blocks`, B N D each, to all their judgements, B K."""
        heads = cast(Sequence[Head], self.behind.values())
        return torch.cat([head(one) for head, one in zip(heads, tokens, strict=True)], dim=1).float()

    def fixed(self, tokens: Sequence[Tensor]) -> Tensor:
        """Judge as `forward` does; the gradient reaches the tokens and no weight of the heads."""
        weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return functional_call(self, weights, (tokens,))


def features(
    teacher: Sana, blocks: Sequence[int], noisy: Tensor, t: Tensor, text: Tensor, mask: Tensor
) -> list[Tensor]:
    """Return a teacher's tokens behind some blocks, B N D each, with the gradient of `noisy`.

    noisy: B C H W, on the straight path. t: B, in [0, 1]. text: B L E. mask: B L.
    """
    tokens: list[Tensor] = []
    teacher(noisy, t, text, mask, tokens=tokens)
    return [tokens[block] for block in blocks]


def heads_loss(real: Tensor, fake: Tensor, misaligned: Tensor | None = None) -> Tensor:
    """Return the heads' hinge loss of each sample, B: 1 when they know nothing, 0 when they are sure.

    real, fake, misaligned: judgements, B K. Misaligned ones are half of the fakes.
    """
    of_fake = F.relu(1 + fake).mean(1)
    if misaligned is not None:
        of_fake = (of_fake + F.relu(1 + misaligned).mean(1)) / 2
    return (F.relu(1 - real).mean(1) + of_fake) / 2


def student_loss(fake: Tensor) -> Tensor:
    """Return the student's adversarial loss of each sample, B. fake: judgements of its latents, B K."""
    return -fake.mean(1)


def _convolution(inputs: int, outputs: int, reach: int) -> nn.Module:
    """Return a circular convolution over tokens whose matrix has a spectral norm of 1."""
    layer = nn.Conv1d(inputs, outputs, reach, padding=reach // 2, padding_mode="circular")
    return spectral_norm(layer)
