"""Adapters written in the layout of diffusers, and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sanakit.adapters.adapter import Adapter
from sanakit.adapters.names import spellings
from sanakit.adapters.read import AdapterFile
from sanakit.adapters.save import save_adapter
from sanakit.errors import OutputError, PrecisionError
from tests.adapters.loras import SANA, apart, became, lora, sampled_way, transformer

SPRINT = replace(SANA, qk_norm=True, guidance_embed=True, time_scale=1.0)


def again(path: Path, adapter: Adapter, config=SANA) -> Adapter:
    save_adapter(path, adapter, config, dtype=torch.float32)
    return AdapterFile(path).read(config)


@pytest.mark.parametrize("config", [SANA, SPRINT], ids=["sana", "sprint"])
@pytest.mark.parametrize("dora", [False, True])
def test_what_was_saved_changes_a_model_alike(config, dora: bool, tmp_path: Path) -> None:
    adapter = lora(config=config, dora=dora, alpha=2.0)
    read = again(tmp_path / "a.safetensors", adapter, config)
    model = transformer(config)
    ours, theirs = (sampled_way(became(model, (one, 1.0))) for one in (read, adapter))
    assert apart(ours, theirs) < 1e-6
    assert apart(ours, sampled_way(model)) > 0.01


def test_fused_rows_are_written_apart_bit_for_bit(tmp_path: Path) -> None:
    adapter = lora(["blocks.0.attn.qkv", "blocks.1.cross_attn.kv_linear"], dora=True)
    read = again(tmp_path / "a.safetensors", adapter)
    names = spellings(SANA)
    wanted = [f"transformer_blocks.0.attn1.to_{one}" for one in "qkv"]
    wanted += [f"transformer_blocks.1.attn2.to_{one}" for one in "kv"]
    assert {part.place for part in read.parts} == {names[name] for name in wanted}
    for whole in adapter.parts:
        own = sorted(
            (p for p in read.parts if p.place.module == whole.place.module), key=lambda p: p.place.start
        )
        assert torch.equal(torch.cat([part.up for part in own]), whole.up)
        assert torch.equal(torch.cat([part.magnitude for part in own]), whole.magnitude)  # pyright: ignore
        assert all(torch.equal(part.down, whole.down) for part in own)
        assert {part.scale for part in own} == {whole.scale}


def test_ranks_and_alphas_of_each_layer_are_kept(tmp_path: Path) -> None:
    names = [f"transformer_blocks.{n}.attn1.to_q" for n in range(2)]
    first, second = lora([names[0]], rank=2, alpha=8.0), lora([names[1]], rank=5, alpha=3.0)
    adapter = Adapter(parts=(*first.parts, *second.parts, *lora(["proj_out"], rank=5, alpha=3.0).parts))
    read = again(tmp_path / "a.safetensors", adapter)
    assert {(part.rank, part.alpha) for part in read.parts} == {(2, 8.0), (5, 3.0)}
    assert {part.place: part.scale for part in read.parts} == {p.place: p.scale for p in adapter.parts}
    stabilised = replace(adapter, parts=tuple(replace(part, stabilised=True) for part in adapter.parts))
    read = again(tmp_path / "a.safetensors", stabilised)
    assert {part.place: part.scale for part in read.parts} == {p.place: p.scale for p in stabilised.parts}


def test_names_and_header_are_those_of_diffusers(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "a.safetensors", lora(dora=True), SANA)
    with safe_open(path, "pt") as file:
        header, keys = file.metadata(), set(file.keys())
        assert file.get_tensor("transformer.patch_embed.proj.lora_A.weight").shape == (3, 8, 1, 1)
        assert file.get_tensor("transformer.patch_embed.proj.lora_B.weight").shape == (64, 3, 1, 1)
        magnitude = file.get_tensor("transformer.transformer_blocks.0.ff.conv_point.lora_magnitude_vector")
        assert magnitude.shape == (1, 64, 1, 1)
        assert file.get_tensor("transformer.proj_out.lora_B.weight").dtype == torch.bfloat16
    assert all(key.startswith("transformer.") and "lora" in key for key in keys)  # else diffusers refuses it
    assert header["format"] == "pt"
    settings = json.loads(header["lora_adapter_metadata"])
    assert settings["transformer.r"] == 3
    assert settings["transformer.use_dora"] is True
    assert {key.removeprefix("transformer.") for key in settings} == {
        *("r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "peft_type", "bias"),
        *("use_rslora", "use_dora", "lora_dropout", "fan_in_fan_out", "init_lora_weights"),
    }


def test_where_it_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"end the name of an adapter in .safetensors"):
        save_adapter(tmp_path / "a.pt", lora(), SANA)
    with pytest.raises(PrecisionError):
        save_adapter(tmp_path / "a.safetensors", lora(), SANA, dtype="int3")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_adapter(tmp_path / "file" / "a.safetensors", lora(), SANA)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
