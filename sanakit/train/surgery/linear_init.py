"""Start a small DC-AE as the best linear codec of its images instead of from noise.

A DC-AE of residual blocks contains the linear maps: with silent residual branches its down steps can carry
principal components from level to level and its up steps can expand them again. Started so, `pocket`'s
autoencoder reconstructs at 24 dB before its first training step; from random weights it takes hours of a CPU
to get there.

Latents are the first principal components of the patches that one latent cell stands for (32x32 pixels in
pocket), scaled to std**0.5. Coarse components keep a larger variance than fine ones, so that a diffusion
model focuses on most of the image.

Shapes: P number of patches, S patch side in pixels, D = 3*S*S patch values, K components kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE, Decoder, Encoder
from sanakit.models.dc_ae.blocks import DownStep, ResBlock, UpStep

QUIET_LEVEL = 6.0  # of the unused channels before the last norm: they dominate the norm, which becomes linear
LIFT = 4.0  # shifts the last norm's output above zero, so that the ReLU lets everything pass
PIXEL_VALUES = 12  # a 2x2 patch of RGB


@dataclass(frozen=True, slots=True)
class PatchBasis:
    """Principal components of S x S patches: patch = mean + components @ coefficients."""

    mean: Tensor  # D
    components: Tensor  # D K, orthonormal
    deviation: Tensor  # K, standard deviation of each coefficient, descending


def patch_basis(images: Tensor, side: int, count: int) -> PatchBasis:
    """Find the `count` principal components of all patches of `side` pixels.

    images: B 3 H W in [-1, 1], H and W multiples of side. Uses subspace iteration: the full eigenproblem of a
    3072 x 3072 covariance takes minutes, the first components seconds.
    """
    patches = F.pixel_unshuffle(images, side).permute(0, 2, 3, 1).flatten(0, 2)  # P D
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)  # D D
    size = len(mean)
    if size <= 768:
        variance, vectors = torch.linalg.eigh(covariance)
        variance, vectors = variance.flip(0)[:count], vectors.flip(1)[:, :count]
    else:
        generator = torch.Generator().manual_seed(0)
        subspace = torch.randn(size, 3 * count, generator=generator, dtype=torch.float32)
        for _ in range(12):
            subspace, _ = torch.linalg.qr(covariance @ subspace)
        variance, rotation = torch.linalg.eigh(subspace.T @ covariance @ subspace)
        variance, vectors = variance.flip(0)[:count], (subspace @ rotation).flip(1)[:, :count]
    return PatchBasis(mean, vectors.contiguous(), variance.clamp(min=1e-12).sqrt())


def linear_latents(images: Tensor, basis: PatchBasis) -> Tensor:
    """Encode images (B 3 H W) with the basis: B K H/S W/S, the target of the encoder."""
    side = math.isqrt(len(basis.mean) // 3)
    patches = F.pixel_unshuffle(images, side).permute(0, 2, 3, 1)  # B h w D
    return ((patches - basis.mean) @ (basis.components / basis.deviation.sqrt())).permute(0, 3, 1, 2)


@torch.no_grad()
def start_linear(model: DCAE, images: Tensor) -> PatchBasis:
    """Set the weights of a residual-block DC-AE so that it starts as the linear codec of these images.

    images: B 3 H W in [-1, 1], some hundreds, H and W multiples of the model's compression. Returns the basis
    of its latents. Raises SettingsError for a DC-AE whose parts do not contain the linear maps.
    """
    config = model.config
    stages = config.encoder + config.decoder
    unfit = (
        any(stage.attention is not None or stage.norm != "rms_norm" for stage in stages)
        or any(half[0].depth for half in (config.encoder, config.decoder))
        or config.decoder[1].width < PIXEL_VALUES
        or (config.strided_down, config.interpolate_up) != (False, False)
        or (config.encoder_out_shortcut, config.decoder_in_shortcut, config.out_act) != (True, True, "relu")
    )
    if unfit or model.encoder is None or model.decoder is None:
        raise SettingsError(
            "A linear start needs both halves, a first stage of depth 0, residual blocks with RMS norm and "
            f"at least {PIXEL_VALUES} channels, pixel shuffling, all shortcuts and a ReLU at the end, as "
            "DC_AE_POCKET has them: start this DC-AE from random weights."
        )
    basis = patch_basis(images, config.compression, config.latent_channels)
    _silence_residuals(model)
    _start_decoder(model.decoder, images, basis)
    _start_encoder(model.encoder, images, linear_latents(images, basis))
    return basis


def _silence_residuals(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, ResBlock):
            nn.init.zeros_(cast(Tensor, module.norm.weight))


def _start_decoder(decoder: Decoder, images: Tensor, latent: PatchBasis) -> None:
    """Each up step maps the coefficients of a patch to those of its four quadrants."""
    nn.init.zeros_(decoder.conv_in.weight)  # the shortcut alone: every latent channel repeated
    nn.init.zeros_(cast(Tensor, decoder.conv_in.bias))
    copies = decoder.conv_in.out_channels // decoder.conv_in.in_channels
    mean, expand = latent.mean, latent.components * latent.deviation.sqrt()
    side = math.isqrt(len(mean) // 3)
    for step in [layer for stage in reversed(decoder.up_blocks) for layer in stage.children()]:
        if not isinstance(step, UpStep):
            continue
        half = side // 2
        channels = step.conv.out_channels // 4
        finest = half == 2
        basis = patch_basis(images, half, min(PIXEL_VALUES if finest else channels, 3 * half * half))
        kept = basis.components.shape[1]
        weight = torch.zeros(channels, 4, step.conv.in_channels, dtype=torch.float32)
        bias = torch.zeros(channels, 4, dtype=torch.float32)
        quadrants = zip(_quadrants(expand, side), _quadrants(mean, side), strict=True)
        for index, (expand_quadrant, mean_quadrant) in enumerate(quadrants):
            linear = basis.components.T @ expand_quadrant
            linear = linear.repeat_interleave(copies, dim=1) / copies
            weight[:kept, index, : linear.shape[1]] = linear
            bias[:kept, index] = basis.components.T @ (mean_quadrant - basis.mean)
            if finest:
                bias[PIXEL_VALUES:, index] = QUIET_LEVEL
        weight = weight.flatten(0, 1)
        rows = torch.arange(len(weight))
        # Cancel the shortcut, which has no weights to be silenced
        weight[rows, rows * step.conv.in_channels // len(rows)] -= 1
        _set_centre(step.conv, weight, bias.flatten())
        mean, expand, side, copies = basis.mean, basis.components, half, 1
    channels = len(decoder.norm_out.weight)
    gain = ((channels - PIXEL_VALUES) * QUIET_LEVEL**2 / channels) ** 0.5
    nn.init.constant_(decoder.norm_out.weight, gain)
    nn.init.constant_(decoder.norm_out.bias, LIFT)
    # The unused channels stay alive but quiet: loud ones would turn every small step of the output layer into
    # a shift of the whole image.
    nn.init.zeros_(decoder.norm_out.weight[PIXEL_VALUES:])
    nn.init.constant_(decoder.norm_out.bias[PIXEL_VALUES:], 0.1)
    assert isinstance(decoder.conv_out, UpStep)
    weight = torch.zeros(PIXEL_VALUES, channels, dtype=torch.float32)
    weight[:, :PIXEL_VALUES] = expand
    _set_centre(decoder.conv_out.conv, weight, mean - LIFT * expand.sum(1))


def _start_encoder(encoder: Encoder, images: Tensor, target: Tensor) -> None:
    """Each down step keeps the principal components of its input; the last layer is a least-squares fit."""
    stem = encoder.conv_in
    assert isinstance(stem, DownStep)
    nn.init.zeros_(stem.conv.weight)
    nn.init.zeros_(cast(Tensor, stem.conv.bias))
    for channel in range(3):
        stem.conv.weight[channel, channel, 1, 1] = 1
    x = stem(images.contiguous(memory_format=torch.channels_last))
    for stage in encoder.down_blocks:
        for layer in stage.children():
            if isinstance(layer, DownStep):
                values = x.permute(0, 2, 3, 1).flatten(0, 2)
                mean = values.mean(0)
                variance, vectors = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
                kept = layer.conv.out_channels
                project = vectors.flip(1)[:, :kept].T
                # Loud against the shortcut, equally so on every level
                gain = 4 / variance.flip(0)[:kept].mean().sqrt()
                _set_centre(layer.conv, project * gain, -(project @ mean) * gain)
            x = layer(x)
    inputs = x.permute(0, 2, 3, 1).flatten(0, 2).double()
    outputs = target.permute(0, 2, 3, 1).flatten(0, 2).double()
    outputs = outputs - inputs.unflatten(1, (outputs.shape[1], -1)).mean(2)  # what the shortcut already gives
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.double)], dim=1)
    normal = inputs.T @ inputs
    normal += 1e-6 * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.double)
    solution = torch.linalg.solve(normal, inputs.T @ outputs).float()
    _set_centre(encoder.conv_out, solution[:-1].T, solution[-1])


def _quadrants(values: Tensor, side: int) -> list[Tensor]:
    """Split patch vectors (3*S*S, ...) into those of the four quadrants, row by row."""
    grid = values.unflatten(0, (3, side, side))
    half = side // 2
    return [
        grid[:, y : y + half, x : x + half].flatten(0, 2)
        for y in range(0, side, half)
        for x in range(0, side, half)
    ]


def _set_centre(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Make a 3x3 convolution act on single pixels only."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    conv.weight[:, :, 1, 1] = weight
    conv.bias.copy_(bias)
