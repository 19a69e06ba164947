"""Any image to what a model takes in, and back: modes, orientations, odd sizes, damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError, SizeError
from sanakit.pipelines.request import ModelSpec
from sanakit.pipelines.source import make_source
from sanakit.weights.settings import ModelSettings
from tests.images.simple import boxed, noise, same

SPEC = ModelSpec(
    settings=ModelSettings(name="tiny", width=128, height=128),
    latent_channels=8,
    sample_size=4,
    compression=32,
)
BINNED = ModelSpec(
    settings=ModelSettings(name="big", width=512, height=512),
    latent_channels=8,
    sample_size=16,
    compression=32,
)


# Sizes


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((128, 128), (128, 128)),
        ((1, 1), (128, 128)),
        ((4000, 4000), (128, 128)),
        ((100, 99), (128, 128)),
        ((640, 360), (160, 96)),
        ((31, 93), (64, 224)),
        ((160, 10), (512, 64)),
        ((10, 160), (64, 512)),
    ],
)
def test_a_picture_is_drawn_near_the_models_own_size_and_given_back_in_its_own(size, drawn) -> None:
    made = make_source(SPEC, noise(*size), 0.5)
    assert made.pixels.shape == (1, 3, drawn[1], drawn[0])
    assert made.size == (size[1], size[0])
    assert made.finish(Image.new("RGB", drawn, "red")).size == size


def test_pixels_of_the_drawn_size_go_in_and_out_unchanged() -> None:
    image = noise(128, 128)
    made = make_source(SPEC, image, 0.5)
    levels = (made.pixels[0].permute(1, 2, 0) + 1) * 127.5
    assert torch.equal(levels.round().to(torch.uint8), torch.from_numpy(np.array(image)))
    assert made.pixels.abs().max() <= 1
    drawn = Image.new("RGB", (128, 128), "red")
    assert same(made.finish(drawn), drawn)


def test_a_picture_too_narrow_to_be_drawn_is_refused_unless_it_is_cut() -> None:
    ribbon = noise(5000, 40)
    with pytest.raises(SizeError, match=r"5000x40 px is too narrow.*16:1"):
        make_source(SPEC, ribbon, 0.5)
    made = make_source(SPEC, ribbon, 0.5, width=96, height=64)
    assert made.pixels.shape == (1, 3, 64, 96)
    assert made.size == (64, 96)


def test_a_given_size_cuts_the_middle_and_the_mask_with_it() -> None:
    image = Image.new("RGB", (300, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    mask = boxed((300, 100), (100, 0, 150, 100))
    made = make_source(SPEC, image, 0.5, width=64, height=64, mask=mask, feather=0)
    assert made.pixels[0, :, 32, 4:-4].mean(1).tolist() == [-1, -1, 1]
    assert made.mask is not None
    assert made.mask[0, 0].tolist() == [[1, 0], [1, 0]]
    result = np.asarray(made.finish(Image.new("RGB", (64, 64), "white")))
    assert (result[:, :32] == 255).all()
    assert (result[:, 36:-4] == [0, 0, 255]).all()


@pytest.mark.parametrize(("given", "size"), [({"width": 96}, (128, 96)), ({"height": 64}, (64, 128))])
def test_one_given_side_leaves_the_other_to_the_model(given, size) -> None:
    assert make_source(SPEC, noise(50, 40), 0.5, **given).size == size


@pytest.mark.parametrize(
    "given", [{"width": 100}, {"width": 32}, {"height": 5000}, {"width": 96.0}, {"width": True}]
)
def test_a_given_size_that_can_not_be_drawn_is_refused(given) -> None:
    with pytest.raises(SizeError):
        make_source(SPEC, noise(50, 40), 0.5, **given)


def test_models_with_bins_draw_in_them_and_give_any_size() -> None:
    made = make_source(BINNED, noise(300, 236), 0.5)
    assert made.pixels.shape == (1, 3, 448, 576)
    assert made.size == (236, 300)
    odd = make_source(BINNED, noise(50, 50), 0.5, width=301, height=235)
    assert odd.pixels.shape == (1, 3, 448, 576)
    assert odd.finish(Image.new("RGB", (576, 448))).size == (301, 235)
    free = make_source(BINNED, noise(300, 236), 0.5, binned=False)
    assert free.pixels.shape == (1, 3, 448, 576)  # 577 x 454, to the nearest 32
    tall = make_source(BINNED, noise(100, 1000), 0.5, binned=False)
    assert tall.pixels.shape == (1, 3, 1632, 160)
    assert make_source(BINNED, noise(100, 1000), 0.5).pixels.shape == (1, 3, 1024, 256)  # the narrowest bin


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), float("inf"), None, "0.5", True])
def test_a_strength_out_of_range_is_refused(strength) -> None:
    with pytest.raises(SettingsError, match=r"strength = .* from 0 \(keep\) to 1 \(redraw\)"):
        make_source(SPEC, noise(64, 64), strength)


@pytest.mark.parametrize("strength", [0, 1, 0.25])
def test_a_strength_in_range_is_kept_as_a_float(strength) -> None:
    made = make_source(SPEC, noise(64, 64), strength)
    assert isinstance(made.strength, float)
    assert made.strength == strength
