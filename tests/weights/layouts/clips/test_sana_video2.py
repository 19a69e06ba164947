"""SANA-Video 2.0's weights: published names and shapes, bit for bit there and back, read strictly."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from sanakit.errors import WeightsError
from sanakit.models.video.sana_video2 import SANA_VIDEO2_5B, SANA_VIDEO2_14B, SanaVideo2, SanaVideo2Config
from sanakit.weights import describe, load_settings, load_transformer, save_official, save_transformer
from sanakit.weights.layouts.clips.sana_video2 import (
    CLASS,
    read_config,
    recognise_config,
    size_name,
    write_config,
)
from sanakit.weights.layouts.fields import SANA_VIDEO2, check_fields
from sanakit.weights.read.header import TensorInfo
from tests.models.video.sana_video2.written_out import TINY, apart, inputs, randomised
from tests.weights.layouts.tensors import headers, same


def headers_of(config: SanaVideo2Config) -> dict[str, TensorInfo]:
    with torch.device("meta"):
        return headers(SanaVideo2(config).state_dict())


@pytest.fixture(scope="module")
def model() -> SanaVideo2:
    torch.manual_seed(0)
    return randomised(TINY)


def test_names_and_shapes_of_the_official_file_are_the_published_ones():
    shapes = {name: info.shape for name, info in headers_of(SANA_VIDEO2_5B).items()}
    assert shapes["x_embedder.proj.weight"] == (2560, 128, 1, 1, 1)
    assert shapes["t_embedder.mlp.0.weight"] == (2560, 256)
    assert {name: shapes[name] for name in shapes if name.startswith("attn_res.")} == {
        f"attn_res.{name}_proj.weight": (1, 2560) for name in ("attn", "mlp", "final")
    }
    wide, line = (2560, 2560), (2560,)
    shared = {
        "attn.qkv.weight": (7680, 2560),
        "attn.q_norm.weight": line,
        "attn.k_norm.weight": line,
        **{f"attn.{name}.weight": wide for name in ("proj", "output_gate")},
        **{f"attn.{name}.bias": line for name in ("proj", "output_gate")},
        **{f"cross_attn.{name}.weight": wide for name in ("q_linear", "proj")},
        **{f"cross_attn.{name}.bias": line for name in ("q_linear", "proj")},
        "cross_attn.kv_linear.weight": (5120, 2560),
        "cross_attn.kv_linear.bias": (5120,),
        "cross_attn.q_norm.weight": line,
        "cross_attn.k_norm.weight": line,
        **{f"mlp.{name}_proj.weight": (10240, 2560) for name in ("gate", "up")},
        **{f"mlp.{name}_proj.bias": (10240,) for name in ("gate", "up")},
        "mlp.down_proj.weight": (2560, 10240),
        "mlp.down_proj.bias": line,
        "scale_shift_table": (6, 2560),
    }
    linear = {"attn.beta_proj.weight": (20, 2560), "attn.beta_proj.bias": (20,), "attn.o_norm.weight": (128,)}
    for number, own in ((0, shared | linear), (3, shared)):
        name = f"blocks.{number}."
        assert {key.removeprefix(name): shapes[key] for key in shapes if key.startswith(name)} == own


@pytest.mark.parametrize(
    "config",
    [
        SANA_VIDEO2_5B,
        SANA_VIDEO2_14B,
        replace(SANA_VIDEO2_5B, depth=6, softmax_share=0.5, mlp_ratio=3.0, head_dim=64, latent_channels=32),
        replace(SANA_VIDEO2_5B, depth=3, softmax_share=1 / 3),
    ],
)
def test_sizes_are_recognised_from_shapes(config):
    assert recognise_config(headers_of(config), where="the file") == config


def test_softmax_attention_in_other_places_is_refused():
    infos = headers_of(replace(SANA_VIDEO2_5B, depth=4))
    moved = {
        name.replace("blocks.3.", "blocks.9.")
        .replace("blocks.1.", "blocks.3.")
        .replace("blocks.9.", "blocks.1."): i
        for name, i in infos.items()
    }
    with pytest.raises(WeightsError, match="softmax attention in the blocks 1;"):
        recognise_config(moved, where="the file")


@pytest.mark.parametrize("config", [SANA_VIDEO2_5B, SANA_VIDEO2_14B, TINY, replace(TINY, depth=5, group=3)])
def test_a_config_is_read_as_it_was_written(config):
    written = json.loads(json.dumps(write_config(config)))
    assert written["_class_name"] == CLASS
    assert read_config(written, "config.json") == replace(config, max_positions=1024)


def test_absent_fields_are_those_of_the_5b_size():
    assert read_config({"_class_name": CLASS}, "config.json") == SANA_VIDEO2_5B


def test_fields_are_those_of_sglangs_class():
    theirs = {  # SanaVideo2ArchConfig of sglang 0.5.23, less what only its loader reads
        *("patch_size", "in_channels", "hidden_size", "depth", "num_heads", "linear_head_dim"),
        *("softmax_head_dim", "softmax_ratio", "mlp_ratio", "caption_channels", "qk_norm", "cross_norm"),
        *("y_norm", "norm_eps", "attn_res_block_size", "timestep_norm_scale_factor"),
    }
    assert {name for name in write_config(TINY) if name != "_class_name"} == theirs | {"sample_size"}


@torch.no_grad()
def test_a_folder_is_opened_by_its_class(model, tmp_path):
    folder = save_transformer(tmp_path / "transformer", model)
    single = folder / "diffusion_pytorch_model.safetensors"
    for path in (folder, single):
        opened = load_transformer(path, kind="clip")
        assert isinstance(opened, SanaVideo2)
        assert opened.config == replace(TINY, max_positions=1024)
        assert same(opened.state_dict(), model.state_dict())
    some = inputs(TINY)
    assert torch.equal(opened(**some), model(**some))


@pytest.mark.parametrize("nest", [None, "state_dict"])
def test_official_files_are_opened_with_prefix_and_leftovers(model, tmp_path, nest):
    saved = load_transformer(save_official(tmp_path / "a.pth", model), kind="clip")
    assert same(saved.state_dict(), model.state_dict())
    assert saved.config == TINY
    state = {
        **model.state_dict(),
        "pos_embed": torch.zeros(1, 225, 64),
        "y_embedder.y_embedding": torch.zeros(3, 12),
    }
    if nest is None:
        save_file(state, tmp_path / "b.safetensors")
        with pytest.raises(WeightsError, match="width 64; released sizes have 2560, 4096"):
            load_transformer(tmp_path / "b.safetensors")
        return
    torch.save({nest: state, "sanakit": asdict(TINY)}, tmp_path / "b.pth")
    assert same(load_transformer(tmp_path / "b.pth").state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("attn_res.final_proj.weight"), "lacks 1 of this model's"),
        (lambda state: state.pop("blocks.7.attn.output_gate.bias"), "lacks 1 of this model's"),
        (
            lambda state: state.update({"blocks.3.attn.o_norm.weight": torch.zeros(32)}),
            "1 tensors that this model does not have",
        ),
        (
            lambda state: state.update({"blocks.0.attn.o_norm.weight": torch.zeros(3)}),
            r"blocks.0.attn.o_norm.weight has shape \(3,\)",
        ),
    ],
)
def test_files_are_read_strictly(model, tmp_path, change, said):
    state = dict(model.state_dict())
    change(state)
    torch.save({"state_dict": state, "sanakit": asdict(TINY)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")
    folder = save_transformer(tmp_path / "t", model)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match=said):
        load_transformer(folder)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("patch_size", [1, 2, 2], "another architecture"),
        ("qk_norm", False, "another architecture"),
        ("timestep_norm_scale_factor", 1000.0, "another architecture"),
        ("softmax_ratio", 0, "a number from"),
        ("attn_res_block_size", 0, "a whole number from 1"),
        ("softmax_head_dim", 24, "softmax_head_dim is 24"),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field(model, tmp_path, field, value, said):
    folder = save_transformer(tmp_path / "t", model)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=said):
        load_transformer(folder)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((64, 8, 1, 2, 2), "patches of 1x2x2"), ((64, 8, 1, 1), r"x_embedder.proj.weight is \(64, 8, 1, 1\)")],
)
def test_tensors_of_an_unknown_size_are_refused(model, tmp_path, shape, said):
    state = {**model.state_dict(), "x_embedder.proj.weight": torch.zeros(shape)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")


def test_it_is_described_as_what_it_is(model, tmp_path):
    for path in (save_official(tmp_path / "a.pth", model), save_transformer(tmp_path / "t", model)):
        (part,) = describe(path).parts
        assert (part.kind, part.size, part.depth, part.width) == ("transformer", "unreleased size", 8, 64)
        assert (part.layout, part.missing, part.unexpected) == ("official", (), ())
        settings = load_settings(path)
        assert (settings.steps, settings.guidance, settings.flow_shift) == (50, 8.0, 12.0)
    names = [size_name(config) for config in (SANA_VIDEO2_5B, SANA_VIDEO2_14B)]
    assert names == ["SANA-Video 2.0 5B", "SANA-Video 2.0 14B"]


@torch.no_grad()
def test_big_weights_may_stay_in_their_file_in_16_bits(model, tmp_path):
    folder, some = save_transformer(tmp_path / "t", model, dtype="bfloat16"), inputs(TINY)
    wide, mapped = (load_transformer(folder, kind="clip", mapped=mapped) for mapped in (False, True))
    assert mapped.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert mapped.dtype == torch.float32
    assert apart(mapped(**some), wide(**some)) < 1e-6


def test_a_saved_config_is_checked():
    for config in (SANA_VIDEO2_5B, TINY):
        check_fields(asdict(config), SANA_VIDEO2, "the file")
    with pytest.raises(WeightsError, match="group"):
        check_fields({"group": 0}, SANA_VIDEO2, "the file")
