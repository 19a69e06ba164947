"""The official .pth layout: published names and shapes, bit for bit there and back, sizes read off shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE, DCAE
from sanakit.models.sana import (
    SANA_1_5_1600M,
    SANA_1_5_4800M,
    SANA_600M,
    SANA_1600M,
    SANA_1600M_2K,
    SANA_1600M_4K,
    SANA_SPRINT_600M,
    SANA_SPRINT_1600M,
    Sana,
)
from sanakit.weights import describe, load_autoencoder, load_settings, load_transformer, save_official
from sanakit.weights.find.catalog import CATALOG
from sanakit.weights.layouts.official import autoencoder_renames, recognise_config
from sanakit.weights.read.header import TensorInfo
from sanakit.weights.save import diffusers_state

SIZES = {
    "0.6b": SANA_600M,
    "1.6b": SANA_1600M,
    "1.5-1.6b": SANA_1_5_1600M,
    "1.5-4.8b": SANA_1_5_4800M,
    "sprint-0.6b": SANA_SPRINT_600M,
    "sprint-1.6b": SANA_SPRINT_1600M,
}


def headers(config) -> dict[str, TensorInfo]:
    with torch.device("meta"):
        state = Sana(config).state_dict()
    return {name: TensorInfo(tuple(tensor.shape), "float32") for name, tensor in state.items()}


def test_round_trip_through_official_pth_is_bit_for_bit(variant: Sana, tmp_path):
    save_official(tmp_path / "model.pth", variant)
    back = load_transformer(tmp_path / "model.pth")
    assert back.config == variant.config
    assert list(back.state_dict()) == list(variant.state_dict())
    for name, tensor in variant.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name


def test_round_trip_through_diffusers_names_is_bit_for_bit(variant: Sana):
    from sanakit.weights.layouts.diffusers import renames

    theirs = diffusers_state(variant)
    for (ours,), split in renames(variant.state_dict(), guidance_embed=variant.config.guidance_embed):
        assert torch.equal(torch.cat([theirs[name] for name in split]), variant.state_dict()[ours])


def test_names_and_shapes_in_the_pth_are_the_published_ones(variant: Sana, tmp_path):
    save_official(tmp_path / "model.pth", variant, dtype="float16")
    state = torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"]
    shapes = {
        "x_embedder.proj.weight": (64, 8, 1, 1),
        "x_embedder.proj.bias": (64,),
        "y_embedder.y_proj.fc1.weight": (64, 48),
        "y_embedder.y_proj.fc1.bias": (64,),
        "y_embedder.y_proj.fc2.weight": (64, 64),
        "y_embedder.y_proj.fc2.bias": (64,),
        "attention_y_norm.weight": (64,),
        "t_embedder.mlp.0.weight": (64, 256),
        "t_embedder.mlp.0.bias": (64,),
        "t_embedder.mlp.2.weight": (64, 64),
        "t_embedder.mlp.2.bias": (64,),
        "t_block.1.weight": (384, 64),
        "t_block.1.bias": (384,),
        "final_layer.linear.weight": (8, 64),
        "final_layer.linear.bias": (8,),
        "final_layer.scale_shift_table": (2, 64),
    }
    if variant.config.guidance_embed:
        shapes |= {f"cfg{name[1:]}": shape for name, shape in shapes.items() if name.startswith("t_embedder")}
    for n in range(2):
        block = {
            "scale_shift_table": (6, 64),
            "attn.qkv.weight": (192, 64),
            "attn.proj.weight": (64, 64),
            "attn.proj.bias": (64,),
            "cross_attn.q_linear.weight": (64, 64),
            "cross_attn.q_linear.bias": (64,),
            "cross_attn.kv_linear.weight": (128, 64),
            "cross_attn.kv_linear.bias": (128,),
            "cross_attn.proj.weight": (64, 64),
            "cross_attn.proj.bias": (64,),
            "mlp.inverted_conv.conv.weight": (320, 64, 1, 1),
            "mlp.inverted_conv.conv.bias": (320,),
            "mlp.depth_conv.conv.weight": (320, 1, 3, 3),
            "mlp.depth_conv.conv.bias": (320,),
            "mlp.point_conv.conv.weight": (64, 160, 1, 1),
        }
        if variant.config.qk_norm:
            block |= {
                f"{part}.{norm}.weight": (64,)
                for part in ("attn", "cross_attn")
                for norm in ("q_norm", "k_norm")
            }
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_training_leftovers_are_skipped_by_name_and_nothing_else_is(tiny, tmp_path):
    state = dict(tiny.transformer.state_dict())
    leftovers = {
        "y_embedder.y_embedding": torch.zeros(300, 48),
        "pos_embed": torch.zeros(1, 4, 64),
        "logvar_linear.weight": torch.zeros(1, 64),
        "logvar_linear.bias": torch.zeros(1),
    }
    from dataclasses import asdict

    beside = {"sanakit": asdict(tiny.transformer.config), "epoch": 3}
    torch.save({"state_dict": state | leftovers, **beside}, tmp_path / "a.pth")
    loaded = load_transformer(tmp_path / "a.pth")
    assert torch.equal(loaded.blocks[1].attn.qkv.weight, tiny.transformer.blocks[1].attn.qkv.weight)
    torch.save({"state_dict": state | {"pos_embed_extra": torch.zeros(1)}, **beside}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="1 tensors that this model does not have: pos_embed_extra"):
        load_transformer(tmp_path / "b.pth")


@pytest.mark.parametrize("name", SIZES)
def test_released_sizes_are_recognised_from_shapes(name):
    assert recognise_config(headers(SIZES[name])) == SIZES[name]


@pytest.mark.parametrize("name", ["0.6b", "sprint-0.6b"])
def test_released_sizes_are_recognised_from_shapes_in_diffusers_names(name):
    with torch.device("meta"):
        state = diffusers_state(Sana(SIZES[name]))
    infos = {key: TensorInfo(tuple(tensor.shape), "float32") for key, tensor in state.items()}
    assert recognise_config(infos, layout="diffusers") == SIZES[name]


def test_resolution_comes_from_the_name_or_the_position_table():
    infos = headers(SANA_1600M)
    assert recognise_config(infos, entry=CATALOG["sana-1.6b-2k"]) == SANA_1600M_2K
    table = {"pos_embed": TensorInfo((1, 128 * 128, 2240), "float32")}
    assert recognise_config(infos | table) == SANA_1600M_4K
    assert recognise_config(infos | table, entry=CATALOG["sana-1.6b-2k"]) == SANA_1600M_4K
    odd = {"pos_embed": TensorInfo((1, 1000, 2240), "float32")}  # not a square: it tells nothing
    assert recognise_config(infos | odd) == SANA_1600M
    assert recognise_config(infos, entry=CATALOG["sana-1.6b-512"]) == replace(SANA_1600M, sample_size=16)


def test_the_teacher_of_sprint_embeds_t_itself_and_only_its_name_tells():
    infos = headers(SANA_1_5_1600M)
    assert recognise_config(infos, entry=CATALOG["sana-sprint-1.6b-teacher"]) == replace(
        SANA_1_5_1600M, time_scale=1.0
    )
    assert recognise_config(infos) == SANA_1_5_1600M


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ({}, "without its depth, width, cross_heads"),
        ({"depth": 2, "width": 64}, "without its cross_heads"),
        ([], "holds a list where the model's sizes are expected"),
        ("tiny", "holds a text"),
        ({"depth": "2", "width": 64, "cross_heads": 4}, "says depth = '2'; it must be a whole number"),
        ({"depth": 2, "width": 64, "cross_heads": 0}, "says cross_heads = 0"),
        ({"depth": 10**6, "width": 64, "cross_heads": 4}, "says depth = 1000000"),
        ({"depth": 2, "width": 64, "cross_heads": 5}, "do not go together: SANA's width 64"),
        ({"depth": 2, "width": 64, "cross_heads": 4, "time_scale": 1e99}, "says time_scale"),
    ],
)
def test_a_damaged_config_beside_the_tensors_is_a_sentence(tiny, tmp_path, saved, said):
    torch.save({"state_dict": tiny.transformer.state_dict(), "sanakit": saved}, tmp_path / "a.pth")
    for read in (load_transformer, load_settings, describe):
        with pytest.raises(WeightsError, match=said):
            read(tmp_path / "a.pth")


def test_an_unreleased_width_without_its_config_is_refused_with_the_remedy(tiny, tmp_path):
    torch.save(tiny.transformer.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(WeightsError, match=r"width 64; the released sizes have 1152, 2240.*diffusers folder"):
        load_transformer(tmp_path / "bare.pth")


def to_efficientvit(state: dict[str, torch.Tensor], config) -> dict[str, torch.Tensor]:
    """diffusers names -> efficientvit names, written from the structure of efficientvit's modules."""
    import re

    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if re.search(r"attn\.to_[kv]\.weight$", name):
            continue
        half, rest = name.split(".", 1)
        if match := re.match(r"(?:down|up)_blocks\.(\d+)\.(\d+)\.(.*)", rest):
            stage, index, inner = match.groups()
            prefix = f"{half}.stages.{stage}.op_list.{index}."
            if inner.startswith("attn.to_q."):
                parts = [state[name.replace("to_q", f"to_{part}")] for part in "qkv"]
                out[f"{prefix}context_module.main.qkv.conv.weight"] = torch.cat(parts)[:, :, None, None]
                continue
            wrapped = config.interpolate_up if half == "decoder" else not config.strided_down
            step = "main.conv.conv." if wrapped else "main.conv."
            for ours, theirs in (
                ("attn.to_qkv_multiscale.0.proj_in", "context_module.main.aggreg.0.0"),
                ("attn.to_qkv_multiscale.0.proj_out", "context_module.main.aggreg.0.1"),
                ("attn.to_out", "context_module.main.proj.conv"),
                ("attn.norm_out", "context_module.main.proj.norm"),
                ("conv_out.conv_inverted", "local_module.main.inverted_conv.conv"),
                ("conv_out.conv_depth", "local_module.main.depth_conv.conv"),
                ("conv_out.conv_point", "local_module.main.point_conv.conv"),
                ("conv_out.norm", "local_module.main.point_conv.norm"),
                ("conv1", "main.conv1.conv"),
                ("conv2", "main.conv2.conv"),
                ("norm", "main.conv2.norm"),
                ("conv.", step),
            ):
                if inner.startswith(ours):
                    inner = theirs + inner.removeprefix(ours)
                    break
            if "proj.conv" in inner:
                tensor = tensor[:, :, None, None]
            out[prefix + inner] = tensor
        else:
            for ours, theirs in (
                ("encoder.conv_in", "encoder.project_in.conv"),
                ("encoder.conv_out", "encoder.project_out.main.op_list.0.conv"),
                ("decoder.conv_in", "decoder.project_in.main.conv"),
                ("decoder.norm_out", "decoder.project_out.op_list.0"),
                ("decoder.conv_out", "decoder.project_out.op_list.2.conv"),
            ):
                if name.startswith(ours):
                    out[theirs + name.removeprefix(ours)] = tensor
    return out


