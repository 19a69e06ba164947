"""A teacher for distillation takes t itself and norms queries and keys; other weights stay."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.surgery import dense_time
from sanakit.train.surgery.guidance_embed import check_teacher
from sanakit.train.surgery.teacher import as_teacher

BASE = SanaConfig(depth=2, width=32, cross_heads=2, head_dim=8, text_width=16, latent_channels=4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new embedding of time hardly fitted: that it can be is tested beside it."""
    monkeypatch.setattr(dense_time, "STEPS", 2)


@pytest.mark.parametrize("has", [{}, {"qk_norm": True}, {"time_scale": 1.0}])
def test_what_is_missing_is_added_and_the_rest_stays(has) -> None:
    model = Sana(replace(BASE, **has))
    made = as_teacher(model)
    check_teacher(made.config)
    assert made.config == replace(BASE, qk_norm=True, time_scale=1.0)
    old = model.state_dict()
    for name, tensor in made.state_dict().items():
        if name.endswith(("q_norm.weight", "k_norm.weight")) and name not in old:
            assert torch.equal(tensor, torch.ones(32)), name
        elif name.startswith("t_embedder") and not has.get("time_scale"):
            assert not torch.equal(tensor, old[name]), name
        else:
            assert torch.equal(tensor, old[name]), name


def test_what_needs_nothing_is_refused_with_the_next_step() -> None:
    with pytest.raises(SettingsError, match="go on with sana train sprint"):
        as_teacher(Sana(replace(BASE, qk_norm=True, time_scale=1.0)))
    with pytest.raises(SettingsError, match="A Sprint model is distilled already"):
        as_teacher(Sana(replace(BASE, guidance_embed=True)))
