"""Adapters against diffusers and peft on tiny random weights: their files here, our files there.

peft is not among the packages that the tests need; without it these are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("peft", reason="peft is not installed")

from diffusers import SanaPipeline, SanaTransformer2DModel
from diffusers.loaders.lora_base import _pack_dict_with_prefix
from peft import LoraConfig, get_peft_model_state_dict

from sanakit.adapters.attach import AdapterSet
from sanakit.adapters.read import AdapterFile
from sanakit.adapters.save import save_adapter
from sanakit.models.sana import Sana
from sanakit.weights.layouts.diffusers import diffusers_names, write_sana_config
from tests.adapters.loras import SANA, apart, inputs, lora, trained_way, transformer

TOLERANCE = 2e-5  # of the largest number, as for the models themselves
ATTENTION = ["to_q", "to_k", "to_v"]
EVERYTHING = [*ATTENTION, "to_out.0", "conv_inverted", "conv_point", "patch_embed.proj", "proj_out", "linear"]
EVERYTHING += ["caption_projection.linear_1", "timestep_embedder.linear_2"]
SPRINT = replace(SANA, qk_norm=True, guidance_embed=True, time_scale=1.0)


def published(model: Sana) -> SanaTransformer2DModel:
    theirs = SanaTransformer2DModel.from_config(write_sana_config(model.config))
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        names = diffusers_names(name, guidance_embed=model.config.guidance_embed)
        state |= dict(zip(names, tensor.clone().chunk(len(names)), strict=True))
    theirs.load_state_dict(state)
    return theirs.eval().requires_grad_(False)


def run(theirs: SanaTransformer2DModel) -> Tensor:
    given = inputs(SPRINT if theirs.config.guidance_embeds else SANA)
    sprint = theirs.config.guidance_embeds
    return theirs(
        given["latents"],
        encoder_hidden_states=given["text"],
        encoder_attention_mask=given["mask"].long(),
        timestep=given["t"] if sprint else 1000 * given["t"],
        guidance=given["guidance"] * theirs.config.guidance_embeds_scale if sprint else None,
    ).sample


def with_adapter(theirs: SanaTransformer2DModel, **settings) -> SanaTransformer2DModel:
    torch.manual_seed(2)
    theirs.add_adapter(LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1.3)
            elif "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    return theirs


@pytest.mark.parametrize("config", [SANA, SPRINT], ids=["sana", "sprint"])
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION},
        {"r": 4, "lora_alpha": 8, "target_modules": EVERYTHING},
        {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION, "use_rslora": True},
        {"r": 4, "lora_alpha": 2, "target_modules": EVERYTHING, "use_dora": True},
        {
            **{"r": 4, "lora_alpha": 4, "target_modules": ATTENTION},
            **{"rank_pattern": {"to_q": 2}, "alpha_pattern": {"attn2.to_k": 9}},
        },
    ],
    ids=["attention", "everything", "rslora", "dora", "patterns"],
)
@torch.no_grad()
def test_a_file_of_theirs_draws_the_same_here(config, settings, tmp_path: Path) -> None:
    ours = transformer(config)
    theirs = with_adapter(published(ours), **settings)
    plain = trained_way(ours)
    SanaPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(theirs),
        transformer_lora_adapter_metadata=theirs.peft_config["default"].to_dict(),
    )
    AdapterSet(ours).add(AdapterFile(tmp_path).read(config), "a")
    wanted = run(theirs)
    assert apart(plain, wanted) > 0.01
    assert apart(trained_way(ours), wanted) < TOLERANCE


@pytest.mark.parametrize("config", [SANA, SPRINT], ids=["sana", "sprint"])
@pytest.mark.parametrize(
    "chosen",
    [
        {"modules": None},
        {"modules": None, "dora": True},
        {"modules": ["blocks.0.attn.qkv", "transformer_blocks.1.attn2.to_v"], "alpha": 7.0},
    ],
    ids=["everything", "dora", "fused and split"],
)
@torch.no_grad()
def test_a_file_of_ours_draws_the_same_there(config, chosen, tmp_path: Path) -> None:
    ours, adapter = transformer(config), lora(config=config, **chosen)
    theirs = published(ours)
    path = save_adapter(tmp_path / "a.safetensors", adapter, config, dtype=torch.float32)
    state, metadata = SanaPipeline.lora_state_dict(path, return_lora_metadata=True)
    SanaPipeline.load_lora_into_transformer(state, theirs, adapter_name="a", metadata=metadata)
    AdapterSet(ours).add(adapter, "a")
    assert apart(trained_way(transformer(config)), run(theirs)) > 0.01
    assert apart(trained_way(ours), run(theirs)) < TOLERANCE


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@torch.no_grad()
def test_weights_of_several_are_theirs(tmp_path: Path) -> None:
    ours, theirs = transformer(), published(transformer())
    adapters = AdapterSet(ours)
    for seed in (1, 2):
        path = save_adapter(tmp_path / f"{seed}.safetensors", lora(seed=seed), SANA, dtype=torch.float32)
        state, metadata = SanaPipeline.lora_state_dict(path, return_lora_metadata=True)
        SanaPipeline.load_lora_into_transformer(state, theirs, adapter_name=f"a{seed}", metadata=metadata)
        adapters.add(AdapterFile(path).read(SANA), f"a{seed}")
    for weights in ({"a1": 0.5, "a2": -1.5}, {"a2": 0.7}):
        theirs.set_adapters(list(weights), list(weights.values()))
        adapters.weigh(weights)
        assert apart(trained_way(ours), run(theirs)) < TOLERANCE


def test_the_packing_of_their_header_is_what_ours_follows() -> None:
    assert _pack_dict_with_prefix({"r": 4}, "transformer") == {"transformer.r": 4}
