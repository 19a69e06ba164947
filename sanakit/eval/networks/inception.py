"""Inception-v3 as TensorFlow's 2015 graph has it: the feature space of the Frechet inception distance.

Source: Szegedy et al. 2015 (arXiv:1512.00567); which padding and pooling the graph really has: pytorch-fid
(Apache-2.0), whose weight file `pt_inception-2015-12-05-6726825d.pth` loads here; keys equal its keys. Unlike
torchvision's network the averages leave out padding, the last block pools by the maximum, and the classifier
knows 1008 classes. No library that ships this architecture installs without torchvision.
Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import WeightsError
from sanakit.weights.find.hub import fetch_files
from sanakit.weights.read.files import open_file

FEATURES = 2048
SIDE = 299  # pixels of the input
FILE = "pt_inception-2015-12-05-6726825d.pth"
CLASSES = 1008

Kernel = int | tuple[int, int]


class InceptionV3(nn.Module):
    """Images B 3 299 299 in [-1, 1] to the 2048 averages before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _Fives(192, 32)
        self.Mixed_5c = _Fives(256, 64)
        self.Mixed_5d = _Fives(288, 64)
        self.Mixed_6a = _ToSixes(288)
        self.Mixed_6b = _Sevens(768, 128)
        self.Mixed_6c = _Sevens(768, 160)
        self.Mixed_6d = _Sevens(768, 160)
        self.Mixed_6e = _Sevens(768, 192)
        self.Mixed_7a = _ToSevens(768)
        self.Mixed_7b = _Forks(1280, pools_maximum=False)
        self.Mixed_7c = _Forks(FEATURES, pools_maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)  # in the file; the distance does not read it

    def forward(self, images: Tensor) -> Tensor:
        """Return the averaged last feature map, B 2048, never negative."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = F.max_pool2d(x, 3, stride=2)  # B 64 73 73
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)  # B 192 35 35
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6a(x)  # B 768 17 17
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # B 2048 8 8
        return x.mean((2, 3))


def load_inception(place: str | Path) -> InceptionV3:
    """Load the published weights, ready for evaluation.

    place: the file, a folder that holds it under its published name, or a Hub repository that does.
    Raises WeightsError when there is none, or it holds another network; ModelNotFoundError.
    """
    path = fetch_files(str(place), [FILE])
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing: the Frechet inception distance needs {FILE}, published with pytorch-fid "
            "(release fid_weights of mseitzer/pytorch-fid); name the file with --weights inception=FILE."
        )
    files = open_file(path)
    with torch.device("meta"):
        model = InceptionV3()
    try:
        tensors = {name: files.read(name) for name in files.infos}
        # torch counts batches during training only; older files lack the counters
        for name in model.state_dict():
            if name.endswith("num_batches_tracked"):
                tensors.setdefault(name, torch.zeros((), dtype=torch.long))
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} is not {FILE}: {' '.join(str(error).split())[:300]}") from None
    return model.float().eval().requires_grad_(False)


@torch.no_grad()
def inception_features(model: InceptionV3, images: Tensor) -> Tensor:
    """Return features of images of one size, B 2048 float32.

    images: B 3 H W in [-1, 1]; brought to 299 x 299 as pytorch-fid does, without a filter against aliasing.
    """
    resized = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return model(resized)


class _Conv(nn.Module):
    """Convolution, batch norm with TensorFlow's eps, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, *, stride: int = 1, padding: Kernel = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Fives(nn.Module):
    """35 x 35: kernels of one, five, and three after three, beside an average."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1 = _Conv(inputs, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], dim=1)


class _ToSixes(nn.Module):
    """35 x 35 to 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class _Sevens(nn.Module):
    """17 x 17: seven pixels across and seven down, once and twice, beside an average."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 192, 1)
        self.branch7x7_1 = _Conv(inputs, width, 1)
        self.branch7x7_2 = _Conv(width, width, (1, 7), padding=(0, 3))
        self.branch7x7_3 = _Conv(width, 192, (7, 1), padding=(3, 0))
        self.branch7x7dbl_1 = _Conv(inputs, width, 1)
        self.branch7x7dbl_2 = _Conv(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_3 = _Conv(width, width, (1, 7), padding=(0, 3))
        self.branch7x7dbl_4 = _Conv(width, width, (7, 1), padding=(3, 0))
        self.branch7x7dbl_5 = _Conv(width, 192, (1, 7), padding=(0, 3))
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], dim=1)


class _ToSevens(nn.Module):
    """17 x 17 to 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(inputs, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(inputs, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class _Forks(nn.Module):
    """8 x 8: branches that end in a fork of one across and one down."""

    def __init__(self, inputs: int, *, pools_maximum: bool) -> None:
        super().__init__()
        self.pools_maximum = pools_maximum
        self.branch1x1 = _Conv(inputs, 320, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.pools_maximum else _average(x)
        forks = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(pooled)], dim=1)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
