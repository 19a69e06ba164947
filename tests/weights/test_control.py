"""ControlNets in official files and diffusers' folders: found, loaded, saved, described, converted."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaControlNetModel
from torch import Tensor, nn

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.controlnet import Control, ControlledSana, ControlNet
from sanakit.models.sana import Sana, SanaConfig
from sanakit.weights import (
    convert,
    describe,
    load_controlnet,
    load_settings,
    load_transformer,
    save_controlnet,
    save_official_controlnet,
)
from sanakit.weights.control import controlnets_of, is_controlnet
from sanakit.weights.layouts.controlnet import write_config

BASE = SanaConfig(depth=4, width=64, cross_heads=4, text_width=48, latent_channels=8, sample_size=2)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module.eval()


def pair(config: SanaConfig = BASE, order="native") -> tuple[Sana, ControlNet]:
    base, net = Sana(config), ControlNet(replace(config, depth=2), order)
    randomised(base)
    randomised(net)
    return base, net


def official_file(path: Path, base: Sana, net: ControlNet, **beside) -> Path:
    """An official .pth: the model with its ControlNet, and what training leaves there."""
    state = {**base.state_dict(), **net.state_dict(), "y_embedder.y_embedding": torch.zeros(3, 48)}
    torch.save({"state_dict": state, "sanakit": asdict(base.config), **beside}, path)
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changed", [{}, {"qk_norm": True}, {"qk_norm": True, "guidance_embed": True, "time_scale": 1.0}]
)
def test_a_folder_holds_what_was_saved_in_the_order_it_was_trained_in(tmp_path, changed):
    base, net = pair(replace(BASE, **changed))
    folder = save_controlnet(tmp_path / "net", net, base)
    assert is_controlnet(folder)
    found = load_controlnet(folder)
    assert (found.order, found.config) == ("native", net.config)
    assert same(found.state_dict(), net.state_dict())
    # in the other order it brings the embedders of its model
    other = load_controlnet(folder, order="diffusers")
    own = {
        name: tensor for name, tensor in base.state_dict().items() if not name.startswith(("blocks", "fin"))
    }
    assert same(other.own.state_dict(), own)


def test_diffusers_opens_what_we_save_and_we_what_it_saves(tmp_path):
    base, net = pair()
    theirs = SanaControlNetModel.from_pretrained(save_controlnet(tmp_path / "ours", net, base))
    assert torch.equal(theirs.controlnet_blocks[1].weight, net.controlnet[1].after_proj.weight)
    assert torch.equal(theirs.input_block.bias, net.controlnet[0].before_proj.bias)
    theirs.save_pretrained(tmp_path / "theirs")
    config = tmp_path / "theirs" / "config.json"
    told = json.loads(config.read_text())
    told.pop("control_order", None)  # as published folders are
    config.write_text(json.dumps(told))
    back = load_controlnet(tmp_path / "theirs")
    assert back.order == "diffusers"
    assert same(back.controlnet.state_dict(), net.controlnet.state_dict())
    assert same(load_controlnet(tmp_path / "theirs", order="native").state_dict(), net.state_dict())


def test_an_official_file_holds_the_model_and_its_controlnet(tmp_path):
    base, net = pair()
    path = tmp_path / "both.pth"
    # sizes that were never released are told beside the tensors, for the model that is steered
    official_file(path, base, net)
    assert same(load_transformer(path).state_dict(), base.state_dict())
    assert same(load_controlnet(path).state_dict(), net.state_dict())
    kinds = [part.kind for part in describe(path).parts]
    assert kinds == ["transformer", "controlnet"]


def test_a_controlnet_alone_in_a_pth_keeps_sizes_and_order(tmp_path):
    for order in ("native", "diffusers"):
        _, net = pair(order=order)
        path = save_official_controlnet(tmp_path / f"{order}.pth", net)
        found = load_controlnet(path)
        assert (found.order, found.config) == (order, net.config)
        assert same(found.state_dict(), net.state_dict())


@pytest.mark.parametrize(("width", "heads"), [(1152, 16), (2240, 20)])
def test_a_released_size_is_read_off_the_tensors(tmp_path, width, heads):
    """Without a word beside the tensors: the shapes of an official file, all zeros in one small storage."""
    config = SanaConfig(depth=9, width=width, cross_heads=heads)
    with torch.device("meta"):
        base, net = Sana(config), ControlNet(replace(config, depth=7))
    zero = torch.zeros(1)
    state = {name: zero.expand(one.shape) for name, one in {**base.state_dict(), **net.state_dict()}.items()}
    path = tmp_path / "official.pth"
    torch.save({"state_dict": state}, path)
    found = describe(path).parts
    assert [(part.kind, part.depth, part.width) for part in found] == [
        ("transformer", 9, width),
        ("controlnet", 7, width),
    ]
    assert [(part.missing, part.unexpected) for part in found] == [((), ())] * 2
    assert found[1].parameters == {1152: 168_765_696, 2240: 631_576_960}[width] - (
        sum(
            one.numel()
            for name, one in base.state_dict().items()
            if not name.startswith(("blocks.", "final"))
        )
    )


@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_a_tensor_too_many_or_too_few_is_named(tmp_path, layout):
    base, net = pair()
    for change in ("controlnet.1.after_proj.bias", "controlnet.1.more"):
        if layout == "official":
            path = official_file(tmp_path / "both.pth", base, net)
            content = torch.load(path, weights_only=True)
            if change in content["state_dict"]:
                del content["state_dict"][change]
            else:
                content["state_dict"][change] = torch.zeros(1)
            torch.save(content, path)
            naming = change
        else:
            from safetensors.torch import load_file, save_file

            path = save_controlnet(tmp_path / "net", net, base)
            file = path / "diffusion_pytorch_model.safetensors"
            state = load_file(file)
            naming = "controlnet_blocks.1.bias" if "bias" in change else "controlnet_blocks.1.more"
            if naming in state:
                del state[naming]
            else:
                state[naming] = torch.zeros(1)
            save_file(state, file)
        with pytest.raises(WeightsError, match=naming.replace(".", r"\.")):
            load_controlnet(path)


def test_a_pipelines_own_controlnet_is_found_and_a_given_one_wins(tiny, tmp_path):
    assert controlnets_of(tiny.folder) == []
    index = tiny.folder / "model_index.json"
    content = json.loads(index.read_text())
    content |= {"_class_name": "SanaControlNetPipeline", "controlnet": ["diffusers", "SanaControlNetModel"]}
    index.write_text(json.dumps(content))
    _, net = pair(replace(tiny.transformer.config, depth=3))
    save_controlnet(tiny.folder / "controlnet", net, tiny.transformer)
    assert controlnets_of(tiny.folder) == [tiny.folder]
    assert controlnets_of(tiny.folder, "other") == ["other"]
    assert controlnets_of(tiny.folder, ["a", "b"]) == ["a", "b"]
    assert same(load_controlnet(tiny.folder).state_dict(), net.state_dict())
    kinds = [part.kind for part in describe(tiny.folder).parts]
    assert kinds == ["transformer", "autoencoder", "text_encoder", "controlnet"]
    assert load_settings(tiny.folder).notes == ()


def test_a_published_name_brings_the_settings_of_its_model(tmp_path):
    base, net = pair()
    path = official_file(tmp_path / "Sana_1600M_1024px_BF16_ControlNet_HED.pth", base, net)
    assert load_settings(path).precision == "bfloat16"


def test_converted_there_and_back_it_is_the_same(tmp_path):
    base, net = pair()
    path = tmp_path / "official.pth"
    official_file(path, base, net)
    folder = convert(path, tmp_path / "folder", "diffusers")
    assert json.loads((folder / "config.json").read_text())["control_order"] == "native"
    again = convert(convert(folder, tmp_path / "again", "diffusers"), tmp_path / "back.pth", "official")
    assert same(load_controlnet(again).state_dict(), net.state_dict())
    with pytest.raises(SettingsError, match="cannot be written as a graph"):
        convert(folder, tmp_path / "graph", "onnx")


def test_a_plan_quantises_the_copies_and_what_they_add_stays_close(tmp_path):
    """8 bits of every product: of what the copies add, at most 3 % is lost (0.4 to 0.9 % seen)."""
    base, net = pair()
    few = load_controlnet(save_controlnet(tmp_path / "net", net, base), plan="int8")
    for save in (save_controlnet, save_official_controlnet):
        with pytest.raises(SettingsError, match="Quantised layers have no place in this layout"):
            save(tmp_path / "few.pth", few)
    layers = [type(layer).__name__ for layer in few.modules()]
    assert layers.count("Int8Linear") == 2 * 7  # of two copies: qkv, proj, q, kv, proj and two of the Mix-FFN
    assert isinstance(few.controlnet[0].before_proj, nn.Linear)
    latents, text, k = torch.randn(2, 8, 4, 4), torch.randn(5, 48), torch.randn(1, 8, 4, 4)
    models = [ControlledSana(base, [Control(net=one, latents=k)]) for one in (net, few)]
    right, rounded = (model.velocity(latents, 0.5, model.prepare([text], [2])) for model in models)
    added = right - base.velocity(latents, 0.5, base.prepare([text], [2]))
    assert 0 < (rounded - right).std() / added.std() < 0.03


def test_what_lacks_its_model_or_is_none_is_refused(tiny, tmp_path):
    _, net = pair()
    with pytest.raises(SettingsError, match="shares the embedders of its model"):
        save_controlnet(tmp_path / "net", net)
    with pytest.raises(WeightsError, match="controlnet"):
        load_controlnet(tiny.folder)
    shutil.copy(
        tiny.folder / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / "plain.safetensors"
    )
    with pytest.raises(WeightsError, match="holds a SANA transformer, not a ControlNet"):
        load_controlnet(tmp_path / "plain.safetensors")
    alone = save_official_controlnet(tmp_path / "alone.pth", net)
    with pytest.raises(WeightsError, match="a ControlNet, which needs the model it steers"):
        load_transformer(alone)


def test_a_config_of_another_architecture_is_refused(tmp_path):
    base, net = pair()
    folder = save_controlnet(tmp_path / "net", net, base)
    told = write_config(net.config, "native") | {"patch_size": 2}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match="patch_size = 2"):
        load_controlnet(folder)
