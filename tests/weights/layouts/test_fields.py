"""Every field of a config.json that a model is built of is refused by name when it cannot be meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

import pytest

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.clip import ClipConfig
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE
from sanakit.models.gemma2 import GEMMA2_2B
from sanakit.models.sana import SANA_1600M_4K, SANA_SPRINT_600M
from sanakit.text.clip import Preprocessing
from sanakit.weights import describe, load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.clip import clip_folder
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.layouts.fields import (
    AUTOENCODER,
    TEXT,
    TRANSFORMER,
    check_clip,
    check_clip_images,
    check_fields,
    check_rope,
)

# Of every type of JSON, for a place where another one belongs.
OTHER_TYPES = (None, True, -1, 0, 1.5, 2**63, float("nan"), "", "x", [], [[]], [None], {}, {"x": 1})
PYTHON = re.compile(
    "NoneType|subscriptable|iterable|unhashable|operand|attribute|argument|indices|not callable"
)
LOADERS = {"transformer": load_transformer, "vae": load_autoencoder, "text_encoder": load_text_encoder}
DEEP = [[[[[[[[[[]]]]]]]]]]
WRONG = [
    ("text_encoder", "head_dim", "x"),
    ("text_encoder", "head_dim", None),
    ("text_encoder", "head_dim", 12.0),
    ("text_encoder", "num_attention_heads", 0),
    ("text_encoder", "num_key_value_heads", True),
    ("text_encoder", "num_hidden_layers", 10**6),
    ("text_encoder", "vocab_size", 2**63),
    ("text_encoder", "hidden_size", [48]),
    ("text_encoder", "rms_norm_eps", 2**63),
    ("text_encoder", "rms_norm_eps", 0),
    ("text_encoder", "rms_norm_eps", float("nan")),
    ("text_encoder", "query_pre_attn_scalar", -12),
    ("text_encoder", "attn_logit_softcapping", "50"),
    ("text_encoder", "sliding_window", None),
    ("text_encoder", "layer_types", []),
    ("text_encoder", "layer_types", ["sliding_attention", "chunked_attention"]),
    ("text_encoder", "layer_types", "sliding_attention"),
    ("text_encoder", "rope_theta", float("inf")),
    ("text_encoder", "rope_scaling", {"type": "linear", "factor": 2.0}),
    ("text_encoder", "rope_parameters", 5),
    ("text_encoder", "rope_parameters", {"rope_type": "linear", "factor": 2.0}),
    ("text_encoder", "rope_parameters", {"rope_theta": "x"}),
    ("transformer", "num_layers", "2"),
    ("transformer", "num_layers", 10**9),
    ("transformer", "num_attention_heads", "x"),
    ("transformer", "attention_head_dim", 0),
    ("transformer", "cross_attention_head_dim", None),
    ("transformer", "caption_channels", 48.5),
    ("transformer", "mlp_ratio", 1e300),
    ("transformer", "mlp_ratio", float("nan")),
    ("transformer", "guidance_embeds", "no"),
    ("transformer", "guidance_embeds", 0),
    ("transformer", "guidance_embeds_scale", 0),
    ("transformer", "timestep_scale", float("inf")),
    ("transformer", "timestep_scale", -1.0),
    ("transformer", "interpolation_scale", "1.0"),
    ("transformer", "interpolation_scale", 0),
    ("transformer", "sample_size", 2**40),
    ("transformer", "sample_size", DEEP),
    ("vae", "scaling_factor", 1e308),
    ("vae", "scaling_factor", 0),
    ("vae", "scaling_factor", "0.5"),
    ("vae", "latent_channels", 8.0),
    ("vae", "attention_head_dim", False),
    ("vae", "encoder_block_types", []),
    ("vae", "decoder_block_types", ["ResBlock", "UNetBlock", "ResBlock"]),
    ("vae", "decoder_block_types", "UNetBlock"),
    ("vae", "encoder_block_out_channels", []),
    ("vae", "decoder_block_out_channels", [8, "16", 32]),
    ("vae", "encoder_layers_per_block", [1, 1, -1]),
    ("vae", "encoder_layers_per_block", [1, 1, 10**7]),
    ("vae", "decoder_qkv_multiscales", [5, 5, 5]),
    ("vae", "downsample_block_type", "Pixel_unshuffle"),
    ("vae", "upsample_block_type", 5),
    ("vae", "encoder_out_shortcut", 1),
    ("vae", "decoder_act_fns", 7),
    ("vae", "encoder_norm_types", {"rms_norm": 1}),
    ("vae", "decoder_conv_act_fn", ["relu"]),
    ("transformer", "patch_size", True),
    ("transformer", "attention_bias", 0),
    ("transformer", "norm_eps", "1e-6"),
    ("text_encoder", "attention_bias", 0),
    ("text_encoder", "final_logit_softcapping", "30"),
]


@pytest.mark.parametrize(("part", "name", "value"), WRONG)
def test_a_value_that_cannot_be_meant_is_refused_by_name(tiny, part, name, value):
    path = tiny.folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    for read in (LOADERS[part], describe):
        with pytest.raises(WeightsError) as caught:
            read(tiny.folder)
        message = str(caught.value)
        assert re.search(rf"config\.json.*{name}", message), message
        assert "it must be" in message
        assert len(message) < 700


@pytest.mark.parametrize("name", ["norm_types", "act_fns"])
@pytest.mark.parametrize("value", [5, [], [["a"]], "none", [None, None, None]])
def test_unknown_norms_and_activations_are_a_sentence(tiny, name, value):
    path = tiny.folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {f"decoder_{name}": value}))
    with pytest.raises(WeightsError, match=rf"config\.json says decoder_{name} = .*; it must be"):
        load_autoencoder(tiny.folder)


@pytest.mark.parametrize("name", ["block_types", "layers_per_block", "qkv_multiscales", "norm_types"])
def test_lists_of_different_lengths_are_a_sentence(tiny, name):
    path = tiny.folder / "vae" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {f"decoder_{name}": config[f"decoder_{name}"][:-1]}))
    with pytest.raises(
        WeightsError, match=r"config\.json describes .*DC-AE whose lists .* different lengths"
    ):
        load_autoencoder(tiny.folder)


def refusal(*steps: Callable[[], object]) -> str:
    """The message with which one of the steps ends, or nothing; another exception fails the test."""
    try:
        for step in steps:
            step()
    except (WeightsError, SettingsError) as error:
        return str(error)
    return ""


@pytest.mark.thorough
@pytest.mark.parametrize("part", LOADERS)
def test_no_field_of_a_wrong_type_quotes_python(tiny, part):
    path = tiny.folder / part / "config.json"
    config = json.loads(path.read_text())
    for name in config:
        for value in OTHER_TYPES:
            path.write_text(json.dumps(config | {name: value}))
            told = refusal(partial(LOADERS[part], tiny.folder))
            assert not PYTHON.search(told), (name, value, told)


def test_no_field_of_a_clip_of_a_wrong_type_quotes_python(tmp_path):
    checks = {
        "config.json": (check_clip, ClipConfig),
        "preprocessor_config.json": (check_clip_images, Preprocessing),
    }
    for name, (check, kind) in checks.items():
        content = json.loads((clip_folder("pocket-clip") / name).read_text())
        inner = [(group, key) for group, held in content.items() if isinstance(held, dict) for key in held]
        places = [(content, key) for key in content] + [(content[group], key) for group, key in inner]
        check(content, name)
        for group, key in places:
            before = group[key]
            for value in OTHER_TYPES:
                group[key] = value
                told = refusal(partial(check, content, name), partial(kind.from_transformers, content))
                assert not PYTHON.search(told), (key, value, told)
            group[key] = before


def test_a_name_that_is_there_twice_is_refused(tiny):
    path = tiny.folder / "transformer" / "config.json"
    path.write_text(path.read_text().replace("{", '{"num_layers": 1, "num_layers": 2, ', 1))
    with pytest.raises(WeightsError, match="'num_layers' twice"):
        load_transformer(tiny.folder)


@pytest.mark.parametrize("part", LOADERS)
@pytest.mark.parametrize("value", [5, [], {}, [5], {"a": 1}, None, [[]], [None]])
def test_a_class_that_is_not_a_name_is_a_sentence(tiny, part, value):
    path = tiny.folder / part / "config.json"
    config = json.loads(path.read_text())
    config.pop("_class_name", None)
    path.write_text(json.dumps(config | {"architectures": value}))
    with pytest.raises(WeightsError, match=f"{part} holds a"):
        LOADERS[part](tiny.folder)


def test_sizes_that_overflow_are_a_sentence(tiny):
    path = tiny.folder / "text_encoder" / "config.json"
    sizes = dict.fromkeys(("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"), 10**6)
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes | {"vocab_size": 10**6}))
    with pytest.raises(WeightsError):
        load_text_encoder(tiny.folder)


def test_published_configs_are_allowed():
    for config in (GEMMA2_2B,):
        check_fields(config.to_transformers(), TEXT, "config.json")
        check_rope(config.to_transformers(), "config.json")
    for config in (SANA_1600M_4K, SANA_SPRINT_600M):
        check_fields(write_sana_config(config), TRANSFORMER, "config.json")
    for config in (DC_AE_F32C32_SANA, DC_AE_LITE):
        check_fields(json.loads(json.dumps(config.to_diffusers())), AUTOENCODER, "config.json")


def test_what_the_libraries_write_is_allowed():
    from diffusers import AutoencoderDC, SanaTransformer2DModel
    from transformers import Gemma2Config

    config = Gemma2Config().to_dict()
    check_fields(config, TEXT, "config.json")
    check_rope(config, "config.json")
    sana = SanaTransformer2DModel(
        num_layers=1,
        sample_size=1,
        num_attention_heads=1,
        cross_attention_dim=32,
        num_cross_attention_heads=1,
        cross_attention_head_dim=32,
    )
    check_fields(json.loads(sana.to_json_string()), TRANSFORMER, "config.json")
    narrow = {f"{half}_block_out_channels": [8] * 6 for half in ("encoder", "decoder")}
    codec = AutoencoderDC(latent_channels=4, attention_head_dim=4, **narrow)
    check_fields(json.loads(codec.to_json_string()), AUTOENCODER, "config.json")
