"""Weights stored in float16: half the file, and exactly what a model with so rounded weights computes."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from sanakit.errors import PrecisionError
from sanakit.graphs import onnx, openvino
from sanakit.graphs.networks import Network
from sanakit.graphs.parts import RUNTIMES, Graph

pytestmark = pytest.mark.thorough


def network(spread: float = 0.1) -> Network:
    first = nn.Linear(256, 256)
    nn.init.normal_(first.weight, std=spread)
    layers = nn.Sequential(first, nn.GELU(), nn.Linear(256, 256))
    return Network(module=layers, inputs={"x": torch.zeros(2, 256)}, free={"x": {0: "rows"}}, outputs=("y",))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_large_weights_are_rounded(tmp_path, runtime):
    """1e-5 of the largest value: float32 arithmetic in another order. Unrounded weights differ by 1e-3."""
    whole = network()
    runs, x = RUNTIMES[runtime], torch.randn(5, 256)
    for half, name in ((False, "whole"), (True, "half")):
        (tmp_path / name).mkdir()
        runs.write(whole, tmp_path / name / runs.FILE, half=half)
    graphs = {name: Graph(tmp_path / name, runtime) for name in ("whole", "half")}
    with torch.no_grad():
        before = whole.module(x)
        for parameter in whole.module.parameters():
            if parameter.ndim == 2 or runtime == "openvino":  # which rounds biases, too
                parameter.copy_(parameter.half().float())
        rounded = whole.module(x)
    (came,) = graphs["half"](x=x)
    assert (came - rounded).abs().max() <= 1e-5 * rounded.abs().max()
    assert (came - before).abs().max() > 1e-4 * rounded.abs().max()
    assert graphs["half"].bytes < 0.6 * graphs["whole"].bytes


def test_openvino_keeps_what_float16_has_nothing_near_to(graphs, tmp_path, monkeypatch):
    """Latents that attend to nothing give 0 / (0 + 1e-15)."""
    made = graphs("onnx") / "vae_decoder" / "model.onnx"
    monkeypatch.setattr(onnx, "write", lambda network, path, half: shutil.copy(made, path))
    openvino.write(network(), tmp_path / "model.xml", half=True)
    (images,) = Graph(tmp_path, "openvino")(latents=torch.zeros(1, 8, 4, 5))
    assert torch.isfinite(images).all()


def test_weights_beyond_float16_are_refused(tmp_path):
    with pytest.raises(PrecisionError, match="float16"):
        onnx.write(network(spread=1e6), tmp_path / "model.onnx", half=True)


def test_many_weights_lie_in_a_file_of_their_own(tmp_path, monkeypatch):
    """Protobuf holds 2 GiB at most."""
    monkeypatch.setattr(onnx, "EXTERNAL_FROM", 1000)
    (tmp_path / "large").mkdir()
    large = network()
    onnx.write(large, tmp_path / "large" / "model.onnx")
    assert (tmp_path / "large" / "model.onnx.data").stat().st_size >= 2 * 256 * 256 * 4
    graph, x = Graph(tmp_path / "large", "onnx"), torch.randn(3, 256)
    assert graph.bytes > 2 * 256 * 256 * 4
    with torch.no_grad():
        assert (graph(x=x)[0] - large.module(x)).abs().max() < 1e-5
