"""Clips are written frame by frame, whole or not at all; every mistake is a sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sanakit.clips.reading import open_clip
from sanakit.clips.writing import check_writable, writing
from sanakit.errors import OutputError, SettingsError, SizeError
from tests.clips.moving import moving, psnr

NAMES = ("cat.mp4", "cat.webm", "cat.webp", "cat.gif", "cat")
# Of moving shapes at the usual quality, in dB. Half the resolution of colours (4:2:0), which MP4, WebM and
# lossy WebP have, leaves 34.2 dB of this clip by itself.
FLOORS = {"cat.mp4": 32, "cat.webm": 33, "cat.webp": 31.5, "cat.gif": 35, "cat": float("inf")}
every_format = pytest.mark.parametrize("name", NAMES)


def write(path: Path, frames: np.ndarray, rate=16, **options) -> tuple[str, ...]:
    with writing(path, width=frames.shape[2], height=frames.shape[1], rate=rate, **options) as writer:
        for frame in frames:
            writer.add(frame)
    assert writer.frames == len(frames)
    return writer.notes


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@every_format
@pytest.mark.parametrize("rate", [16, "23.976", Fraction(25, 2)])
def test_a_clip_comes_back(name: str, rate, tmp_path: Path) -> None:
    frames = moving(20)
    settings = {"prompt": "eine Katze ☃", "seed": 7, "guidance": 4.5}
    write(tmp_path / name, frames, rate, settings=settings)
    with open_clip(tmp_path / name) as clip:
        read = clip.read()
        assert clip.facts.constant_rate
        assert clip.facts.frames == 20
    assert read.rate == (Fraction(24000, 1001) if rate == "23.976" else rate)
    assert read.settings == settings
    assert read.frames.shape == frames.shape
    assert psnr(read.frames, frames) >= FLOORS[name]
    assert min(map(psnr, read.frames, frames)) >= FLOORS[name] - 2, "no frame is another one"
    assert left_in(tmp_path) == [name]


@every_format
def test_one_frame_is_a_clip(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, moving(1), 24)
    with open_clip(tmp_path / name) as clip:
        assert (clip.facts.frames, clip.facts.rate) == (1, 24)
        assert clip.read().frames.shape == (1, 48, 64, 3)


@every_format
def test_equal_frames_make_equal_files(name: str, tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write(folder / name, moving(5), settings={"seed": 1})
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


@every_format
def test_an_error_of_the_caller_leaves_nothing_and_is_passed_on(name: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write(tmp_path / name, moving(3))

    def fail(error: BaseException) -> None:
        with writing(tmp_path / name, width=64, height=48, rate=16) as writer:
            writer.add(moving(1)[0])
            raise error

    for error in (KeyError("mine"), FileNotFoundError(2, "mine"), ValueError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            fail(error)
        assert caught.value is error
    assert left_in(tmp_path) == sorted([name, "other"])
    with open_clip(tmp_path / name) as clip:
        assert clip.facts.frames == 3, "the file that was there stays"


@every_format
def test_a_killed_writer_leaves_no_file_of_the_name(name: str, tmp_path: Path) -> None:
    code = f"""
        import os, signal
        import numpy as np
        from sanakit.clips.writing import check_writable, writing
        with writing({str(tmp_path / name)!r}, width=64, height=48, rate=16) as writer:
            for _ in range(9):
                writer.add(np.zeros((48, 64, 3), np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)])
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / name).exists()
    write(tmp_path / name, moving(2))
    assert left_in(tmp_path) == [name], "the next writer removes what was left"


