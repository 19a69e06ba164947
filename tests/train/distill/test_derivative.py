"""Derivatives along a direction: forward differentiation is exact through all of a transformer's layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sanakit.models.sana import Sana, SanaConfig
from sanakit.ops import native
from sanakit.train.distill.derivative import derivative_along
from sanakit.train.distill.scm import student_prediction

# Heads of 32 channels: those that our kernels compute where nobody differentiates.
TINY = SanaConfig(
    depth=2,
    width=64,
    cross_heads=2,
    head_dim=32,
    text_width=16,
    latent_channels=4,
    qk_norm=True,
    guidance_embed=True,
    time_scale=1.0,
)


def speaking() -> Sana:
    student = Sana(TINY)
    for parameter in student.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape) + (parameter.ndim == 1) * parameter.data
    return student


def point() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (torch.randn(3, 4, 4, 4), torch.tensor([0.3, 0.9, 1.5])), (torch.randn(3, 4, 4, 4), torch.randn(3))


def prediction(student: Sana) -> Callable[[Tensor, Tensor], Tensor]:
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 2:] = False
    return student_prediction(student, torch.randn(3, 5, 16), mask, torch.tensor([4.0, 4.5, 5.0]))


def by_two_backward_passes(network, at, along) -> Tensor:
    """Return it without forward differentiation: the derivative of a backward pass in its vector."""
    at = tuple(one.clone().requires_grad_(True) for one in at)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = network(*at)
        vector = torch.ones_like(out, requires_grad=True)
        first = torch.autograd.grad(out, at, vector, create_graph=True)
        return torch.autograd.grad(first, vector, along)[0]


def relative(got: Tensor, wanted: Tensor) -> float:
    return ((got - wanted).norm() / wanted.norm()).item()


def test_it_is_exact_through_attention_norms_and_the_circle() -> None:
    if native.kernels(torch.ones(1)) is None:
        pytest.skip("no kernels are built: nothing declines")
    network, (at, along) = prediction(speaking()), point()
    got = derivative_along(network, at, along)
    assert relative(got, by_two_backward_passes(network, at, along)) < 1e-5
    assert not got.requires_grad


def test_central_differences_agree_with_it_in_float32() -> None:
    network, (at, along) = prediction(speaking()), point()
    exact = derivative_along(network, at, along)
    assert relative(derivative_along(network, at, along, "difference"), exact) < 5e-3
    one_sided = (network(at[0] + 0.01 * along[0], at[1] + 0.01 * along[1]) - network(*at)) / 0.01
    assert relative(one_sided.detach(), exact) > 5e-3  # what the second evaluation is for


def test_central_differences_are_of_second_order() -> None:
    def network(x: Tensor, s: Tensor) -> Tensor:
        return torch.sin(2 * x) * s[:, None].exp()

    at = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    along = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    exact = derivative_along(network, at, along)
    wide, narrow = (
        relative(derivative_along(network, at, along, "difference", h), exact) for h in (2e-3, 1e-3)
    )
    assert wide / narrow == pytest.approx(4, rel=1e-3)
    wanted = 2 * torch.cos(2 * at[0]) * along[0] + torch.sin(2 * at[0]) * along[1][:, None]
    torch.testing.assert_close(exact, wanted * at[1][:, None].exp(), rtol=1e-12, atol=1e-12)


def test_weights_rounded_for_it_do_not_hide_gradients_from_the_forward_that_follows() -> None:
    student = speaking()
    network, (at, along) = prediction(student), point()
    with torch.autocast("cpu", torch.bfloat16):
        derivative_along(network, at, along)
        network(*at).square().mean().backward()
    assert [name for name, p in student.named_parameters() if p.grad is None] == []


def test_differences_are_taken_without_autocast() -> None:
    network, (at, along) = prediction(speaking()), point()
    wide = derivative_along(network, at, along, "difference")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(derivative_along(network, at, along, "difference"), wide)
        assert relative(derivative_along(network, at, along), wide) > 1e-4  # forwards: as autocast says


def test_kernels_decline_where_torch_differentiates_forwards_or_maps() -> None:
    x = torch.ones(2, 2)
    seen = []

    def look(value: Tensor) -> Tensor:
        seen.append(native.kernels(value))
        return value

    torch.func.jvp(look, (x,), (x,))
    torch.func.vmap(look)(x)
    with torch.autograd.forward_ad.dual_level():
        look(torch.autograd.forward_ad.make_dual(x, x))
    assert seen == [None] * 3
