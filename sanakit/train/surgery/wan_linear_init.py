"""Start a small Wan video autoencoder as a linear codec of its clips instead of from noise.

With silent residual branches the class is a chain of linear maps between norms and SiLUs, which are linear
enough: silu(a) - silu(-a) = a makes SiLU exact on pairs of channels, and loud constant channels make a norm's
divisor constant. The encoder keeps principal components, level by level: of 2x2 pixels, then of pairs of
frames, which become their mean and components of half their difference. The decoder's layers are least
squares towards the same coefficients, one after the other. They cannot be exact: nearest-neighbour doubling
and a 3x3 convolution tell the four pixels of a cell apart only by the cell's neighbours.

Clips of animated emoji reconstruct at 20.6 dB before the first step, 1.6 dB below principal components;
random weights are at 17 dB after six minutes of a CPU core.
Shapes: B clips, C channels, T frames, H W grid, N places of a grid, K components kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.video.wan_blocks import CausalConv, CausalResBlock, ClipDown, ClipUp, FrameAttention
from sanakit.models.video.wan_vae import UpStage, WanDecoder, WanEncoder, WanVAE

CONSTANT = 4.0  # of the unused channels before a norm: it dominates the norm, which becomes linear
PIXEL_VALUES = 12  # 2x2 pixels of RGB
LATENT_SCALE = 0.7  # latents have about this deviation, the coarse ones more
RIDGE, LAST_RIDGE = 1e-5, 1e-6  # of the least squares, times the mean of the diagonal
LEAST_FRAMES = 13  # four latents: three of them are not the first
LAST_CLIPS = 24  # that the last layer is fitted to; its inputs are large

Conv = nn.Conv2d | nn.Conv3d


def has_linear_start(model: WanVAE) -> bool:
    """Tell whether an autoencoder has the sizes that `start_linear_clips` needs."""
    config = model.config
    return (
        (config.multipliers, config.depth) == ((1, 2, 4, 4), 1)
        and config.halve_time == (False, True, True)
        and config.width >= 16
        and config.width % 16 == 0
        and model.encoder is not None
        and model.decoder is not None
    )


@torch.no_grad()
def start_linear_clips(model: WanVAE, clips: Tensor) -> None:
    """Set all weights so that the autoencoder starts as a linear codec of these clips.

    clips: B 3 T H W in [-1, 1], some dozens, T = 1 + 4n and at least 13: the decoder looks back by two
    latents, and the first latent is unlike the others. From 9 frames it falls apart behind the ninth.
    Raises SettingsError for shorter clips, and for an autoencoder of other stages than Wan 2.1's, with more
    than one residual block, or narrower than 16 channels.
    """
    if not has_linear_start(model):
        raise SettingsError(
            "A linear start needs both halves of a Wan autoencoder with multipliers 1, 2, 4, 4, depth 1 and "
            "a width that is a multiple of 16: start this one from random weights."
        )
    if clips.shape[2] < LEAST_FRAMES:
        raise SettingsError(
            f"A linear start needs clips of {LEAST_FRAMES} frames or more, and these have {clips.shape[2]}."
        )
    encoder, decoder = cast(WanEncoder, model.encoder), cast(WanDecoder, model.decoder)
    _silence_branches(model)
    for conv in (model.quant_conv, model.post_quant_conv):
        _clear(conv)
        _put(conv, torch.eye(len(conv.weight), dtype=torch.float32))
    _start_encoder(encoder, clips, model.config.latent_channels)
    _start_decoder(decoder, clips, model.post_quant_conv(model.moments(clips).chunk(2, dim=1)[0]))


def _silence_branches(model: WanVAE) -> None:
    """Let residual blocks and attention pass their input on; widths change by leading channels."""
    for module in model.modules():
        if isinstance(module, CausalResBlock):
            _clear(module.conv2)
            if isinstance(module.conv_shortcut, CausalConv):
                shortcut = module.conv_shortcut
                _clear(shortcut)
                _put(shortcut, torch.eye(min(shortcut.weight.shape[:2]), dtype=torch.float32))
        elif isinstance(module, FrameAttention):
            _clear(module.proj)


def _start_encoder(encoder: WanEncoder, clips: Tensor, latent_channels: int) -> None:
    """Keep principal components of space, then of pairs of frames; the last step pairs channels for SiLU."""
    _clear(encoder.conv_in)
    _put(encoder.conv_in, torch.eye(3, dtype=torch.float32), tap=(2, 1, 1))
    finest, middle, coarsest = (block for block in encoder.down_blocks if isinstance(block, ClipDown))
    for step in (finest, middle, coarsest):
        for conv in (_spatial(step), step.time_conv):
            if conv is not None:
                _clear(conv)

    _keep_space(_spatial(finest), clips, PIXEL_VALUES)
    x = finest(_widened(clips, _spatial(finest).in_channels))[:, :PIXEL_VALUES]

    width = _spatial(middle).in_channels
    means, changes = 3 * width // 4, width // 4
    _keep_space(_spatial(middle), x, means)
    x = _widened(x, width)
    _keep_time(_timed(middle), _each_frame(middle.resample, x)[:, :means], means, changes)
    x = middle(x)

    space, time = _spatial(coarsest), _timed(coarsest)
    width = space.in_channels
    values = 3 * width // 8
    of_means, of_changes = 2 * values // 3, values // 3
    _keep_space(space, x[:, :means], of_means)
    _keep_space(space, x[:, means : means + changes], of_changes, out=of_means, inside=means)
    cast(Tensor, space.bias)[of_means:values] = 0  # a change of nothing is nothing, as in the first frame
    x = _widened(x, width)
    _keep_time(time, _each_frame(coarsest.resample, x)[:, :values], of_means, of_changes)
    for conv in (space, time):
        _negate(conv, values)
    cast(Tensor, space.bias)[2 * values :] = CONSTANT
    _put(
        time,
        torch.eye(width - 2 * values, dtype=torch.float32),
        out=2 * values,
        inside=2 * values,
        tap=(2, 0, 0),
    )

    x = F.silu(encoder.norm_out(coarsest(x)))
    x = x[:, :values] - x[:, values : 2 * values]
    mean, components = _components(_rows(x), latent_channels)
    deviation = ((_rows(x) - mean) @ components).std(0)
    project = LATENT_SCALE * (components / deviation.sqrt()).T
    _clear(encoder.conv_out)
    _put(encoder.conv_out, project, tap=(2, 1, 1), bias=-(project @ mean))
    _put(encoder.conv_out, -project, inside=values, tap=(2, 1, 1))


def _start_decoder(decoder: WanDecoder, clips: Tensor, latents: Tensor) -> None:
    """Fit each layer to the coefficients that the next finer level consists of.

    The channels of a level with halved frames are coefficients of pairs: of their mean and of their change.
    """
    stages = [cast(UpStage, stage) for stage in decoder.up_blocks]
    coarse, middle, fine = (cast(ClipUp, stage.upsamplers[0]) for stage in stages[:3])
    width = _spatial(coarse).in_channels
    changes = 5 * width // 16  # of the coarsest level: 20 of 64 channels
    of_8 = _patch_coefficients(clips, 8, width - changes)
    of_4 = _patch_coefficients(clips, 4, 3 * width // 8)
    of_2 = _patch_coefficients(clips, 2, PIXEL_VALUES)
    halved_8 = _paired(of_8, changes)  # B width 1+(T-1)/2 ...
    halved_4 = _paired(of_4, width // 8)
    quartered = _paired(halved_8, changes)
    kept = width - changes
    _, mixed = _components(_rows(quartered[:, kept:, 1:]), changes)
    rest = torch.einsum("bcthw,ck->bkthw", quartered[:, kept:], mixed)

    _solve(decoder.conv_in, latents, torch.cat((quartered[:, :kept], rest), dim=1))
    x = decoder.conv_in(latents)
    _solve_time(coarse, x, halved_8)
    _solve_space(coarse, x, halved_4)
    x = coarse(x)
    first = cast(CausalResBlock, stages[1].resnets[0])
    x = first.conv_shortcut(x)
    _solve_time(middle, x, _widened(of_4, width // 2))
    _solve_space(middle, x, of_2)
    x = middle(x)
    _solve_space(fine, x, clips)
    _negate(_spatial(fine), 3)
    cast(Tensor, _spatial(fine).bias)[PIXEL_VALUES:] = CONSTANT
    some = slice(LAST_CLIPS)
    _solve(decoder.conv_out, F.silu(decoder.norm_out(fine(x[some]))), clips[some], LAST_RIDGE)


def _keep_space(conv: nn.Conv2d, x: Tensor, count: int, *, out: int = 0, inside: int = 0) -> None:
    """Let a strided convolution give the principal components of 2x2 places of x, from channel `out` on.

    inside: the first of its input channels that x are.
    """
    channels = x.shape[1]
    blocks = _each_frame(lambda frames: F.pixel_unshuffle(frames, 2), x)
    mean, components = _components(_rows(blocks), count)
    weight = components.T.unflatten(1, (channels, 2, 2))
    conv.weight[out : out + count, inside : inside + channels, :2, :2] = weight
    cast(Tensor, conv.bias)[out : out + count] = -(mean @ components)


def _keep_time(conv: nn.Conv3d, x: Tensor, means: int, changes: int) -> None:
    """Let a strided convolution in time give means of pairs of frames, and components of their change.

    x: its input, of whose channels the first `means` are averaged. The further ones are changes already: of
    them the mean and the change go into the components with the changes of the first.
    """
    pairs = x[:, :, 1:].unflatten(2, (-1, 2))
    mean, half = pairs.mean(3), (pairs[:, :, :, 1] - pairs[:, :, :, 0]) / 2
    moved = torch.cat((half[:, :means], mean[:, means:], half[:, means:]), dim=1)
    _, components = _components(_rows(moved), changes)
    of_first, of_mean, of_half = components.T.split((means, *[x.shape[1] - means] * 2), dim=1)
    earlier, later = (1, 0, 0), (2, 0, 0)
    for tap, sign in ((earlier, -1), (later, 1)):
        _put(conv, torch.eye(means, dtype=torch.float32) / 2, tap=tap)
        _put(conv, sign * of_first / 2, out=means, tap=tap)
        _put(conv, (of_mean + sign * of_half) / 2, out=means, inside=means, tap=tap)


def _patch_coefficients(clips: Tensor, side: int, count: int) -> Tensor:
    """Return the principal coefficients of each frame's patches of `side` pixels: B K T h w."""
    patches = _each_frame(lambda frames: F.pixel_unshuffle(frames, side), clips)
    mean, components = _components(_rows(patches), count)
    return torch.einsum("bcthw,ck->bkthw", patches - mean[:, None, None, None], components)


