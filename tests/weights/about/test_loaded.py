"""What `repr` tells of a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.weights import fingerprint_weights
from sanakit.weights.find.catalog import CATALOG, list_models


@pytest.fixture(scope="module")
def pocket() -> TextToImage:
    return TextToImage.from_pretrained("pocket", device="cpu")


def test_it_tells_model_weights_place_and_parts(pocket: TextToImage) -> None:
    digits = str(fingerprint_weights("pocket")).partition("-")[2][:12]
    first, *parts = repr(pocket).splitlines()
    assert first == f"TextToImage: pocket, fingerprint {digits}, on cpu"
    sizes = [sum(one.numel() for one in pocket.transformer.state_dict().values())]
    assert parts[0].startswith(f"  transformer   Sana, {sizes[0]:,} parameters in ")
    assert [part.split()[0] for part in parts] == ["transformer", "autoencoder", "text_encoder"]
    assert repr(ImageToImage(pocket)) == f"ImageToImage by {pocket!r}"


def test_parts_from_several_places_have_no_fingerprint(pocket: TextToImage) -> None:
    other = TextToImage(pocket.transformer, pocket.autoencoder, pocket.text_encoder, pocket.settings)
    assert repr(other).startswith("TextToImage: pocket, on cpu")
    assert "fingerprint" not in other("a red apple", steps=1, output="latent").metadata[0]


def test_the_models_that_can_be_drawn_with_are_listed() -> None:
    names = list_models()
    assert names[0] == "pocket"
    assert sorted(names) == sorted(name for name, entry in CATALOG.items() if not entry.unsupported)
    assert len(names) < len(CATALOG)


def test_adapters_are_told(tmp_path: Path, pocket: TextToImage) -> None:
    import torch
    from safetensors.torch import save_file

    width = pocket.transformer.config.width
    name = "transformer.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.zeros(2, width), f"{name}.lora_B.weight": torch.zeros(width, 2)}
    save_file(tensors, tmp_path / "ink.safetensors")
    twin = pocket.twin()
    twin.load_adapter(tmp_path / "ink.safetensors", 0.8)
    assert repr(twin).splitlines()[-1].split() == ["adapters", "ink", "at", "0.8"]
    assert "ink" not in repr(pocket)
