"""Caches of clips: what is planned, made, refused, and what training gets of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sanakit.data.batches.clip_buckets import ClipSampling
from sanakit.data.batches.clip_sampling import ClipOptions
from sanakit.data.batches.loader import Loader
from sanakit.data.cache.build import CachePlan, build_cache, maker_of, plan_cache
from sanakit.data.cache.loader import CachedLoader
from sanakit.data.cache.store import Cache
from sanakit.data.medium import CLIPS
from sanakit.data.read.decode import decode_clip
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.errors import DataError, SettingsError
from sanakit.images.image import from_levels
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.feeds.feed import Unencoded, encoded
from sanakit.train.parts import Part
from sanakit.weights import load_autoencoder, load_text_encoder, save_autoencoder
from tests.data.clip_files import counted

OPTIONS = ClipOptions(lengths=(9, 17), sizes=((32, 32),))
WHOLE = Part(0, 2, 2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of two lengths, one of them without a caption; one too short, one cut off, an image."""
    place = tmp_path_factory.mktemp("clips")
    for number, (suffix, frames) in enumerate([(".mp4", 17), (".webp", 9), (".gif", 20), (".webm", 12)]):
        counted(place / f"{number}{suffix}", frames, caption=f"clip {number}" if number else "")
    counted(place / "short.webp", 5)
    (place / "cut.mp4").write_bytes((place / "0.mp4").read_bytes()[:-99])
    (place / "image.png").write_bytes(b"x")
    return place


def planned(place: Path, folder: Path, model: Path, **settings: Any) -> CachePlan:
    return plan_cache(place, folder, model, **({"clips": OPTIONS} | settings))


@pytest.fixture(scope="module")
def cached(clips: Path, video_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cached") / "cache"
    return build_cache(planned(clips, folder, video_model, text=True)).folder


def test_what_is_made_is_what_was_planned_and_all_else_is_named(
    clips: Path, tmp_path: Path, video_model: Path
) -> None:
    options = replace(OPTIONS, lengths=(10, 17))
    plan = planned(clips, tmp_path / "cache", video_model, clips=options)
    assert plan.notes == ("10 frames make no whole number of latents: 9 are taken (1 + a multiple of 4).",)
    assert plan.latent_bytes == 2 * 2 * 4 * 4 * 4 * (3 + 5)  # clips, float16, C h w, latents along time
    built = build_cache(plan)
    assert (built.pictures, built.samples) == (4, "clips")
    assert built.broken.keys() == {"cut.mp4"}
    assert built.left_out == {"short.webp": "5 frames at 16 a second are too few: the shortest length is 9"}
    assert built.ignored == {"image.png": "is not a clip (.png)"}
    assert built.notes == {"0.mp4": "It has no caption, and is trained on with an empty one."}
    again = build_cache(planned(clips, tmp_path / "cache", video_model, clips=options))
    assert again.kept == 4


def test_latents_are_those_of_the_beginning_of_each_clip_and_text_that_of_its_captions(
    clips: Path, cached: Path, video_model: Path
) -> None:
    cache, source = Cache(cached), open_source(clips, CLIPS)
    codec, encoder = load_autoencoder(video_model), load_text_encoder(video_model)
    lengths = {"0.mp4": 17, "1.webp": 9, "2.gif": 17, "3.webm": 9}
    for row in range(len(cache)):
        image = cache[row]
        assert image.latents is not None
        with source.clip(image.number) as clip:
            pixels = decode_clip(clip, (lengths[image.key], 32, 32), Fraction(16), 0)
        wanted = encoded(codec, from_levels(pixels[None]))[0]
        torch.testing.assert_close(image.latents.float(), wanted, rtol=2**-10, atol=1e-3)
        texts = [caption.text for caption in image.captions]
        assert texts == ([f"clip {image.key[0]}"] if image.key[0] != "0" else [])
        for text, wanted_text in zip(image.text, encoder.encode(texts or [""]), strict=True):
            torch.testing.assert_close(text.float(), wanted_text, rtol=2**-7, atol=1e-4)


def test_a_feed_shows_a_cache_as_it_shows_the_clips(clips: Path, cached: Path, video_model: Path) -> None:
    codec, source = load_autoencoder(video_model), open_source(clips, CLIPS)
    sampling = ClipSampling(sizes=OPTIONS.sizes, lengths=OPTIONS.lengths, rate=Fraction(16))
    loader = Loader(source, scan(source), resolution=sampling, batch_size=2, seed=1)
    ours = CachedLoader(cached, batch_size=2, seed=1)
    assert ours.order.batches_per_epoch == loader.order.batches_per_epoch == 2
    feeds = [CaptionedFeed(one, codec) for one in (loader, ours)]
    shapes = set()
    for step in range(2):
        plain, known = (feed.shown(step, WHOLE) for feed in feeds if not feed.begin(step, [WHOLE]))
        assert isinstance(plain.latents, Unencoded)
        latents = plain.latents.encode()
        assert tuple(known.latents.shape) == plain.latents.shape == tuple(latents.shape)
        assert (known.captions, known.fps, plain.fps) == (plain.captions, 16, 16)
        assert len(known.features) == 2
        assert plain.shares is not None
        assert known.shares is not None
        assert plain.shares.tolist() == known.shares.tolist() == [0.5, 0.5]
        shapes.add(tuple(latents.shape))
    assert shapes == {(2, 4, 3, 4, 4), (2, 4, 5, 4, 4)}
    assert ours.report().used == 4
    assert "4 of 7 clips are trained on." not in str(ours.report()), "six are clips"
    assert "4 of 6 clips are trained on." in str(ours.report())


def test_images_are_clips_of_one_frame_to_an_autoencoder_of_clips(tmp_path: Path, video_model: Path) -> None:
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "a.png")
    source, codec = open_source(tmp_path), load_autoencoder(video_model)
    loader = Loader(source, scan(source), resolution=32, batch_size=1)
    feed = CaptionedFeed(loader, codec)
    feed.begin(0, [Part(0, 1, 1)])
    shown = feed.shown(0, Part(0, 1, 1))
    assert isinstance(shown.latents, Unencoded)
    assert shown.latents.shape == tuple(shown.latents.encode().shape) == (1, 4, 1, 4, 4)
    assert shown.fps is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (replace(OPTIONS, rate=8, repeat=True), "is a cache of clips of 9, 17 frames at 16 a second, not of"),
        (replace(OPTIONS, motion=5), "of these clips with other captions or scores, which changed since"),
        (replace(OPTIONS, sizes=((32, 16),)), "choose another folder"),
    ],
)
def test_a_cache_is_not_gone_on_with_by_other_settings(
    options: ClipOptions, said: str, clips: Path, cached: Path, video_model: Path
) -> None:
    with pytest.raises(DataError, match=said):
        planned(clips, cached, video_model, clips=options, text=True)