def _paired(x: Tensor, changes: int) -> Tensor:
    """Halve the frames after the first: means of pairs, and behind them components of half the difference."""
    pairs = x[:, :, 1:].unflatten(2, (-1, 2))
    half = (pairs[:, :, :, 1] - pairs[:, :, :, 0]) / 2
    _, components = _components(_rows(half), changes)
    moved = torch.einsum("bcthw,ck->bkthw", half, components)
    first = torch.cat((x[:, :, :1], torch.zeros_like(moved[:, :, :1])), dim=1)
    return torch.cat((first, torch.cat((pairs.mean(3), moved), dim=1)), dim=2)


def _solve_time(step: ClipUp, x: Tensor, wanted: Tensor) -> None:
    """Fit the doubling of frames: each after the first becomes the two that `wanted` has in its place."""
    conv = cast(CausalConv, step.time_conv)
    halves = conv.out_channels // 2
    first, second = wanted[:, :, 1::2], wanted[:, :, 2::2]
    _solve(conv, x[:, :, 1:], torch.cat((_widened(first, halves), second), dim=1))


def _solve_space(step: ClipUp, x: Tensor, wanted: Tensor) -> None:
    """Fit the doubling of rows and columns behind the doubling of frames, if there is one."""
    doubled = _each_frame(cast(nn.Module, step.resample[0]), step.double_frames(x))
    _solve(_spatial(step), doubled, wanted)


