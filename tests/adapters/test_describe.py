"""What `sana inspect` tells of an adapter's file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sanakit.adapters.describe import describe_adapter, known_models
from sanakit.adapters.save import save_adapter
from sanakit.errors import WeightsError
from sanakit.models.sana import SANA_1600M
from tests.adapters.loras import SANA, lora, written


def test_an_adapter_of_a_released_size_is_described(tmp_path: Path) -> None:
    modules = [f"transformer_blocks.{n}.attn{m}.to_{one}" for n in range(20) for m in (1, 2) for one in "qkv"]
    path = save_adapter(tmp_path / "a.safetensors", lora(modules, SANA_1600M, rank=4, alpha=8.0), SANA_1600M)
    found = describe_adapter(path)
    assert found is not None
    assert (found.kind, found.layout, found.dtype) == ("LoRA", "diffusers", "bfloat16")
    assert (found.ranks, found.alphas, found.scales) == ((4,), (8.0,), (2.0,))
    assert found.targets == {f"attn{m}.to_{one}": 20 for m in (1, 2) for one in "qkv"}
    assert found.parameters == 2_150_400  # as the published ones, 4.3 MB
    assert found.bytes == path.stat().st_size > 2 * found.parameters
    assert found.fits == ("Sana 1.6B", "SANA-Sprint 1.6B")


def test_the_embedded_model_is_among_those_that_an_adapter_may_fit(tmp_path: Path) -> None:
    config = known_models()["pocket"]
    adapter = lora(["blocks.0.attn.qkv", "final_layer.linear"], config, dora=True)
    found = describe_adapter(save_adapter(tmp_path / "a.safetensors", adapter, config))
    assert found is not None
    assert found.kind == "DoRA"
    assert found.fits == ("pocket",)
    assert found.targets == {"attn1.to_q": 1, "attn1.to_k": 1, "attn1.to_v": 1, "proj_out": 1}


def test_an_adapter_of_no_known_model_is_described_by_its_header(tmp_path: Path) -> None:
    found = describe_adapter(save_adapter(tmp_path / "a.safetensors", lora(), SANA))
    assert found is not None
    assert (found.fits, found.alphas, found.layout, found.ranks) == ((), (), "", (3,))
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(8, 2)}
    found = describe_adapter(written(tmp_path / "b.safetensors", tensors))
    assert found is not None
    assert found.notes == ("It seems to be for FLUX or HunyuanVideo.",)
    assert found.targets == {"img_attn_qkv": 1}


def test_a_suffix_counts_in_any_case(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "A.SAFETENSORS", lora(), SANA)
    found = describe_adapter(path)
    assert found is not None
    assert found.ranks == (3,)


def test_other_files_are_left_to_others(tmp_path: Path) -> None:
    model = written(tmp_path / "model.safetensors", {"blocks.0.attn.qkv.weight": torch.ones(2, 2)})
    (tmp_path / "text.safetensors").write_text("nothing")
    for path in (model, tmp_path, tmp_path / "text.safetensors", tmp_path / "none", Path("pocket")):
        assert describe_adapter(path) is None
    lokr = written(tmp_path / "a.safetensors", {"lycoris_blocks_0_attn_qkv.lokr_w1": torch.ones(2, 2)})
    with pytest.raises(WeightsError, match="LoKr"):
        describe_adapter(lokr)
