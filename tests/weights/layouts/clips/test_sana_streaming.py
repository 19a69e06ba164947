"""SANA-Streaming's weights: published names and shapes, bit for bit there and back, read strictly."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from sanakit.errors import WeightsError
from sanakit.models.streaming.config import (
    SANA_STREAMING_2B,
    SANA_STREAMING_2B_BIDIRECTIONAL,
    SanaStreamingConfig,
)
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.weights import describe, load_settings, load_transformer, save_official, save_transformer
from sanakit.weights.layouts.clips.sana_streaming import (
    CLASS,
    read_config,
    recognise_config,
    size_name,
    write_config,
)
from sanakit.weights.layouts.fields import SANA_STREAMING, check_fields
from sanakit.weights.read.header import TensorInfo
from tests.models.streaming.edits import TINY, inputs, randomised
from tests.weights.layouts.tensors import headers, same


def headers_of(config: SanaStreamingConfig) -> dict[str, TensorInfo]:
    with torch.device("meta"):
        return headers(SanaStreaming(config).state_dict())


@pytest.fixture(scope="module")
def model() -> SanaStreaming:
    torch.manual_seed(0)
    return randomised(TINY)


def test_names_and_shapes_of_the_official_file_are_the_published_ones():
    shapes = {name: info.shape for name, info in headers_of(SANA_STREAMING_2B).items()}
    assert shapes["x_embedder.proj.weight"] == (2240, 256, 1, 1, 1)
    assert shapes["final_layer.linear.weight"] == (128, 2240)
    wide, line, heads = (2240, 2240), (2240,), (20,)
    shared = {
        "v.weight": wide,
        "q_norm.weight": line,
        "k_norm.weight": line,
        **{f"{name}.weight": wide for name in ("proj", "output_gate")},
        **{f"{name}.bias": line for name in ("proj", "output_gate")},
    }
    delta = {"q.weight": (2240, 2240, 1), "k.weight": (2240, 2240, 1), "A_log": heads, "dt_bias": heads}
    delta |= {f"{name}_proj.weight": (20, 2240) for name in ("beta", "gate")}
    delta |= {f"{name}_proj.bias": heads for name in ("beta", "gate")}
    taps = {"q.weight": (2240, 2240, 3), "k.weight": (2240, 2240, 3)}
    for number, own in ((0, delta), (3, taps), (19, taps)):
        name = f"blocks.{number}.attn."
        found = {key.removeprefix(name): shapes[key] for key in shapes if key.startswith(name)}
        assert found == shared | own
    assert shapes["blocks.0.mlp.t_conv.weight"] == (2240, 2240, 3, 1)
    assert headers_of(SANA_STREAMING_2B_BIDIRECTIONAL)["blocks.3.attn.q.weight"].shape == wide


@pytest.mark.parametrize(
    "config",
    [
        SANA_STREAMING_2B,
        SANA_STREAMING_2B_BIDIRECTIONAL,
        replace(SANA_STREAMING_2B, depth=6, softmax_share=0.5, mlp_ratio=2.5, softmax_taps=1, head_dim=32),
        replace(SANA_STREAMING_2B, depth=2, softmax_share=0.0, latent_channels=16, text_width=64),
    ],
)
def test_sizes_and_variants_are_recognised_from_shapes(config):
    assert recognise_config(headers_of(config), where="the file") == config


@pytest.mark.parametrize("config", [SANA_STREAMING_2B, SANA_STREAMING_2B_BIDIRECTIONAL, TINY])
def test_a_config_is_read_as_it_was_written(config):
    written = json.loads(json.dumps(write_config(config)))
    assert written["_class_name"] == CLASS
    assert read_config(written, "config.json") == config


@torch.no_grad()
def test_a_folder_is_opened_by_its_class(model, tmp_path):
    folder = save_transformer(tmp_path / "transformer", model)
    some = inputs(TINY)
    for path in (folder, folder / "diffusion_pytorch_model.safetensors"):
        opened = load_transformer(path, kind="edit")
        assert opened.config == TINY
        assert same(opened.state_dict(), model.state_dict())
        assert torch.equal(opened(**some), model(**some))
    with pytest.raises(WeightsError, match="is a transformer of edits, not of clips"):
        load_transformer(folder, kind="clip")


@pytest.mark.parametrize("nest", [None, "state_dict", "generator"])
@pytest.mark.filterwarnings("ignore")  # about a trainer's nesting
def test_official_files_are_opened_with_prefix_nesting_and_leftovers(model, tmp_path, nest):
    saved = load_transformer(save_official(tmp_path / "a.pth", model), kind="edit")
    assert same(saved.state_dict(), model.state_dict())
    state = {
        **model.state_dict(),
        "pos_embed": torch.zeros(1, 4, 64),
        "y_embedder.y_embedding": torch.zeros(3, 12),
    }
    if nest == "generator":  # as a trainer writes it: all names behind a prefix
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    if nest is None:
        save_file(state, tmp_path / "b.safetensors")
        with pytest.raises(WeightsError, match="width 64; the released size has 2240"):
            load_transformer(tmp_path / "b.safetensors")
        return
    torch.save({nest: state, "sanakit": asdict(TINY)}, tmp_path / "b.pth")
    assert same(load_transformer(tmp_path / "b.pth", kind="edit").state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.0.attn.A_log"), "lacks 1 of this model's"),
        (
            lambda state: state.update({"blocks.0.attn.more": torch.zeros(1)}),
            "1 tensors that this model does",
        ),
        (
            lambda state: state.update({"blocks.3.attn.q.weight": torch.zeros(64, 64)}),
            r"blocks.3.attn.q.weight has shape \(64, 64\)",
        ),
    ],
)
def test_files_are_read_strictly(model, tmp_path, change, said):
    state = dict(model.state_dict())
    change(state)
    torch.save({"state_dict": state, "sanakit": asdict(TINY)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("variant", "causal", "'bidirectional' or 'streaming'"),
        ("softmax_taps", 2, "an odd number"),
        ("softmax_share", 1.5, "a number from 0"),
        ("patch", 2, "a token for each latent"),
        ("softmax_ratio", 0.25, "has an unknown softmax_ratio"),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field(model, tmp_path, field, value, said):
    folder = save_transformer(tmp_path / "t", model)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=said):
        load_transformer(folder)


def test_tensors_of_an_unknown_size_are_refused(model, tmp_path):
    state = {**model.state_dict(), "x_embedder.proj.weight": torch.zeros(64, 4, 1, 1, 1)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="makes 4 channels of 4, in patches of 1x1x1"):
        load_transformer(tmp_path / "a.pth")


def test_it_is_described_as_what_it_is(model, tmp_path):
    for path in (save_official(tmp_path / "a.pth", model), save_transformer(tmp_path / "t", model)):
        (part,) = describe(path).parts
        assert (part.kind, part.size, part.depth, part.width) == ("transformer", "unreleased size", 4, 64)
        assert (part.layout, part.missing, part.unexpected) == ("official", (), ())
        settings = load_settings(path)
        assert (settings.width, settings.height) == (1280, 704)
    assert size_name(SANA_STREAMING_2B) == "SANA-Streaming 2B 720p"
    assert size_name(SANA_STREAMING_2B_BIDIRECTIONAL) == "SANA-Streaming 2B 720p, whole clips"


def test_a_saved_config_is_checked():
    for config in (SANA_STREAMING_2B, TINY):
        check_fields(asdict(config), SANA_STREAMING, "the file")
    with pytest.raises(WeightsError, match="sink_chunks"):
        check_fields({"sink_chunks": -1}, SANA_STREAMING, "the file")