def test_efficientvit_names_become_those_of_diffusers_converter(tiny):
    from diffusers.loaders.single_file_utils import convert_autoencoder_dc_checkpoint_to_diffusers

    with torch.device("meta"):
        ours = DCAE(DC_AE_F32C32_SANA).state_dict()
    theirs = to_efficientvit(ours, DC_AE_F32C32_SANA)
    names = {name for _, targets in autoencoder_renames(theirs) for name in targets}
    assert names == set(convert_autoencoder_dc_checkpoint_to_diffusers(dict(theirs)))
    assert names == set(ours)


def test_an_efficientvit_autoencoder_loads_bit_for_bit(tmp_path, monkeypatch, tiny):
    config = replace(tiny.autoencoder.config, strided_down=True, interpolate_up=True)
    torch.manual_seed(3)
    original = DCAE(config)
    monkeypatch.setattr("sanakit.weights.layouts.parts.DC_AE_F32C32_SANA", config)
    torch.save({"state_dict": to_efficientvit(original.state_dict(), config)}, tmp_path / "ae.pth")
    loaded = load_autoencoder(tmp_path / "ae.pth")
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert load_autoencoder(tmp_path / "ae.pth", part="decoder").encoder is None


def test_the_lite_autoencoder_is_told_from_the_full_one(tmp_path):
    from sanakit.weights.find.resolve import resolve
    from sanakit.weights.layouts.parts import open_autoencoder

    with torch.device("meta"):
        state = DCAE(DC_AE_LITE).state_dict()
    blank = {name: torch.zeros(1).expand(tensor.shape) for name, tensor in state.items()}  # no memory
    torch.save(blank, tmp_path / "lite.pth")
    assert open_autoencoder(resolve(tmp_path / "lite.pth"))[2] == DC_AE_LITE
