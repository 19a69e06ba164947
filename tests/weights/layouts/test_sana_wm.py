"""SANA-WM's weights: published names and shapes, bit for bit there and back, read strictly."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaWMTransformer3DModel
from safetensors.torch import save_file

from sanakit.errors import WeightsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.config import (
    SANA_WM_1600M,
    SANA_WM_1600M_CHUNK_CAUSAL,
    SANA_WM_1600M_STREAMING,
    SanaWMConfig,
)
from sanakit.models.world.sana_wm import SanaWM
from sanakit.weights import describe, load_settings, load_transformer, save_official, save_transformer
from sanakit.weights.layouts.fields import SANA_WM, check_fields
from sanakit.weights.layouts.sana_wm import (
    CLASS,
    diffusers_name,
    read_config,
    recognise_config,
    size_name,
    write_config,
)
from tests.models.world.worlds import TINY, apart, inputs, published, randomised, run_published
from tests.weights.layouts.tensors import headers, same

FILES = {  # of the releases
    "sana_wm_1600m_720p.safetensors": SANA_WM_1600M,
    "sana_wm_chunk_causal_1600m_720p.safetensors": SANA_WM_1600M_CHUNK_CAUSAL,
    "sana_wm_streaming.pt": SANA_WM_1600M_STREAMING,
}
WHOLE = replace(TINY, rounded=True)


def on_meta(config: SanaWMConfig) -> SanaWM:
    with torch.device("meta"):
        return SanaWM(config)


@pytest.fixture
def model() -> SanaWM:
    return randomised(WHOLE)


def test_names_and_shapes_of_the_released_size_are_those_of_diffusers():
    with torch.device("meta"):
        theirs = SanaWMTransformer3DModel.from_config(write_config(SANA_WM_1600M)).state_dict()
    ours = {diffusers_name(name): t.shape for name, t in on_meta(SANA_WM_1600M).state_dict().items()}
    assert ours == {name: t.shape for name, t in theirs.items()}


def test_names_and_shapes_of_the_official_file_are_the_published_ones():
    state = {name: tuple(t.shape) for name, t in on_meta(SANA_WM_1600M).state_dict().items()}
    assert state["t_embedder.mlp.0.weight"] == (2240, 256)
    assert state["plucker_embedder.proj.weight"] == (2240, 48, 1, 1, 1)
    assert state["raymap_embedder.proj.weight"] == (2240, 3, 1, 1, 1)
    block = {name: shape for name, shape in state.items() if name.startswith("blocks.0.attn.")}
    wide, line, heads = (2240, 2240), (2240,), (20,)
    assert block == {
        f"blocks.0.attn.{name}": shape
        for name, shape in {
            "qkv.weight": (6720, 2240),
            "proj.weight": wide,
            "proj.bias": line,
            "q_norm.weight": line,
            "k_norm.weight": line,
            "beta_proj.weight": (20, 2240),
            "beta_proj.bias": heads,
            "gate_proj.weight": (20, 2240),
            "gate_proj.bias": heads,
            "A_log": heads,
            "dt_bias": heads,
            "recall_gate": (1,),
            "output_gate.weight": wide,
            "output_gate.bias": line,
            "conv_k.weight": (2240, 1, 4),
            "conv_k_cam.weight": (2240, 1, 4),
            "q_norm_cam.weight": line,
            "k_norm_cam.weight": line,
            **{
                f"{part}_proj_cam.{kind}": wide if kind == "weight" else line
                for part in ("q", "k", "v", "out")
                for kind in ("weight", "bias")
            },
        }.items()
    }
    assert "blocks.3.attn.conv_k.weight" not in state
    assert "blocks.3.attn.beta_proj.weight" in state


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_sizes_and_variants_are_recognised_from_shapes_and_names(name, layout):
    state = on_meta(FILES[name]).state_dict()
    if layout == "diffusers":
        state = {diffusers_name(ours): tensor for ours, tensor in state.items()}
    infos = headers(state)
    assert recognise_config(infos, metadata={}, name=name, where="the file") == FILES[name]
    nested = recognise_config(infos, metadata={"generator": {}}, name="model.pt", where="the file")
    assert nested == SANA_WM_1600M_STREAMING


def test_other_depths_are_recognised_from_shapes():
    config = replace(SANA_WM_1600M, depth=6, softmax_every=3, taps=2, plucker_blocks=2, mlp_ratio=2.5)
    infos = headers(on_meta(config).state_dict())
    assert recognise_config(infos, metadata={}, name="a", where="the file") == config
    flat = replace(SANA_WM_1600M, depth=2, softmax_every=0)
    assert recognise_config(headers(on_meta(flat).state_dict()), metadata={}, name="a", where="it") == flat


@pytest.mark.parametrize(
    "config",
    [
        *FILES.values(),
        TINY,
        replace(TINY, plucker_blocks=1, softmax_every=0, capped=False, variant="streaming", sink_chunks=2),
    ],
)
def test_a_config_is_read_as_it_was_written(config):
    written = json.loads(json.dumps(write_config(config)))
    assert written["_class_name"] == CLASS
    assert read_config(written, "config.json") == config
    assert ("sanakit" in written) == (config not in (SANA_WM_1600M,))


def test_absent_fields_have_the_defaults_of_diffusers_class():
    ours = read_config({"_class_name": CLASS}, "config.json")
    model = SanaWMTransformer3DModel.from_config(
        {
            "num_layers": 1,
            "caption_channels": 8,
            "hidden_size": 32,
            "linear_head_dim": 32,
            "num_attention_heads": 1,
        }
    )
    theirs = json.loads(model.to_json_string())
    assert ours == SANA_WM_1600M
    expected = replace(ours, depth=1, text_width=8, width=32, head_dim=32, cross_heads=1)
    assert read_config(theirs, "config.json") == expected


@torch.no_grad()
def test_a_folder_is_opened_by_its_class_and_diffusers_opens_it_too(model, tmp_path, monkeypatch):
    folder = save_transformer(tmp_path / "transformer", model)
    opened, given = load_transformer(folder), inputs(TINY)
    assert isinstance(opened, SanaWM)
    assert opened.config == WHOLE
    assert same(opened.state_dict(), model.state_dict())
    theirs, told = SanaWMTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)  # what rounding hides
    steering = {name: given.pop(name) for name in ("cameras", "plucker")}
    called = opened(given["latents"], given["t"], given["text"], given["mask"], **steering)
    assert apart(called, run_published(theirs, **given, **steering)) < 2e-5


@torch.no_grad()
def test_a_folder_of_diffusers_is_opened_by_its_class(model, tmp_path):
    theirs = published(model)
    theirs.save_pretrained(tmp_path / "SanaWM" / "transformer")
    index = {"_class_name": "SanaWMPipeline", "transformer": ["diffusers", CLASS]}
    (tmp_path / "SanaWM" / "model_index.json").write_text(json.dumps(index))
    single = tmp_path / "SanaWM" / "transformer" / "diffusion_pytorch_model.safetensors"
    for path in (tmp_path / "SanaWM", tmp_path / "SanaWM" / "transformer", single):
        opened = load_transformer(path, kind="world")
        assert opened.config == WHOLE
        assert same(opened.state_dict(), model.state_dict())


@pytest.mark.parametrize("nest", [None, "state_dict", "generator"])
def test_official_files_are_opened_with_prefix_nesting_and_leftovers(model, tmp_path, nest):
    saved = save_official(tmp_path / "sana_wm.pth", model)
    assert same(load_transformer(saved, kind="world").state_dict(), model.state_dict())
    assert load_transformer(saved, kind="world").config == WHOLE
    config = asdict(WHOLE)
    state = {
        **model.state_dict(),
        "pos_embed": torch.zeros(1, 4, 64),
        "y_embedder.y_embedding": torch.zeros(3, 16),
    }
    if nest == "generator":  # as a trainer writes it: critic beside it, all names behind a prefix
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    content = state if nest is None else {nest: state, "sanakit": config}
    if nest is None:
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(WeightsError, match="width 64; the released size has 2240"):
            load_transformer(tmp_path / "a.safetensors")
        return
    torch.save(content, tmp_path / "a.pth")
    with warnings.catch_warnings(action="ignore"):  # about the trainer's nesting
        opened = load_transformer(tmp_path / "a.pth", kind="world")
    assert same(opened.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.3.attn.beta_proj.bias"), "lacks 1 of this model's"),
        (
            lambda state: state.update({"blocks.0.attn.more": torch.zeros(1)}),
            "1 tensors that this model does not have",
        ),
        (
            lambda state: state.update({"blocks.0.attn.A_log": torch.zeros(3)}),
            r"blocks.0.attn.A_log has shape \(3,\)",
        ),
    ],
)
def test_files_are_read_strictly(model, tmp_path, change, said):
    state = dict(model.state_dict())
    change(state)
    torch.save({"state_dict": state, "sanakit": asdict(WHOLE)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("patch_size", [1, 2, 2], "another architecture"),
        ("cam_attn_compress", 2, "another architecture"),
        ("use_chunk_plucker_post_attn", False, "another architecture"),
        ("k_conv_only", False, "another architecture"),
        ("t_kernel_size", 5, "another architecture"),
        ("conv_kernel_size", 0, "a whole number from 1"),
        ("linear_head_dim", 20, "not a multiple"),
        ("sanakit", {"variant": "causal"}, "'bidirectional' or"),
        ("sanakit", {"depth": 3}, "has an unknown depth"),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field(model, tmp_path, field, value, said):
    folder = save_transformer(tmp_path / "t", model)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=said):
        load_transformer(folder)


def test_every_field_of_diffusers_class_is_read_fixed_or_known_to_do_nothing():
    known = {*write_config(SANA_WM_1600M), "init_cam_from_base", "fp32_attention", "mixed_precision"}
    fields = json.loads(published(randomised(TINY)).to_json_string())
    assert {name for name in fields if not name.startswith("_")} <= known


@pytest.mark.parametrize(
    ("shape", "said"),
    [((64, 8, 1, 2, 2), "patches of 1x2x2"), ((64, 8, 1, 1), r"x_embedder.proj.weight is \(64, 8, 1, 1\)")],
)
def test_tensors_of_an_unknown_size_are_refused(model, tmp_path, shape, said):
    torch.save(
        {"state_dict": {**model.state_dict(), "x_embedder.proj.weight": torch.zeros(shape)}},
        tmp_path / "a.pth",
    )
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")


def test_worlds_clips_and_images_are_told_apart(model, tmp_path, tiny):
    folder = save_transformer(tmp_path / "t", model)
    with pytest.raises(WeightsError, match="is a transformer of worlds, not of clips"):
        load_transformer(folder, kind="clip")
    with pytest.raises(WeightsError, match="is a transformer of images, not of worlds"):
        load_transformer(tiny.folder, kind="world")
    assert not isinstance(model, SanaVideo)


def test_a_world_model_is_described_as_what_it_is(model, tmp_path):
    for path in (save_official(tmp_path / "a.pth", model), save_transformer(tmp_path / "t", model)):
        told = describe(path)
        (part,) = told.parts
        assert (part.kind, part.size, part.depth, part.width) == ("transformer", "unreleased size", 4, 64)
        assert not part.missing
        assert not part.unexpected
        assert (told.settings, told.resolution) == (None, 0)
        assert load_settings(path).precision == "any"
    assert [size_name(config) for config in FILES.values()] == [
        "SANA-WM 1.6B 720p",
        "SANA-WM 1.6B 720p, in chunks",
        "SANA-WM 1.6B 720p, streaming",
    ]


@torch.no_grad()
def test_big_weights_may_stay_in_their_file_in_16_bits(model, tmp_path):
    model = randomised(TINY)
    folder, given = save_transformer(tmp_path / "t", model, dtype="bfloat16"), inputs(TINY)
    wide, mapped = (load_transformer(folder, kind="world", mapped=mapped) for mapped in (False, True))
    assert mapped.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert mapped.dtype == torch.float32
    assert apart(mapped(**given), wide(**given)) < 1e-6


def test_a_saved_config_is_checked():
    for config in (*FILES.values(), TINY):
        check_fields(asdict(config), SANA_WM, "the file")
    with pytest.raises(WeightsError, match="capped"):
        check_fields({"capped": 1}, SANA_WM, "the file")


@pytest.mark.slow
@torch.no_grad()
def test_the_released_size_is_read_strictly_from_either_layout(tmp_path: Path):
    model = on_meta(SANA_WM_1600M).bfloat16().to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.uniform_(-0.1, 0.1)
    save_file(
        {name: t.contiguous() for name, t in model.state_dict().items()},
        tmp_path / "sana_wm_1600m.safetensors",
    )
    folder = save_transformer(tmp_path / "transformer", model, dtype="bfloat16")
    for path in (tmp_path / "sana_wm_1600m.safetensors", folder):
        opened = load_transformer(path, dtype="bfloat16", kind="world")
        assert opened.config == SANA_WM_1600M
        assert same(opened.state_dict(), model.state_dict())
        assert describe(path).parts[0].size == "SANA-WM 1.6B 720p"
