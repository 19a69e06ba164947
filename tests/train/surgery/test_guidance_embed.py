"""A student begins as its teacher at every guidance scale, and its embedding of the scale learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.surgery.guidance_embed import check_teacher, with_guidance

TEACHER = SanaConfig(
    depth=1, width=32, cross_heads=2, text_width=16, latent_channels=4, qk_norm=True, time_scale=1.0
)


def teacher() -> Sana:
    torch.manual_seed(1)
    model = Sana(TEACHER)
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape)
    return model


def inputs() -> tuple[torch.Tensor, ...]:
    return torch.randn(2, 4, 4, 4), torch.tensor([0.2, 0.8]), torch.randn(2, 3, 16)


def test_it_draws_as_its_teacher_at_every_scale() -> None:
    model, given = teacher(), inputs()
    student = with_guidance(model)
    for scale in (1.0, 4.5):
        assert torch.equal(student(*given, guidance=torch.full((2,), scale)), model(*given))
    assert student.config == replace(TEACHER, guidance_embed=True)


def test_all_of_its_embedding_learns_and_scales_then_differ() -> None:
    """With both layers at zero, only the last bias ever has a gradient, and all scales draw the same."""
    student, given = with_guidance(teacher()), inputs()
    start = {name: p.clone() for name, p in student.cfg_embedder.named_parameters()}
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    for scale in (4.0, 5.0, 4.0):
        loss = (student(*given, guidance=torch.full((2,), scale)) - scale).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [n for n, p in student.cfg_embedder.named_parameters() if torch.equal(p, start[n])] == []
    low, high = (student(*given, guidance=torch.full((2,), scale)) for scale in (4.0, 5.0))
    assert not torch.equal(low, high)


def test_weights_of_the_teacher_are_copied_and_the_seed_decides_on_the_new_ones() -> None:
    model = teacher()
    student = with_guidance(model, seed=3)
    own = dict(student.named_parameters())
    assert all(torch.equal(p, own[name]) for name, p in model.named_parameters())
    assert all(p.data_ptr() != own[name].data_ptr() for name, p in model.named_parameters())
    first = student.cfg_embedder.mlp[0].weight
    assert first.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(first, with_guidance(model, seed=3).cfg_embedder.mlp[0].weight)
    assert not torch.equal(first, with_guidance(model, seed=4).cfg_embedder.mlp[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_scale": 1000.0}, "takes times 1000 t"),
        ({"qk_norm": False}, "does not norm its queries"),
        ({"guidance_embed": True}, "is a Sprint model itself"),
    ],
)
def test_what_cannot_be_distilled_is_refused_with_the_way_there(change, message) -> None:
    with pytest.raises(SettingsError, match=f"pocket-x {message}"):
        check_teacher(replace(TEACHER, **change), "pocket-x")
