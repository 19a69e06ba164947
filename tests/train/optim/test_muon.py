"""Muon orthogonalises, part by part."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sanakit.train.optim.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96), (8, 100)])
def test_orthogonalise_makes_all_singular_values_alike(shape):
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.2, 5, shape[1]))
    scale = 0.2 * max(shape) ** 0.5
    out = orthogonalise(matrix)
    values = torch.linalg.svdvals(out) / scale
    assert out.shape == shape
    assert out.dtype == torch.float32
    assert values.min() > 0.6
    assert values.max() < 1.3
    # It stays the nearest one: the singular vectors are the matrix's own.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (out * (left @ right)).sum() / out.norm() / (left @ right).norm() > 0.97


def test_orthogonalise_does_not_depend_on_the_gradient_s_size():
    matrix = torch.randn(16, 16)
    torch.testing.assert_close(orthogonalise(1e4 * matrix), orthogonalise(1e-3 * matrix), atol=0.1, rtol=0)
    assert not orthogonalise(torch.zeros(4, 4)).any()


def test_an_update_has_the_size_of_adam_s():
    for shape in ((64, 64), (192, 64), (64, 320)):
        assert orthogonalise(torch.randn(shape)).square().mean().sqrt() == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_fused_matrices_are_orthogonalised_separately(parts):
    weight = nn.Parameter(torch.zeros(parts * 16, 16))
    loud = torch.cat([10.0**part * torch.randn(16, 16) for part in range(parts)])
    weight.grad = loud
    Muon([{"params": [weight], "lr": 1.0, "parts": parts}], momentum=0.95, weight_decay=0.0).step()
    for moved in weight.detach().chunk(parts):
        values = torch.linalg.svdvals(moved) / (0.2 * 16**0.5)
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_steps_against_the_gradient_and_decays():
    weight = nn.Parameter(torch.eye(8))
    before = weight.detach().clone()
    weight.grad = torch.eye(8)
    Muon([{"params": [weight], "lr": 0.1}], momentum=0.9, weight_decay=0.5).step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * orthogonalise(torch.eye(8))
    torch.testing.assert_close(weight.detach(), expected, atol=1e-3, rtol=0)


def test_three_steps_follow_nesterov_s_momentum():
    """m <- 0.9 m + 0.1 g, and the step is along 0.9 m + 0.1 g once more; the first step is along g itself."""
    weight, gradients = nn.Parameter(torch.zeros(8, 8)), torch.randn(3, 8, 8)
    muon = Muon([{"params": [weight], "lr": 0.1}], momentum=0.9, weight_decay=0.0)
    momentum, expected = torch.zeros(8, 8), torch.zeros(8, 8)
    for gradient in gradients:
        weight.grad = gradient.clone()
        muon.step()
        momentum = 0.9 * momentum + 0.1 * gradient
        expected -= 0.1 * orthogonalise(0.9 * momentum + 0.1 * gradient)
        torch.testing.assert_close(muon.state[weight]["momentum"], momentum, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.detach(), expected, atol=5e-3, rtol=0)


def test_muon_handles_1x1_convolutions_and_skips_what_has_no_gradient():
    conv, idle = nn.Parameter(torch.randn(12, 6, 1, 1)), nn.Parameter(torch.ones(3, 3))
    before = conv.detach().clone()
    conv.grad = torch.randn_like(conv)
    Muon([{"params": [conv, idle], "lr": 0.1}], momentum=0.9, weight_decay=0.0).step()
    assert not torch.equal(conv, before)
    assert torch.equal(idle, torch.ones(3, 3))
