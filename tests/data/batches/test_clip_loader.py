"""Batches of clips: the right frames, windows anywhere, the same for any number of ranks and workers."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats.read_video import VideoFrames
from sanakit.data.batches.clip_buckets import ClipSampling
from sanakit.data.batches.loader import LoadedBatch, Loader
from sanakit.data.medium import CLIPS
from sanakit.data.read.decode import decode_clip, scale_and_cut
from sanakit.data.read.index import scan
from sanakit.data.read.open import open_source
from sanakit.errors import DataError, SettingsError
from sanakit.train.parts import Part
from tests.clips.moving import moving
from tests.data.clip_files import counted, numbers_of

SAMPLING = ClipSampling(sizes=((32, 32),), lengths=(9,), rate=Fraction(16))
WHOLE = Part(0, 4, 4)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sound clips, the first without a caption; one that is too short, one that is broken inside."""
    place = tmp_path_factory.mktemp("clips")
    for number, (suffix, frames) in enumerate(
        [(".mp4", 20), (".webm", 17), (".webp", 9), (".gif", 12), (".mp4", 30), (".webp", 15)]
    ):
        counted(place / f"{number}{suffix}", frames, caption=f"clip {number}" if number else "")
    counted(place / "short.mp4", 7)
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    VideoClip(frames=noise, rate=Fraction(16)).save(place / "inside.mp4")
    content = bytearray((place / "inside.mp4").read_bytes())
    middle = content.index(b"mdat") + 8000  # behind the first frame
    content[middle : middle + 4000] = bytes(4000)
    (place / "inside.mp4").write_bytes(content)
    return place


def loader_of(place: Path, sampling: ClipSampling = SAMPLING, **settings: Any) -> Loader:
    source = open_source(place, CLIPS)
    return Loader(source, scan(source), **({"resolution": sampling, "batch_size": 4, "seed": 5} | settings))


def same(one: LoadedBatch, two: LoadedBatch) -> bool:
    return torch.equal(one.images, two.images) and (one.keys, one.captions) == (two.keys, two.captions)


def test_windows_are_whole_runs_of_frames_that_begin_anywhere(clips: Path) -> None:
    starts: dict[str, set[int]] = {}
    with loader_of(clips) as loader:
        for step in range(25 * loader.order.batches_per_epoch):
            batch = loader.batch(step, WHOLE)
            assert batch.fps == 16
            for key, pixels, weight in zip(batch.keys, batch.images, batch.weights, strict=True):
                if weight:
                    assert pixels.shape == (3, 9, 32, 32)
                    numbers = numbers_of(pixels)
                    assert numbers == list(range(numbers[0], numbers[0] + 9)), key
                    starts.setdefault(key, set()).add(numbers[0])
        report = loader.report()
    for key, beginnings in {"0.mp4": 12, "1.webm": 9, "2.webp": 1, "3.gif": 4, "4.mp4": 22}.items():
        assert starts[key] <= set(range(beginnings))
        assert len(starts[key]) > beginnings / 2, key
    with loader.source.clip(0) as clip:
        assert numbers_of(decode_clip(clip, (9, 32, 32), Fraction(16), 1 - 1e-9)) == list(range(11, 20))
    assert report.left_out == {"short.mp4": "7 frames at 16 a second are too few: the shortest length is 9"}
    assert report.notes == {"0.mp4": "It has no caption, and is trained on with an empty one."}
    assert list(report.failed) == ["inside.mp4"]
    assert "7 of 8 clips are trained on." in str(report)
    assert "0.mp4: It has no caption" in str(report)


def test_a_step_is_the_same_alone_in_parts_after_a_resume_and_in_another_process(clips: Path) -> None:
    with loader_of(clips) as plain, loader_of(clips) as resumed, loader_of(clips, seed=6) as other:
        for step in (5, 3, 4):
            whole = plain.batch(step, WHOLE)
            for part in (Part(0, 2, 4), Part(2, 4, 4)):
                came, cut = resumed.batch(step, part), slice(part.start, part.stop)
                assert torch.equal(came.images, whole.images[cut])
                assert came.captions == whole.captions[cut]
            worker = pickle.loads(pickle.dumps(plain._preparer))  # what a reading process gets
            prepared = worker[plain._task(step, (0, 4))]
            assert torch.equal(prepared.images / 127.5 - 1, whole.images)
        assert not same(other.batch(4, WHOLE), plain.batch(4, WHOLE))


