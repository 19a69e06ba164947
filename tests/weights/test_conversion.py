"""A quantised model is widened on its way into another form: no code is taken for a weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.cli import main
from sanakit.errors import SettingsError
from sanakit.graphs import onnx
from sanakit.quant.layer import Quantized
from sanakit.quant.plans import PLANS
from sanakit.weights import (
    convert,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
    save_official,
    save_quantized,
)
from sanakit.weights.quantized import check_trainable, plan_of

PLAN_NAMES = [name for name, plan in PLANS.items() if "cpu" in plan.devices]


@pytest.fixture
def quantised(tiny: Any, tmp_path: Path) -> Path:
    return save_quantized(tiny.folder, tmp_path / "few-bits", "int8")


@pytest.mark.parametrize("plan", PLAN_NAMES)
@pytest.mark.parametrize("form", ["diffusers", "official"])
def test_every_plan_is_widened_to_the_matrices_that_it_computes_with(
    tiny: Any, tmp_path: Path, plan: str, form: str
) -> None:
    folder = save_quantized(tiny.folder, tmp_path / "few-bits", plan)
    target = convert(folder, tmp_path / ("wide.pth" if form == "official" else "wide"), form)  # pyright: ignore[reportArgumentType]
    pairs = [(load_transformer(folder), load_transformer(target))]
    if form == "diffusers":
        pairs.append((load_text_encoder(folder).model, load_text_encoder(target).model))  # pyright: ignore[reportArgumentType]
    for few, wide in pairs:
        assert not any(isinstance(layer, Quantized) for layer in wide.modules())
        plain = dict(wide.named_modules())
        layers = [(name, layer) for name, layer in few.named_modules() if isinstance(layer, Quantized)]
        assert layers
        for name, layer in layers:
            own = plain[name].state_dict()
            (weight,) = (tensor for key, tensor in own.items() if key.endswith("weight"))
            assert torch.equal(weight.flatten(1), layer.dequantized()), name
            biases = [tensor for key, tensor in own.items() if key.endswith("bias")]
            assert len(biases) == (layer.bias is not None)
            assert all(torch.equal(bias, layer.bias) for bias in biases)  # pyright: ignore[reportArgumentType]


def test_a_widened_model_draws_what_the_quantised_one_draws(quantised: Path, tmp_path: Path) -> None:
    wide = convert(quantised, tmp_path / "wide", "diffusers")
    noise = torch.randn(1, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 3, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        velocities = [
            load_transformer(folder)(noise, torch.tensor([0.5]), text) for folder in (quantised, wide)
        ]
    torch.testing.assert_close(*velocities, rtol=0, atol=0.02)  # tokens are rounded to 8 bits in the one
    assert load_settings(wide).flow_shift == load_settings(quantised).flow_shift == 2.5
    assert (plan_of(quantised), plan_of(wide)) == ("int8", None)
    check_trainable(wide)
    with pytest.raises(SettingsError, match=r"quantised by the plan int8.*sana convert"):
        check_trainable(quantised)


def test_graphs_are_made_of_a_widened_model(
    quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "write", lambda network, path, half: path.write_bytes(b"graph"))
    assert convert(quantised, tmp_path / "graphs", "onnx").is_dir()


def test_the_command_tells_that_rounding_stays(
    quantised: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, told in ((quantised, True), (tiny.folder, False)):
        with pytest.raises(SystemExit) as end:
            main(["convert", str(source), str(tmp_path / "out.pth"), "--to", "official", "--json"])
        out, err = capsys.readouterr()
        assert not end.value.code, err
        assert json.loads(out)["form"] == "official"
        assert ("is quantised by the plan int8" in err) is told


def test_quantised_layers_are_never_saved_as_weights(quantised: Path, tiny: Any, tmp_path: Path) -> None:
    transformer = load_transformer(quantised)
    with pytest.raises(SettingsError, match="Quantised layers have no place"):
        save_official(tmp_path / "codes.pth", transformer)
    for parts in ({"transformer": transformer}, {"text_encoder": load_text_encoder(quantised)}):
        own: dict[str, Any] = {"transformer": tiny.transformer, "text_encoder": tiny.text_encoder} | parts
        with pytest.raises(SettingsError, match="Quantised layers have no place"):
            save_diffusers(tmp_path / "codes", autoencoder=tiny.autoencoder, **own)
    assert not (tmp_path / "codes.pth").exists()
    assert not (tmp_path / "codes").exists()
