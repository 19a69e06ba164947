"""Hints for a ControlNet, made of an image without any model: edges, lines, blocks of colour, masks.

Source of the edges: Canny 1986, with gradients by Sobel and neighbours interpolated along the gradient.
Source of the soft edges' second half: the published "scribble" signal of SANA's ControlNet. Its first half
there is a network (HED); here it is the gradient at several scales.
Shapes: H W pixels.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.errors import SettingsError

HintKind = Literal["as-is", "edges", "lines", "soft-edges", "blocks", "mask"]
HINT_KINDS: tuple[HintKind, ...] = get_args(HintKind)

SIGMA, LOW, HIGH = 1.4, 0.15, 0.4  # of Canny: blur in pixels; gradients of an image from 0 to 1
SCALES = (1.0, 2.0, 4.0)  # blurs in pixels at which soft edges are looked for
STRONG = 0.98  # share of pixels that are weaker than an edge of full strength
FAINT = 0.1  # of a gradient: nothing weaker counts as an edge of full strength
LINE_BLUR, LINE_LEVEL, RIDGE_LEVEL = 3.0, 4, 127  # published, of 255 levels
THICKNESS = 2  # of the published app; its training drew 0 to 24
LINE_WIDTH = 5  # pixels: what an autoencoder of 32x still tells apart; it loses edges of one pixel
CELL = 32  # pixels along a block's side


def make_hint(image: Image.Image, kind: HintKind) -> Image.Image:
    """Return the hint of a kind for an RGB image, RGB of the same size, white on black but for colours.

    kind: "as-is" returns the image: it is a hint already. "mask": white where the image is light.
    Raises SettingsError for another kind.
    """
    if kind == "as-is":
        return image
    if kind == "blocks":
        return colour_blocks(image)
    if kind not in HINT_KINDS:
        raise SettingsError(f"control kind = {kind!r}, but it must be {', '.join(HINT_KINDS)}.")
    grey = np.asarray(image.convert("L"), dtype=np.float64) / 255
    makers = {"edges": edges, "lines": lines, "soft-edges": soft_edges, "mask": lambda grey: grey >= 0.5}
    made = makers[kind](grey)
    return Image.fromarray(made.astype(np.uint8) * 255).convert("RGB")


def edges(grey: np.ndarray, *, sigma: float = SIGMA, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """Return Canny's edges, H W of bool, one pixel wide; the outermost pixels have none.

    grey: H W in [0, 1]. sigma: of the blur, pixels, > 0. low, high: gradients as Sobel's kernel sums them, up
    to 4: an edge begins at `high` and goes on down to `low`.
    """
    smooth = _blurred(torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float64)), sigma)
    down, across = (part.numpy() for part in _sobel(smooth))
    strength = np.hypot(down, across)
    thin = _thinned(down, across, strength, low)
    return _connected(thin, thin & (strength >= high))


def lines(grey: np.ndarray, *, width: int = LINE_WIDTH) -> np.ndarray:
    """Return Canny's edges as lines, H W of bool. grey: H W in [0, 1]. width: odd, pixels."""
    return (_largest(torch.from_numpy(edges(grey)).float(), width) > 0).numpy()


