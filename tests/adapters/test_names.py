"""Names of modules in an adapter's file, in every spelling, against the model itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from sanakit.adapters.names import FIELDS, family, other_kind, products, sort_names, spellings
from sanakit.models.sana import SANA_1_5_4800M, SANA_1600M, Sana, SanaConfig
from tests.adapters.loras import SANA

CONFIGS = {
    "sana": SANA,
    "sprint": replace(SANA, qk_norm=True, guidance_embed=True),
    "ratio": replace(SANA, mlp_ratio=2.3),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_products_are_all_linear_layers_and_1x1_convolutions_of_the_model(config: SanaConfig) -> None:
    found = {}
    for name, layer in Sana(config).named_modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            outputs, inputs = layer.weight.flatten(1).shape
            found[name] = (inputs, outputs)
    assert products(config) == found


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_place_is_on_a_layer_that_is_called_and_has_its_rows(config: SanaConfig) -> None:
    model = Sana(config)
    for name, place in spellings(config).items():
        assert model.get_submodule(place.layer) is not None
        rows, inputs = model.get_parameter(f"{place.module}.weight").flatten(1).shape
        assert place.inputs == inputs
        assert 0 <= place.start < place.stop <= rows, name


@pytest.mark.parametrize("config", [SANA, SANA_1600M, SANA_1_5_4800M])
def test_underscored_names_are_unambiguous(config: SanaConfig) -> None:
    """With 60 blocks, too: blocks_1 and blocks_11 begin alike."""
    names = spellings(config)
    assert len({name.replace(".", "_") for name in names}) == len(names)
    for name, place in names.items():
        for prefix in ("lora_unet_", "lora_transformer_", "lycoris_"):
            found = sort_names([f"{prefix}{name.replace('.', '_')}.lora_down.weight"], names)
            assert found.fields == {place: {"down": f"{prefix}{name.replace('.', '_')}.lora_down.weight"}}


@pytest.mark.parametrize("prefix", ["", "transformer.", "base_model.model.", "diffusion_model."])
@pytest.mark.parametrize("ending", FIELDS)
def test_prefixes_and_fields_of_all_trainers_are_known(prefix: str, ending: str) -> None:
    names = spellings(SANA)
    for module in ("blocks.1.attn.qkv", "transformer_blocks.1.attn2.to_out.0", "patch_embed.proj"):
        found = sort_names([f"{prefix}{module}.{ending}"], names)
        assert found.fields == {names[module]: {FIELDS[ending]: f"{prefix}{module}.{ending}"}}
        assert found.unknown == []


def test_prefixes_may_stand_before_one_another() -> None:
    name = "base_model.model.transformer.blocks.0.attn.proj.lora_A.default.weight"
    assert sort_names([name], spellings(SANA)).unknown == []


def test_names_of_attention_processors_are_known() -> None:
    names, block = spellings(SANA), "transformer_blocks.0.attn1"
    found = sort_names([f"transformer.{block}.processor.to_{one}_lora.up.weight" for one in "qkv"], names)
    assert list(found.fields) == [names[f"{block}.to_{one}"] for one in "qkv"]
    out = sort_names([f"{block}.processor.to_out_lora.down.weight"], names)
    assert list(out.fields) == [names[f"{block}.to_out.0"]]


@pytest.mark.parametrize(
    "name",
    [
        "transformer.transformer_blocks.2.attn1.to_q.lora_A.weight",  # the model has two blocks
        "transformer.transformer_blocks.0.attn1.norm_q.lora_A.weight",
        "blocks.0.mlp.depth_conv.conv.lora_A.weight",  # of groups, which is not a matrix product
        "lora_unet_blocks_0_attn_qkv_extra.lora_down.weight",
        "blocks.0.attn.qkv.lora_A",
        "blocks.0.attn.qkv.weight",
        "lora_A.weight",
        "",
        "transformer.",
    ],
)
def test_names_without_a_place_are_unknown(name: str) -> None:
    found = sort_names([name], spellings(SANA))
    assert found.unknown == [name]
    assert found.fields == {}


def test_tensors_of_other_networks_are_counted_and_told() -> None:
    names = ["text_encoder.layers.0.lora_A.weight", "lora_te_layers_0.lora_down.weight", "bundle_emb.a.x"]
    found = sort_names(names, spellings(SANA))
    assert found.unknown == []
    assert list(found.elsewhere.values()) == [2, 1]
    assert "text encoder" in next(iter(found.elsewhere))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lycoris_blocks_0_attn_qkv.lokr_w1", "LoKr"),
        ("lora_unet_blocks_0_attn_qkv.hada_w1_a", "LoHa"),
        ("blocks.0.attn.qkv.oft_R", "OFT"),
        ("blocks.0.attn.qkv.boft_R", "OFT"),
        ("blocks.0.attn.qkv.ia3_l", "IA3"),
        ("blocks.0.attn.qkv.lora_E", "AdaLoRA"),
        ("lora_unet_blocks_0.lora_mid.weight", "Tucker"),
        ("blocks.0.attn.qkv.diff", "full differences"),
        ("blocks.0.attn.qkv.diff_b", "full differences"),
        ("blocks.0.attn.qkv.lora_B.bias", "biases"),
        ("diffusion_model.blocks.0.attn.qkv.lora_A.weight", ""),
        ("blocks.0.attn.qkv.alpha", ""),
    ],
)
def test_adapters_of_other_kinds_are_recognised(name: str, kind: str) -> None:
    assert kind in other_kind([name])
    assert bool(other_kind([name])) == bool(kind)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "FLUX"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "FLUX"),
        ("lora_unet_down_blocks_1_attentions_0.lora_down.weight", "Stable Diffusion 1.5 or XL"),
        ("transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight", "Stable Diffusion 3"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
        ("transformer_blocks.0.img_mlp.net.2.lora_A.weight", "Qwen-Image"),
        ("something.else.lora_A.weight", ""),
    ],
)
def test_the_family_of_a_stranger_is_guessed(name: str, told: str) -> None:
    assert told in family([name])
    assert bool(family([name])) == bool(told)
