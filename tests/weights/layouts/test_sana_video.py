"""SANA-Video's weights: published names and shapes, bit for bit there and back, read strictly."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from sanakit.errors import WeightsError
from sanakit.models.sana import Sana
from sanakit.models.video.sana_video import (
    LONG_SANA_2B_480P,
    SANA_VIDEO_2B_480P,
    SANA_VIDEO_2B_720P,
    SANA_VIDEO_600M,
    SanaVideo,
)
from sanakit.weights import (
    describe,
    load_settings,
    load_transformer,
    save_official,
    save_transformer,
)
from sanakit.weights.layouts.fields import SANA_VIDEO, check_fields
from sanakit.weights.layouts.sana_video import (
    CAUSAL,
    CLASS,
    diffusers_names,
    read_config,
    recognise_config,
    size_name,
    write_config,
)
from tests.models.video.clips import TINY, apart, inputs, prepared, published, randomised, run_published
from tests.weights.layouts.tensors import headers, same

SIZES = {
    "480p": SANA_VIDEO_2B_480P,
    "720p": SANA_VIDEO_2B_720P,
    "LongSANA": LONG_SANA_2B_480P,
    "600M": SANA_VIDEO_600M,
}
PUBLISHED = {"SANA-Video 2B 480p", "SANA-Video 2B 720p", "LongSANA 2B 480p"}


def on_meta(config) -> SanaVideo:
    with torch.device("meta"):
        return SanaVideo(config)


@pytest.fixture
def model() -> SanaVideo:
    return randomised(TINY).eval()


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_of_released_sizes_are_those_of_diffusers(name):
    config = SIZES[name]
    with torch.device("meta"):
        theirs = SanaVideoTransformer3DModel.from_config(write_config(config)).state_dict()
    renamed = {}
    for ours, tensor in on_meta(config).state_dict().items():
        names = diffusers_names(ours)
        renamed |= zip(names, tensor.chunk(len(names)), strict=True)
    assert {name: tensor.shape for name, tensor in renamed.items()} == {
        name: tensor.shape for name, tensor in theirs.items()
    }


def test_names_and_shapes_of_the_official_file_are_the_published_ones():
    state = headers(on_meta(SANA_VIDEO_2B_480P).state_dict())
    assert state["x_embedder.proj.weight"].shape == (2240, 16, 1, 2, 2)
    assert state["final_layer.linear.weight"].shape == (64, 2240)
    block = {name: info.shape for name, info in state.items() if name.startswith("blocks.19.")}
    assert block == {
        f"blocks.19.{name}": shape
        for name, shape in {
            "scale_shift_table": (6, 2240),
            "attn.qkv.weight": (6720, 2240),
            "attn.q_norm.weight": (2240,),
            "attn.k_norm.weight": (2240,),
            "attn.proj.weight": (2240, 2240),
            "attn.proj.bias": (2240,),
            "cross_attn.q_linear.weight": (2240, 2240),
            "cross_attn.q_linear.bias": (2240,),
            "cross_attn.kv_linear.weight": (4480, 2240),
            "cross_attn.kv_linear.bias": (4480,),
            "cross_attn.q_norm.weight": (2240,),
            "cross_attn.k_norm.weight": (2240,),
            "cross_attn.proj.weight": (2240, 2240),
            "cross_attn.proj.bias": (2240,),
            "mlp.inverted_conv.conv.weight": (13440, 2240, 1, 1),
            "mlp.inverted_conv.conv.bias": (13440,),
            "mlp.depth_conv.conv.weight": (13440, 1, 3, 3),
            "mlp.depth_conv.conv.bias": (13440,),
            "mlp.point_conv.conv.weight": (2240, 6720, 1, 1),
            "mlp.t_conv.weight": (2240, 2240, 3, 1),
        }.items()
    }


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_sizes_are_recognised_from_shapes_in_both_layouts(name, layout):
    config, state = SIZES[name], on_meta(SIZES[name]).state_dict()
    if layout == "diffusers":
        names = {ours: diffusers_names(ours) for ours in state}
        parts = (
            zip(names[ours], tensor.chunk(len(names[ours])), strict=True) for ours, tensor in state.items()
        )
        state = {theirs: tensor for pairs in parts for theirs, tensor in pairs}
    file = "SANA_Video_2B_480p_LongLive.pth" if config.causal else "SANA_Video_2B.pth"
    assert recognise_config(headers(state), layout=layout, metadata={}, name=file, where="the file") == config
    nested = recognise_config(
        headers(state), layout=layout, metadata={"generator": {}}, name="model.pt", where="the file"
    )
    assert nested == replace(config, causal=True)


def test_released_sizes_have_their_published_names():
    assert {size_name(config) for config in SIZES.values()} == PUBLISHED | {"unreleased size"}


@pytest.mark.parametrize("config", [*SIZES.values(), TINY, replace(TINY, qk_norm=False, causal=True)])
def test_a_config_is_read_as_it_was_written(config):
    written = json.loads(json.dumps(write_config(config)))
    assert read_config(written, "config.json") == config
    assert written["_class_name"] == (CAUSAL if config.causal else CLASS)


def test_absent_fields_have_the_defaults_of_diffusers_class():
    ours = read_config({"_class_name": CLASS}, "config.json")
    model = SanaVideoTransformer3DModel.from_config({"num_layers": 1, "caption_channels": 8})
    theirs = json.loads(model.to_json_string())
    assert read_config(theirs, "config.json") == replace(ours, depth=1, text_width=8)
    assert ours == replace(SANA_VIDEO_2B_480P, mlp_ratio=2.5)


@torch.no_grad()
def test_a_folder_is_opened_by_its_class_and_diffusers_opens_it_too(model, tmp_path):
    folder = save_transformer(tmp_path / "transformer", model)
    opened, given = load_transformer(folder), inputs(TINY)
    assert isinstance(opened, SanaVideo)
    assert opened.config == TINY
    assert same(opened.state_dict(), model.state_dict())
    theirs, told = SanaVideoTransformer3DModel.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert apart(opened(**given), run_published(theirs, **given)) < 2e-5
    theirs.save_pretrained(tmp_path / "theirs")
    assert same(load_transformer(tmp_path / "theirs").state_dict(), model.state_dict())


def test_the_folder_of_a_whole_pipeline_is_opened(model, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SanaVideoPipeline"}))
    save_transformer(tmp_path / "transformer", model)
    with warnings.catch_warnings(action="error"):
        assert same(load_transformer(tmp_path, kind="clip").state_dict(), model.state_dict())


def test_a_folder_of_long_sana_keeps_its_class(tmp_path):
    model = randomised(replace(TINY, causal=True))
    folder = save_transformer(tmp_path / "t", model)
    assert json.loads((folder / "config.json").read_text())["_class_name"] == CAUSAL
    assert load_transformer(folder).config == model.config


def test_an_official_file_is_read_bit_for_bit(model, tmp_path):
    path = save_official(tmp_path / "SANA_Video.pth", model)
    assert list(torch.load(path, weights_only=True)["state_dict"]) == list(model.state_dict())
    assert same(load_transformer(path).state_dict(), model.state_dict())
    assert load_transformer(path).config == TINY


@pytest.mark.parametrize("nesting", ["generator", "generator.state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_files_of_long_sanas_trainer_are_read(nesting, prefix, tmp_path):
    config = replace(SANA_VIDEO_600M, depth=1, width=1152, mlp_ratio=1 / 32, text_width=8)
    model = randomised(config)
    content = {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()}
    content[f"{prefix}y_embedder.y_embedding"] = torch.zeros(3, 8)
    for key in reversed(nesting.split(".")):
        content = {key: content}
    if "generator" in nesting:
        content |= {"critic": {"weight": torch.zeros(1)}, "step": 5}
    torch.save(content, tmp_path / "LongSANA_2B_480p_self_forcing.pt")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        opened = load_transformer(tmp_path / "LongSANA_2B_480p_self_forcing.pt")
    assert opened.config == replace(config, causal=True)
    assert same(opened.state_dict(), model.state_dict())
    texts = " ".join(str(one.message) for one in told)
    assert ("critic, step beside its generator" in texts) == ("generator" in nesting)
    assert ("begin with 'model.'" in texts) == bool(prefix)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("blocks.1.mlp.t_conv.weight"), r"lacks 1 of .*blocks\.1\.mlp\.t_conv"),
        (lambda state: state.pop("blocks.0.mlp.t_conv.weight"), r"lacks 1 of .*blocks\.0\.mlp\.t_conv"),
        (lambda state: state.pop("x_embedder.proj.bias"), r"lacks 1 of .*x_embedder\.proj\.bias"),
        (lambda state: state.update(extra=torch.zeros(2)), r"holds 1 tensors .*extra"),
        (
            lambda state: state.update({"blocks.0.attn.proj.weight": torch.zeros(24, 23)}),
            r"blocks\.0\.attn\.proj\.weight has shape \(24, 23\)",
        ),
        (
            lambda state: state.update({"final_layer.linear.weight": torch.zeros(4, 24)}),
            r"final_layer\.linear\.weight has shape \(4, 24\)",
        ),
        (
            lambda state: state.update({"blocks.0.mlp.t_conv.weight": torch.zeros(24, 24, 5, 1)}),
            r"t_conv\.weight has shape \(24, 24, 5, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(model, tmp_path, change, said):
    path = save_official(tmp_path / "a.pth", model)
    content = torch.load(path, weights_only=True)
    change(content["state_dict"])
    torch.save(content, path)
    with pytest.raises(WeightsError, match=said):
        load_transformer(path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("patch_size", [2, 2, 2], r"patch_size = \[2, 2, 2\]"),
        ("patch_size", [1, 2, 1], r"patch_size = \[1, 2, 1\]"),
        ("patch_size", 2, "must be a list of 3"),
        ("guidance_embeds", True, "guidance_embeds = True; it must be False"),
        ("rope_max_seq_len", 0, "rope_max_seq_len"),
        ("attention_bias", True, "attention_bias"),
        ("out_channels", 5, "out_channels"),
        ("cross_attention_dim", None, "cross_attention_dim"),
        ("qk_norm", "layer_norm", "qk_norm"),
        ("attention_head_dim", 3, "cross_attention_head_dim"),
    ],
)
def test_a_config_of_another_architecture_is_refused_by_field(model, tmp_path, field, value, said):
    folder = save_transformer(tmp_path / "t", model)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=said):
        load_transformer(folder)


def test_heads_that_three_axes_do_not_share_are_refused(model, tmp_path):
    folder = save_transformer(tmp_path / "t", model)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 8, "attention_head_dim": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="head_dim is 3"):
        load_transformer(folder)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((24, 4, 1, 2, 2), "width 24; known sizes have 1152, 2240, 2560"),
        ((2240, 4, 2, 2, 2), "patches of 2x2x2"),
        ((2240, 4, 1, 1), r"x_embedder.proj.weight is \(2240, 4, 1, 1\)"),
    ],
)
def test_tensors_of_an_unknown_size_are_refused(model, tmp_path, shape, said):
    state = dict(model.state_dict()) | {"x_embedder.proj.weight": torch.zeros(shape)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=said):
        load_transformer(tmp_path / "a.pth")


def test_a_pickle_that_would_run_code_is_not_opened(model, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    torch.save({"generator": model.state_dict(), "config": Trap()}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_transformer(tmp_path / "model.pt")
    assert not (tmp_path / "run").exists()


def test_images_and_clips_are_told_apart(model, tmp_path, tiny):
    path = save_official(tmp_path / "SANA_Video.pth", model)
    assert isinstance(load_transformer(tiny.folder, kind="image"), Sana)
    with pytest.raises(WeightsError, match="is a transformer of clips, not of images"):
        load_transformer(path, kind="image")
    with pytest.raises(WeightsError, match="is a transformer of images, not of clips"):
        load_transformer(tiny.folder, kind="clip")


def test_a_video_model_is_described_as_what_it_is(model, tmp_path):
    for path in (save_official(tmp_path / "a.pth", model), save_transformer(tmp_path / "t", model)):
        told = describe(path)
        (part,) = told.parts
        assert (part.kind, part.size, part.depth, part.width) == ("transformer", "unreleased size", 2, 24)
        assert not part.missing
        assert not part.unexpected
        assert (told.settings, told.resolution) == (None, 0)
        assert load_settings(path).precision == "any"


@torch.no_grad()
def test_big_weights_may_stay_in_their_file_in_16_bits(model, tmp_path):
    folder, given = save_transformer(tmp_path / "t", model, dtype="bfloat16"), inputs(TINY)
    wide, mapped = load_transformer(folder, kind="clip"), load_transformer(folder, kind="clip", mapped=True)
    assert mapped.blocks[0].mlp.t_conv.weight.dtype == torch.bfloat16
    assert mapped.dtype == torch.float32
    outs = [net.velocity(given["latents"], 0.5, prepared(net, given)) for net in (wide, mapped)]
    assert apart(*outs) < 1e-6


def test_a_saved_config_is_checked():
    for config in SIZES.values():
        check_fields(asdict(config), SANA_VIDEO, "the file")
    with pytest.raises(WeightsError, match="causal"):
        check_fields({"causal": 1}, SANA_VIDEO, "the file")


@pytest.mark.slow
@torch.no_grad()
def test_the_released_size_is_read_strictly_from_either_layout(tmp_path):
    model = on_meta(SANA_VIDEO_2B_480P).bfloat16().to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.uniform_(-0.1, 0.1)
    official = save_official(tmp_path / "SANA_Video_2B_480p.pth", model)
    content = torch.load(official, weights_only=True, mmap=True)
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "plain.pth")  # as published: no config
    folder = save_transformer(tmp_path / "transformer", model, dtype="bfloat16")
    for path in (tmp_path / "plain.pth", folder):
        opened = load_transformer(path, dtype="bfloat16")
        assert opened.config == SANA_VIDEO_2B_480P
        assert same(opened.state_dict(), model.state_dict())
        assert size_name(opened.config) == describe(path).parts[0].size == "SANA-Video 2B 480p"


def test_published_and_ours_have_the_same_weights(model):
    assert sum(p.numel() for p in published(model).parameters()) == sum(p.numel() for p in model.parameters())
