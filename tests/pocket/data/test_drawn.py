"""Drawings at 512 px: vector art drawn again, the rest enlarged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sanakit.errors import DataError
from sanakit.pocket.data.dataset import build_pocket, open_pocket
from sanakit.pocket.data.drawn import drawn_at
from sanakit.pocket.data.toy import build_toy

pytest.importorskip("resvg_py")


@pytest.fixture
def built(packages: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pocket"
    build_pocket(folder, cache=packages, workers=1)
    packages.rename(tmp_path / "pocket-packages")
    return folder


def test_vector_art_is_drawn_again_and_its_edge_is_sharp(built: Path):
    pocket = open_pocket(built)
    double = drawn_at(512, built, pocket)
    assert double.images.shape == (7, 512, 512, 3)
    assert double.rows == pocket.rows
    at = next(i for i, row in enumerate(pocket.rows) if row.style == "noto" and row.concept == "fox")
    image, alpha = np.asarray(double.images[at]), np.asarray(double.alpha[at])
    assert image.shape == (512, 512, 3)
    assert (image[:, :256] == (255, 128, 0)).all()  # the left half, to the pixel
    assert (image[:, 256:] == 255).all()
    assert (alpha[:, :256] == 255).all()
    assert not alpha[:, 256:].any()


def test_images_of_one_size_are_enlarged(built: Path):
    pocket = open_pocket(built)
    double = drawn_at(512, built, pocket)
    assert pocket.rows[0].style == "fluent-3d"
    assert (np.asarray(double.images[0]) == (255, 0, 0)).all()


def test_a_pool_of_one_size_is_not_taken_for_one_of_another(built: Path):
    pocket = open_pocket(built)
    assert drawn_at(512, built, pocket).fingerprint != pocket.fingerprint


def test_made_up_drawings_are_enlarged(tmp_path: Path):
    pocket = open_pocket(build_toy(tmp_path / "toy"))
    double = drawn_at(512, tmp_path / "toy", pocket)
    half = np.asarray(double.images[1])[::2, ::2].astype(int)
    assert np.abs(half - pocket.images[1]).mean() < 3
    assert np.asarray(double.alpha[1]).shape == (512, 512)


def test_other_sides_and_missing_packages_are_refused(built: Path):
    pocket = open_pocket(built)
    with pytest.raises(DataError, match="multiple of 256"):
        drawn_at(300, built, pocket)
    pocket.rows[0] = replace(pocket.rows[0], concept="x")
    with pytest.raises(DataError, match="build it again"):
        drawn_at(512, built, pocket)
