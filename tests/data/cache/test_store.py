"""The cache's files: what is written comes back, and what is missing or damaged is named."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanakit.data.cache import store as module
from sanakit.data.cache.about import About, Maker, Shard
from sanakit.data.cache.store import Cache, CachedImage, begun, has_shard, held_cache, is_cache, write_shard
from sanakit.data.read.captions import Caption
from sanakit.errors import DataError, OutputError

MAKER = Maker(
    model="tiny",
    autoencoder="a" * 64,
    scaling_factor=0.5,
    text_encoder="b" * 64,
    instruction="Draw: ",
    max_tokens=20,
)
ABOUT = About(
    maker=MAKER,
    resolution=128,
    sizes=((128, 128), (64, 256)),
    latent_channels=8,
    compression=32,
    text_width=6,
    source="c" * 64,
    captions="d" * 64,
    pictures=9,
    broken={"b.png": "is empty"},
    left_out={},
    ignored={},
    shards=(Shard("00000.safetensors", 0, 3), Shard("00001.safetensors", 1, 1)),
)


def pictures() -> list[CachedImage]:
    def latents(h: int, w: int) -> torch.Tensor:
        return torch.randn(8, h, w).half()

    def text(*lengths: int) -> list[torch.Tensor]:
        return [torch.randn(length, 6).bfloat16() for length in lengths]

    odd = (Caption("ein süßer Hund\n", 31.5, "seer"), Caption("狗"))
    return [
        CachedImage("a.png", 4, odd, None, latents(4, 4), text(5, 2)),
        CachedImage("bro\udcffken.png", 5, failed="is damaged (x)"),
        CachedImage("bare.png", 7, (), None, latents(4, 4), text(1)),
        CachedImage("flat.png", 0, (Caption("flat"),), None, latents(2, 8), text(3)),
    ]


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[CachedImage]]:
    made = pictures()
    folder = tmp_path / "cache"
    with held_cache(folder, ABOUT):
        write_shard(folder, ABOUT.shards[0], ABOUT, made[:3])
        write_shard(folder, ABOUT.shards[1], ABOUT, made[3:])
    return folder, made


def test_what_is_written_comes_back_bit_for_bit(written) -> None:
    folder, made = written
    cache = Cache(folder)
    assert cache.about == ABOUT
    assert len(cache) == 4
    for number, wanted in enumerate(made):
        came = cache[number]
        assert (came.key, came.number, came.captions, came.failed) == (
            wanted.key,
            wanted.number,
            wanted.captions,
            wanted.failed,
        )
        if wanted.latents is None:
            assert came.latents is None
        else:
            assert came.latents is not None
            assert torch.equal(came.latents, wanted.latents)
        assert len(came.text) == len(wanted.text)
        assert all(map(torch.equal, came.text, wanted.text))
    assert [numbers.tolist() for numbers in cache.members] == [[0, 1, 2], [3]]
    assert cache.failed == {"bro\udcffken.png": "is damaged (x)"}
    with pytest.raises(IndexError):
        cache[4]


def test_reading_copies_nothing_from_the_shard(written) -> None:
    cache = Cache(written[0])
    one, other = cache[0], cache[2]
    assert one.latents is not None
    assert other.latents is not None
    assert other.latents.data_ptr() - one.latents.data_ptr() == 2 * one.latents.nbytes
    assert one.text[1].data_ptr() - one.text[0].data_ptr() == one.text[0].nbytes


def test_a_truncated_shard_is_named_and_counts_as_missing(written) -> None:
    path = written[0] / "00000.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"00000\.safetensors .*truncated.*Run `sana data cache`"):
        Cache(written[0])
    assert not has_shard(written[0], ABOUT.shards[0])
    assert has_shard(written[0], ABOUT.shards[1])


def test_a_shard_of_another_cut_is_named(written) -> None:
    folder, made = written
    write_shard(folder, ABOUT.shards[0], ABOUT, made[:2])
    with pytest.raises(DataError, match=r"00000\.safetensors holds 2 images instead of 3"):
        Cache(folder)


def test_a_damaged_row_is_named(written) -> None:
    path = written[0] / "00001.safetensors"
    path.write_bytes(path.read_bytes().replace(b'{"key"', b'{"kex"'))
    cache = Cache(written[0])
    with pytest.raises(DataError, match=r"00001\.safetensors is damaged in the row of its image 0"):
        cache[3]


def test_an_unfinished_cache_says_how_much_is_missing(written) -> None:
    (written[0] / "00001.safetensors").unlink()
    with pytest.raises(DataError, match=r"1 of its 2 shards are missing, the first is 00001"):
        Cache(written[0])


def test_what_is_no_cache_is_told(tmp_path: Path) -> None:
    assert not is_cache(tmp_path)
    with pytest.raises(DataError, match="is not a cache"):
        Cache(tmp_path)
    for content, said in (("{", "is damaged"), ('{"format": 99}', "another version"), ("[]", "is damaged")):
        (tmp_path / "cache.json").write_text(content)
        assert is_cache(tmp_path)
        with pytest.raises(DataError, match=said):
            Cache(tmp_path)


def test_a_full_disk_leaves_no_shard_and_says_so(written, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made = written
    path = folder / "00001.safetensors"
    path.unlink()

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OutputError, match=r"00001\.safetensors cannot be written \(No space left.*make room"):
        write_shard(folder, ABOUT.shards[1], ABOUT, made[3:])
    assert sorted(entry.name for entry in folder.iterdir()) == ["00000.safetensors", "cache.json"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"maker": replace(MAKER, model="other", autoencoder="d" * 64)},
            "tiny, and other differs.*autoencoder",
        ),
        ({"maker": replace(MAKER, text_encoder="d" * 64)}, "the text encoder"),
        ({"maker": replace(MAKER, dialect="native")}, r"the dialect that prompts are read in \(diffusers"),
        ({"text_width": 0}, "is a cache with text features: give --text"),
        ({"resolution": 256}, "of 128 px, not of 256"),
        ({"source": "d" * 64}, r"other images, .*\(source"),
        ({"source": "d" * 64, "captions": "e" * 64}, r"other images, .*\(source"),
        ({"captions": "e" * 64}, "these images with other captions or scores, which changed since: choose"),
    ],
)
def test_a_folder_is_not_mixed_from_two_caches(written, changed: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        begun(written[0], replace(ABOUT, **changed))


def test_a_cache_that_was_begun_keeps_its_shards(written) -> None:
    asked = replace(ABOUT, shards=(Shard("00000.safetensors", 0, 4),), ignored={"new.doc": "is not an image"})
    assert begun(written[0], asked) == ABOUT
    assert begun(written[0] / "new", asked) == asked


def test_a_cache_is_refused_to_other_models_and_sizes_by_name(written) -> None:
    cache = Cache(written[0])
    cache.check(replace(MAKER, model="a copy of it"), 128)
    cache.check(replace(MAKER, text_encoder=None, instruction="", max_tokens=0))
    for changed, said in (
        (
            {"autoencoder": "d" * 64},
            r"the autoencoder's encoder \(aaaaaaaaaaaa... there, dddddddddddd... here",
        ),
        ({"scaling_factor": 0.25}, r"the scaling factor of latents \(0.5 there, 0.25 here"),
        ({"text_encoder": "d" * 64}, "the text encoder"),
        ({"instruction": "Paint: "}, "the instruction"),
        ({"max_tokens": 300}, "tokens"),
    ):
        with pytest.raises(DataError, match=rf"made with tiny, and other differs from it in .*{said}"):
            cache.check(replace(MAKER, model="other", **changed))
    with pytest.raises(DataError, match="has 128 px, the training 256 px"):
        cache.check(MAKER, 256)


def test_a_cache_that_another_process_builds_is_refused_and_its_files_stay(written) -> None:
    folder, _ = written
    partial = folder / f".00001.safetensors.{'0' * 16}.partial"
    with held_cache(folder, ABOUT):
        partial.write_bytes(b"half")
        with pytest.raises(OutputError, match="Another process is writing"), held_cache(folder, ABOUT):
            pass
        assert partial.exists()
    with held_cache(folder, ABOUT):  # of a killed process: nobody else is there
        assert not partial.exists()
