"""A model's defaults come from its own files first."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import WeightsError
from sanakit.weights import load_settings, save_official
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
    folder = tiny.folder.rename(tiny.folder.parent / "Sana_1600M_1024px_BF16_diffusers")
    settings = load_settings(folder)
    assert (settings.name, settings.precision, settings.width) == ("sana-1.6b-1024-bf16", "bfloat16", 1024)
    assert settings.flow_shift == 2.5  # the folder's scheduler knows better


def test_a_pth_gives_its_size_and_its_names_rule(tiny, tmp_path):
    save_official(tmp_path / "mine.pth", tiny.transformer)
    assert load_settings(tmp_path / "mine.pth") == ModelSettings(name="mine.pth", width=64, height=64)
    save_official(tmp_path / "Sana_1600M_2Kpx_BF16.pth", tiny.transformer, dtype=torch.bfloat16)
    assert load_settings(tmp_path / "Sana_1600M_2Kpx_BF16.pth").precision == "bfloat16"


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
        [],
    ],
)
def test_a_wrong_default_is_refused(tiny, defaults):
    change(tiny.folder / "sanakit.json", defaults=defaults)
    with pytest.raises(WeightsError, match=r"sanakit\.json"):
        load_settings(tiny.folder)


def test_a_wrong_precision_rule_is_refused(tiny):
    change(tiny.folder / "sanakit.json", precision="float8")
    with pytest.raises(WeightsError, match="precision = 'float8'; it must be any"):
        load_settings(tiny.folder)


def test_the_settings_of_a_sprint_release_are_known_without_a_download(monkeypatch: pytest.MonkeyPatch):
    def fetch(*_: object) -> None:
        raise AssertionError("nothing is to be fetched for a model that can not be drawn with")

    monkeypatch.setattr("sanakit.weights.hub.fetch", fetch)
    assert load_settings("sana-sprint-0.6b").solver == "scm"


@pytest.mark.parametrize("shift", ["three", float("inf"), 0, True])
def test_a_shift_that_is_no_positive_number_is_refused(tiny, shift):
    path = tiny.folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "flow_shift": shift}))
    with pytest.raises(WeightsError, match="flow_shift"):
        load_settings(tiny.folder)
