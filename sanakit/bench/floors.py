"""The minimum work of each stage of drawing: multiplications and additions, and values moved.

Matrix products, convolutions and attention are counted as our code needs them: text keys and values computed
once for all steps, no padding, no cross-attention to a prompt of one token (the empty negative prompt).
Divided by the rate of a plain matrix product on the same machine they give the time below which no exact
implementation comes. Elementwise arithmetic and the transforms of a Winograd convolution are left out.
Shapes: N cells of the latent grid, D width, L text tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sanakit.models.dc_ae import DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2Config
from sanakit.models.sana import TIME_CHANNELS, SanaConfig

WINOGRAD_TILES = 256  # 4x4 tiles of the result, below which transforming the weights costs more than it saves
TILE_PRODUCTS = 36  # of F(4x4, 3x3) for 16 results; the plain convolution has 144
DOUBLED_TILE_PRODUCTS = 25  # the same behind nearest-neighbour upsampling: equal neighbours cancel


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a stage: floating-point operations, and numbers read and written."""

    flops: int = 0
    weights: int = 0  # read once
    activations: int = 0  # in and out of every product, everything between two products fused

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.weights + other.weights,
            self.activations + other.activations,
        )

    def bytes(self, weight_bytes: int = 4, activation_bytes: int = 4) -> int:
        """Return the bytes moved, for numbers of so many bytes each (float32: 4)."""
        return self.weights * weight_bytes + self.activations * activation_bytes


def product(rows: int, inputs: int, outputs: int, *, groups: int = 1) -> Work:
    """Count a matrix product of rows x inputs with weights, in `groups` independent blocks."""
    size = inputs * outputs // groups
    return Work(2 * rows * size, size, rows * (inputs + outputs))


def transformer_step(config: SanaConfig, height: int, width: int, tokens: Sequence[int]) -> Work:
    """Count one velocity of a batch, its text prepared.

    height, width: of the latent grid, in cells. tokens: text tokens of each sample, in the batch's order;
    with guidance and an empty negative prompt (1, L). Weights count once for the whole batch.
    """
    cells, dim, hidden = height * width, config.width, int(config.width * config.mlp_ratio)
    rows, attending = cells * len(tokens), cells * sum(count > 1 for count in tokens)
    embedders = 2 if config.guidance_embed else 1
    work = product(rows, config.latent_channels, dim) + product(rows, dim, config.latent_channels)
    for _ in range(embedders):
        work += product(1, TIME_CHANNELS, dim) + product(1, dim, dim)
    work += product(1, dim, 6 * dim)
    layer = product(rows, dim, 3 * dim) + product(rows, dim, dim)
    layer += _linear_attention(rows, dim, config.head_dim)
    if attending:
        layer += product(attending, dim, dim) + product(attending, dim, dim)
        layer += Work(sum(4 * cells * count * dim for count in tokens if count > 1))
    layer += product(rows, dim, 2 * hidden) + product(rows, hidden, dim)
    layer += _depthwise(rows, 2 * hidden, 3)
    return _times(layer, config.depth) + work


def text_context(config: SanaConfig, tokens: Sequence[int]) -> Work:
    """Count what `Sana.prepare` does once an image: caption projection, keys and values of all layers."""
    rows, dim = sum(tokens), config.width
    layer = product(rows, dim, 2 * dim)
    if single := sum(count == 1 for count in tokens):
        layer += product(single, dim, dim)
    return product(rows, config.text_width, dim) + product(rows, dim, dim) + _times(layer, config.depth)


def text_encoding(config: Gemma2Config, new: int, past: int = 0) -> Work:
    """Count one prompt of `new` tokens behind `past` tokens whose keys and values are known."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer = product(new, config.width, queries + 2 * keys) + product(new, queries, config.width)
    layer += product(new, config.width, 2 * config.mlp_width) + product(new, config.mlp_width, config.width)
    layer += Work(4 * new * (past + new) * queries, 0, 2 * (past + new) * keys)
    return _times(layer, config.depth)


def decoding(config: DCAEConfig, height: int, width: int, *, winograd: bool = True) -> Work:
    """Count the decoding of one image from height x width latent cells.

    winograd: count 3x3 convolutions of at least WINOGRAD_TILES tiles as F(4x4, 3x3), which is what the fast
    path uses; False: as plain convolutions, which is what a peer does.
    """
    stages, coarsest = config.decoder, len(config.decoder) - 1

    def up(grid: tuple[int, int], inputs: int, outputs: int) -> Work:
        """Count a step from `grid` to twice its sides."""
        if config.interpolate_up:
            doubled = (2 * grid[0], 2 * grid[1])
            return _conv3x3(doubled, inputs, outputs, winograd, DOUBLED_TILE_PRODUCTS)
        return _conv3x3(grid, inputs, 4 * outputs, winograd)

    work = _conv3x3((height, width), config.latent_channels, stages[-1].width, winograd)
    for index in range(coarsest, -1, -1):
        stage, scale = stages[index], 2 ** (coarsest - index)
        grid = (height * scale, width * scale)
        if stage.depth and index < coarsest:
            work += up((grid[0] // 2, grid[1] // 2), stages[index + 1].width, stage.width)
        work += _times(_block(stage, grid, config.head_dim, winograd), stage.depth)
    if stages[0].depth:
        return work + _conv3x3(grid, stages[0].width, config.image_channels, winograd)
    return work + up((grid[0] // 2, grid[1] // 2), stages[1].width, config.image_channels)


def _block(stage: Stage, grid: tuple[int, int], head_dim: int, winograd: bool) -> Work:
    """Return the work of one residual block or one EfficientViT block."""
    cells, width = math.prod(grid), stage.width
    if stage.attention is None:
        return _times(_conv3x3(grid, width, width, winograd), 2)
    work = product(cells, width, 3 * width)
    for size in stage.attention:
        work += _depthwise(cells, 3 * width, size)
        work += product(cells, 3 * width, 3 * width, groups=3 * width // head_dim)
    mixed = width * (1 + len(stage.attention))
    linear = cells > head_dim  # on few cells the plain form of attention is the cheaper one
    work += _linear_attention(cells, mixed, head_dim) if linear else Work(4 * cells**2 * mixed)
    work += product(cells, mixed, width)
    return (
        work
        + product(cells, width, 8 * width)
        + _depthwise(cells, 8 * width, 3)
        + product(cells, 4 * width, width)
    )


def _conv3x3(
    grid: tuple[int, int], inputs: int, outputs: int, winograd: bool, tile_products: int = TILE_PRODUCTS
) -> Work:
    """Return a 3x3 convolution's work on a grid of results; an upsampled input has a quarter of it."""
    cells, tiles = math.prod(grid), math.prod(-(-side // 4) for side in grid)
    products = tile_products * tiles if winograd and tiles >= WINOGRAD_TILES else 9 * cells
    read = cells // 4 if tile_products == DOUBLED_TILE_PRODUCTS else cells
    return Work(2 * products * inputs * outputs, 9 * inputs * outputs, read * inputs + cells * outputs)


def _depthwise(cells: int, channels: int, size: int) -> Work:
    return Work(2 * cells * channels * size**2, channels * size**2, 2 * cells * channels)


def _linear_attention(cells: int, width: int, head_dim: int) -> Work:
    """Return the work of ReLU attention with heads side by side in `width`: sum k v^T, then apply it."""
    return Work(2 * cells * width * (2 * head_dim + 1), 0, 4 * cells * width)


def _times(work: Work, count: int) -> Work:
    return Work(work.flops * count, work.weights * count, work.activations * count)
