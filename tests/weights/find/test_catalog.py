"""The catalog names every release, and a wrong name gets help."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.models.sana import (
    SANA_1_5_1600M,
    SANA_1_5_4800M,
    SANA_600M,
    SANA_1600M,
    SANA_SPRINT_600M,
    SANA_SPRINT_1600M,
    Sana,
)
from sanakit.weights.find import hub
from sanakit.weights.find.catalog import CATALOG, find, recognise
from sanakit.weights.find.resolve import resolve
from sanakit.weights.precision import RULES

RELEASED = {  # of the model zoo; text-to-image diffusers folders
    "Sana_600M_512px": (512, "float16", "fp16"),
    "Sana_600M_1024px": (1024, "float16", "fp16"),
    "Sana_1600M_512px": (512, "float16", "fp16"),
    "Sana_1600M_512px_MultiLing": (512, "float16", "fp16"),
    "Sana_1600M_1024px": (1024, "float16", "fp16"),
    "Sana_1600M_1024px_MultiLing": (1024, "float16", "fp16"),
    "Sana_1600M_1024px_BF16": (1024, "bfloat16", "bf16"),
    "Sana_1600M_2Kpx_BF16": (2048, "bfloat16", "bf16"),
    "Sana_1600M_4Kpx_BF16": (4096, "bfloat16", "bf16"),
    "SANA1.5_1.6B_1024px": (1024, "bfloat16", None),
    "SANA1.5_4.8B_1024px": (1024, "bfloat16", None),
    "Sana_Sprint_0.6B_1024px": (1024, "bfloat16", None),
    "Sana_Sprint_1.6B_1024px": (1024, "bfloat16", None),
}


def test_every_release_is_there_with_its_repository_size_and_precision():
    drawable = {entry.stem: entry for entry in CATALOG.values() if entry.repo and not entry.unsupported}
    assert drawable.keys() == RELEASED.keys()
    for stem, (side, precision, variant) in RELEASED.items():
        entry = drawable[stem]
        assert entry.repo == f"Efficient-Large-Model/{stem}_diffusers"
        assert (entry.width, entry.height, entry.precision, entry.variant) == (side, side, precision, variant)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sana-0.6b-1024", SANA_600M),
        ("sana-1.6b-1024", SANA_1600M),
        ("sana-1.5-1.6b", SANA_1_5_1600M),
        ("sana-1.5-4.8b", SANA_1_5_4800M),
        ("sana-sprint-0.6b", SANA_SPRINT_600M),
        ("sana-sprint-1.6b", SANA_SPRINT_1600M),
    ],
)
def test_parameter_counts_are_those_of_the_models(name, config):
    with torch.device("meta"):
        assert CATALOG[name].parameters == sum(parameter.numel() for parameter in Sana(config).parameters())


def test_entries_agree_with_their_names_and_rules():
    for name, entry in CATALOG.items():
        assert entry.name == name
        assert entry.precision in RULES
        assert entry.licence
        assert entry.width % 32 == entry.height % 32 == 0
        assert entry.solver == ("scm" if "sprint" in name and "teacher" not in name else "dpm")
    assert CATALOG["sana-1.6b-4k"].flow_shift == 6.0
    shifts = {name: entry.native_flow_shift for name, entry in CATALOG.items() if entry.native_flow_shift}
    assert {name: shift for name, shift in shifts.items() if not CATALOG[name].unsupported} == {
        "sana-0.6b-1024": 4.0
    }
    assert CATALOG["pocket"].download_bytes == 0
    assert 9.5e9 < CATALOG["sana-1.6b-1024"].download_bytes < 10e9  # 3.2 + 5.2 + 1.25 GB


def test_an_unknown_name_lists_the_nearest_and_the_other_forms():
    with pytest.raises(ModelNotFoundError) as caught:
        find("sana-1.6b-1025")
    message = str(caught.value)
    for part in ("sana-1.6b-1024", "diffusers folder", ".safetensors", ".pth", "organisation/name"):
        assert part in message
    with pytest.raises(ModelNotFoundError, match="pocket"):
        resolve("poket")


def test_for_clips_and_worlds_no_names_of_models_of_images_are_told():
    with pytest.raises(ModelNotFoundError) as caught:
        find("nope", "clips")
    assert "no model of clips named 'nope'. Nearest names: pocket-video. A model can be" in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"no model of worlds named 'nope'\. A model can be"):
        find("nope", "worlds")


@pytest.mark.parametrize("makes", ["clips", "worlds"])
def test_a_release_of_images_is_not_downloaded_for_clips(makes, monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda *_: pytest.fail("it was downloaded"))
    with pytest.raises(WeightsError, match=f"sana-1.6b-2k is a model of images: .* a model of {makes}"):
        resolve("sana-1.6b-2k", makes=makes)


def test_published_names_are_recognised_in_paths_the_longest_first():
    assert recognise("a/Sana_1600M_1024px_BF16.pth") is CATALOG["sana-1.6b-1024-bf16"]
    assert recognise("Sana_1600M_1024px.pth") is CATALOG["sana-1.6b-1024"]
    assert (
        recognise("models--Efficient-Large-Model--SANA1.5_4.8B_1024px_diffusers") is CATALOG["sana-1.5-4.8b"]
    )
    assert recognise("pocket") is None


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.unsupported])
def test_a_release_that_can_not_be_drawn_with_says_why_without_a_download(name):
    with pytest.raises(WeightsError, match=f"{name} is "):
        resolve(name)


def test_the_catalog_needs_no_torch():
    code = "import sys; from sanakit.weights import CATALOG; print('torch' in sys.modules, len(CATALOG) > 13)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
