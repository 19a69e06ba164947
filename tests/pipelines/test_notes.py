"""What is told beside an image: nothing in the prompt is known, or the size was not learned."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.errors import SizeError
from sanakit.images.image import resize_and_crop
from sanakit.pipelines.batch import draw_group
from sanakit.pipelines.best_of import BestOf
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.prompt_file import PromptImage
from sanakit.pipelines.request import ModelSpec, check_request
from sanakit.pipelines.result import Result
from sanakit.pipelines.source import make_source
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.known_things import FILE, KnownThings
from sanakit.weights.settings import ModelSettings

POCKET = ((256, 256), (288, 224), (224, 288), (352, 192), (192, 352), (512, 512), (704, 384))
# every score is below it: what words do not name is told
KNOWN = KnownThings({"a red apple": ("an apple",), "a fox": (), "a table": ()}, threshold=9.0)
LEARNED = [[96, 64], [64, 96], [192, 128]]
ASKED = {"width": 160, "height": 128}  # 5:4, nearest to 3:2 at 96 x 64 and at 192 x 128


@pytest.fixture(scope="module")
def told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    """The tiny model, with known things and learned sizes in its folder."""
    target = tmp_path_factory.mktemp("told") / "model"
    shutil.copytree(folder, target)
    (target / FILE).write_text(KNOWN.text(), encoding="utf-8")
    ours = json.loads((target / "sanakit.json").read_text()) | {"sizes": LEARNED}
    (target / "sanakit.json").write_text(json.dumps(ours), encoding="utf-8")
    return TextToImage.from_pretrained(target, device="cpu", encoder=True)


@pytest.fixture
def draw(told: TextToImage) -> Callable[..., Result]:
    def drawn(prompt: Any, *more: str, **settings: Any) -> Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return told(prompt, *more, **({"steps": 1, "seed": 0} | settings))

    return drawn


# Nothing known


def test_a_prompt_with_nothing_known_is_drawn_and_told_once(draw) -> None:
    result = draw("quantum entanglement", num_images=3)
    assert len(result.images) == 3
    (note,) = result.warnings
    assert note.startswith('Nothing in "quantum entanglement" is near a thing that tiny knows. Nearest: ')


def test_python_is_warned_at_the_callers_line(told) -> None:
    with pytest.warns(UserWarning, match='Nothing in "physics"') as caught:
        told("physics", steps=1, seed=0)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("prompt", ["a fox", "two APPLES, please", "", "  "])
def test_a_known_thing_or_an_empty_prompt_is_not_told(draw, prompt) -> None:
    assert draw(prompt).warnings == []


def test_of_many_prompts_each_unknown_one_is_told(draw) -> None:
    notes = draw(["physics", "a fox", "democracy", "physics"]).warnings
    assert [note.split('"')[1] for note in notes] == ["physics", "democracy"]


def test_negative_prompts_are_not_checked(draw) -> None:
    assert draw("a fox", "democracy", guidance=3.0).warnings == []


def test_an_edit_tells_of_its_prompt(told, draw) -> None:
    (apple,) = draw("a fox").images
    with pytest.warns(UserWarning, match="Nothing in"):
        result = ImageToImage(told)(apple, "democracy", strength=0.5, steps=2, seed=0)
    assert len(result.warnings) == 1


def test_the_best_of_many_tells_once(told) -> None:
    best = BestOf(told, lambda prompt, images: [0.0] * len(images), batch=2)
    with pytest.warns(UserWarning, match="Nothing in"):
        result = best("democracy", count=5, steps=1, seed=0)
    assert len(result.warnings) == 1


def test_pictures_of_a_file_of_prompts_tell_of_their_own_prompt(told) -> None:
    rows = [check_request(told.spec, prompt, seed=3, steps=1, **ASKED) for prompt in ("a fox", "physics")]
    group = [PromptImage(file=f"{n}.png", line=n, metadata=row.metadata[0]) for n, row in enumerate(rows)]
    known, unknown = draw_group(told, group)
    assert [note.split()[0] for note in known.warnings] == ["tiny"]
    assert [note.split()[0] for note in unknown.warnings] == ["tiny", "Nothing"]


def test_every_request_tells_what_is_to_know_about_the_models_files() -> None:
    own = ModelSettings(name="mine", notes=("mine holds two checkpoints.",))
    of_files = ModelSpec(settings=own, latent_channels=4, sample_size=8, compression=32)
    assert check_request(of_files, "a fox", seed=0).notes == ("mine holds two checkpoints.",)


# Sizes


def spec(sizes: Any = POCKET, **more: Any) -> ModelSpec:
    own = ModelSettings(name="pocket", width=256, height=256, sizes=sizes)
    return ModelSpec(**({"settings": own, "latent_channels": 32, "sample_size": 8, "compression": 32} | more))


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        *((size, size) for size in POCKET),
        ((64, 64), (256, 256)),
        ((300, 301), (256, 256)),
        ((400, 400), (512, 512)),  # of two squares the one of the nearer area
        ((4096, 4096), (512, 512)),
        ((1000, 800), (288, 224)),
        ((300, 400), (224, 288)),
        ((1920, 1080), (704, 384)),
        ((320, 180), (352, 192)),
        ((100, 1000), (192, 352)),  # by shape before area
    ],
)
def test_the_nearest_size_has_the_nearest_shape_then_area(asked, drawn) -> None:
    assert spec().drawn_size(*asked) == (drawn[1], drawn[0])


def test_without_a_list_nothing_changes_and_unbinned_sizes_are_drawn_as_asked() -> None:
    assert spec(()).drawn_size(320, 64) == (64, 320)
    assert spec().drawn_size(320, 64, binned=False) == (64, 320)
    for unlisted in (spec(()).drawn_size, lambda *size: spec().drawn_size(*size, binned=False)):
        with pytest.raises(SizeError, match="320x96"):
            unlisted(320, 90)
    bins = spec((), sample_size=32)
    assert bins.drawn_size(1024, 1000) == (1024, 1024)


@pytest.mark.parametrize("asked", [(63, 256), (256, 4097), (256.0, 256), (True, 256)])
def test_limits_are_those_of_all_models(asked) -> None:
    with pytest.raises(SizeError):
        spec().drawn_size(*asked)


def test_sizes_that_the_autoencoder_cannot_draw_are_left_out() -> None:
    assert spec(((250, 250), (256, 128))).drawn_size(256, 256) == (128, 256)
    assert spec(((250, 250),)).drawn_size(128, 128) == (128, 128)


def test_a_picture_of_another_size_is_drawn_at_a_learned_one_resized_and_told(draw) -> None:
    result = draw("a fox", output="pt", **ASKED)
    assert result.images.shape[2:] == (128, 160)
    assert result.warnings == [
        "tiny did not learn the size 160x128: the image is drawn at 192x128, the nearest that it learned, "
        "and resized."
    ]
    assert (result.metadata[0]["width"], result.metadata[0]["height"]) == (160, 128)
    learned = draw("a fox", output="pt", width=192, height=128)
    assert learned.warnings == []
    expected = resize_and_crop(learned.images, 128, 160).clamp(-1, 1)
    torch.testing.assert_close(result.images, expected)


def test_unbinned_it_is_drawn_as_asked_and_not_told(draw) -> None:
    result = draw("a fox", output="latent", binned=False, **ASKED)
    assert result.images.shape[2:] == (4, 5)
    assert result.warnings == []
    assert draw("a fox", output="latent", **ASKED).images.shape[2:] == (4, 6)


def test_the_default_size_is_not_told(draw) -> None:
    assert draw("a fox").warnings == []


def test_a_size_and_an_unknown_prompt_are_both_told(draw) -> None:
    notes = draw("physics", num_images=2, **ASKED).warnings
    assert [note.split()[0] for note in notes] == ["tiny", "Nothing"]


def test_a_source_is_brought_to_a_learned_size_and_the_result_to_its_own(draw) -> None:
    (picture,) = draw("a fox", **ASKED).images
    source = make_source(spec(), picture, 0.5)
    assert source.pixels.shape[2:] == (224, 288)
    assert source.size == (128, 160)
    assert make_source(spec(), picture, 0.5, width=600, height=600).pixels.shape[2:] == (512, 512)
    assert source.finish(picture.resize((288, 224))).size == picture.size
    assert check_request(spec(), "a fox", source=source).notes == ()


def test_bins_of_published_models_are_not_told() -> None:
    request = check_request(spec((), sample_size=32), "a fox", width=1000, height=600)
    assert request.notes == ()