def _solve(conv: Conv, x: Tensor, wanted: Tensor, ridge: float = RIDGE) -> None:
    """Set a convolution to the least squares from x to its first output channels; the others become zero.

    x: B C T H W. wanted: B K T H W.
    """
    kernel = (1,) * (3 - conv.weight.ndim + 2) + tuple(conv.weight.shape[2:])
    products = sides = torch.zeros((), dtype=torch.float64)
    for given, goal in zip(x, wanted, strict=True):
        seen = F.pad(_neighbourhoods(given, kernel), (0, 1), value=1.0)  # N, C*kernel + 1
        products = products + (seen.T @ seen).double()
        sides = sides + (seen.T @ goal.flatten(1).T).double()
    load = products.diagonal().mean() * ridge * torch.eye(len(products), dtype=torch.float64)
    solution = torch.linalg.solve(products + load, sides).float().T
    _clear(conv)
    conv.weight[: len(solution)] = solution[:, :-1].unflatten(1, tuple(conv.weight.shape[1:]))
    cast(Tensor, conv.bias)[: len(solution)] = solution[:, -1]


def _neighbourhoods(x: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Return what a causal convolution sees at each place: C T H W -> N, C*kernel."""
    frames, height, width = x.shape[1:]
    time, rows, columns = kernel
    padded = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2, time - 1, 0))
    seen = [
        padded[:, a : a + frames, b : b + height, c : c + width]
        for a in range(time)
        for b in range(rows)
        for c in range(columns)
    ]
    return torch.stack(seen, dim=1).flatten(0, 1).flatten(1).T


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the first principal components of rows N C: C, and C K."""
    mean = rows.mean(0)
    centred = rows - mean
    _, vectors = torch.linalg.eigh((centred.T @ centred).double())
    return mean, vectors.flip(1)[:, :count].float()


def _put(
    conv: Conv,
    matrix: Tensor,
    *,
    out: int = 0,
    inside: int = 0,
    tap: Iterable[int] = (0, 0, 0),
    bias: Tensor | None = None,
) -> None:
    """Write a matrix into a tap of a convolution, from output channel `out` and input channel `inside` on."""
    rows, columns = matrix.shape
    conv.weight[(slice(out, out + rows), slice(inside, inside + columns), *tap)] = matrix
    if bias is not None:
        cast(Tensor, conv.bias)[out : out + rows] = bias


def _negate(conv: Conv, count: int) -> None:
    """Let the second `count` output channels be the first ones with the other sign."""
    bias = cast(Tensor, conv.bias)
    conv.weight[count : 2 * count] = -conv.weight[:count]
    bias[count : 2 * count] = -bias[:count]


def _clear(conv: nn.Module) -> None:
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)


def _spatial(step: ClipDown | ClipUp) -> nn.Conv2d:
    return cast(nn.Conv2d, step.resample[1])


def _timed(step: ClipDown) -> nn.Conv3d:
    return cast(nn.Conv3d, step.time_conv)


def _rows(x: Tensor) -> Tensor:
    """B C ... -> N C."""
    return x.movedim(1, -1).flatten(0, -2)


def _widened(x: Tensor, width: int) -> Tensor:
    """Append channels of zeros."""
    return F.pad(x, (0, 0, 0, 0, 0, 0, 0, width - x.shape[1]))


def _each_frame(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    frames = x.transpose(1, 2)  # B T C H W
    return layer(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)