def test_an_encoder_or_a_normalisation_that_differs_is_told(video_model: Path, tmp_path: Path) -> None:
    own = maker_of(video_model)
    for name, change in (("weights", True), ("normalisation", False)):
        copy = Path(shutil.copytree(video_model, tmp_path / name))
        changed = load_autoencoder(copy)
        if change:
            with torch.no_grad():
                next(changed.encoder.parameters()).add_(1)  # pyright: ignore[reportOptionalMemberAccess]
        else:
            changed.config = replace(changed.config, latents_std=(1.0,) * 4)
        shutil.rmtree(copy / "vae")
        save_autoencoder(copy / "vae", changed)
        found = own.difference(maker_of(copy))
        assert found is not None, name
        assert "the autoencoder's encoder" in found
    assert own.difference(maker_of(Path(shutil.copytree(video_model, tmp_path / "same")))) is None


def test_what_cannot_be_planned_is_refused(
    clips: Path, tmp_path: Path, video_model: Path, tiny_model: Path
) -> None:
    with pytest.raises(SettingsError, match="is a model of images: leave out the settings of clips"):
        planned(clips, tmp_path / "a", tiny_model)
    with pytest.raises(DataError, match=r"no usable clip at 32 px: 1 of 6 are broken, 5 .*0\.mp4: 17 .*"):
        planned(clips, tmp_path / "b", video_model, clips=replace(OPTIONS, lengths=(33,)))
    with pytest.raises(DataError, match="is not trained on clips: open the place as the other kind"):
        plan_cache(open_source(clips, CLIPS), tmp_path / "d", tiny_model)
    only = tmp_path / "only"
    only.mkdir()
    (only / "image.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no clips, but images \(image\.png\)"):
        planned(only, tmp_path / "c", video_model)
