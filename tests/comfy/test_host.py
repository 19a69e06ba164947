"""Nodes inside ComfyUI show their steps, stop when asked, and find the models in its folders."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from PIL import Image
from torch import Tensor

from sanakit.comfy import NODE_CLASS_MAPPINGS
from sanakit.pipelines.text_to_image import TextToImage
from tests.comfy.calling import SMALL, Stopped, call, inputs


@pytest.mark.parametrize("method", ["none", "latent2rgb"])
def test_steps_are_shown_and_previews_where_they_are_switched_on(
    model: TextToImage, texts: tuple, comfy: SimpleNamespace, method: str
) -> None:
    comfy.method.value = method
    call("SanakitSampler", model, *texts, **SMALL)
    [bar] = comfy.bars
    assert [shown[:2] for shown in bar] == [(1, 2), (2, 2)]
    for *_, preview in bar:
        if method == "none":
            assert preview is None
        else:
            assert preview[0::2] == ("JPEG", 300)
            assert isinstance(preview[1], Image.Image)


def test_images_of_a_batch_share_one_bar(model: TextToImage, apple: Tensor, comfy: SimpleNamespace) -> None:
    small = apple[:, ::4, ::4].expand(2, -1, -1, -1)
    call("SanakitImageToImage", model, small, steps=2, strength=1.0)
    [bar] = comfy.bars
    assert [shown[:2] for shown in bar] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.filterwarnings("ignore:pocket did not learn the size")
@pytest.mark.parametrize("key", ["SanakitSampler", "SanakitTextToImage"])
def test_an_interruption_stops_at_the_next_step(
    model: TextToImage, texts: tuple, comfy: SimpleNamespace, key: str
) -> None:
    comfy.stop_at = 3
    with pytest.raises(Stopped):
        call(key, *([model, *texts] if key == "SanakitSampler" else [model]), **(SMALL | {"steps": 50}))
    assert [len(bar) for bar in comfy.bars] == [3]


def test_the_loader_lists_sana_models_in_comfyuis_folder(model: TextToImage, comfy: SimpleNamespace) -> None:
    kinds = {"mine": "SanaPipeline", "other": "FluxPipeline", "clips": "SanaVideoPipeline"}
    kinds |= {
        "begins": "SanaImageToVideoPipeline",
        "worlds": "SanaWMPipeline",
        "edits": "SanaStreamingPipeline",
    }
    for name, kind in (kinds | {"unknown": "LongSanaVideoPipeline"}).items():  # which no loader opens
        (comfy.diffusers / name).mkdir()
        index = json.dumps({"_class_name": kind})
        (comfy.diffusers / name / "model_index.json").write_text(index, encoding="utf-8")
    (comfy.diffusers / "broken").mkdir()
    (comfy.diffusers / "broken" / "model_index.json").write_text("{", encoding="utf-8")
    names = inputs(NODE_CLASS_MAPPINGS["SanakitLoadModel"])["model"][0]
    assert names[0] == "pocket"
    assert [name for name in names if "/" in name] == ["diffusers/mine"]
    names = inputs(NODE_CLASS_MAPPINGS["SanakitLoadClipModel"])["model"][0]
    assert names == ["none", "diffusers/begins", "diffusers/clips"]
