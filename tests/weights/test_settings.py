"""A model's defaults come from its own files first."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.models.sana import SANA_600M, SANA_1600M, Sana, SanaConfig
from sanakit.weights import load_configs, load_settings, load_text_encoder, save_diffusers, save_official
from sanakit.weights import settings as settings_module
from sanakit.weights.find.resolve import resolve
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.save import kept_settings
from sanakit.weights.settings import ModelSettings


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_our_folder_states_its_own_defaults(tiny):
    assert load_settings(tiny.folder) == ModelSettings(
        name="tiny",
        steps=7,
        guidance=2.0,
        width=64,
        height=32,
        solver="euler",
        flow_shift=2.5,
        precision="any",
    )


@pytest.mark.parametrize("odd", ["a\0b", "\udce9"])
@pytest.mark.parametrize(
    "field",
    [
        lambda odd: {"name": odd},
        lambda odd: {"licence": odd},
        lambda odd: {"styles": {odd: "ink"}},
        lambda odd: {"styles": {"Ink": odd}},
        lambda odd: {"example_prompts": ["a fox", odd]},
    ],
)
def test_text_that_no_image_can_hold_is_refused(tiny, field, odd):
    change(tiny.folder / "sanakit.json", **field(odd))
    with pytest.raises(WeightsError, match=r"sanakit\.json says \w+ = .*; it must be"):
        load_settings(tiny.folder)


def test_a_folder_of_diffusers_gives_size_shift_solver_and_rule(tiny):
    (tiny.folder / "sanakit.json").unlink()
    weights = tiny.folder / "transformer/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    settings = load_settings(tiny.folder)
    assert (settings.width, settings.height) == (64, 64)  # sample_size 2
    assert (settings.steps, settings.guidance, settings.solver, settings.flow_shift) == (20, 4.5, "dpm", 2.5)
    assert settings.precision == "float16"  # stored so, and nobody says otherwise
    change(
        tiny.folder / "scheduler/scheduler_config.json",
        _class_name="FlowMatchEulerDiscreteScheduler",
        flow_shift=6,
    )
    assert load_settings(tiny.folder).solver == "euler"
    assert load_settings(tiny.folder).flow_shift == 6.0


def test_a_published_folder_keeps_its_catalog_rule_under_its_published_name(tiny):
    (tiny.folder / "sanakit.json").unlink()
    (tiny.folder / "transformer/config.json").write_text(json.dumps(write_sana_config(SANA_1600M)))
    folder = tiny.folder.rename(tiny.folder.parent / "Sana_1600M_1024px_BF16_diffusers")
    settings = load_settings(folder)
    assert (settings.name, settings.precision, settings.width) == ("sana-1.6b-1024-bf16", "bfloat16", 1024)
    assert settings.flow_shift == 2.5  # the folder's scheduler knows better


def test_a_pth_gives_its_size_and_stored_dtype(tiny, tmp_path):
    save_official(tmp_path / "mine.pth", tiny.transformer)
    assert load_settings(tmp_path / "mine.pth") == ModelSettings(name="mine.pth", width=64, height=64)
    save_official(tmp_path / "half.pth", tiny.transformer, dtype=torch.bfloat16)
    assert load_settings(tmp_path / "half.pth").precision == "bfloat16"


@pytest.mark.parametrize(
    "defaults",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": True},
        {"guidance": "4.5"},
        {"width": -64},
        {"solver": 3},
        {"flow_shift": None},
        {"steps": float("inf")},
        {"guidance": float("inf")},
        {"guidance": float("nan")},
        {"flow_shift": 10**400},
        {"native_flow_shift": "4"},
        {"dialect": "Native"},
        {"dialect": True},
        [],
    ],
)
def test_a_wrong_default_is_refused(tiny, defaults):
    change(tiny.folder / "sanakit.json", defaults=defaults)
    with pytest.raises(WeightsError, match=r"sanakit\.json"):
        load_settings(tiny.folder)


def test_a_default_of_no_known_name_is_told_and_the_others_hold(tiny):
    """A folder of a newer version still opens; a misspelt key is not passed over in silence."""
    assert load_settings(tiny.folder).notes == ()
    change(tiny.folder / "sanakit.json", defaults={"stesp": 3, "guidance": 2.0, "frames": 9})
    settings = load_settings(tiny.folder)
    assert (settings.steps, settings.guidance) == (20, 2.0)
    (note,) = settings.notes
    assert "sets stesp, frames, which no default is called: not used. Did you mean steps?" in note


def test_a_wrong_precision_rule_is_refused(tiny):
    change(tiny.folder / "sanakit.json", precision="float8")
    with pytest.raises(WeightsError, match="precision = 'float8'; it must be any"):
        load_settings(tiny.folder)


def test_the_official_file_of_a_sprint_model_tells_its_sampler(tmp_path):
    config = SanaConfig(
        depth=1, width=32, cross_heads=2, qk_norm=True, guidance_embed=True, time_scale=1.0, sample_size=32
    )
    settings = load_settings(save_official(tmp_path / "Sana_Sprint_mine.pth", Sana(config)))
    assert (settings.solver, settings.steps, settings.guidance, settings.width) == ("scm", 2, 4.5, 1024)


@pytest.mark.parametrize(("latents", "shift"), [(64, 3.0), (128, 6.0)])
def test_the_official_file_of_a_4k_model_tells_its_shift(tmp_path, latents, shift):
    config = SanaConfig(
        depth=1, width=32, cross_heads=2, position_interpolation=latents / 64, sample_size=latents
    )
    settings = load_settings(save_official(tmp_path / "mine.pth", Sana(config)))
    assert (settings.width, settings.height, settings.flow_shift) == (32 * latents, 32 * latents, shift)


def test_a_folder_says_how_it_is_guided(tiny):
    assert "guidance_kind" not in kept_settings(load_settings(tiny.folder))["defaults"]
    change(tiny.folder / "sanakit.json", defaults={"guidance_kind": "interval=0.5-1"})
    assert load_settings(tiny.folder).guidance_kind == "interval=0.5-1"
    assert kept_settings(load_settings(tiny.folder))["defaults"]["guidance_kind"] == "interval=0.5-1"
    change(tiny.folder / "sanakit.json", defaults={"guidance_kind": "most"})
    with pytest.raises(WeightsError, match=r"sanakit\.json: guidance_kind = 'most': .* wrong value"):
        load_settings(tiny.folder)


def test_a_folder_says_its_dialect_and_text_is_read_in_it(tiny):
    assert load_settings(tiny.folder).dialect == load_text_encoder(tiny.folder).dialect == "diffusers"
    change(tiny.folder / "sanakit.json", defaults={"dialect": "native", "native_flow_shift": 4})
    settings = load_settings(tiny.folder)
    assert (settings.dialect, settings.shift, settings.flow_shift) == ("native", 4.0, 2.5)
    encoder = load_text_encoder(tiny.folder)
    assert encoder.dialect == "native"
    assert encoder.instructed == encoder.windows["native"][0]
    change(tiny.folder / "sanakit.json", defaults={"dialect": "Native"})
    with pytest.raises(WeightsError, match=r"dialect = 'Native'; it must be diffusers \| native"):
        load_text_encoder(tiny.folder)


def test_a_saved_folder_keeps_its_models_dialect(tiny, tmp_path):
    parts = {name: getattr(tiny, name) for name in ("transformer", "autoencoder", "text_encoder")}
    for dialect in ("diffusers", "native"):
        settings = replace(load_settings(tiny.folder), dialect=dialect)
        folder = save_diffusers(tmp_path / dialect, **parts, **kept_settings(settings))
        assert load_settings(folder) == settings
        told = json.loads((folder / "sanakit.json").read_text())["defaults"].get("dialect")
        assert told == (None if dialect == "diffusers" else dialect)


def test_the_scripts_shift_belongs_to_the_06b_model_at_1024_px_and_yields_to_a_folder(monkeypatch, tiny):
    (tiny.folder / "sanakit.json").unlink()
    scheduler, opened = tiny.folder / "scheduler" / "scheduler_config.json", settings_module.open_transformer
    shifts = []
    for config in (SANA_600M, replace(SANA_600M, sample_size=16), replace(SANA_600M, depth=27)):
        monkeypatch.setattr(
            settings_module, "open_transformer", lambda source, own=config: (*opened(source)[:2], own)
        )
        for shift in (3.0, 5.0):
            change(scheduler, flow_shift=shift)
            settings = load_settings(tiny.folder)
            shifts.append((settings.shift, replace(settings, dialect="native").shift))
    assert shifts == [(3.0, 4.0), (5.0, 5.0), (3.0, 3.0), (5.0, 5.0), (3.0, 3.0), (5.0, 5.0)]


@pytest.mark.parametrize("shift", ["three", float("inf"), 0, True])
def test_a_shift_that_is_no_positive_number_is_refused(tiny, shift):
    path = tiny.folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "flow_shift": shift}))
    with pytest.raises(WeightsError, match="flow_shift"):
        load_settings(tiny.folder)


def test_the_sizes_of_a_folder_are_those_of_its_models(tiny):
    assert load_configs(tiny.folder) == (tiny.transformer.config, tiny.autoencoder.config)


def test_sizes_are_known_without_reading_a_weight(tiny):
    for part in ("transformer", "vae"):
        (path,) = (tiny.folder / part).glob("*.safetensors")
        data = bytearray(path.read_bytes())
        begin = 8 + int.from_bytes(data[:8], "little")
        data[begin:] = b"\xff" * (len(data) - begin)  # NaN, all of it
        path.write_bytes(data)
    assert load_configs(tiny.folder) == (tiny.transformer.config, tiny.autoencoder.config)


def test_a_file_of_one_part_takes_the_autoencoder_of_its_release(tiny, tmp_path, monkeypatch):
    save_official(tmp_path / "mine.pth", tiny.transformer)
    asked = []

    def partner(source, parts):
        asked.append((source.path.name, parts))
        return resolve(tiny.folder, parts)

    monkeypatch.setattr("sanakit.weights.settings.partner", partner)
    transformer, autoencoder = load_configs(tmp_path / "mine.pth")
    assert (transformer.depth, transformer.width) == (tiny.transformer.config.depth, 64)
    assert autoencoder == tiny.autoencoder.config
    assert asked == [("mine.pth", ("vae",))]


def test_sizes_of_what_is_no_model_are_refused(tiny, tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_configs(tmp_path / "nowhere")
    (tiny.folder / "vae" / "config.json").write_text("{}")
    with pytest.raises(WeightsError):
        load_configs(tiny.folder)


def test_a_folder_offers_styles_prompts_and_sizes(tiny):
    change(tiny.folder / "sanakit.json", styles={"Ink": "ink"}, example_prompts=["a fox"], sizes=[[64, 32]])
    settings = load_settings(tiny.folder)
    assert settings.styles == {"Ink": "ink"}
    assert settings.example_prompts == ("a fox",)
    assert settings.sizes == ((64, 32),)


def test_a_folder_offers_embedded_controlnets_which_a_saved_model_keeps(tiny):
    change(tiny.folder / "sanakit.json", control_models=["pocket-lines"])
    settings = load_settings(tiny.folder)
    assert settings.control_models == ("pocket-lines",)
    assert kept_settings(settings)["control_models"] == ("pocket-lines",)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("styles", ["ink"]),
        ("styles", {"Ink": 1}),
        ("example_prompts", "a fox"),
        ("sizes", [[64, 0]]),
        ("sizes", [64]),
        ("control_models", "pocket-lines"),
        ("control_models", [["pocket-lines"]]),
        ("control_models", ["../../elsewhere"]),
        ("control_models", ["some-one/on-the-hub"]),
    ],
)
def test_what_a_folder_offers_is_checked(tiny, key, value):
    change(tiny.folder / "sanakit.json", **{key: value})
    with pytest.raises(WeightsError, match=f"says {key} = "):
        load_settings(tiny.folder)
