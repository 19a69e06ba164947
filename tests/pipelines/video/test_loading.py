"""The parts of a model of clips or worlds: which they are, what they compute in, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.sana_wm import SanaWM
from sanakit.pipelines.video.loading import load_parts
from tests.pipelines.video.tiny import save_tiny
from tests.pipelines.world.tiny import save_world


def test_each_kind_is_what_its_folder_holds(video_folder, tmp_path) -> None:
    called = {"device": "cpu", "dtype": "auto", "memory": "auto", "encoder": True}
    transformer, codec, text, device = load_parts(video_folder, "clip", **called)
    assert isinstance(transformer, SanaVideo)
    assert (codec.encoder is not None, device) == (True, torch.device("cpu"))
    assert text.model.embed_tokens is not None
    assert isinstance(load_parts(save_world(tmp_path / "world"), "world", **called)[0], SanaWM)
    with pytest.raises(WeightsError, match="world"):
        load_parts(video_folder, "world", **called)


def test_a_decoder_may_come_alone(video_folder) -> None:
    codec = load_parts(video_folder, "clip", device="cpu", dtype="float32", memory="auto", encoder=False)[1]
    assert codec.encoder is None


def test_an_autoencoder_of_images_is_refused(folder, tmp_path) -> None:
    model = save_tiny(tmp_path / "model")
    shutil.rmtree(model / "vae")
    shutil.copytree(folder / "vae", model / "vae")
    with pytest.raises(WeightsError, match="has an autoencoder of images: clips need one of clips"):
        load_parts(model, "clip", device="cpu", dtype="auto", memory="auto", encoder=True)
