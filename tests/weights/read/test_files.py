"""Tensors of any file by name: a common prefix is left out and told; a hash tells them from others."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from sanakit.errors import WeightsError
from sanakit.weights import (
    describe,
    load_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_official,
)
from sanakit.weights.layouts.official import CONFIG_KEY
from sanakit.weights.read.files import TensorFiles, open_component, open_file
from sanakit.weights.read.header import write_safetensors

PARTS = {
    "transformer": ("diffusion_pytorch_model.safetensors", load_transformer),
    "vae": ("diffusion_pytorch_model.safetensors", load_autoencoder),
    "text_encoder": ("model.safetensors", lambda folder: load_text_encoder(folder).model),
}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["module.", "transformer.", "_orig_mod.", "module.net."])
@pytest.mark.parametrize("part", PARTS)
def test_a_prefix_of_all_names_is_left_out_and_told(tiny, part, prefix):
    name, load = PARTS[part]
    right, path = load(tiny.folder).state_dict(), tiny.folder / part / name
    save_file({prefix + key: tensor for key, tensor in load_file(path).items()}, path)
    with pytest.warns(UserWarning, match=f"begin with '{prefix}', which is left out"):
        loaded = load(tiny.folder).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in right.items())
    assert any("is left out" in note for note in load_settings(tiny.folder).notes)
    found = describe(tiny.folder)
    assert any("is left out" in note for note in found.notes)
    assert all(part.missing == part.unexpected == () for part in found.parts)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["module.", "transformer."])
def test_a_prefix_in_a_single_file_is_left_out_and_told(tiny, tmp_path, prefix):
    path = save_official(tmp_path / "x.pth", tiny.transformer)
    content = torch.load(path, weights_only=True)
    state = {prefix + name: tensor for name, tensor in content["state_dict"].items()}
    torch.save({"state_dict": state, CONFIG_KEY: content[CONFIG_KEY]}, path)
    with pytest.warns(UserWarning, match="is left out") as told:
        loaded = load_transformer(path)
    assert len(told) == 1
    for name, tensor in tiny.transformer.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert len(describe(path).notes) == len(load_settings(path).notes) == 1


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_tensors_of_one_prefix_are_kept_and_the_others_told(suffix, tmp_path):
    path = tmp_path / f"whole.{suffix}"
    state = {"vae.a": torch.ones(2), "vae.b.vae.c": torch.zeros(3), "other.vae.d": torch.zeros(4)}
    (save_file if suffix == "safetensors" else torch.save)(state, path)
    files = open_file(path)
    files.keep("vae.")
    assert set(files.infos) == {"a", "b.vae.c"}
    assert torch.equal(files.read("a"), torch.ones(2))
    assert "It holds 1 others, which are not used." in files.notes[-1]
    files.keep("")
    assert "others" not in files.notes[-1]


def test_a_prefix_of_some_names_is_not_left_out(tiny):
    path = tiny.folder / "transformer" / PARTS["transformer"][0]
    state = load_file(path)
    first = next(iter(state))
    save_file({(name if name == first else f"module.{name}"): tensor for name, tensor in state.items()}, path)
    with pytest.raises(WeightsError, match="lacks"):
        load_transformer(tiny.folder)


def test_the_hash_tells_weights_apart_and_not_their_files(tmp_path):
    tensors = {"a": torch.randn(300, 300), "b": torch.randn(5)}
    path = tmp_path / "w.safetensors"

    def digest(**changed: torch.Tensor) -> str:
        write_safetensors(path, {**tensors, **changed}, torch.float32)
        os.utime(path, (1, 1))  # archives and packages set all times alike
        return TensorFiles([path]).digest()

    first = digest()
    assert digest() == first
    assert digest(a=tensors["a"] + 1e-3) != first
    assert digest(b=tensors["b"] + 1e-3) != first
    assert digest(b=tensors["b"][:4]) != first
    tensors = dict(reversed(tensors.items()))
    assert digest() == first


def test_another_checkpoint_that_is_damaged_is_told_too(tiny):
    folder = tiny.folder / "vae"
    (folder / "diffusion_pytorch_model-00001-of-00001.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{ }")
    assert "holds two checkpoints" in open_component(folder).notes[0]
