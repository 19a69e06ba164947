"""What the transformer of clips begins with: the blocks of a model of images that change most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana
from sanakit.models.video.sana_video import SanaVideo
from sanakit.pocket.data.clips.dataset import PocketClips, open_clips
from sanakit.pocket.data.clips.toy import build_toy_clips
from sanakit.pocket.recipes.video import TRANSFORMER
from sanakit.pocket.train.video import begin
from sanakit.pocket.train.video.begin import begun_from_images
from sanakit.train.surgery import dense_time
from sanakit.weights import load_transformer
from tests.tiny_image_model import TEXT, save_tiny

DEPTH = 3  # of the image model
SIZES = {"width": 32, "cross_heads": 2, "text_width": TEXT.width, "latent_channels": 4, "sample_size": 2}
CONFIG = replace(TRANSFORMER, depth=DEPTH - 1, **SIZES)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> PocketClips:
    return open_clips(build_toy_clips(tmp_path_factory.mktemp("made") / "toy-clips"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"depth": DEPTH, "channels": 8, "qk_norm": True, "time_scale": 1.0}
    return save_tiny(tmp_path_factory.mktemp("image") / "model", defaults={"steps": 2}, **sizes)


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave times as they are, which takes most of the time, and measure little."""
    monkeypatch.setattr(dense_time, "STEPS", 1)
    monkeypatch.setattr(begin, "MEASURED", 4)


@pytest.mark.usefixtures("unfitted")
@pytest.mark.parametrize("idle", range(DEPTH))
def test_the_block_that_changes_nothing_is_left_out(
    clips: PocketClips, source: Path, idle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one block leaves its tokens as they come; the others are there, in their order."""
    image = load_transformer(source, kind="image", dtype="float32")
    with torch.no_grad():
        for name in ("attn.proj", "cross_attn.proj", "mlp.point_conv"):
            for parameter in image.blocks[idle].get_submodule(name).parameters():
                parameter.zero_()
    monkeypatch.setattr(begin, "load_transformer", lambda *_, **__: image)
    notes: list[str] = []
    begun = begun_from_images(source, CONFIG, clips, notes)
    kept = [number for number in range(DEPTH) if number != idle]
    for block, number in zip(begun.blocks, kept, strict=True):
        assert torch.equal(block.attn.qkv.weight, image.blocks[number].attn.qkv.weight)
        assert torch.equal(block.scale_shift_table, image.blocks[number].scale_shift_table)
    assert notes[0] == "1 of 3 blocks were left out."
    assert all(parameter.requires_grad for parameter in begun.parameters())


def test_times_mean_what_they_meant_to_the_image_model(clips: PocketClips, source: Path) -> None:
    """Its embedder of t itself is fitted to one of 1000 t, within 10 % of the old one's values."""
    begun = begun_from_images(source, CONFIG, clips, [])
    image = load_transformer(source, kind="image")
    assert (begun.config.time_scale, image.config.time_scale) == (1000, 1)
    t = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        ours, theirs = (embedded(one, t) for one in (begun, image))
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


def embedded(model: Sana | SanaVideo, t: torch.Tensor) -> torch.Tensor:
    return model.t_embedder(t * model.config.time_scale)


@pytest.mark.usefixtures("unfitted")
def test_blocks_that_are_not_there_are_refused(clips: PocketClips, source: Path) -> None:
    with pytest.raises(SettingsError, match="images has depth = 3, that of clips 4: use the same"):
        begun_from_images(source, replace(CONFIG, depth=DEPTH + 1), clips, [])
