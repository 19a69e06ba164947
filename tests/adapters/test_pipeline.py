"""Pipelines with adapters: images, their settings, and what is told."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.adapters.pipeline import open_adapters, record_of
from sanakit.adapters.read import AdapterFile
from sanakit.errors import ModelNotFoundError, SettingsError, WeightsError
from sanakit.images.image import read_metadata, save
from sanakit.models.sana import Sana
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import load_transformer, save_diffusers
from tests.adapters.loras import SANA, apart, became, lora, written

WORDS = {"seed": 3, "output": "latent"}


@pytest.fixture
def pipe(folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(folder, device="cpu")


def latents(pipe: TextToImage, **settings) -> torch.Tensor:
    drawn = pipe("a red apple", **{**WORDS, **settings}).images
    assert isinstance(drawn, torch.Tensor)
    return drawn


@torch.no_grad()
def test_an_image_is_that_of_a_model_with_the_changed_weights(
    folder: Path, styles: list[Path], tmp_path: Path
) -> None:
    plain = TextToImage.from_pretrained(folder, device="cpu", encoder=True)
    changed = became(load_transformer(folder), (AdapterFile(styles[0]).read(SANA), 0.7))
    parts = {"autoencoder": plain.autoencoder, "text_encoder": plain.text_encoder}
    whole = save_diffusers(tmp_path / "model", transformer=changed, **parts, defaults={"steps": 3})
    wanted = TextToImage.from_pretrained(whole, device="cpu")
    before = latents(plain)
    assert plain.load_adapter(styles[0], 0.7) == "style1"
    ours = latents(plain)
    theirs = latents(wanted, width=96, height=64, guidance=3.0)
    assert apart(ours, theirs) < 1e-4  # three steps, each with sums in float32
    assert apart(before, theirs) > 0.01


def test_adapters_are_loaded_weighed_and_unloaded_by_name(pipe: TextToImage, styles: list[Path]) -> None:
    before, base = latents(pipe), pipe._memory.base
    assert pipe.adapters == {}
    pipe.load_adapter(styles[0], weight=0.5)
    pipe.load_adapter(styles[1], name="second")
    assert pipe.adapters == {"style1": 0.5, "second": 1.0}
    assert pipe.load_adapter(styles[1], 0.0) == "style2"
    assert pipe.load_adapter(styles[1], 0.0) == "style2-2"
    assert pipe._memory.base > base
    both = latents(pipe)
    pipe.set_adapters({"second": 1.0})
    assert pipe.adapters == {"style1": 0.0, "second": 1.0, "style2": 0.0, "style2-2": 0.0}
    one = latents(pipe)
    assert apart(both, before) > 1e-3
    assert apart(both, one) > 1e-3
    pipe.set_adapters({})
    assert torch.equal(latents(pipe), before)
    pipe.unload_adapters("style2", "style2-2")
    assert pipe.adapters == {"style1": 0.0, "second": 0.0}
    pipe.unload_adapters()
    assert pipe.adapters == {}
    assert torch.equal(latents(pipe), before)
    assert pipe._memory.base == base


def test_merged_draws_the_same_and_is_recorded(pipe: TextToImage, styles: list[Path]) -> None:
    pipe.load_adapter(styles[0], 0.6)
    ours = pipe("a red apple", seed=3)
    record = ours.metadata[0]["adapters"]
    pipe.merge_adapters()
    assert pipe.adapters == {}
    merged = pipe("a red apple", seed=3)
    assert merged.metadata[0]["adapters"] == record
    theirs, mine = (np.asarray(drawn.images[0], dtype=int) for drawn in (merged, ours))
    assert np.abs(theirs - mine).max() <= 1


def test_a_png_says_which_adapters_draw_it_again(pipe: TextToImage, styles: list[Path], tmp_path) -> None:
    plain = pipe("a red apple", seed=3)
    assert "adapters" not in plain.metadata[0]
    pipe.load_adapter(styles[0], 0.6, name="a")
    drawn = pipe("a red apple", seed=3)
    path = save(drawn.images[0], tmp_path / "a.png", drawn.metadata[0])
    found = read_metadata(path)
    assert found == drawn.metadata[0]
    for named in ("model", "version"):
        found.pop(named)
    again = pipe(**found)
    assert again.metadata == drawn.metadata
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(Image.open(path)))
    pipe.set_adapters({"a": 0.5})
    with pytest.raises(SettingsError, match=r"style1.safetensors at a weight of 0.6 \(fingerprint "):
        pipe(**found)
    pipe.unload_adapters()
    with pytest.raises(SettingsError, match=r"drawn with the adapter style1.safetensors"):
        pipe(**found)


def test_an_adapter_that_is_off_is_not_recorded(pipe: TextToImage, styles: list[Path]) -> None:
    pipe.load_adapter(styles[0], 0.0)
    assert "adapters" not in pipe("a red apple", seed=3, steps=1).metadata[0]


def test_adapters_may_not_change_while_an_image_is_drawn(pipe: TextToImage, styles: list[Path]) -> None:
    """What was prepared of its prompt holds keys and values of the weights of then."""
    pipe.load_adapter(styles[0])
    stream = pipe.stream("a red apple", seed=3, steps=3)
    next(stream)
    pipe.set_adapters({"style1": 0.5})
    with pytest.raises(SettingsError, match="changed while an image was being drawn"):
        next(stream)
    pipe.set_adapters({"style1": 1.0})
    assert latents(pipe).isfinite().all()


def test_adapters_of_loading_are_checked_before_any_weights_are_read(
    folder: Path, styles: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = TextToImage.from_pretrained(folder, device="cpu", adapters=[(styles[0], 0.5), (styles[1], -1)])
    assert pipe.adapters == {"style1": 0.5, "style2": -1.0}
    opened = open_adapters(folder, [(styles[0], 0.5), (styles[1], -1), (styles[1], 0)])
    assert record_of(opened) == pipe.spec.adapters

    def read(*_: object, **__: object) -> Sana:
        raise AssertionError("weights were read")

    monkeypatch.setattr("sanakit.pipelines.text_to_image.load_transformer", read)
    strange = written(tmp_path / "a.safetensors", {"blocks.9.attn.qkv.lora_A.weight": torch.ones(1, 2)})
    for bad, error in ((strange, WeightsError), (tmp_path / "none.safetensors", ModelNotFoundError)):
        with pytest.raises(error):
            TextToImage.from_pretrained(folder, device="cpu", adapters=[(bad, 1.0)])
    with pytest.raises(SettingsError, match="must be a number"):
        TextToImage.from_pretrained(folder, device="cpu", adapters=[(styles[0], float("nan"))])
    with pytest.raises(AssertionError, match="weights were read"):
        TextToImage.from_pretrained(folder, device="cpu", adapters=[(styles[0], 1.0)])


def test_what_a_file_holds_beside_is_told_with_every_image(pipe: TextToImage, tmp_path: Path) -> None:
    (part,) = lora(["blocks.0.attn.proj"]).parts
    tensors = {"blocks.0.attn.proj.lora_A.weight": part.down, "blocks.0.attn.proj.lora_B.weight": part.up}
    tensors["text_encoder.layers.0.lora_A.weight"] = torch.ones(2, 2)
    with pytest.warns(UserWarning, match="are of the text encoder"):
        pipe.load_adapter(written(tmp_path / "a.safetensors", tensors))
    with warnings.catch_warnings(action="ignore"):
        assert any("are of the text encoder" in note for note in pipe("a red apple", steps=1).warnings)
        pipe.unload_adapters()
        assert not any("text encoder" in note for note in pipe("a red apple", steps=1).warnings)


def test_editing_takes_adapters(folder: Path, styles: list[Path]) -> None:
    pipe = ImageToImage.from_pretrained(folder, device="cpu", adapters=[(styles[0], 0.5)])
    result = pipe(Image.new("RGB", (96, 64), "red"), "a red apple", seed=1)
    assert "style1.safetensors" in str(result.metadata[0]["adapters"])


@pytest.mark.parametrize("plan", [None, "int8"])
def test_a_twin_shares_the_weights_and_has_its_own_adapters(folder: Path, styles: list[Path], plan) -> None:
    pipe = TextToImage.from_pretrained(folder, device="cpu", plan=plan)
    before = latents(pipe)
    pipe.load_adapter(styles[0], 0.5)
    one = latents(pipe)
    twin = pipe.twin()
    assert twin.adapters == {"style1": 0.5}
    assert torch.equal(latents(twin), one)
    twin.load_adapter(styles[1])
    twin.set_adapters({"style2": 1.0})
    other = latents(twin)
    assert apart(other, one) > 1e-3
    assert torch.equal(latents(pipe), one)
    pipe.unload_adapters()
    assert torch.equal(latents(pipe), before)
    assert torch.equal(latents(twin), other)
    with warnings.catch_warnings(action="ignore"):
        twin.merge_adapters()
    assert torch.equal(latents(pipe), before)
    shared = {tensor.data_ptr() for tensor in pipe.transformer.state_dict().values()}
    untouched = dict(twin.transformer.named_parameters())["attention_y_norm.weight"]
    assert untouched.data_ptr() in shared


@pytest.mark.parametrize("plan", ["int8", "nf4"])
def test_a_quantised_model_takes_adapters(folder: Path, styles: list[Path], plan: str) -> None:
    pipe = TextToImage.from_pretrained(folder, device="cpu", plan=plan)
    before = latents(pipe)
    pipe.load_adapter(styles[0])
    assert apart(latents(pipe), before) > 1e-3
    with pytest.warns(UserWarning, match="quantised: merging rounds them again"):
        pipe.merge_adapters()
    assert latents(pipe).isfinite().all()
