"""Batches of a cache are those of the images, encoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.data.batches.loader import Loader
from sanakit.data.cache.build import build_cache, plan_cache
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.errors import DataError, SettingsError
from sanakit.weights import load_autoencoder, load_text_encoder


@dataclass(frozen=True)
class Part:
    start: int
    stop: int
    total: int


WHOLE = Part(0, 4, 4)


@pytest.fixture
def cached(folder: Path, tmp_path: Path, tiny_model: Path) -> Path:
    (folder / "03.txt").unlink()  # one without captions
    return build_cache(plan_cache(folder, tmp_path / "cache", tiny_model, 256, text=True)).folder


def test_batches_are_what_encoding_the_loaders_pictures_gives(
    folder: Path, cached: Path, tiny_model: Path
) -> None:
    source = open_source(folder)
    codec = load_autoencoder(tiny_model)
    encoder = load_text_encoder(tiny_model)
    drawn = 0
    with (
        Loader(source, scan(source), resolution=256, batch_size=4, seed=3) as loader,
        CachedLoader(cached, batch_size=4, seed=3) as cache,
    ):
        assert cache.order.batches_per_epoch == loader.order.batches_per_epoch
        for step in range(2 * loader.order.batches_per_epoch):
            for part in (WHOLE, Part(1, 3, 4)):
                wanted, came = loader.batch(step, part), cache.batch(step, part)
                assert came.keys == wanted.keys
                assert came.captions == wanted.captions
                assert torch.equal(came.weights, wanted.weights)
                with torch.no_grad():
                    latents = codec.encode(wanted.images) * codec.config.scaling_factor
                real = wanted.weights > 0
                assert came.latents.dtype == torch.float32
                # half a unit in the last of float16's 11 bits
                torch.testing.assert_close(came.latents[real], latents[real], rtol=2**-11, atol=1e-6)
                assert not came.latents[~real].any()
                for sound, caption, text in zip(real, came.captions, came.text, strict=True):
                    wanted_text = encoder.encode([caption])[0] if sound else torch.zeros(1, 24)
                    torch.testing.assert_close(text.float(), wanted_text, rtol=2**-8, atol=1e-5)
                drawn += int(real.sum())
        assert drawn >= 22  # two epochs of eleven, and the parts
        report, other = cache.report(), loader.report()
        assert report == other
    assert "truncated.jpg" in str(report)


def test_an_epoch_gives_each_sound_picture_once_and_seeds_differ(cached: Path) -> None:
    orders = []
    for seed in (0, 1):
        loader = CachedLoader(cached, batch_size=4, seed=seed)
        batches = [loader.batch(step, WHOLE) for step in range(loader.order.batches_per_epoch)]
        seen = Counter(
            key for batch in batches for key, weight in zip(batch.keys, batch.weights, strict=True) if weight
        )
        assert len(seen) == 11
        assert set(seen.values()) == {1}
        orders.append([batch.keys for batch in batches])
    assert orders[0] != orders[1]


def test_pictures_held_out_are_held_out_as_from_the_loader(folder: Path, cached: Path) -> None:
    source = open_source(folder)
    index = scan(source)
    cache = Cache(cached)
    out = [0, 1, int(cache.members[-1][0])]
    numbers = [cache[row].number for row in out]
    heights = index.heights.copy()
    heights[numbers] = 0
    loader = Loader(
        source,
        type(index)(heights, index.widths, index.broken, index.fingerprint),
        resolution=256,
        batch_size=4,
    )
    ours = CachedLoader(cache, batch_size=4, held_out=np.array(out))
    assert len(ours.buckets) == len(loader.buckets) == 9
    assert ours.buckets.sizes == loader.buckets.sizes
    for step in range(8):
        assert ours.batch(step, WHOLE).keys == loader.batch(step, WHOLE).keys


def test_wrong_settings_are_refused(cached: Path, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"batch_size": 0},
        {"batch_size": 4, "seed": -1},
        {"batch_size": 4, "temperature": 0.0},
    ]
    for settings in wrong:
        with pytest.raises(SettingsError):
            CachedLoader(cached, **settings)
    loader = CachedLoader(cached, batch_size=4)
    with pytest.raises(SettingsError, match="the global batch has 4"):
        loader.begin(0, [Part(0, 8, 8)])
    with pytest.raises(DataError, match="no image"):
        CachedLoader(cached, batch_size=4, held_out=range(100))
    with pytest.raises(DataError, match="is not a cache"):
        CachedLoader(tmp_path, batch_size=4)
