"""A file or folder is explained from its headers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.weights import describe, save_official
from sanakit.weights.read.files import TensorFiles

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_a_folder_is_described_part_by_part_without_reading_data(tiny, monkeypatch):
    monkeypatch.setattr(TensorFiles, "read", lambda *_: pytest.fail("data were read"))
    found = describe(tiny.folder)
    assert (found.kind, found.release, found.resolution) == ("model", "", 64)
    assert found.settings is not None
    assert found.settings.steps == 7
    kinds = {part.kind: part for part in found.parts}
    modules = {
        "transformer": tiny.transformer,
        "autoencoder": tiny.autoencoder,
        "text_encoder": tiny.text_encoder.model,
    }
    assert kinds.keys() == modules.keys()
    for kind, module in modules.items():
        part = kinds[kind]
        assert (part.parameters, part.dtype, part.layout) == (count(module), "float32", "diffusers")
        assert part.missing == part.unexpected == ()
        assert part.bytes > 4 * part.parameters
    assert (kinds["transformer"].depth, kinds["transformer"].width) == (2, 64)
    assert kinds["autoencoder"].size == "DC-AE f4c8"


def test_missing_and_extra_tensors_are_listed_not_raised(tiny):
    state = {name: tensor.clone() for name, tensor in load_file(tiny.folder / WEIGHTS).items()}
    del state["proj_out.bias"]
    save_file(state | {"extra": torch.zeros(1)}, tiny.folder / WEIGHTS)
    part = describe(tiny.folder).parts[0]
    assert (part.missing, part.unexpected) == (("proj_out.bias",), ("extra",))


def test_files_and_single_parts_are_described(tiny, tmp_path):
    save_official(tmp_path / "mine.pth", tiny.transformer, dtype="bfloat16")
    [part] = describe(tmp_path / "mine.pth").parts
    assert (part.kind, part.layout, part.dtype, part.size) == (
        "transformer",
        "official",
        "bfloat16",
        "unreleased size",
    )
    assert describe(tiny.folder / "vae").kind == "autoencoder"
    assert describe(tiny.folder / "text_encoder").kind == "text_encoder"
    assert describe(tiny.folder / WEIGHTS).parts[0].parameters == count(tiny.transformer)
    save_file({"layer1.0.conv1.weight": torch.zeros(2, 3)}, tmp_path / "resnet.safetensors")
    assert describe(tmp_path / "resnet.safetensors").kind == "foreign"


def test_a_part_is_described_from_its_weights_and_not_from_what_lies_beside(tiny):
    folder = tiny.folder / "text_encoder"
    save_file({"first": torch.zeros(2)}, folder / "instruction_cache.safetensors")  # sorts before the weights
    found = describe(folder)
    assert found.kind == "text_encoder"
    assert found.parts[0].parameters == count(tiny.text_encoder.model)


def test_a_release_is_described_from_the_catalog_without_a_download():
    found = describe("sana-1.6b-2k")
    assert (found.kind, found.resolution, found.settings) == ("release", 2048, None)
    assert found.download_bytes > 9e9


def test_the_embedded_clip_is_described_by_its_name():
    found = describe("pocket-clip")
    [part] = found.parts
    assert (found.kind, part.kind, part.parameters) == ("clip_scorer", "clip_scorer", 4_827_649)


def test_what_is_not_there_or_broken_is_an_error(tmp_path):
    with pytest.raises(ModelNotFoundError, match="sana models"):
        describe("someone/model")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsError, match="empty"):
        describe(tmp_path / "empty.pth")
