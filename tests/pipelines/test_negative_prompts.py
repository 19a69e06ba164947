"""A negative prompt for each of several prompts: drawn as alone, encoded once, refused in another number."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.pipelines.batch import draw_group, groups
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.prompt_file import read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.samples import apart, begun

PROMPTS = ["a red apple", "two green foxes", "a red apple"]
NEGATIVES = ["snow", "", "on a table"]
TOLERANCE = 5e-5  # of the largest number compared: float32 sums in another order, through four steps


@pytest.fixture(scope="module")
def pipe(attentive: TextToImage) -> TextToImage:
    return attentive


@pytest.mark.parametrize("dialect", ["diffusers", "native"])
def test_each_prompt_has_its_own(pipe: TextToImage, dialect) -> None:
    words = {"dialect": dialect, "output": "latent"}
    together = pipe(PROMPTS, NEGATIVES, seed=5, num_images=2, **words)
    assert [one["negative_prompt"] for one in together.metadata] == [n for n in NEGATIVES for _ in range(2)]
    for i in range(6):
        alone = pipe(PROMPTS[i // 2], NEGATIVES[i // 2], seed=5 + i, **words).images
        assert apart(together.images[i : i + 1], alone) < TOLERANCE
    others = pipe(PROMPTS, NEGATIVES[::-1], seed=5, num_images=2, **words)
    assert min(apart(others.images[i], together.images[i]) for i in (0, 1, 4, 5)) > 1e-3


def test_one_for_all_is_the_same_to_the_bit_as_as_many_equal_ones(pipe: TextToImage) -> None:
    one, many = (
        pipe(PROMPTS, negative, seed=1, output="latent").images for negative in ("snow", ["snow"] * 3)
    )
    assert one.equal(many)


def test_equal_ones_are_encoded_and_prepared_once(pipe: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    encode = pipe.text_encoder.encode_negative
    monkeypatch.setattr(
        pipe.text_encoder,
        "encode_negative",
        lambda prompts, *others: (asked.append(list(prompts)), encode(prompts, *others))[1],
    )
    samples = begun(pipe, PROMPTS, negative_prompt=["snow", "", "snow"], guidance=3.0)
    assert asked == [["snow", ""]]
    assert samples[0].negative is samples[2].negative
    assert samples[0].negative is not samples[1].negative


@pytest.mark.parametrize(
    ("prompt", "negative"), [(PROMPTS, ["a"]), (PROMPTS, ["a"] * 4), (PROMPTS, []), ("a fox", ["a", "b"])]
)
def test_another_count_is_refused(pipe: TextToImage, prompt, negative) -> None:
    with pytest.raises(SettingsError, match="one for all, or one for each"):
        pipe.stream(prompt, negative)


@pytest.mark.parametrize("negative", [["a", None, "b"], ["a", "b\0", "c"], ["a", "\ud83d", "c"], 3])
def test_what_is_not_text_is_refused(pipe: TextToImage, negative) -> None:
    with pytest.raises(SettingsError, match=r"prompts are texts|NUL|surrogate"):
        pipe.stream(PROMPTS, negative)


def test_a_sprint_model_takes_none_in_a_list_either(sprint_folder: Path) -> None:
    spec = TextToImage.from_pretrained(sprint_folder, device="cpu").spec
    with pytest.raises(SettingsError, match="takes no negative prompt"):
        check_request(spec, PROMPTS, ["", "snow", ""])
    assert check_request(spec, PROMPTS, ["", "", ""]).nulls == []


def test_editing_takes_one_for_each(pipe: TextToImage) -> None:
    draw = ImageToImage(pipe)
    image = Image.new("RGB", (96, 64), "red")
    together = draw(image, PROMPTS[:2], NEGATIVES[:2], seed=3).images
    alone = draw(image, PROMPTS[1], NEGATIVES[1], seed=4).images
    assert np.abs(np.array(together[1]).astype(int) - np.array(alone[0])).max() <= 1


def test_rows_that_differ_in_it_are_drawn_together_each_with_its_own(
    pipe: TextToImage, tmp_path: Path
) -> None:
    rows = [{"prompt": p, "negative_prompt": n} for p, n in zip(PROMPTS, NEGATIVES, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    asked = read_prompts(tmp_path / "a.jsonl", partial(check_request, pipe.spec), steps=2)
    (group,) = groups(asked, set())
    for i, one in enumerate(draw_group(pipe, group)):
        alone = pipe(PROMPTS[i], NEGATIVES[i], seed=i, steps=2).images[0]
        assert np.abs(np.array(one.image).astype(int) - np.array(alone)).max() <= 1