def test_every_clip_comes_once_an_epoch(clips: Path) -> None:
    with loader_of(clips) as loader:
        length = loader.order.batches_per_epoch
        for epoch in range(2):
            keys = Counter(
                key for k in range(length) for key in loader.batch(epoch * length + k, WHOLE).keys if key
            )
            assert keys == dict.fromkeys(map(loader.source.key, loader.buckets.members[0].tolist()), 1)


def test_another_rate_takes_the_frame_nearest_in_time(tmp_path: Path) -> None:
    counted(tmp_path / "a.webp", 24, rate=24)
    with loader_of(tmp_path, ClipSampling(sizes=((16, 16),), lengths=(8,), rate=Fraction(8))) as loader:
        batch = loader.batch(0, WHOLE)
        taken = [numbers_of(p) for p, w in zip(batch.images, batch.weights, strict=True) if w]
        assert taken == [list(range(0, 24, 3))]


def test_short_clips_are_shown_again_from_their_beginning(tmp_path: Path) -> None:
    counted(tmp_path / "a.webp", 4, caption="x")
    sampling = ClipSampling(sizes=((32, 32),), lengths=(9,), rate=Fraction(16), repeat=True)
    with loader_of(tmp_path, sampling, batch_size=1) as loader:
        batch = loader.batch(0, Part(0, 1, 1))
        assert numbers_of(batch.images[0]) == [0, 1, 2, 3, 0, 1, 2, 3, 0]
        assert "is shown more than once" in loader.report().notes["a.webp"]
    with pytest.raises(DataError, match=r"(?s)No clip can be trained on at 32 px.*are too few"):
        loader_of(tmp_path)


def test_frames_are_scaled_and_cut_from_their_middle_as_images_are(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 37, 75, 3), dtype=np.uint8)
    VideoClip(frames=frames, rate=Fraction(16)).save(tmp_path / "a.webp", quality=100)
    sampling = ClipSampling(sizes=((32, 48),), lengths=(9,), rate=Fraction(16))
    with loader_of(tmp_path, sampling, batch_size=1) as loader:
        batch = loader.batch(0, Part(0, 1, 1))
    for number, frame in enumerate(frames):
        wanted = scale_and_cut(torch.from_numpy(frame).permute(2, 0, 1), 32, 48)
        assert torch.equal(((batch.images[0, :, number] + 1) * 127.5).round().to(torch.uint8), wanted)


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last key frame before the window to its end; a key frame comes every two seconds."""
    VideoClip(frames=moving(32 * 5, 32, 32), rate=Fraction(16)).save(tmp_path / "a.mp4")
    decoded: list[int] = []
    windows: list[Sequence[int]] = []
    numbered, decode = VideoFrames._numbered, VideoFrames.decode

    def counting(self, packet):
        for number, frame in numbered(self, packet):
            decoded.append(number)
            yield number, frame

    def asking(self, numbers):
        decoded.clear()  # the first frame, which opening decodes
        windows.append(numbers)
        return decode(self, numbers)

    monkeypatch.setattr(VideoFrames, "_numbered", counting)
    monkeypatch.setattr(VideoFrames, "decode", asking)
    with loader_of(tmp_path, batch_size=1) as loader:
        for step in range(6):
            loader.batch(step, Part(0, 1, 1))
            first, last = windows[-1][0], windows[-1][-1]
            assert last - first == 8
            assert decoded == list(range(first // 32 * 32, last + 1))
    assert len({window[0] // 32 for window in windows}) > 2


def test_settings_of_images_are_refused_and_samplings_of_images(clips: Path) -> None:
    for settings in ({"square": True}, {"multiple": 32}):
        with pytest.raises(SettingsError, match="are settings of images"):
            loader_of(clips, **settings)
    with pytest.raises(SettingsError, match="The samples are clips: give a resolution"):
        loader_of(clips, resolution=32)
    images = open_source(clips)  # the WebP files
    with pytest.raises(SettingsError, match="The samples are images: give a resolution"):
        Loader(images, scan(images), resolution=SAMPLING, batch_size=4)
