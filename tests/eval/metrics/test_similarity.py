"""PSNR against its definition, SSIM against scikit-image."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from sanakit.eval.metrics.similarity import psnr, ssim


def pictures(count: int = 3, size: tuple[int, int] = (40, 28)) -> Tensor:
    """Smooth random images in [-1, 1]."""
    coarse = torch.randn(count, 3, 6, 6)
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(-1, 1)


def numpy(image: Tensor):
    return ((image + 1) / 2).permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("error", [0.002, 0.1, 1.0])
def test_psnr_of_a_known_error_is_exact(error):
    images = torch.zeros(2, 3, 8, 8)
    noisy = images + torch.tensor([error, -2 * error])[:, None, None, None]
    expected = torch.tensor([-20 * math.log10(error / 2), -20 * math.log10(error)])
    torch.testing.assert_close(psnr(noisy, images), expected, atol=1e-4, rtol=0)


def test_psnr_agrees_with_scikit_image_and_is_infinite_for_equals():
    images = pictures()
    noisy = (images + 0.1 * torch.randn_like(images)).clamp(-1, 1)
    expected = [
        peak_signal_noise_ratio(numpy(a), numpy(b), data_range=1) for a, b in zip(images, noisy, strict=True)
    ]
    assert psnr(noisy, images).tolist() == pytest.approx(expected, abs=1e-3)
    assert psnr(images, images).isposinf().all()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("size", [(40, 28), (11, 11)])
def test_ssim_agrees_with_scikit_image(noise, size):
    images = pictures(size=size)
    noisy = (images + noise * torch.randn_like(images)).clamp(-1, 1)
    expected = [
        structural_similarity(
            numpy(a),
            numpy(b),
            data_range=1,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(images, noisy, strict=True)
    ]
    assert ssim(noisy, images).tolist() == pytest.approx(expected, abs=1e-3)


def test_ssim_is_one_for_equals_and_negative_for_opposites():
    images = pictures()
    torch.testing.assert_close(ssim(images, images), torch.ones(3))
    checks = torch.ones(1, 1, 16, 16)
    checks[..., ::2, ::2] = checks[..., 1::2, 1::2] = -1
    assert ssim(checks, -checks).item() < -0.9
