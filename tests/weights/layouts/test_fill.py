"""Misfits between a file and a module are refused by name; which weights may stay in 16 bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sanakit.errors import SettingsError, WeightsError
from sanakit.weights import load_transformer
from sanakit.weights.layouts.fill import fill, widened
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.header import write_safetensors

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def rewrite(folder: Path, change) -> None:
    state = load_file(folder / WEIGHTS)
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    save_file(state, folder / WEIGHTS)


def test_a_missing_tensor_is_refused_by_name(tiny):
    rewrite(tiny.folder, lambda state: state.pop("transformer_blocks.1.attn1.to_k.weight"))
    with pytest.raises(
        WeightsError, match=r"lacks 1 of .* tensors: transformer_blocks\.1\.attn1\.to_k\.weight"
    ):
        load_transformer(tiny.folder)


def test_an_extra_tensor_is_refused_by_name(tiny):
    rewrite(tiny.folder, lambda state: state.update({"transformer_blocks.2.scale": torch.zeros(1)}))
    with pytest.raises(WeightsError, match=r"holds 1 tensors .* not have: transformer_blocks\.2\.scale"):
        load_transformer(tiny.folder)


@pytest.mark.parametrize(
    ("name", "shape"), [("proj_out.weight", (8, 65)), ("transformer_blocks.0.attn2.to_k.weight", (64, 63))]
)
def test_a_wrong_shape_is_refused_by_name(tiny, name, shape):
    rewrite(tiny.folder, lambda state: state.update({name: torch.zeros(shape)}))
    with pytest.raises(WeightsError, match="has shape"):
        load_transformer(tiny.folder)


def test_quantised_tensors_are_refused(tiny):
    rewrite(
        tiny.folder, lambda state: state.update({"proj_out.weight": torch.zeros(8, 64, dtype=torch.int8)})
    )
    with pytest.raises(WeightsError, match=r"proj_out\.weight is stored as int8"):
        load_transformer(tiny.folder)


def test_weights_of_products_and_dense_convolutions_are_widened_on_the_way():
    parts = {
        "matrix": nn.Linear(4, 4),
        "words": nn.Embedding(3, 4),
        "point": nn.Conv2d(4, 4, 1),
        "dense": nn.Conv2d(4, 4, 3),
        "over_time": nn.Conv2d(4, 4, (3, 1)),
        "depthwise": nn.Conv2d(4, 4, 3, groups=4),
        "strided": nn.Conv2d(4, 4, 3, stride=2),
        "large": nn.Conv2d(4, 4, 5),
        "patches": nn.Conv3d(4, 4, (1, 2, 2)),
        "norm": nn.LayerNorm(4),
    }
    names = ("matrix", "words", "point", "dense", "over_time")
    assert widened(nn.ModuleDict(parts)) == {f"{name}.weight" for name in names}


def test_one_tensor_fills_several_parts_and_several_fill_one(tmp_path):
    rows = torch.arange(12.0).view(6, 2)
    write_safetensors(tmp_path / "w.safetensors", {"all": rows, "b": rows[:2], "c": rows[2:]}, torch.float32)
    with torch.device("meta"):
        module = nn.ModuleDict(
            {name: nn.Linear(2, size, bias=False) for name, size in zip("xyz", (3, 3, 6), strict=True)}
        )
    pairs = [(("all",), ("x.weight", "y.weight")), (("b", "c"), ("z.weight",))]
    fill(
        module,
        TensorFiles([tmp_path / "w.safetensors"]),
        pairs,
        skipped={},
        device="cpu",
        dtype=torch.float32,
    )
    state = module.state_dict()
    assert torch.equal(state["x.weight"], rows[:3])
    assert torch.equal(state["y.weight"], rows[3:])
    assert torch.equal(state["z.weight"], rows)


def test_mapped_weights_compute_in_float32_alone(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"weight": torch.ones(2, 2)}, torch.float32)
    files = TensorFiles([tmp_path / "w.safetensors"])
    with torch.device("meta"):
        module = nn.Linear(2, 2, bias=False)
    with pytest.raises(SettingsError, match="only works on a CPU in float32"):
        fill(module, files, [], skipped={}, device="cpu", dtype=torch.bfloat16, mapped=True)
