"""A data set's drawings in another size, drawn again from its packages when they are asked for.

Vector art is sharp in any size; the 3D design is images of 256 px, which are enlarged. Nothing is stored:
5,407 drawings of 512 px would take 5.7 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from sanakit.errors import DataError
from sanakit.pocket.data import more_art, sources
from sanakit.pocket.data.dataset import PocketImages, choose, packages_of

KEPT = 64  # drawings in memory: samples of one follow each other


def drawn_at(side: int, data: Path, pocket: PocketImages) -> PocketImages:
    """Return the data set with its drawings of another size.

    side: in px, a multiple of 256. data: folder beside which the packages lie. Images whose art is in no
    package (made-up ones) are enlarged. Raises DataError for a package or an image that is missing, and for
    another side.
    """
    if side % sources.SIZE:
        raise DataError(f"Drawings of {side} px were requested: choose a multiple of {sources.SIZE}.")
    wanted = {package["package"] for package in pocket.sources["packages"]}
    art: dict[tuple[str, str], str | bytes] = {}
    if wanted:
        sources.require_renderer()
        art = _art(packages_of(data), wanted)
        if lost := next((row for row in pocket.rows if (row.concept, row.style) not in art), None):
            raise DataError(
                f"{data} has {lost.concept!r} in {lost.style}, which no package has: build it again."
            )

    @lru_cache(maxsize=KEPT)
    def draw(index: int) -> np.ndarray:
        row = pocket.rows[index]
        if (found := art.get((row.concept, row.style))) is not None:
            return sources.draw(found, side)
        planes = np.dstack([np.asarray(pocket.images[index]), np.asarray(pocket.alpha[index])])
        bands = [Image.fromarray(planes[..., i]).resize((side, side)) for i in range(4)]
        return np.dstack([np.asarray(band) for band in bands])

    colours = _Drawn(draw, (len(pocket.rows), side, side, 3), slice(0, 3))
    alpha = _Drawn(draw, (len(pocket.rows), side, side), 3)
    manifest = pocket.sources | {"side": side}
    return replace(pocket, images=cast(np.ndarray, colours), alpha=cast(np.ndarray, alpha), sources=manifest)


def _art(cache: Path, wanted: set[str]) -> dict[tuple[str, str], str | bytes]:
    """Return the art of the packages that are wanted, by concept and design."""
    main = (sources.EMOJIBASE, *sources.ART_PACKAGES.values())
    more = (sources.EMOJIBASE, *more_art.PACKAGES.values())
    chosen = []
    for packages, choose_from in ((main, choose), (more, more_art.choose_more)):
        if any(package.name in wanted for package in packages[1:]):
            chosen.append(choose_from({package: sources.obtain(package, cache) for package in packages}))
    return {(row.concept, row.style): drawing for row, drawing in chain(*chosen)}


class _Drawn(Sequence[np.ndarray]):
    """Planes of drawings, with the shape of an array of all of them."""

    def __init__(self, draw, shape: tuple[int, ...], planes: int | slice) -> None:
        self._draw, self.shape, self._planes = draw, shape, planes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._draw(int(index))[..., self._planes]
