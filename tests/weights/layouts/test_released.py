"""Tensors decide which release a transformer is; a name that contradicts them is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.errors import WeightsError
from sanakit.models.sana import (
    SANA_1_5_1600M,
    SANA_600M,
    SANA_1600M,
    SANA_1600M_2K,
    SANA_1600M_4K,
    SANA_SPRINT_1600M,
    Sana,
    SanaConfig,
)
from sanakit.weights import describe, load_settings, save_official
from sanakit.weights.find.catalog import CATALOG
from sanakit.weights.find.resolve import partner, resolve
from sanakit.weights.layouts.diffusers import write_sana_config
from sanakit.weights.layouts.parts import open_transformer
from sanakit.weights.layouts.released import ARCHITECTURES, examined

TEACHER_600M = replace(SANA_600M, qk_norm=True)


def blank(path: Path, config: SanaConfig, *, latents: int = 0, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the official file of a size, without memory for it. latents: side of its position table."""
    with torch.device("meta"):
        state = Sana(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    if latents:
        shapes["pos_embed"] = torch.Size((1, latents**2, config.width))
        shapes["y_embedder.y_embedding"] = torch.Size((300, config.text_width))
    if latents and config.guidance_embed:
        shapes |= {
            "logvar_linear.weight": torch.Size((1, config.width)),
            "logvar_linear.bias": torch.Size((1,)),
        }
    torch.save(
        {"state_dict": {name: torch.zeros(1, dtype=dtype).expand(shapes[name]) for name in shapes}}, path
    )
    return path


def config_of(path: Path) -> SanaConfig:
    return open_transformer(examined(resolve(path)))[2]


def test_architectures_are_those_of_the_catalog():
    known = {parameters: key for key, (parameters, _) in ARCHITECTURES.items()}
    assert {entry.parameters for entry in CATALOG.values() if entry.repo} == known.keys()
    for parameters, (depth, width, qk_norm, guidance_embed) in known.items():
        size = SANA_600M if width == SANA_600M.width else SANA_1600M
        config = replace(size, depth=depth, qk_norm=qk_norm, guidance_embed=guidance_embed)
        with torch.device("meta"):
            assert sum(tensor.numel() for tensor in Sana(config).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "latents", "config"),
    [
        ("Sana_1600M_2Kpx_BF16.pth", 0, SANA_1600M_2K),
        ("Sana_1600M_2Kpx_BF16_tuned.pth", 64, SANA_1600M_2K),
        ("Sana_1600M_512px.pth", 16, replace(SANA_1600M, sample_size=16)),
        ("mine.pth", 128, SANA_1600M_4K),
        ("mine.pth", 0, SANA_1600M),
    ],
)
def test_a_name_that_fits_is_believed_and_nothing_is_told(tmp_path, name, latents, config):
    path = blank(tmp_path / name, SANA_1600M, latents=latents)
    assert config_of(path) == config
    settings = load_settings(path)
    assert settings.notes == ()
    assert settings.width == settings.height == config.sample_size * 32
    assert settings.flow_shift == (6.0 if config == SANA_1600M_4K else 3.0)
    assert (settings.name == name) == name.startswith("mine")


def test_a_2k_model_under_the_name_of_a_1k_model_keeps_its_positions(tmp_path):
    path = blank(tmp_path / "Sana_1600M_1024px_BF16_my2k.pth", SANA_1600M, latents=64)
    assert config_of(path) == SANA_1600M_2K
    settings = load_settings(path)
    assert (settings.width, settings.height, settings.precision) == (2048, 2048, "bfloat16")
    [note] = settings.notes
    assert "named like sana-1.6b-1024-bf16, but holds a transformer for 2048 px" in note
    assert describe(path).notes == (note,)
    assert describe(path).release == ""


def test_a_size_under_the_name_of_another_keeps_its_size_and_dtype(tmp_path):
    path = blank(tmp_path / "Sana_600M_512px_tuned.pth", SANA_1600M, dtype=torch.bfloat16)
    assert config_of(path) == SANA_1600M
    settings = load_settings(path)
    assert (settings.name, settings.width, settings.precision) == (path.name, 1024, "bfloat16")
    assert "named like sana-0.6b-512, but holds 20 blocks of width 2240 (Sana 1.6B)" in settings.notes[0]


@pytest.mark.parametrize(
    ("name", "config", "solver"),
    [
        ("Sana_1600M_1024px_BF16.pth", SANA_1_5_1600M, "dpm"),
        ("SANA1.5_1.6B_1024px.pth", SANA_1600M, "dpm"),
        ("SANA1.5_1.6B_1024px.pth", SANA_SPRINT_1600M, "scm"),
        ("Sana_Sprint_1.6B_1024px.pth", SANA_1_5_1600M, "dpm"),
    ],
)
def test_norms_and_the_guidance_input_decide_too(tmp_path, name, config, solver):
    path = blank(tmp_path / name, config)
    assert config_of(path) == config
    settings = load_settings(path)
    assert (settings.solver, settings.name) == (solver, name)
    assert "is named like" in settings.notes[0]


