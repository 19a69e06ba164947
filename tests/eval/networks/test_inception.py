"""The architecture without its weights, which are published elsewhere.

Parity was checked once by hand: with the same random weights the features equal those of torch-fidelity's
network, bit for bit, and so do the names of all weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sanakit.errors import ModelNotFoundError, WeightsError
from sanakit.eval.networks import inception
from sanakit.eval.networks.inception import FILE, InceptionV3, inception_features, load_inception


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3().eval().requires_grad_(False)


def test_it_has_the_published_number_of_weights(network: InceptionV3) -> None:
    """Inception-v3 without its side branch (21,785,568 with batch norm) and with 1008 classes."""
    classifier = 1008 * 2049
    assert sum(p.numel() for p in network.parameters()) == 21_785_568 + classifier


def test_the_published_names_are_there(network: InceptionV3) -> None:
    names = network.state_dict().keys()
    assert {
        "Conv2d_1a_3x3.conv.weight",
        "Conv2d_1a_3x3.bn.running_var",
        "Mixed_5b.branch5x5_2.conv.weight",
        "Mixed_6a.branch3x3dbl_3.bn.bias",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
        "fc.weight",
    } <= names
    assert sum(name.endswith("conv.weight") for name in names) == 94


def test_features_are_averages_of_the_last_map_and_never_negative(network: InceptionV3) -> None:
    features = inception_features(network, torch.rand(1, 3, 40, 56) * 2 - 1)
    assert features.shape == (1, 2048)
    assert features.min() >= 0
    assert features.std() > 0


def test_averages_leave_out_the_padding() -> None:
    torch.testing.assert_close(inception._average(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_only_the_last_block_pools_by_the_maximum(network: InceptionV3) -> None:
    assert not network.Mixed_7b.pools_maximum
    assert network.Mixed_7c.pools_maximum
    x = torch.randn(1, 2048, 8, 8)
    pooled = F.max_pool2d(x, 3, stride=1, padding=1)
    torch.testing.assert_close(network.Mixed_7c(x)[:, -192:], network.Mixed_7c.branch_pool(pooled))


def test_published_weights_load_without_counters_of_batches(tmp_path: Path, network: InceptionV3) -> None:
    tensors = {name: t for name, t in network.state_dict().items() if "num_batches" not in name}
    torch.save(tensors, tmp_path / FILE)
    images = torch.rand(1, 3, 80, 80) * 2 - 1
    for place in (tmp_path, tmp_path / FILE):
        torch.testing.assert_close(load_inception(place)(images), network(images))


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(WeightsError, match=FILE):
        load_inception(tmp_path)


def test_a_folder_without_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"pytorch-fid.*--weights inception="):
        load_inception(tmp_path)


def test_a_place_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere\.pth"):
        load_inception("nowhere.pth")
