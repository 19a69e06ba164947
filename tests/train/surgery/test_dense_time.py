"""A transformer with dense time gives nearly the velocities of the one that it was made of."""

from __future__ import annotations

import pytest
import torch

from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.surgery import dense_time
from sanakit.train.surgery.dense_time import with_dense_time, with_time_scale

CONFIG = SanaConfig(
    depth=1, width=32, cross_heads=2, head_dim=8, text_width=16, latent_channels=4, qk_norm=True
)


def smooth_model() -> Sana:
    """A model whose embedding of time is slow, as a trained one's is: only its low frequencies are read."""
    torch.manual_seed(0)
    model = Sana(CONFIG)
    model.init_weights()
    first = model.t_embedder.mlp[0]
    half = first.weight.shape[1] // 2
    first.weight.data[:, : half * 3 // 4] = 0  # fast cosines
    first.weight.data[:, half : half + half * 3 // 4] = 0  # fast sines
    first.weight.data *= 20
    model.t_embedder.mlp[2].weight.data *= 20
    return model


def test_the_new_embedding_is_near_the_old_one_and_takes_t_itself():
    """Relative error below 3 % over t in [0, 1]; without the fit it is above 20 %."""
    model = smooth_model()
    changed, error = with_dense_time(model)
    assert changed.config.time_scale == 1.0
    assert error < 0.03
    t = torch.linspace(0, 1, 50)
    with torch.no_grad():
        old, new = model.t_embedder(t * 1000), changed.t_embedder(t)
        unfitted = model.t_embedder(t)
    assert (new - old).norm() / old.norm() < 0.05
    assert (unfitted - old).norm() / old.norm() > 0.2


def test_all_other_weights_are_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dense_time, "STEPS", 2)
    model = smooth_model()
    changed, _ = with_dense_time(model)
    for name, weight in model.state_dict().items():
        same = torch.equal(changed.state_dict()[name], weight)
        assert same is not name.startswith("t_embedder.mlp"), name


def test_back_to_times_of_1000_the_embedding_is_followed_nearly():
    dense, _ = with_dense_time(smooth_model())
    rough, error = with_time_scale(dense, 1000.0)
    assert rough.config.time_scale == 1000.0
    t = torch.linspace(0, 1, 50)
    with torch.no_grad():
        old, new = dense.t_embedder(t), rough.t_embedder(1000 * t)
    assert (new - old).norm() / old.norm() < max(0.1, 2 * error) < 0.3