@every_format
def test_a_full_disk_is_a_sentence(name: str, tmp_path: Path) -> None:
    """The system refuses to let a file grow, as on a full disk."""
    code = f"""
        import resource, signal
        import numpy as np
        from sanakit.clips.writing import check_writable, writing
        from sanakit.errors import OutputError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        noise = np.random.default_rng(0)
        try:
            with writing({str(tmp_path / name)!r}, width=64, height=48, rate=16) as writer:
                for _ in range(99):
                    writer.add(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        except OutputError as error:
            print(error)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith(f"{tmp_path / name} cannot be written ({os.strerror(errno.EFBIG)})")
    assert ended.stdout.count("\n") == 1
    assert left_in(tmp_path) == []


@every_format
def test_no_frame_makes_no_clip(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="would hold no frame"):
        write(tmp_path / name, moving(0))
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "frame",
    [np.zeros((48, 64, 3), np.float32), np.zeros((64, 48, 3), np.uint8), np.zeros((48, 64), np.uint8)],
)
def test_a_frame_of_another_kind_is_refused(frame: np.ndarray, tmp_path: Path) -> None:
    with writing(tmp_path / "cat.webp", width=64, height=48, rate=16) as writer:
        writer.add(moving(1)[0])
        with pytest.raises(SettingsError, match=r"Frame 2 came as .* give uint8 of shape \(48, 64, 3\)"):
            writer.add(frame)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cat.avi", {}, r"end the name in .mp4"),
        ("cat.gif", {"quality": 80}, "GIF has no quality"),
        ("cat", {"quality": 80}, "no quality to set"),
        ("cat.mp4", {"quality": 0}, "quality 0 is not a whole number from 1 to 100"),
        ("cat.gif", {"rate": 60}, "at most 50 frames a second"),
        ("cat.webp", {"rate": 120}, "at most 90 frames a second"),
        ("cat.mp4", {"width": 63}, "even sides only, not 63x48: scale to 64x48"),
        ("cat.webp", {"width": 16384}, "16383 at most"),
        ("cat.gif", {"width": 65536}, "65535 px at most"),
        ("cat.mp4", {"width": 10**6, "height": 10**6}, "scale it down"),
        ("cat.mp4", {"height": 0}, "frames of 64x0"),
        ("cat.mp4", {"settings": {"seed": None}}, "settings seed cannot be stored"),
        ("no/cat.mp4", {}, "does not exist"),
        ("folder.mp4", {}, "is a folder"),
        ("file", {}, "is a file"),
        ("full", {}, "something other than a clip"),
    ],
)
def test_mistakes_are_told_before_the_first_frame(
    name: str, options: dict, told: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    (tmp_path / "file").touch()
    before = left_in(tmp_path)
    wanted = {"width": 64, "height": 48, "rate": 16} | options
    with pytest.raises((SettingsError, OutputError), match=told), writing(tmp_path / name, **wanted):
        pytest.fail("it began")
    assert left_in(tmp_path) == before


def test_odd_sides_are_kept_where_the_format_has_them(tmp_path: Path) -> None:
    for name in ("cat.webm", "cat.webp", "cat.gif", "cat"):
        write(tmp_path / name, moving(3, 33, 47))
        with open_clip(tmp_path / name) as clip:
            assert clip.read().frames.shape == (3, 33, 47, 3)
    with pytest.raises(SizeError):
        write(tmp_path / "cat.mp4", moving(3, 33, 47))


def test_a_format_tells_what_it_rounds(tmp_path: Path) -> None:
    assert (
        "last 4 or 5 of them; on average there are 24 a second" in write(tmp_path / "a.gif", moving(1), 24)[0]
    )
    assert "1/1000 s" in write(tmp_path / "a.webp", moving(1), 24)[0]
    assert write(tmp_path / "a.mp4", moving(1), 24) == ()
    assert write(tmp_path / "a.webp", moving(1), 25) == ()


@pytest.mark.parametrize("name", ["cat.mp4", "cat.webm", "cat.webp"])
def test_quality_costs_bytes(name: str, tmp_path: Path) -> None:
    frames = (
        np.random.default_rng(0).integers(0, 256, (6, 12, 16, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    )
    sizes, nearness = [], []
    for quality in (10, 60, 95):
        write(tmp_path / name, frames, quality=quality)
        sizes.append((tmp_path / name).stat().st_size)
        with open_clip(tmp_path / name) as clip:
            nearness.append(psnr(clip.read().frames, frames))
    assert sizes == sorted(set(sizes))
    assert nearness == sorted(set(nearness))


@every_format
def test_memory_stays_flat_while_500_frames_are_written(name: str, tmp_path: Path) -> None:
    """Resident memory after 100 frames and after 500; holding 400 frames would take 15 MB more."""
    code = f"""
        import numpy as np
        from sanakit.clips.writing import check_writable, writing
        def resident():
            return int(open("/proc/self/statm").read().split()[1]) * 4096
        frame = np.zeros((96, 128, 3), np.uint8)
        with writing({str(tmp_path / name)!r}, width=128, height=96, rate=16) as writer:
            for number in range(500):
                if number == 100:
                    before = resident()
                frame = np.roll(frame, 1, 1)
                frame[number % 96, 0] = number % 256
                writer.add(frame.copy())
            print(resident() - before)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(ended.stdout) < 5e6
    with open_clip(tmp_path / name) as clip:
        assert clip.facts.frames == 500


@pytest.mark.parametrize(
    ("name", "size", "kind"),
    [
        ("cat.avi", (16, 16), OutputError),
        ("cat.mp4", (15, 16), SizeError),
        ("cat.gif", (2**16, 16), SettingsError),
        ("none/cat.webp", (16, 16), OutputError),
    ],
)
def test_what_cannot_be_written_is_told_before_there_are_frames(name, size, kind, tmp_path) -> None:
    width, height = size
    with pytest.raises(kind) as early:
        check_writable(tmp_path / name, width=width, height=height, rate=16)
    with pytest.raises(kind) as late, writing(tmp_path / name, width=width, height=height, rate=16):
        pass
    assert str(early.value) == str(late.value)
    check_writable(tmp_path / "cat.webp", width=16, height=16, rate=16)
    assert left_in(tmp_path) == []


def test_a_folder_that_takes_no_files_is_told_before_there_are_frames(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match="is not writable: choose another one"):
        check_writable(tmp_path / "cat.webp", width=16, height=16, rate=16)
