"""ControlNet nodes draw what the pipeline draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sanakit import ControlImage
from sanakit.adapters.save import save_adapter
from sanakit.comfy import NODE_CLASS_MAPPINGS
from sanakit.comfy.control import LoadedControlNet
from sanakit.comfy.tensors import from_images, to_images
from sanakit.errors import SettingsError
from sanakit.images.hints import make_hint
from sanakit.models.controlnet import ControlNet
from sanakit.models.sana import Sana
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.inpaint import Inpaint
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights.control import save_controlnet
from tests.adapters.loras import lora
from tests.comfy.calling import call

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 2  # of 255, in every pixel
SMALL = {"steps": 3, "seed": 3}


def drawing() -> Image.Image:
    image = Image.new("RGB", (300, 260), (20, 60, 90))
    ImageDraw.Draw(image).ellipse((40, 40, 220, 230), fill=(250, 220, 40))
    return image


def net_of(model: TextToImage, seed: int) -> ControlNet:
    assert isinstance(model.transformer, Sana)
    torch.manual_seed(seed)
    net = ControlNet.of(model.transformer, 2)
    for block in net.controlnet:
        for name, parameter in block.named_parameters():
            if "proj" in name.split(".")[0]:
                torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


@pytest.fixture(scope="module")
def folder(model: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert isinstance(model.transformer, Sana)
    path = tmp_path_factory.mktemp("net") / "control"
    return save_controlnet(path, net_of(model, 1), model.transformer, hint="edges")


@pytest.fixture(scope="module")
def net(model: TextToImage, folder: Path) -> LoadedControlNet:
    return call("SanakitLoadControlNet", model, path=str(folder))[0]


@pytest.fixture(scope="module")
def hint(model: TextToImage, net: LoadedControlNet) -> Tensor:
    return call("SanakitHint", model, from_images([drawing()]), control_net=net, width=256, height=256)[0]


@pytest.fixture(scope="module")
def plain(model: TextToImage) -> Tensor:
    return call("SanakitTextToImage", model, prompt="a red apple", **SMALL)[0]


def apart(image: Tensor, other: Image.Image | Tensor) -> int:
    theirs = to_images(other)[0] if isinstance(other, Tensor) else other
    return int(np.abs(np.asarray(to_images(image)[0], int) - np.asarray(theirs, int)).max())


def sampled(model: TextToImage, texts: tuple, **given) -> Tensor:
    [latent] = call("SanakitSampler", model, *texts, **{**SMALL, **given})
    return call("SanakitDecode", model, latent)[0]


def test_a_hint_is_the_pipelines_in_the_size_that_is_drawn(model, net, hint) -> None:
    from PIL import ImageOps

    fitted = ImageOps.fit(drawing(), (256, 256), Image.Resampling.LANCZOS)
    assert apart(hint, make_hint(fitted, "edges")) == 0
    [own] = call("SanakitHint", model, from_images([drawing()]), kind="blocks")
    assert own.shape[1] % 32 == own.shape[2] % 32 == 0
    assert own.shape[2] > own.shape[1]
    with pytest.raises(SettingsError, match="Only one of width and height"):
        call("SanakitHint", model, from_images([drawing()]), width=256)


@pytest.mark.parametrize("settings", [(1.0, 0.0, 1.0), (0.6, 0.0, 0.5), (0.0, 0.0, 1.0)])
def test_the_graph_draws_what_the_pipeline_draws(model, texts, net, hint, plain, settings) -> None:
    strength, start, end = settings
    pipe = model.beside([net.net])
    image = ControlImage(drawing(), kind="edges", scale=strength, start=start, end=end)
    expected = pipe("a red apple", width=256, height=256, control=image, **SMALL).images[0]
    own = {"strength": strength, "start_percent": start, "end_percent": end}
    both = call("SanakitApplyControlNet", *texts, net, hint, **own)
    chain = sampled(model, both, width=256, height=256)
    [control] = call("SanakitControl", net, hint, **own)
    [whole] = call("SanakitTextToImage", model, prompt="a red apple", control=control, **SMALL)
    assert apart(chain, expected) <= TOLERANCE
    assert apart(whole, expected) == 0
    if strength:
        assert apart(whole, plain) > 20
    else:
        assert torch.equal(whole, plain)
        assert torch.equal(chain, sampled(model, texts))
    assert model.controlnets == []


def test_controls_in_a_row_are_summed_as_the_pipeline_sums_them(model, texts, net, hint) -> None:
    other = LoadedControlNet(net=net_of(model, 2))
    pipe = model.beside([net.net, other.net])
    images = [ControlImage(to_images(hint)[0], scale=scale) for scale in (0.5, 0.8)]
    expected = pipe("a red apple", control=images, **SMALL).images[0]
    both = call("SanakitApplyControlNet", *texts, net, hint, strength=0.5)
    both = call("SanakitApplyControlNet", *both, other, hint, strength=0.8)
    [control] = call("SanakitControl", net, hint, strength=0.5)
    [control] = call("SanakitControl", other, hint, strength=0.8, control=control)
    [whole] = call("SanakitTextToImage", model, prompt="a red apple", control=control, **SMALL)
    assert apart(whole, expected) == 0
    assert apart(sampled(model, both), expected) <= TOLERANCE


def test_image_to_image_and_a_range_of_fewer_steps_agree(model, texts, net, hint, apple) -> None:
    own = {"strength": 1.0, "end_percent": 0.5}
    [control] = call("SanakitControl", net, hint, **own)
    pipe = ImageToImage(model.beside([net.net]))
    image = ControlImage(to_images(hint)[0], end=0.5)
    given = {"strength": 0.5, "seed": 3, "steps": 8}
    expected = pipe(to_images(apple)[0], "a red apple", control=image, **given).images[0]
    [drawn] = call("SanakitImageToImage", model, apple, prompt="a red apple", control=control, **given)
    assert apart(drawn, expected) == 0
    both = call("SanakitApplyControlNet", *texts, net, hint, **own)
    [latent] = call("SanakitEncode", model, apple)
    assert apart(sampled(model, both, latent=latent, **given), expected) <= TOLERANCE


def test_inpainting_is_steered_within_its_mask_alone(model, net, hint, apple) -> None:
    mask = torch.zeros(1, 256, 256)
    mask[:, 64:192, 64:192] = 1
    [control] = call("SanakitControl", net, hint, strength=0.8)
    given = {"prompt": "a yellow star", "seed": 3, "steps": 3}
    [drawn] = call("SanakitInpaint", model, apple, mask, control=control, **given)
    [alone] = call("SanakitInpaint", model, apple, mask, **given)
    pipe, image = Inpaint(model.beside([net.net])), ControlImage(to_images(hint)[0], scale=0.8)
    marked = Image.fromarray((mask[0] * 255).to(torch.uint8).numpy())
    expected = pipe(to_images(apple)[0], marked, **given, control=image).images[0]
    assert apart(drawn, expected) == 0
    assert apart(drawn, alone) > 20
    assert torch.equal(drawn[0][mask[0] == 0], apple[0][mask[0] == 0])


def test_a_noise_mask_holds_for_a_steered_sampler_too(model, texts, net, hint, apple) -> None:
    [latent] = call("SanakitEncode", model, apple)
    latent["noise_mask"] = torch.zeros(1, 1, 256, 256)
    latent["noise_mask"][..., 64:128, 64:128] = 1
    both = call("SanakitApplyControlNet", *texts, net, hint)
    [drawn] = call("SanakitSampler", model, *both, latent=latent, strength=1.0, **SMALL)
    change = (drawn["samples"] - latent["samples"]).abs().amax(1)[0]  # h w
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 2:4] = True
    assert change[~inside].max() < 1e-4
    assert change[inside].min() > 0.01


def test_a_model_with_adapters_is_steered_at_their_weights(model, texts, net, hint, tmp_path) -> None:
    assert isinstance(model.transformer, Sana)
    config = model.transformer.config
    files = [
        save_adapter(tmp_path / f"ink{n}.safetensors", lora(config=config, seed=n, spread=0.05), config)
        for n in (1, 2)
    ]
    adapted, twin = model, model.twin()
    for file, weight in zip(files, (0.7, -0.4), strict=True):
        [adapted] = call("SanakitLoadAdapter", adapted, weight=weight, path=str(file))
        twin.load_adapter(file, weight)
    [control] = call("SanakitControl", net, hint, strength=0.6)
    [drawn] = call("SanakitTextToImage", adapted, prompt="a red apple", control=control, **SMALL)
    image = ControlImage(to_images(hint)[0], scale=0.6)
    pipe = twin.beside([net.net])
    assert pipe.adapters == adapted.adapters == {"ink1": 0.7, "ink2": -0.4}
    expected = pipe("a red apple", control=image, **SMALL).images[0]
    assert apart(drawn, expected) == 0
    [other] = call("SanakitTextToImage", model, prompt="a red apple", control=control, **SMALL)
    assert apart(drawn, other) > 20
    assert model.adapters == {}


def test_what_cannot_steer_is_refused_before_anything_is_computed(
    model, texts, net, hint, monkeypatch
) -> None:
    def never(*args: object, **given: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(type(model.autoencoder), "encode", never)
    monkeypatch.setattr(type(model.transformer), "velocity", never)
    assert isinstance(model.transformer, Sana)
    foreign = LoadedControlNet(net=ControlNet(replace(model.transformer.config, depth=2, width=32)))
    flat = hint[:, :128]
    for one, image, words in (
        (foreign, hint, "made for a model with width 32"),
        (net, flat, "another shape"),
    ):
        both = call("SanakitApplyControlNet", *texts, one, image)
        with pytest.raises(SettingsError, match=words):
            call("SanakitSampler", model, *both, width=256, height=256)
        [control] = call("SanakitControl", one, image)
        with pytest.raises(SettingsError, match=words):
            call("SanakitTextToImage", model, control=control, width=256, height=256)
    positive, _ = call("SanakitApplyControlNet", *texts, net, hint)
    with pytest.raises(SettingsError, match="carry different controls"):
        call("SanakitSampler", model, positive, texts[1])
    with pytest.raises(SettingsError, match="2 control images came"):
        call("SanakitControl", net, hint.expand(2, -1, -1, -1))
    with pytest.raises(SettingsError, match="came as str"):
        call("SanakitControl", "net", hint)
    with pytest.raises(SettingsError, match="has no ControlNet of its own"):
        call("SanakitLoadControlNet", model)


def test_the_example_workflow_draws_what_the_pipeline_draws(model, net, folder) -> None:
    path = ROOT / "examples" / "comfyui" / "control-api.json"
    workflow, done = json.loads(path.read_text(encoding="utf-8")), {}
    workflow["3"]["inputs"]["path"] = str(folder)
    workflow["7"]["inputs"]["steps"] = 3
    done |= {"1": (model,), "2": (from_images([drawing()]),)}
    for key in ("3", "4", "5", "6", "7", "8"):
        given = {
            name: done[value[0]][value[1]] if isinstance(value, list) else value
            for name, value in workflow[key]["inputs"].items()
        }
        node = NODE_CLASS_MAPPINGS[workflow[key]["class_type"]]
        done[key] = getattr(node(), node.FUNCTION)(**given)
    image = ControlImage(drawing(), kind="edges")
    pipe = model.beside([net.net])
    expected = pipe("a red car", control=image, seed=7, steps=3, binned=False).images[0]
    assert apart(done["8"][0], expected) <= TOLERANCE
