"""Prompts with weights through every task: what is drawn, kept, told and refused."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import read_metadata
from sanakit.images.image import save as save_image
from sanakit.pipelines.batch import draw_group, groups
from sanakit.pipelines.best_of import BestOf
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.inpaint import Inpaint
from sanakit.pipelines.prompt_file import read_prompts
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.prompt_weights import WeightedText, weigh
from tests.pipelines.samples import apart, begun, finish

TOLERANCE = 5e-5  # of the largest number compared: float32 sums in another order, through four steps
EFFECT = 1e-3
WEIGHED, PLAIN = "a (red:3) apple", "a red apple"


@pytest.fixture(scope="module")
def pipe(attentive: TextToImage) -> TextToImage:
    return attentive


def latents(pipe: TextToImage, prompt, negative="", **settings):
    return pipe(prompt, negative, seed=2, output="latent", **({"prompt_weights": True} | settings)).images


def test_a_prompt_without_weights_is_the_same_to_the_bit(pipe: TextToImage) -> None:
    usual = latents(pipe, PLAIN, prompt_weights=False)
    for prompt in (PLAIN, "a (red:1) apple", "a (red:1.0) apple"):
        assert latents(pipe, prompt).equal(usual)
    assert latents(pipe, r"a \(red\) apple").equal(latents(pipe, "a (red) apple", prompt_weights=False))


@pytest.mark.parametrize("dialect", ["diffusers", "native"])
@pytest.mark.parametrize("solver", ["dpm", "euler"])
def test_a_weight_changes_the_image_in_every_dialect(pipe: TextToImage, dialect, solver) -> None:
    words = {"dialect": dialect, "solver": solver}
    plain, more = latents(pipe, PLAIN, **words), latents(pipe, WEIGHED, **words)
    assert apart(more, plain) > EFFECT
    assert apart(latents(pipe, "a (red:0.2) apple", **words), more) > EFFECT


@pytest.mark.parametrize("dialect", ["diffusers", "native"])
def test_a_negative_prompt_may_have_weights(pipe: TextToImage, dialect) -> None:
    plain = latents(pipe, PLAIN, "green foxes", dialect=dialect)
    weighed = latents(pipe, PLAIN, "(green:4) foxes", dialect=dialect)
    assert apart(weighed, plain) > EFFECT
    unguided = [latents(pipe, PLAIN, text, guidance=1.0) for text in ("green foxes", "(green:4) foxes")]
    assert unguided[0].equal(unguided[1])


def test_prompts_with_and_without_weights_are_drawn_together_as_alone(pipe: TextToImage) -> None:
    wishes = [(WEIGHED, ""), (PLAIN, "(snow:2)"), ("two (green:0) foxes", "snow"), (PLAIN, "")]
    together = latents(pipe, [prompt for prompt, _ in wishes], [negative for _, negative in wishes])
    for i, (prompt, negative) in enumerate(wishes):
        alone = pipe(prompt, negative, seed=2 + i, output="latent", prompt_weights=True).images
        assert apart(together[i : i + 1], alone) < TOLERANCE


def test_pag_follows_the_weights(pipe: TextToImage) -> None:
    found = [
        finish(pipe, begun(pipe, prompt, prompt_weights=True, guidance_kind="pag=2", guidance=2.0))[0]
        for prompt in (PLAIN, WEIGHED)
    ]
    assert apart(*found) > EFFECT


def test_images_carry_the_prompt_as_typed_and_draw_again_from_it(pipe: TextToImage, tmp_path: Path) -> None:
    drawn = pipe(WEIGHED, "(snow:2)", seed=4, prompt_weights=True)
    path = save_image(drawn.images[0], tmp_path / "a.png", drawn.metadata[0])
    settings = read_metadata(path)
    assert (settings["prompt"], settings["negative_prompt"]) == (WEIGHED, "(snow:2)")
    assert settings["prompt_weights"] is True
    assert settings == drawn.metadata[0]
    again = pipe(**{name: settings[name] for name in settings if name not in ("model", "version")})
    assert np.array_equal(np.array(again.images[0]), np.array(drawn.images[0]))
    assert "prompt_weights" not in pipe(PLAIN, seed=4).metadata[0]


def test_a_settings_switch_is_read_from_a_file_as_it_was_written(tmp_path: Path) -> None:
    image, settings = (
        Image.new("RGB", (8, 8)),
        {"prompt": "a", "steps": 1, "model": "m", "width": 8, "height": 8},
    )
    for value in (True, False):
        path = save_image(image, tmp_path / "a.png", settings | {"prompt_weights": value})
        assert read_metadata(path)["prompt_weights"] is value
    path = save_image(image, tmp_path / "a.png", settings | {"prompt_weights": "maybe"})
    with pytest.raises(SettingsError, match="no settings"):
        read_metadata(path)


@pytest.mark.parametrize("text", ["snow", "foxes on a table", "two red apples " * 20])
def test_there_is_a_weight_for_each_feature_of_prompts_and_of_negative_ones(pipe: TextToImage, text) -> None:
    """A negative prompt has other tokens: no instruction, no space before its first word."""
    encoder, read = pipe.text_encoder, WeightedText(text, (2.0,) * len(text))
    with warnings.catch_warnings(action="ignore"):
        features = [*encoder.encode_negative([text], []), *encoder.encode([text], [])]
    for own, found in zip(weigh(encoder, [read], [read], [], "diffusers"), features, strict=True):
        assert own is not None
        assert own.tolist() == [1.0] + [2.0] * (len(found) - 1)


def test_what_is_encoded_and_filtered_is_the_plain_text(pipe: TextToImage) -> None:
    request = check_request(pipe.spec, WEIGHED, "(snow:2)", prompt_weights=True, guidance=3.0)
    assert request.prompts == [PLAIN]
    assert request.nulls == [WeightedText("snow", (2.0,) * 4)]
    assert check_request(pipe.spec, WEIGHED).prompts == [WEIGHED]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_are_not_read_or_were_cut_are_told(pipe: TextToImage) -> None:
    assert "--prompt-weights" in pipe(WEIGHED, seed=0, steps=1).warnings[0]
    assert pipe(WEIGHED, seed=0, steps=1, prompt_weights=True).warnings == []
    notes = pipe("a red apple " * 20 + "(fox:2)", seed=0, steps=1, prompt_weights=True).warnings
    assert len(notes) == 2
    assert "'fox' on have no effect" in notes[1]


@pytest.mark.parametrize("prompt", ["a (red", "(red:11)", "a)"])
def test_faults_are_told_before_any_work(pipe: TextToImage, prompt: str) -> None:
    for words in ((prompt,), (PLAIN, prompt)):
        with pytest.raises(SettingsError):
            pipe.stream(*words, prompt_weights=True)


def test_editing_and_best_of_read_weights(pipe: TextToImage) -> None:
    image, mask = Image.new("RGB", (96, 64), "red"), Image.new("L", (96, 64), 255)
    words = {"seed": 1, "prompt_weights": True}
    for draw in (partial(ImageToImage(pipe), image, strength=0.9), partial(Inpaint(pipe), image, mask)):
        found = [draw(prompt, **words) for prompt in (PLAIN, WEIGHED)]
        assert found[0].images[0].tobytes() != found[1].images[0].tobytes()
        assert found[1].metadata[0]["prompt_weights"] is True
    best = BestOf(pipe, lambda prompt, images: [0.0] * len(images))(WEIGHED, count=1, **words)
    assert best.images[0].tobytes() == pipe(WEIGHED, **words).images[0].tobytes()
    assert best.metadata[0]["prompt_weights"] is True


ROWS = {
    "a.jsonl": '{"prompt": "a (red:3) apple", "prompt_weights": true}\n{"prompt": "a (red:3) apple"}\n',
    "a.csv": "prompt,prompt_weights\na (red:3) apple,TRUE\na (red:3) apple,false\n",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_whether_its_weights_are_read(pipe: TextToImage, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(ROWS[name])
    asked = read_prompts(tmp_path / name, partial(check_request, pipe.spec), steps=2)
    assert [one.metadata.get("prompt_weights") for one in asked] == [True, None]
    weighed, plain = (one for group in groups(asked, set()) for one in draw_group(pipe, group))
    assert weighed.warnings == []
    assert "--prompt-weights" in plain.warnings[0]
    alone = pipe(WEIGHED, seed=0, steps=2, prompt_weights=True).images[0]
    assert np.abs(np.array(weighed.image).astype(int) - np.array(alone)).max() <= 1


@pytest.mark.parametrize("row", ["prompt,prompt_weights\na,yes\n", '{"prompt": "a", "prompt_weights": 1}'])
def test_a_row_whose_switch_is_no_truth_value_is_refused(pipe: TextToImage, tmp_path: Path, row: str) -> None:
    path = tmp_path / ("a.jsonl" if row.startswith("{") else "a.csv")
    path.write_text(row)
    with pytest.raises(SettingsError, match="prompt_weights = "):
        read_prompts(path, partial(check_request, pipe.spec))


def test_a_cut_weight_is_told_with_its_own_image_of_a_file(pipe: TextToImage, tmp_path: Path) -> None:
    rows = [{"prompt": "a fox"}, {"prompt": "a red apple " * 20 + "(fox:2)"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    asked = read_prompts(
        tmp_path / "a.jsonl", partial(check_request, pipe.spec), prompt_weights=True, steps=1
    )
    notes = [one.warnings for group in groups(asked, set()) for one in draw_group(pipe, group)]
    assert [len(each) for each in notes] == [0, 2]
    assert "'fox' on have no effect" in notes[1][1]