def soft_edges(grey: np.ndarray, *, thickness: int = THICKNESS) -> np.ndarray:
    """Return soft edges drawn as lines, H W of bool, as the published "scribble" signal has them.

    grey: H W in [0, 1]. thickness: 0 to 24; 0 thins the lines, from 4 on they grow thicker. Lines are as wide
    as published at 1024 px, and in proportion at other sizes.
    """
    values = torch.from_numpy(np.ascontiguousarray(grey, dtype=np.float32))
    blur = LINE_BLUR * max(1 / 3, min(values.shape) / 1024)
    found = [sigma * torch.hypot(*_sobel(_blurred(values, sigma))) for sigma in SCALES]
    strength = _blurred(torch.stack(found).mean(0), blur)
    some = strength.flatten()[:: max(1, strength.numel() // 2**20)]
    strength = 255 * strength / torch.quantile(some, STRONG).clamp(min=FAINT)
    ridges = _is_ridge(strength) & (strength > RIDGE_LEVEL)
    lines = _blurred(255 * ridges.float(), blur) > LINE_LEVEL
    if thickness == 0:
        return (_largest(-lines.float(), 4) < 0).numpy()
    return (_largest(lines.float(), thickness // 2) > 0).numpy() if thickness > 1 else lines.numpy()


def colour_blocks(image: Image.Image, cell: int = CELL) -> Image.Image:
    """Return an image's mean colours in blocks of `cell` pixels, in its own size."""
    size = (max(1, round(image.width / cell)), max(1, round(image.height / cell)))
    return image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def _blurred(values: Tensor, sigma: float) -> Tensor:
    """Return H W blurred by a Gaussian that ends at four sigma; beyond the edge its nearest pixel counts."""
    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = (kernel / kernel.sum()).tolist()
    for _ in range(2):  # along rows, then along columns
        length = values.shape[1]
        padded = F.pad(values[None], (reach, reach), mode="replicate")[0]
        blurred = torch.zeros_like(values)
        for place, weight in enumerate(weights):
            blurred.add_(padded[:, place : place + length], alpha=weight)
        values = blurred.T.contiguous()
    return values


def _sobel(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the derivatives of H W downwards and to the right, by Sobel's kernels."""
    slope, blur = values.new_tensor([-1, 0, 1]), values.new_tensor([1, 2, 1])
    kernels = torch.stack([slope[:, None] * blur, blur[:, None] * slope])[:, None]
    padded = F.pad(values[None, None], (1, 1, 1, 1), mode="replicate")
    down, across = F.conv2d(padded, kernels)[0]
    return down, across


def _thinned(down: np.ndarray, across: np.ndarray, strength: np.ndarray, low: float) -> np.ndarray:
    """Return where the gradient is at least `low` and no smaller than beside it, along its direction.

    The two values beside it lie between pixels, and are interpolated.
    """
    inner = np.zeros(strength.shape, dtype=bool)
    inner[1:-1, 1:-1] = strength[1:-1, 1:-1] >= low
    y, x = np.nonzero(inner)
    dy, dx, own = down[y, x], across[y, x], strength[y, x]
    sy, sx = np.where(dy < 0, -1, 1), np.where(dx < 0, -1, 1)
    steep = np.abs(dy) >= np.abs(dx)
    large = np.maximum(np.abs(dy), np.abs(dx))
    share = np.divide(np.minimum(np.abs(dy), np.abs(dx)), large, out=np.zeros_like(large), where=large > 0)
    keep = np.ones(len(own), dtype=bool)
    for side in (1, -1):
        straight = strength[y + side * sy * steep, x + side * sx * ~steep]
        oblique = strength[y + side * sy, x + side * sx]
        keep &= straight * (1 - share) + oblique * share <= own
    thin = np.zeros_like(inner)
    thin[y[keep], x[keep]] = True
    return thin


def _connected(where: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return the pixels of `where` that neighbours, diagonal ones too, connect to a seed. All H W of bool."""
    height, width = where.shape
    left = np.pad(where, 1).ravel()  # pixels that are not reached yet
    steps = np.array([dy * (width + 2) + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    reached = np.zeros_like(left)
    front = np.flatnonzero(np.pad(seeds, 1).ravel())
    while len(front):
        reached[front] = True
        left[front] = False
        around = (front[:, None] + steps).ravel()
        front = np.unique(around[left[around]])
    return reached.reshape(height + 2, width + 2)[1:-1, 1:-1]


def _is_ridge(values: Tensor) -> Tensor:
    """Return where a value is the largest of three in a row, in at least one of four directions. H W."""
    padded = F.pad(values[None, None], (1, 1, 1, 1), value=-math.inf)[0, 0]
    height, width = values.shape
    largest = torch.zeros(values.shape, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        before = padded[1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        after = padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        largest |= (values >= before) & (values >= after)
    return largest


def _largest(values: Tensor, side: int) -> Tensor:
    """Return the largest value in the square of `side` pixels around each, H W."""
    before, after = side // 2, side - 1 - side // 2
    padded = F.pad(values[None, None], (before, after, before, after), value=-math.inf)
    return F.max_pool2d(padded, side, stride=1)[0, 0]
