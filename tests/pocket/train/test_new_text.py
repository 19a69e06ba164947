"""A transformer that reads another text encoder sees what it saw before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sanakit.models.sana import Sana, SanaConfig
from sanakit.pocket.train.new_text import last_features, read_instead
from sanakit.text.encoder import TextEncoder

WIDTH = 16
SANA = SanaConfig(depth=1, width=32, cross_heads=2, text_width=WIDTH, latent_channels=4)
TEXTS = [f"text {i}" for i in range(200)]


def encoder(features: Tensor, width: int = WIDTH) -> TextEncoder:
    """An encoder whose last feature of TEXTS[i] is row i, behind one that means nothing."""
    rows = dict(zip(TEXTS, features, strict=True))

    def encode(texts: list[str], notes: list[str]) -> list[Tensor]:
        return [torch.stack([torch.full_like(rows[text], 9.0), rows[text]]) for text in texts]

    model = SimpleNamespace(config=SimpleNamespace(width=width))
    return cast(TextEncoder, cast(Any, SimpleNamespace(model=model, encode=encode)))


@pytest.fixture
def sana() -> Sana:
    torch.manual_seed(0)
    sana = Sana(SANA).requires_grad_(False)
    for parameter in sana.y_embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return sana


def test_features_are_those_of_the_last_tokens():
    features = torch.randn(len(TEXTS), WIDTH)
    torch.testing.assert_close(last_features(encoder(features), TEXTS[:5]), features[:5])


def test_features_that_are_a_linear_map_of_the_old_ones_give_what_these_gave(sana: Sana):
    old = torch.randn(len(TEXTS), WIDTH, dtype=torch.float64).float()
    turned = old @ torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0] + 0.7
    before = sana.y_embedder.y_proj(old)
    explained = read_instead(sana, encoder(old), encoder(turned), TEXTS)
    assert explained > 0.999
    torch.testing.assert_close(sana.y_embedder.y_proj(turned), before, atol=0.05, rtol=0.05)


def test_features_that_say_nothing_of_the_old_ones_explain_little(sana: Sana):
    old, other = torch.randn(2, len(TEXTS), WIDTH).unbind()
    assert read_instead(sana, encoder(old), encoder(other), TEXTS) < 0.3


def test_encoders_of_another_width_are_refused(sana: Sana):
    features = torch.randn(len(TEXTS), WIDTH)
    with pytest.raises(ValueError, match="width"):
        read_instead(sana, encoder(features), encoder(features, width=8), TEXTS)
