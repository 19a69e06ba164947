"""What a cache says of itself, and which caches are refused to be mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sanakit.data.cache.about import ABOUT as NAME
from sanakit.data.cache.about import About, CachedClips, Maker, Shard, check_same, read_about
from sanakit.data.cache.store import held_cache
from sanakit.errors import DataError

ABOUT = About(
    maker=Maker(model="tiny", autoencoder="a" * 64, scaling_factor=1.0),
    resolution=64,
    sizes=((9, 64, 96), (17, 64, 96)),
    latent_channels=4,
    compression=8,
    text_width=0,
    source="c" * 64,
    captions="d" * 64,
    pictures=9,
    broken={},
    left_out={},
    ignored={},
    shards=(Shard("00000.safetensors", 0, 3),),
    notes={"a.mp4": "Its sound is left out."},
    clips=CachedClips(rate="24000/1001", lengths=(9, 17), repeat=True, per_latent=4),
)


def test_what_is_said_is_read_again(tmp_path: Path) -> None:
    with held_cache(tmp_path, ABOUT):
        assert read_about(tmp_path) == ABOUT
    assert ABOUT.clips is not None
    assert ABOUT.clips.fps == pytest.approx(23.976, abs=1e-3)


def test_caches_of_images_that_say_nothing_of_clips_are_read(tmp_path: Path) -> None:
    images = replace(ABOUT, sizes=((64, 96),), clips=None, notes={})
    with held_cache(tmp_path, images):
        content = json.loads((tmp_path / NAME).read_text())
    del content["clips"], content["notes"]  # as before there were clips
    (tmp_path / NAME).write_text(json.dumps(content))
    assert read_about(tmp_path) == images


@pytest.mark.parametrize("per_latent", [4, 8])
def test_latents_of_a_clip_have_a_frame_of_their_own_and_shared_ones(per_latent: int) -> None:
    assert ABOUT.clips is not None
    about = replace(ABOUT, clips=replace(ABOUT.clips, per_latent=per_latent))
    assert about.latent_shape((17, 64, 96)) == (4, 1 + 16 // per_latent, 8, 12)
    assert replace(ABOUT, clips=None).latent_shape((64, 96)) == (4, 8, 12)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"rate": "16"},
            "is a cache of clips of 9, 17 frames at 24000/1001 a second, short ones repeated, not",
        ),
        ({"lengths": (9,)}, "not of 9 frames at 24000/1001 a second, short ones repeated: choose another"),
        ({"repeat": False}, "not of 9, 17 frames at 24000/1001 a second: choose another folder"),
    ],
)
def test_clips_that_are_sampled_otherwise_are_not_mixed(changed: dict[str, Any], said: str) -> None:
    assert ABOUT.clips is not None
    with pytest.raises(DataError, match=said):
        check_same(Path("cache"), ABOUT, replace(ABOUT, clips=replace(ABOUT.clips, **changed)))


def test_images_and_clips_are_not_mixed_and_notes_do_not_matter() -> None:
    with pytest.raises(DataError, match="cache is a cache of clips, not of images"):
        check_same(Path("cache"), ABOUT, replace(ABOUT, clips=None))
    check_same(Path("cache"), ABOUT, replace(ABOUT, notes={}))


@pytest.mark.parametrize(
    "clips", [{"rate": "16"}, 3, {"rate": "16", "lengths": 9, "repeat": 0, "per_latent": 4}]
)
def test_damage_is_named(clips: Any, tmp_path: Path) -> None:
    with held_cache(tmp_path, ABOUT):
        content = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(content | {"clips": clips}))
    with pytest.raises(DataError, match=r"cache\.json is damaged"):
        read_about(tmp_path)
