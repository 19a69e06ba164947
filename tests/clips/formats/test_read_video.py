"""Videos of other programs: rotation, transparency, changing rates, sound, colours, damage."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.errors import SettingsError
from tests.clips.moving import flat, moving, psnr


def save(
    path: Path,
    frames: np.ndarray,
    times: list[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    prepare=lambda output, stream: None,
    source: str = "rgb24",
    **colours,
) -> Path:
    """Write a clip as other programs might; times in 1/1000 s."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=Fraction(25), options={"crf": "4", "b": "0"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        prepare(output, stream)
        for number, levels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(levels, source)
            frame = frame.reformat(format=pixels, **colours)
            frame.pts = number * 40 if times is None else times[number]
            frame.time_base = Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


TURNED = [
    (0, False, False),
    (90, False, False),
    (180, False, False),
    (270, False, False),
    (0, True, False),
    (0, False, True),
    (90, True, False),
    (270, True, False),
]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
@pytest.mark.parametrize(("degrees", "across", "down"), TURNED)
def test_a_turned_clip_is_upright(degrees: int, across: bool, down: bool, name: str, tmp_path: Path) -> None:
    """The oracle is FFmpeg's matrix: x' = a x + c y, y' = b x + d y, applied to the corner with the box."""
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :16, :24] = 250
    matrix: list[int] = []

    def turn(output, stream) -> None:
        stream.set_display_rotation(degrees, across, down)

    save(tmp_path / name, frames, prepare=turn)
    with av.open(str(tmp_path / name)) as file:
        first = next(file.decode(video=0))
        for data in first.side_data:
            if data.type.name != "DISPLAYMATRIX":
                continue
            matrix = np.frombuffer(bytes(data), "<i4", 9)[[0, 1, 3, 4]].tolist()
    a, b, c, d = (round(one / 65536) for one in matrix or (65536, 0, 0, 65536))
    corner = np.array([-32, -24]) + 8  # from the middle of the frame
    x, y = a * corner[0] + c * corner[1], b * corner[0] + d * corner[1]
    with open_clip(tmp_path / name) as clip:
        read = clip.read().frames
        sides = (48, 64) if b == 0 else (64, 48)
        assert (clip.facts.height, clip.facts.width) == read.shape[1:3] == sides
    assert read[0, sides[0] // 2 + y, sides[1] // 2 + x].min() > 200
    assert (read[0, :, :, 1] > 128).mean() == pytest.approx(16 * 24 / 48 / 64, abs=0.01)


def test_transparency_of_a_webm_lies_on_white(tmp_path: Path) -> None:
    levels = np.full((4, 32, 32, 4), (20, 200, 60, 255), np.uint8)
    levels[:, :, :16, 3] = 0

    def mark(output, stream) -> None:
        stream.metadata["alpha_mode"] = "1"

    save(tmp_path / "a.webm", levels, None, "libvpx-vp9", "yuva420p", mark, "rgba")
    with open_clip(tmp_path / "a.webm") as clip:
        read = clip.read().frames.astype(int)
        window = clip.read(2, 1).frames
    assert np.abs(read[:, :, :14] - 255).max() <= 2
    assert np.abs(read[:, :, 18:] - (20, 200, 60)).max() <= 6
    assert (window == read[2:3]).all()


def test_transparency_of_a_mov_lies_on_white(tmp_path: Path) -> None:
    levels = np.full((3, 32, 32, 4), (20, 200, 60, 255), np.uint8)
    levels[:, :, :16, 3] = 0
    save(tmp_path / "a.mov", levels, None, "png", "rgba", source="rgba")
    with open_clip(tmp_path / "a.mov") as clip:
        assert (clip.facts.format, clip.facts.codec) == ("MOV", "png")
        read = clip.read().frames
    assert (read[:, :, :16] == 255).all()
    assert (read[:, :, 16:] == (20, 200, 60)).all()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_changing_rates_are_told_and_resampled_by_the_nearest_time(name: str, tmp_path: Path) -> None:
    times = [0, 40, 80, 280, 320, 520]
    save(tmp_path / name, flat(*((40 * n, 40 * n, 40 * n) for n in range(6))), times)
    with open_clip(tmp_path / name) as clip:
        assert not clip.facts.constant_rate
        assert clip.facts.frames == 6
        assert "changing intervals" in clip.read().notes[-1]
        numbers = [min(range(6), key=lambda n, k=k: abs(times[n] - k * 50)) for k in range(clip.count(20))]
        assert clip.numbers(rate=20) == numbers
        levels = clip.read(rate=20).frames[:, 8, 8, 0] / 40
        assert np.round(levels).tolist() == numbers


def test_a_first_frame_that_begins_late_is_at_time_zero(tmp_path: Path) -> None:
    save(tmp_path / "a.mkv", moving(5), [1000, 1040, 1080, 1120, 1160])
    with open_clip(tmp_path / "a.mkv") as clip:
        assert (clip.facts.rate, clip.facts.frames, clip.facts.seconds) == (25, 5, Fraction(1, 5))


@pytest.mark.parametrize(("height", "matrix"), [(48, "ITU601"), (720, "ITU709")])
def test_an_unstated_matrix_is_that_of_the_size(height: int, matrix: str, tmp_path: Path) -> None:
    frames = np.full((2, height, 64, 3), (200, 60, 40), np.uint8)
    save(tmp_path / "a.mp4", frames, dst_colorspace=matrix, dst_color_range="MPEG")
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].codec_context.colorspace == 2, "the file states none"
    with open_clip(tmp_path / "a.mp4") as clip:
        assert np.abs(clip.read().frames.astype(int) - frames).max() <= 3


