"""Recognition on points whose neighbours are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sanakit.pocket.evaluate.recognition import Gallery, Shares, ceiling, fit_basis, floor

CONCEPTS = 8


def gallery(pictures: torch.Tensor, labels: list[int], designs=None, artists=None) -> Gallery:
    """A gallery whose features are its coordinates."""
    size = pictures.shape[1]
    return Gallery(
        mean=torch.zeros(size),
        basis=torch.eye(size),
        images=F.normalize(pictures, dim=1),
        labels=torch.tensor(labels),
        designs=tuple(designs or ["one"] * len(labels)),
        artists=tuple(artists or ["she"] * len(labels)),
        concepts=tuple(f"concept {i}" for i in range(CONCEPTS)),
    )


@pytest.fixture
def axes() -> Gallery:
    """Concept i lies on axis i."""
    return gallery(torch.eye(CONCEPTS), list(range(CONCEPTS)))


def test_a_picture_on_its_concept_has_rank_0_and_one_on_another_has_1(axes: Gallery) -> None:
    # nearest to 2, then to 5, then to 0; the rest are equally far
    point = axes.project(torch.tensor([[0.3, 0, 0.9, 0, 0, 0.5, 0, 0]]).expand(3, -1))
    assert axes.ranks(point, torch.tensor([2, 5, 0])).tolist() == [0, 1, 2]


def test_a_concept_is_the_mean_direction_of_its_pictures() -> None:
    two = gallery(torch.tensor([[1.0, 0], [0, 1.0], [1.0, -0.2]]), [0, 0, 1])
    similarity = two.similarity(F.normalize(torch.tensor([[1.0, 1.0]]), dim=1))
    assert similarity[0, 0].item() == pytest.approx(1)
    assert similarity[0, 1].item() == pytest.approx(0.8 / math.sqrt(2 * 1.04))
    assert similarity[0, 2].item() == 0  # no images


def test_a_tie_counts_against_the_picture() -> None:
    blind = gallery(torch.ones(CONCEPTS, 3), list(range(CONCEPTS)))
    ranks = blind.ranks(blind.images, blind.labels)
    assert ranks.tolist() == [CONCEPTS - 1] * CONCEPTS


def test_shares_count_the_nearest_and_the_five_nearest() -> None:
    assert Shares.of(torch.tensor([0, 0, 4, 5, 7])) == Shares(pytest.approx(0.4), pytest.approx(0.6))


def test_features_lose_their_mean_and_their_length(axes: Gallery) -> None:
    moved = gallery(torch.eye(CONCEPTS), list(range(CONCEPTS)))
    moved.mean.fill_(3.0)
    direction = torch.randn(2, CONCEPTS)
    torch.testing.assert_close(moved.project(7 * direction + 3), axes.project(direction))


def test_the_basis_makes_all_directions_vary_alike() -> None:
    features = torch.randn(400, 6) * torch.tensor([9.0, 4, 2, 1, 0.1, 0.1]) + 5
    mean, basis = fit_basis(features, 4)
    torch.testing.assert_close(mean, features.mean(0))
    coordinates = (features - mean) @ basis
    torch.testing.assert_close(coordinates.T @ coordinates / 400, torch.eye(4), atol=1e-4, rtol=0)
    assert basis[4:].abs().max() < 0.1  # the two directions with little variance are those left out


def test_more_directions_than_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="5 directions"):
        fit_basis(torch.randn(4, 9), 5)


def twins() -> Gallery:
    """Each concept as near twins by one artist, and by another in a design that looks like nothing else."""
    eye, none = torch.eye(CONCEPTS), torch.zeros(CONCEPTS, CONCEPTS)
    pictures = torch.cat(
        [torch.cat([eye, none], 1), torch.cat([eye + 0.01, none], 1), torch.cat([none, eye], 1)]
    )
    labels = list(range(CONCEPTS)) * 3
    designs = ["a"] * CONCEPTS + ["b"] * CONCEPTS + ["c"] * CONCEPTS
    artists = ["she"] * 2 * CONCEPTS + ["he"] * CONCEPTS
    return gallery(pictures, labels, designs, artists)


def test_the_ceiling_never_looks_at_the_group_it_recognises() -> None:
    found = twins()
    assert (found.ranks(found.images, found.labels) == 0).all()
    # hers are looked up among his and his among hers: nothing is alike
    assert ceiling(found, found.artists).top1 == 0
    # a and b are recognised by each other, c by nothing
    assert ceiling(found, found.designs).top1 == pytest.approx(2 / 3)


def test_random_pictures_are_recognised_as_often_as_chance_says() -> None:
    concepts = torch.randn(CONCEPTS, 16)
    points = gallery(concepts, list(range(CONCEPTS)))
    strangers = points.project(torch.randn(500, 16))
    shares = [floor(points, strangers, torch.Generator().manual_seed(i)) for i in range(100)]
    top1, top5 = sum(s.top1 for s in shares) / 100, sum(s.top5 for s in shares) / 100
    assert top1 == pytest.approx(1 / CONCEPTS, abs=0.04)  # three standard deviations of 800 draws
    assert top5 == pytest.approx(5 / CONCEPTS, abs=0.05)


def test_the_floor_depends_on_the_generator_alone(axes: Gallery) -> None:
    strangers = axes.project(torch.randn(30, CONCEPTS))
    first, again = (floor(axes, strangers, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
