"""The reference images that ship, and the two files they are stored in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sanakit.errors import DataError
from sanakit.pocket.evaluate.recognition import Gallery, ceiling, floor
from sanakit.pocket.evaluate.reference import (
    FOLDER,
    GALLERY,
    HELD_OUT,
    PocketReference,
    load_reference,
    save_reference,
)
from sanakit.pocket.words.concepts import COMMON_CONCEPTS


@pytest.fixture(scope="module")
def shipped() -> PocketReference:
    return load_reference()


def tiny() -> Gallery:
    return Gallery(
        mean=torch.randn(6),
        basis=torch.randn(6, 4),
        images=torch.nn.functional.normalize(torch.randn(3, 4), dim=1),
        labels=torch.tensor([1, 0, 1]),
        designs=("flat", "flat", "round"),
        artists=("her", "her", "him"),
        concepts=("fox", "apple"),
    )


def test_what_is_saved_is_read_back(tmp_path) -> None:
    gallery = tiny()
    pictures = np.random.default_rng(0).integers(0, 256, (13, 256, 256, 3), np.uint8)  # more than one row
    words = {
        "prompts": ["a fox", "an apple"],
        "styled_prompts": ["a flat fox", "a flat apple"],
        "sources": ["x, MIT"],
    }
    save_reference(tmp_path / "new", gallery, pictures, **words)
    found = load_reference(tmp_path / "new")
    assert torch.equal(
        (found.held_out + 1).mul(127.5).round().byte().permute(0, 2, 3, 1), torch.from_numpy(pictures)
    )
    for name in ("mean", "basis", "images"):
        expected = getattr(gallery, name)
        torch.testing.assert_close(getattr(found.gallery, name), expected, atol=2e-3, rtol=1e-3)
    for name in ("designs", "artists", "concepts"):
        assert getattr(found.gallery, name) == getattr(gallery, name)
    assert found.gallery.labels.tolist() == [1, 0, 1]
    assert {name: list(getattr(found, name)) for name in words} == words
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [GALLERY, HELD_OUT]


@pytest.mark.parametrize("name", [GALLERY, HELD_OUT])
@pytest.mark.parametrize("content", [None, b"", b"junk" * 99])
def test_a_missing_or_damaged_file_is_an_error_with_a_remedy(
    tmp_path, name: str, content: bytes | None
) -> None:
    pictures = np.zeros((1, 256, 256, 3), np.uint8)
    save_reference(tmp_path, tiny(), pictures, prompts=["a", "b"], styled_prompts=["a", "b"], sources=[])
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="install sanakit again"):
        load_reference(tmp_path)


def test_a_folder_that_can_not_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    pictures = np.zeros((1, 256, 256, 3), np.uint8)
    with pytest.raises(DataError, match="choose another folder"):
        save_reference(tmp_path / "file", tiny(), pictures, prompts=[], styled_prompts=[], sources=[])


def test_the_shipped_pictures_show_every_common_concept_in_four_designs(shipped: PocketReference) -> None:
    gallery = shipped.gallery
    assert gallery.concepts == tuple(COMMON_CONCEPTS)
    assert shipped.prompts == tuple(COMMON_CONCEPTS.values())
    assert torch.bincount(gallery.labels).tolist() == [4] * 200
    assert all(
        styled.endswith(f" of {plain}")
        for styled, plain in zip(shipped.styled_prompts, shipped.prompts, strict=True)
    )
    assert shipped.held_out.shape == (120, 3, 256, 256)
    assert set(gallery.artists) == {"Microsoft Fluent Emoji", "Google Noto Emoji"}
    assert all(source.endswith((", MIT", ", Apache-2.0")) for source in shipped.sources)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6


def test_the_shipped_pictures_recognise_one_another(shipped: PocketReference) -> None:
    gallery = shipped.gallery
    assert (gallery.ranks(gallery.images, gallery.labels) == 0).float().mean() > 0.99
    by_design, by_artist = ceiling(gallery, gallery.designs), ceiling(gallery, gallery.artists)
    assert by_design.top1 == pytest.approx(0.921, abs=0.01)
    assert by_artist.top1 == pytest.approx(0.710, abs=0.01)
    random = torch.nn.functional.normalize(torch.randn(400, gallery.basis.shape[1]), dim=1)
    assert floor(gallery, random, torch.Generator().manual_seed(0)).top1 < 0.03
