"""MP4 and WebM: colours by BT.709, tags, exact times, key frames, names that are nothing but names."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sanakit.clips.clip import VideoClip
from sanakit.clips.formats import write_video
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from tests.clips.moving import flat, moving

COLOURS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (200, 120, 40)]
names = pytest.mark.parametrize("name", ["a.mp4", "a.webm"])


def save(path: Path, frames: np.ndarray, rate=16, quality: int | None = None) -> None:
    VideoClip(frames=frames, rate=rate, settings={"seed": 3}).save(path, quality)


@names
def test_flat_colours_come_back_within_two_levels(name: str, tmp_path: Path) -> None:
    """Limited range has 219 levels of 255 for light and 224 for colours, so rounding costs one or two."""
    random = np.random.default_rng(0).integers(0, 256, (40, 3)).tolist()
    frames = flat(*COLOURS, *map(tuple, random))
    save(tmp_path / name, frames, quality=100)
    with open_clip(tmp_path / name) as clip:
        error = clip.read().frames.astype(int) - frames
    assert np.abs(error).max() <= 2
    assert np.abs(error.mean()) < 0.1, "no colour is shifted"


@names
def test_the_stored_values_are_those_of_bt709_in_limited_range(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, flat(*COLOURS), quality=100)
    with av.open(str(tmp_path / name)) as file:
        stored = [frame.to_ndarray()[(0, 16, 20), (0, 0, 0)] for frame in file.decode(video=0)]
    for colour, values in zip(COLOURS, stored, strict=True):
        red, green, blue = (level / 255 for level in colour)
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        expected = [
            16 + 219 * light,
            128 + 224 * (blue - light) / 1.8556,
            128 + 224 * (red - light) / 1.5748,
        ]
        assert np.abs(values - expected).max() < 1.6, colour


@names
@pytest.mark.parametrize("rate", [Fraction(16), Fraction(24000, 1001), Fraction(7, 3), Fraction(1000)])
def test_the_file_states_its_colours_rate_and_settings(name: str, rate: Fraction, tmp_path: Path) -> None:
    save(tmp_path / name, moving(5), rate)
    with av.open(str(tmp_path / name)) as file:
        stream = file.streams.video[0]
        context = stream.codec_context
        tags = {key.lower(): text for key, text in file.metadata.items()}
        colours = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert colours == (1, 1, 1, 1)
        assert context.pix_fmt == "yuv420p"
        times = [frame.pts * stream.time_base for frame in file.decode(stream)]
    assert tags["comment"] == f'{{"sanakit": {{"seed": 3}}, "rate": "{rate}"}}'
    tick = 0 if name == "a.mp4" else Fraction(1, 1000)
    assert all(abs(time - number / rate) <= tick for number, time in enumerate(times))
    assert len(times) == 5


@names
def test_equal_noise_makes_equal_files(name: str, tmp_path: Path) -> None:
    """x264 made up to three files of these frames where it used AVX-512; calm frames show nothing."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    files = set()
    for number in range(20):
        save(tmp_path / f"{number}{name}", frames)
        files.add((tmp_path / f"{number}{name}").read_bytes())
    assert len(files) == 1


@names
def test_windows_are_found_quickly(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, moving(40), 5)
    with av.open(str(tmp_path / name)) as file:
        keys = [packet.pts for packet in file.demux(video=0) if packet.size and packet.is_keyframe]
    assert len(keys) >= 4


def test_an_mp4_has_its_index_at_the_beginning(tmp_path: Path) -> None:
    save(tmp_path / "a.mp4", moving(5))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("name", ["concat:a.mp4", "http:%2F.mp4", "a%03d.mp4", "file:a.webm", "- .mp4"])
def test_a_name_is_nothing_but_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path(name), moving(2))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with open_clip(name) as clip:
        assert clip.facts.frames == 2


def test_without_an_encoder_of_h264_an_mp4_holds_vp9(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    save(tmp_path / "a.mp4", moving(3))
    with open_clip(tmp_path / "a.mp4") as clip:
        assert (clip.facts.codec, clip.facts.frames) == ("vp9", 3)
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(SettingsError, match=r"has no encoder for webm.*choose \.webp"):
        save(tmp_path / "a.webm", moving(3))


def test_a_reason_of_ffmpeg_becomes_one_of_the_system() -> None:
    with pytest.raises(OSError, match="Invalid data"), write_video._as_os_errors(av):
        raise av.InvalidDataError(22, "Invalid data")
