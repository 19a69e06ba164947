"""What every test gets: no network, one thread, a fixed seed per test, and the repository's root."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sanakit.pocket.data.dataset import PocketImages

# Before torch is imported anywhere: tiny tensors run faster on one thread than on a pool.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def discs() -> Callable[..., PocketImages]:
    """Make a data set in memory: a disc of its own colour for each thing, in all styles."""
    import numpy as np

    from sanakit.pocket.data.dataset import PocketImages, PocketRow
    from sanakit.pocket.words.captions import STYLES

    def make(things: dict[str, tuple[int, int, int]], radius: int) -> PocketImages:
        y, x = np.mgrid[:256, :256] - 127.5
        disc = (x**2 + y**2 < radius**2).astype(np.uint8) * 255
        images, rows = [], []
        for style in STYLES:
            for concept, colour in things.items():
                images.append(np.where(disc[..., None] > 0, np.uint8(colour), np.uint8(255)))
                texts = dict.fromkeys(
                    ("name", "hex", "style_tag", "group", "subgroup", "licence", "source"), ""
                )
                rows.append(PocketRow(concept=concept, style=style.name, captions=[], split="train", **texts))
        return PocketImages(np.stack(images), np.stack([disc] * len(rows)), rows, {})

    return make


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for another machine fails, with the address it reached for."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"this test tried to connect to {address}")
        return connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", connect_here)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Tests that draw from torch's global generator draw the same numbers in any order of tests."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
