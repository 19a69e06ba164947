"""Which autoencoder of clips a source holds."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.video.ltx2_vae import LTX2VAE
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.weights import save_autoencoder
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.video_vae import open_video_vae
from tests.weights.layouts.test_ltx2_vae import SMALL

WAN = WanVAEConfig(width=4, depth=1)


@pytest.mark.parametrize("name", ["Wan VAE f8t4c16", "LTX-2 VAE f32t8c8"])
def test_a_folder_is_opened_by_its_class(name: str, tmp_path):
    module = WanVAE(WAN) if name.startswith("Wan") else LTX2VAE(SMALL)
    save_autoencoder(tmp_path / "vae", module)
    found = open_video_vae(resolve(tmp_path / "vae"))
    assert found is not None
    assert (found.name, found.layout) == (name, "diffusers")
    assert list(found.names) == list(module.state_dict())
    with torch.device("meta"):
        assert type(found.build("encoder")) is type(module)


def test_another_kind_is_left_to_others(tiny, tmp_path):
    save_autoencoder(tmp_path / "vae", tiny.autoencoder)
    assert open_video_vae(resolve(tmp_path / "vae")) is None
