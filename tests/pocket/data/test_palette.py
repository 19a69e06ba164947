from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.pocket.data.palette import COLOURS, ground_of, silhouette_of


def plain(name: str) -> Tensor:
    return torch.tensor(COLOURS[name]).view(3, 1, 1).expand(3, 256, 256) / 127.5 - 1


def disc(radius: float) -> Tensor:
    at = torch.arange(256) - 127.5
    return at[:, None] ** 2 + at**2 < radius**2


@pytest.mark.parametrize("name", COLOURS)
def test_grounds_get_the_name_of_their_colour_under_noise(name: str):
    picture = plain(name).clone()
    picture[:, disc(90)] = -0.3
    noisy = picture + 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    assert ground_of(noisy) == name


def test_silhouettes_are_told_from_things_of_many_colours():
    picture = plain("white").clone()
    assert silhouette_of(picture) is None  # nothing there
    picture[:, disc(80)] = plain("red")[:, disc(80)]
    assert silhouette_of(picture) == "red"
    picture[:, disc(60)] = plain("blue")[:, disc(60)]
    assert silhouette_of(picture) is None