def test_a_file_that_we_wrote_tells_its_resolution(tmp_path):
    """It holds its config, so it needs no table."""
    config = SanaConfig(depth=1, width=32, cross_heads=2, position_interpolation=1.0, sample_size=64)
    path = save_official(tmp_path / "Sana_1600M_1024px_BF16_my2k.pth", Sana(config))
    assert config_of(path) == config
    assert load_settings(path).width == 2048
    assert "is named like" in load_settings(path).notes[0]


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("Sana_1600M_2Kpx_BF16_diffusers", SANA_1600M_2K, ""),
        ("Sana_1600M_1024px_BF16_my2k", SANA_1600M_2K, "a transformer for 2048 px"),
        ("Sana_600M_1024px_diffusers", SANA_1600M, "20 blocks of width 2240"),
        ("my-sana", SANA_1600M_2K, ""),
    ],
)
def test_the_name_of_a_folder_is_held_to_the_same(tiny, name, config, said):
    (tiny.folder / "sanakit.json").unlink()
    (tiny.folder / "transformer" / "config.json").write_text(json.dumps(write_sana_config(config)))
    settings = load_settings(tiny.folder.rename(tiny.folder.parent / name))
    assert settings.width == config.sample_size * 32
    assert said in "".join(settings.notes)
    assert bool(settings.notes) == bool(said)
    if said:
        assert settings.name == name


@pytest.mark.parametrize(
    ("name", "config", "entry"),
    [
        ("Sana_Sprint_0.6B_1024px_teacher.pth", TEACHER_600M, "sana-sprint-0.6b-teacher"),
        ("SANA_Sprint_1.6B_1024px_teacher.pth", SANA_1_5_1600M, "sana-sprint-1.6b-teacher"),
        ("my_sana_sprint_1.6b_1024px_TEACHER_v2.pth", SANA_1_5_1600M, "sana-sprint-1.6b-teacher"),
    ],
)
def test_a_teacher_of_sprint_has_its_own_settings(tmp_path, monkeypatch, name, config, entry):
    path = blank(tmp_path / name, config, latents=32)
    assert config_of(path) == replace(config, time_scale=1.0)
    settings = load_settings(path)
    assert (settings.name, settings.solver, settings.steps, settings.guidance) == (entry, "dpm", 20, 4.5)
    assert settings.notes == ()
    fetched = []
    monkeypatch.setattr(
        "sanakit.weights.find.hub.fetch", lambda repo, parts, variant: fetched.append(repo) or tmp_path
    )
    partner(resolve(path), ("vae",))
    assert fetched == [CATALOG[entry.removesuffix("-teacher")].repo]


def test_what_training_leaves_in_a_file_does_not_hide_its_release(tmp_path, monkeypatch):
    path = blank(tmp_path / "mine.pth", SANA_SPRINT_1600M, latents=32)
    fetched = []
    monkeypatch.setattr(
        "sanakit.weights.find.hub.fetch", lambda repo, parts, variant: fetched.append(repo) or tmp_path
    )
    partner(resolve(path), ("vae",))
    assert fetched == [CATALOG["sana-sprint-1.6b"].repo]


@pytest.mark.parametrize("config", [TEACHER_600M, SANA_1_5_1600M], ids=["0.6B", "1.6B"])
def test_a_teacher_under_another_name_is_told_that_shapes_do_not_tell_the_time_scale(tmp_path, config):
    settings = load_settings(blank(tmp_path / "mine.pth", config))
    [note] = settings.notes
    assert "teacher of SANA-Sprint" in note
    assert "published name" in note
    assert load_settings(blank(tmp_path / "SANA1.5_1.6B_1024px.pth", SANA_1_5_1600M)).notes == ()


def test_an_autoencoder_under_the_name_of_a_model_is_left_alone(tiny):
    folder = tiny.folder / "vae"
    file = folder / "diffusion_pytorch_model.safetensors"
    path = file.rename(folder / "Sana_1600M_1024px.safetensors")
    assert examined(resolve(path)) == resolve(path)
    assert describe(path).kind == "autoencoder"


def test_a_file_of_an_unreleased_width_under_a_published_name_is_refused(tiny, tmp_path):
    torch.save(tiny.transformer.state_dict(), tmp_path / "Sana_1600M_1024px.pth")
    with pytest.raises(WeightsError, match="width 64; the released sizes"):
        load_settings(tmp_path / "Sana_1600M_1024px.pth")