def test_full_range_is_read_as_such(tmp_path: Path) -> None:
    frames = flat((0, 0, 0), (255, 255, 255), (90, 90, 90))

    def state(output, stream) -> None:
        stream.codec_context.color_range = 2

    save(tmp_path / "a.mp4", frames, prepare=state, dst_color_range="JPEG")
    with open_clip(tmp_path / "a.mp4") as clip:
        assert np.abs(clip.read().frames.astype(int) - frames).max() <= 2


def test_sound_is_left_out_and_told(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        video, sound = output.add_stream("libx264", rate=25), output.add_stream("aac", rate=16000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for number, levels in enumerate(moving(8)):
            frame = av.VideoFrame.from_ndarray(levels, "rgb24")
            frame.pts = number
            output.mux(video.encode(frame))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        output.mux(sound.encode(silence))
        output.mux(video.encode(None))
        output.mux(sound.encode(None))
    with open_clip(tmp_path / "a.mp4") as clip:
        assert clip.facts.frames == 8
        assert clip.read().notes == ("Its sound is left out.",)


def test_a_file_with_sound_alone_is_not_a_clip(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        sound = output.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        output.mux(sound.encode(silence))
        output.mux(sound.encode(None))
    with pytest.raises(SettingsError, match="holds no moving images"):
        open_clip(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_any_window_equals_that_part_of_the_whole(name: str, tmp_path: Path) -> None:
    """Noise has a codec use frames of both directions; a key frame comes every two seconds, here 14."""
    noise = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    VideoClip(frames=noise, rate=Fraction(7)).save(tmp_path / name)
    random = np.random.default_rng(0)
    with open_clip(tmp_path / name) as clip:
        whole = clip.read().frames
        assert min(map(psnr, whole, noise)) > 17, "noise of other frames has 8 dB"
        for _ in range(40):
            start = int(random.integers(0, 60))
            count = int(random.integers(1, 61 - start))
            assert (clip.read(start, count).frames == whole[start : start + count]).all()
        slow = clip.read(rate=3).frames
        assert (clip.read(10, 5, rate=3).frames == slow[10:15]).all()
    with open_clip(tmp_path / name, threads=3) as clip:
        assert (clip.read().frames == whole).all()


def test_a_window_decodes_no_more_than_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    VideoClip(frames=moving(80), rate=Fraction(5)).save(tmp_path / "a.mp4")
    with open_clip(tmp_path / "a.mp4") as clip:
        decoded = []
        reader = clip._reader
        numbered = reader._numbered  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setattr(
            reader, "_numbered", lambda packet: (decoded.append(one[0]) or one for one in numbered(packet))
        )
        clip.read(72, 3)
        assert 3 <= len(decoded) <= 15
        decoded.clear()
        list(clip.frames(5, 70, None))
        assert len(decoded) <= 80, "frames that follow each other are decoded once"


def test_a_seek_that_leads_too_far_begins_again(tmp_path: Path) -> None:
    """Some files' own indexes are wrong: the first packet after a seek tells it."""
    VideoClip(frames=moving(80), rate=Fraction(5)).save(tmp_path / "a.mp4")

    class TooFar:
        def __init__(self, container) -> None:
            self.container, self.demux, self.close = container, container.demux, container.close

        def seek(self, offset: int, **options) -> None:
            self.container.seek(1 << 40, **options)

    with open_clip(tmp_path / "a.mp4") as clip:
        whole = clip.read().frames
        reader = clip._reader
        reader._container = TooFar(reader._container)  # pyright: ignore[reportAttributeAccessIssue]
        assert (clip.read(25, 3).frames == whole[25:28]).all()


def test_frames_that_are_decoded_with_errors_are_refused(tmp_path: Path) -> None:
    """H.264 has no checksums: about half of such damage is noticed by the decoder, and none may pass then."""
    path, _ = VideoClip(frames=moving(12), rate=Fraction(25)).save(tmp_path / "a.mp4")
    sound, random, told = path.read_bytes(), np.random.default_rng(0), []
    with av.open(str(path)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size > 40]
    for position, size in places * 4:
        damaged = bytearray(sound)
        start = position + int(random.integers(5, size - 12))
        damaged[start : start + 8] = random.integers(0, 256, 8, dtype=np.uint8).tobytes()
        path.write_bytes(damaged)
        try:
            with open_clip(path) as clip:
                clip.read()
        except SettingsError as error:
            told.append(str(error))
    assert any("is decoded with errors" in text for text in told)


def test_frames_that_change_their_size_are_refused(tmp_path: Path) -> None:
    parts = []
    for side in (32, 48):
        path = tmp_path / f"{side}.mkv"
        save(path, moving(4, side, side), codec="mjpeg", pixels="yuvj420p")
        parts.append(path)
    with (
        av.open(str(tmp_path / "a.mkv"), "w") as output,
        av.open(str(parts[0])) as first,
        av.open(str(parts[1])) as second,
    ):
        stream = output.add_stream_from_template(first.streams.video[0])
        for number, packet in enumerate([*first.demux(video=0), *second.demux(video=0)]):
            if packet.size:
                packet.pts = packet.dts = number * 40
                packet.stream = stream
                output.mux(packet)
    with (
        open_clip(tmp_path / "a.mkv") as clip,
        pytest.raises(SettingsError, match="changes its frames' size"),
    ):
        clip.read()


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_damaged_bytes_raise_nothing_but_our_error(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path, _ = VideoClip(frames=moving(12), rate=Fraction(25)).save(tmp_path / name)
    sound = np.frombuffer(path.read_bytes(), np.uint8)
    random, refused = np.random.default_rng(0), 0
    for _ in range(250):
        damaged = sound.copy()
        damaged[random.integers(0, len(sound), 4)] = random.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            with open_clip(path) as clip:
                clip.read()
        except SettingsError:
            refused += 1
    assert refused > 50
    assert capfd.readouterr() == ("", ""), "FFmpeg prints nothing"
