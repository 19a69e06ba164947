"""Mask2Former at a tiny size, with random weights: from a folder to things in an image's own pixels."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from sanakit.errors import WeightsError
from sanakit.eval.networks import detector
from sanakit.eval.networks.detector import detect, load_detector

transformers = pytest.importorskip("transformers")


class Finder:
    """Finds the bright pixels of what it is shown, at a quarter of the size, and calls them a dog."""

    device = torch.device("cpu")

    def __call__(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> SimpleNamespace:
        self.shape, self.inner = pixel_values.shape, pixel_mask
        small = torch.nn.functional.avg_pool2d(pixel_values.mean(1, keepdim=True), 4)
        classes = torch.full((1, 1, 81), -30.0)
        classes[..., 16] = 30
        return SimpleNamespace(masks_queries_logits=20 * small, class_queries_logits=classes)


@pytest.mark.parametrize(("size", "shape"), [((200, 100), (672, 1344)), ((90, 120), (1088, 800))])
def test_boxes_are_in_the_pictures_own_pixels_whatever_the_network_saw(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "black")
    image.paste("white", (30, 20, 70, 50))
    finder = Finder()
    (found,) = detect(finder, image)
    assert found.name == "dog"
    assert found.box == pytest.approx((30, 20, 70, 50), abs=2)
    assert found.mask is not None
    assert found.mask.shape == size[::-1]
    assert finder.shape[-2:] == shape
    height, width = (round(side * min(800 / min(size), 1333 / max(size))) for side in size[::-1])
    assert finder.inner.sum() == height * width


def test_a_folder_of_transformers_loads_and_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "SHORT", 64)
    swin = transformers.SwinConfig(
        embed_dim=12,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        num_labels=80,
    )
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path / "net")
    look = load_detector(tmp_path / "net")
    for found in look(Image.new("RGB", (48, 32), "red")):
        left, top, right, bottom = found.box
        assert 0 <= left < right <= 48
        assert 0 <= top < bottom <= 32
    config.num_labels = 3
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsError, match="knows 3 classes"):
        load_detector(tmp_path / "other")


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not a Mask2Former"):
        load_detector(tmp_path)
