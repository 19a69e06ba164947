"""A quantised model's folder: written, strictly read, and refused where something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit import TextToImage
from sanakit.errors import SettingsError, WeightsError
from sanakit.quant.layer import Quantized
from sanakit.quant.plans import PLANS
from sanakit.quant.quantize import chosen
from sanakit.weights import describe, load_text_encoder, load_transformer, save_quantized

pytestmark = pytest.mark.thorough

EVERYWHERE = [name for name, plan in PLANS.items() if "cpu" in plan.devices]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("quantised")
    return {name: save_quantized("pocket", place / name, name) for name in EVERYWHERE}


@pytest.mark.parametrize("plan", EVERYWHERE)
def test_what_was_written_draws_as_what_is_quantised_while_loading(
    folders: dict[str, Path], plan: str
) -> None:
    stored = TextToImage.from_pretrained(folders[plan])
    loaded = TextToImage.from_pretrained("pocket", plan=plan)
    pictures = [pipe("a red apple", seed=1, steps=2, output="pt").images.float() for pipe in (stored, loaded)]
    # The bias and all else that stays float were in 16 bits before, too.
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-5)


@pytest.mark.parametrize("plan", EVERYWHERE)
def test_layers_of_blocks_are_quantised_and_others_are_not(folders: dict[str, Path], plan: str) -> None:
    models = {"blocks": load_transformer(folders[plan]), "layers": load_text_encoder(folders[plan]).model}
    for inside, model in models.items():
        quantised = {name for name, part in model.named_modules() if isinstance(part, Quantized)}
        assert quantised
        assert all(name.startswith(f"{inside}.") for name in quantised)
        assert not list(chosen(model, PLANS[plan]))  # nothing that the plan names was left


def test_weights_are_mapped_from_the_file_and_smaller(folders: dict[str, Path]) -> None:
    parts = {part.kind: part for part in describe(folders["int8"]).parts}
    before = {part.kind: part for part in describe("pocket").parts}
    assert parts["transformer"].bytes < 0.6 * before["transformer"].bytes  # 8 bits of 16, and scales
    assert not parts["transformer"].missing
    assert not parts["transformer"].unexpected
    assert not parts["text_encoder"].missing


def test_another_plan_than_the_stored_one_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(SettingsError, match="quantised already, by the plan int8"):
        load_transformer(folders["int8"], plan="int8-weight")
    assert load_transformer(folders["int8"], plan="int8")


def test_unknown_plans_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no quantisation plan 'int7'"):
        save_quantized("pocket", tmp_path / "x", "int7")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("change", ["missing", "dtype", "shape"])
def test_a_damaged_file_is_named(folders: dict[str, Path], tmp_path: Path, change: str) -> None:
    name = "blocks.0.attn.qkv.weight"
    folder = tmp_path / "transformer"
    folder.mkdir()
    source = folders["int8"] / "transformer"
    (folder / "config.json").write_text((source / "config.json").read_text())
    tensors = load_file(source / "diffusion_pytorch_model.safetensors")
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name].half() if change == "dtype" else tensors[name][1:].clone()
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match=name):
        load_transformer(folder)


def test_what_another_tool_quantised_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["int8"] / "transformer"
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(
        (source / "diffusion_pytorch_model.safetensors").read_bytes()
    )
    with pytest.raises(WeightsError, match="quantised by bitsandbytes"):
        load_transformer(tmp_path)


def test_the_model_itself_is_never_overwritten(folders: dict[str, Path]) -> None:
    from sanakit.errors import OutputError

    with pytest.raises(OutputError, match="the model itself"):
        save_quantized(folders["int8"], folders["int8"], "int8")


def test_pictures_in_8_bits_are_those_in_float(folders: dict[str, Path]) -> None:
    """PSNR of trained weights; its mean over 50 prompts is in docs/quantize.md."""
    prompts = ["a red apple", "a panda on a yellow background", "three strawberries", "a rocket, flat"]
    exact, rounded = (
        torch.cat([pipe(prompt, seed=1, output="pt").images for prompt in prompts])
        for pipe in map(TextToImage.from_pretrained, ("pocket", folders["int8"]))
    )
    error = (exact - rounded).square().flatten(1).mean(1)
    assert (10 * (4 / error).log10()).min() > 35
