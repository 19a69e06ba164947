"""A DC-AE that starts as the best linear codec of its images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sanakit.errors import SettingsError
from sanakit.eval.metrics.similarity import psnr
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.train.surgery.linear_init import linear_latents, patch_basis, start_linear

SMALL = DCAEConfig(
    encoder=(Stage(8, 0), Stage(16, 1), Stage(32, 1), Stage(64, 1)),
    decoder=(Stage(16, 0), Stage(32, 1), Stage(64, 1), Stage(64, 1)),
    latent_channels=16,
)


def smooth_images(count: int = 160, side: int = 32) -> torch.Tensor:
    """Random colour fields, as soft as illustrations' shading."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, 3, 3, 3, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


def reconstruction(images: torch.Tensor, side: int, count: int) -> torch.Tensor:
    """The principal components' own: the best that a linear codec of patches can do."""
    basis = patch_basis(images, side, count)
    patches = F.pixel_unshuffle(images, side).permute(0, 2, 3, 1)
    back = basis.mean + (patches - basis.mean) @ basis.components @ basis.components.T
    return F.pixel_shuffle(back.permute(0, 3, 1, 2), side)


@torch.no_grad()
def test_the_start_is_close_to_principal_components_and_far_above_random_weights():
    images = smooth_images()
    model = DCAE(SMALL).eval()
    random = psnr(model.decode(model.encode(images)), images).mean()
    basis = start_linear(model, images)
    latents = model.encode(images)
    started = psnr(model.decode(latents), images).mean()
    best = psnr(reconstruction(images, 8, 16), images).mean()
    assert best > 30
    assert started > best - 0.3
    assert started > random + 20
    # The encoder gives what it was fitted to: components whose variance is the square root of the data's.
    wanted = linear_latents(images, basis)
    assert (latents - wanted).std() < 0.03 * wanted.std()
    assert latents.std((0, 2, 3)) == pytest.approx(basis.deviation.sqrt(), rel=0.01)


@torch.no_grad()
def test_the_start_generalises_to_other_images_and_sizes():
    model = DCAE(SMALL).eval()
    start_linear(model, smooth_images())
    others = F.interpolate(torch.randn(8, 3, 6, 9), (40, 64), mode="bicubic").clamp(-1, 1)
    assert psnr(model.decode(model.encode(others)), others).mean() > 25


def test_every_trained_layer_but_the_silent_branches_has_a_gradient():
    model = DCAE(SMALL)
    images = smooth_images(40)
    start_linear(model, images)
    (model.decode(model.encode(images)) - images).abs().mean().backward()
    still = {name for name, p in model.named_parameters() if not p.grad.any()}
    # Behind a norm of gain zero nothing moves until the norm itself has: its gain does in the first step.
    assert still == {name for name in still if ".conv1." in name or ".conv2." in name}
    norms = [p for name, p in model.decoder.named_parameters() if name.endswith("norm.weight")]
    assert all(p.grad.abs().max() > 0 for p in norms)


@pytest.mark.parametrize(("side", "count"), [(4, 6), (32, 12)])
def test_patch_basis_is_orthonormal_and_holds_the_most_variance(side, count):
    images = smooth_images(60, 64)
    basis = patch_basis(images, side, count)
    patches = F.pixel_unshuffle(images, side).permute(0, 2, 3, 1).flatten(0, 2)
    gram = basis.components.T @ basis.components
    torch.testing.assert_close(gram, torch.eye(count), atol=1e-4, rtol=0)
    coefficients = (patches - basis.mean) @ basis.components
    torch.testing.assert_close(coefficients.std(0, correction=0), basis.deviation, atol=1e-3, rtol=1e-3)
    exact = torch.linalg.svdvals(patches - patches.mean(0))[:count] / len(patches) ** 0.5
    torch.testing.assert_close(basis.deviation, exact, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": (Stage(8, 1), Stage(16, 1), Stage(32, 1), Stage(64, 1))},
        {"decoder": (Stage(8, 0), Stage(8, 1), Stage(32, 1), Stage(64, 1))},
        {"decoder": (Stage(16, 0), Stage(32, 1), Stage(64, 1), Stage(64, 1, (5,)))},
        {"interpolate_up": True},
        {"strided_down": True},
        {"encoder_out_shortcut": False},
        {"out_act": "silu"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_architecture_without_the_linear_maps_is_refused(change):
    fields = {name: getattr(SMALL, name) for name in SMALL.__slots__} | change
    with pytest.raises(SettingsError, match="A linear start needs"):
        start_linear(DCAE(DCAEConfig(**fields)), smooth_images(4))


def test_half_a_model_is_refused():
    with pytest.raises(SettingsError, match="both halves"):
        start_linear(DCAE(SMALL, part="decoder"), smooth_images(4))
