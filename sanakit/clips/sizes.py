"""Sizes that the published video models were trained at, eleven shapes from 2:1 to 1:2 each.

Source: diffusers 0.42's tables ASPECT_RATIO_480_BIN and ASPECT_RATIO_720_BIN. At 480p all sides are multiples
of 16, at 720p of 32, as the models' patches and autoencoders need.
"""

from __future__ import annotations

Size = tuple[int, int]  # width and height in pixels

_480P: tuple[Size, ...] = (
    *((896, 448), (832, 480), (768, 528), (720, 560), (624, 624)),
    *((592, 672), (560, 720), (528, 768), (496, 816), (480, 832), (448, 896)),
)
_720P: tuple[Size, ...] = (
    *((1344, 672), (1280, 704), (1152, 800), (1088, 832), (960, 960)),
    *((896, 1024), (832, 1088), (800, 1152), (736, 1248), (704, 1280), (672, 1344)),
)
_TRAINED = {30: _480P, 22: _720P}  # sample_size of a published transformer: rows of tokens of its usual size
_USUAL = {30: (832, 480), 22: (1280, 704), 23: (1280, 736)}  # 23: of SANA-Video 2.0, by its released sampler


def trained_sizes(sample_size: int) -> tuple[Size, ...]:
    """Return the sizes that a published model was trained at, widest first; () for any other sample size.

    >>> trained_sizes(30)[0], len(trained_sizes(22))
    ((896, 448), 11)
    """
    return _TRAINED.get(sample_size, ())


def usual_size(sample_size: int, unit: int) -> Size:
    """Return the size that a model draws unless told otherwise. unit: pixels of a token, along one side.

    >>> usual_size(30, 16), usual_size(6, 16)
    ((832, 480), (96, 96))
    """
    return _USUAL.get(sample_size, (sample_size * unit, sample_size * unit))
