"""Inpainting and outpainting: what is marked is drawn, and nothing else changes by a single level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError, SizeError
from sanakit.images.opening import MAX_PIXELS, flatten
from sanakit.pipelines.inpaint import Inpaint, expand

PROMPT = "two green foxes on a table"
SIZE = {"width": 96, "height": 64}


@pytest.fixture(scope="module")
def paint(folder) -> Inpaint:
    return Inpaint.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def pocket() -> Inpaint:
    return Inpaint.from_pretrained("pocket")


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    )


def boxed(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", size)
    for box in boxes:
        mask.paste(255, box)
    return mask


def assert_kept(result: Image.Image, image: Image.Image, mask: Image.Image, changed: float = 0.5) -> None:
    """Equal outside the mask, and mostly another image inside."""
    ours, theirs, kept = np.asarray(result), np.asarray(flatten(image)), np.asarray(mask) == 0
    assert ours.shape == theirs.shape
    assert np.array_equal(ours[kept], theirs[kept])
    assert (ours[~kept] != theirs[~kept]).any(-1).mean() > changed


@pytest.mark.parametrize("solver", ["dpm", "euler"])
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(96, 64), (128, 128), (77, 131), (500, 333), (9, 5)])
def test_every_pixel_outside_the_mask_is_the_pictures_own(paint, size, strength, solver) -> None:
    image = noise(*size)
    mask = boxed(size, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] * 3 // 4))
    result = paint(image, mask, PROMPT, strength=strength, solver=solver, steps=2)
    assert_kept(result.images[0], image, mask)


@pytest.mark.parametrize("feather", [0, 8, 64])
def test_a_feather_blends_inside_only(paint, feather) -> None:
    image, mask = noise(128, 128), boxed((128, 128), (20, 20, 100, 110), (110, 3, 111, 100))
    result = paint(image, mask, PROMPT, feather=feather, seed=1).images[0]
    assert_kept(result, image, mask)
    hard = paint(image, mask, PROMPT, feather=0, seed=1).images[0]
    same = (np.asarray(result) == np.asarray(hard)).all(-1)
    assert same[np.asarray(mask) == 0].all()
    assert same[20:110, 20:100].all() == (feather == 0)
    assert same[10:90, 110].all()  # too thin to fade


def test_a_full_mask_is_text_to_image(paint) -> None:
    image, mask = noise(96, 64), Image.new("L", (96, 64), 255)
    ours = paint(image, mask, PROMPT, **SIZE, seed=2).images[0]
    plain = paint.pipe(PROMPT, **SIZE, seed=2).images[0]
    assert np.array_equal(np.asarray(ours), np.asarray(plain))


def test_what_is_drawn_looks_at_what_is_kept(paint) -> None:
    mask = boxed((128, 128), (0, 0, 64, 128))
    drawn = [
        np.asarray(paint(Image.new("RGB", (128, 128), colour), mask, PROMPT, seed=0).images[0], dtype=int)
        for colour in ("white", "navy")
    ]
    assert np.abs(drawn[0] - drawn[1])[:, :40].max() > 10


def test_below_full_strength_the_marked_part_begins_as_it_is(paint) -> None:
    mask = Image.new("L", (128, 128), 255)  # or the latents around would tell of what is there

    def apart(strength: float) -> float:
        one, other = (
            paint(image, mask, PROMPT, strength=strength, seed=0, output="latent").images
            for image in (noise(128, 128), Image.new("RGB", (128, 128), "white"))
        )
        return ((one - other).abs().max() / one.abs().max()).item()

    assert apart(0.3) > 0.1
    assert apart(1.0) == 0


def test_transparency_may_be_the_mask(paint) -> None:
    image = noise(96, 64)
    mask = Image.new("RGBA", (96, 64), "black")
    mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
    as_grey = boxed((96, 64), (32, 0, 64, 64))
    ours, plain = (paint(image, one, PROMPT, seed=0).images[0] for one in (mask, as_grey))
    assert np.array_equal(np.asarray(ours), np.asarray(plain))
    assert_kept(ours, image, as_grey)


def test_a_picture_with_transparency_is_kept_as_it_lies_on_white(paint) -> None:
    image, mask = noise(90, 70, 4), boxed((90, 70), (10, 10, 50, 50))
    assert_kept(paint(image, mask, PROMPT).images[0], image, mask)


def test_a_turned_picture_takes_an_upright_mask(paint) -> None:
    image, mask = noise(60, 90), boxed((60, 90), (0, 50, 60, 90))
    lying = image.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[274] = 6
    assert_kept(paint(lying, mask, PROMPT).images[0], image, mask)
    with pytest.raises(SettingsError, match="make them equal"):
        paint.stream(lying, boxed((90, 60), (0, 0, 9, 9)), PROMPT)


def test_a_given_size_keeps_the_picture_as_it_was_scaled(paint) -> None:
    image, mask = Image.new("RGB", (200, 100), (12, 34, 56)), boxed((200, 100), (0, 0, 80, 100))
    result = np.asarray(paint(image, mask, PROMPT, width=64, height=96).images[0])
    assert result.shape == (96, 64, 3)
    assert (result[:, 30:] == [12, 34, 56]).all()
    assert not (result[:, :10] == [12, 34, 56]).all(-1).any()


def test_each_prompt_and_seed_is_drawn_as_alone(paint) -> None:
    image, mask = noise(96, 64), boxed((96, 64), (0, 0, 40, 64))
    batch = paint(image, mask, ["a red apple", PROMPT], num_images=2, seed=3)
    assert batch.seeds == [3, 4, 5, 6]
    for number, prompt in ((1, "a red apple"), (2, PROMPT)):
        alone = paint(image, mask, prompt, seed=3 + number).images[0]
        assert np.abs(np.asarray(batch.images[number], int) - np.asarray(alone, int)).max() <= 1
    for picture in batch.images:
        assert_kept(picture, image, mask)


def test_kept_latents_are_the_pictures_own(paint) -> None:
    image, mask = noise(96, 64), boxed((96, 64), (0, 0, 32, 64))
    drawn, known = (
        paint(image, mask, PROMPT, strength=strength, **SIZE, output="latent").images for strength in (1, 0)
    )
    scale = known.abs().max()
    assert (drawn - known)[..., 1:].abs().max() < 1e-6 * scale
    assert (drawn - known)[..., :1].abs().max() > 0.1 * scale


def test_steps_can_be_watched(paint) -> None:
    mask = boxed((96, 64), (0, 0, 40, 64))
    seen = list(paint.stream(noise(96, 64), mask, PROMPT, steps=3, num_images=2))
    assert [(step.index, step.result is None) for step in seen] == [(1, True), (2, True), (3, False)]
    assert seen[0].latents.shape == seen[0].clean.shape == (2, 8, 3, 5)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (Image.new("L", (96, 64)), "marks nothing"),
        (Image.new("L", (64, 96), 255), "make them equal"),
        (None, "The mask is missing"),
        ("mask.png", r"PIL\.Image\.open"),
    ],
)
def test_a_mask_that_makes_no_sense_is_refused(paint, mask, says) -> None:
    with pytest.raises(SettingsError, match=says):
        paint.stream(noise(96, 64), mask, PROMPT)


# Outpainting


@pytest.mark.parametrize("margins", [(5, 0, 0, 0), (0, 6, 0, 0), (0, 0, 7, 0), (0, 0, 0, 8), (5, 6, 7, 8)])
def test_expanding_adds_what_was_asked_on_each_side(margins) -> None:
    left, top, right, bottom = margins
    image = noise(30, 20)
    canvas, mask = expand(image, *margins)
    assert canvas.size == mask.size == (30 + left + right, 20 + top + bottom)
    inner = (left, top, left + 30, top + 20)
    assert np.array_equal(np.asarray(canvas.crop(inner)), np.asarray(image))
    expected = Image.new("L", canvas.size, 255)
    expected.paste(0, inner)
    assert np.array_equal(np.asarray(mask), np.asarray(expected))
    rows, columns = (
        np.clip(np.arange(canvas.height) - top, 0, 19),
        np.clip(np.arange(canvas.width) - left, 0, 29),
    )
    assert np.array_equal(np.asarray(canvas), np.asarray(image)[rows][:, columns])  # the edge, drawn out


def test_expanding_takes_pictures_as_they_are_meant() -> None:
    lying = noise(30, 20, 4)
    lying.getexif()[274] = 6
    canvas, _ = expand(lying, right=10)
    assert canvas.mode == "RGB"
    assert canvas.size == (30, 30)


@pytest.mark.parametrize(
    "margins", [{}, {"left": -1}, {"top": 4097}, {"right": 1.5}, {"bottom": True}, {"left": "9"}]
)
def test_margins_out_of_range_are_refused(margins) -> None:
    with pytest.raises(SettingsError, match=r"All margins are 0|from 0 to 4096"):
        expand(noise(30, 20), **margins)


def test_a_canvas_too_large_is_refused_before_it_is_made(monkeypatch) -> None:
    monkeypatch.setattr(np, "pad", lambda *_, **__: pytest.fail("made"))
    image = Image.new("RGB", (6000, 6000))
    assert image.width * image.height < MAX_PIXELS
    with pytest.raises(
        SettingsError, match="10096x10096 px would be drawn, more than the limit of 67 million"
    ):
        expand(image, left=4096, bottom=4096)


def test_outpainting_keeps_the_whole_picture(paint) -> None:
    image = noise(70, 50)
    canvas, mask = expand(image, left=20, bottom=31)
    result = paint(canvas, mask, PROMPT).images[0]
    assert result.size == (90, 81)
    assert np.array_equal(np.asarray(result.crop((20, 0, 90, 50))), np.asarray(image))
    assert_kept(result, canvas, mask)


def test_outpainting_to_a_ribbon_is_refused(paint) -> None:
    with pytest.raises(SizeError, match="too narrow"):
        paint.stream(*expand(noise(64, 8), right=200), PROMPT)


# The embedded model


def test_pocket_paints_what_the_prompt_says_into_the_mask(pocket) -> None:
    image = Image.new("RGB", (256, 256), "white")
    image.paste((250, 220, 30), (0, 0, 256, 40))
    mask = boxed((256, 256), (40, 60, 216, 236))
    result = pocket(image, mask, "a red apple", seed=0).images[0]
    assert_kept(result, image, mask)
    inside = np.asarray(result, dtype=float)[60:236, 40:216].reshape(-1, 3)
    coloured = inside[inside.min(1) < 200]
    assert len(coloured) > 1000
    assert coloured.mean(0).argmax() == 0


def test_pocket_keeps_its_latents_in_its_own_precision(pocket) -> None:
    image, mask = noise(256, 256).resize((8, 8)).resize((256, 256)), boxed((256, 256), (0, 0, 128, 256))
    drawn, known = (
        pocket(
            image, mask, "a fox", strength=strength, steps=4, width=256, height=256, output="latent"
        ).images
        for strength in (1, 0)
    )
    half = drawn.shape[-1] // 2
    assert torch.allclose(drawn[..., half:], known[..., half:], atol=1e-6 * known.abs().max().item())
