"""Which clips a folder holds, what is told of the rest, and which reference belongs to which clip."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError
from sanakit.eval.clip_folder import (
    digest,
    first_frame,
    is_place_of_clips,
    list_clips,
    read_clip,
    references_of,
)
from tests.clips.moving import moving


def save(path: Path, frames: int = 5, rate: int = 8, height: int = 16, width: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = VideoClip(frames=moving(frames, height, width), rate=rate)  # pyright: ignore[reportArgumentType]
    return clip.save(path, 100 if path.suffix == ".webp" else None)[0]


def names(place: Path) -> list[str]:
    return [clip.name for clip in list_clips(place)[0]]


def test_files_and_folders_of_frames_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.webp", "a.gif", "deep/er/c.webp", "frames"):
        save(tmp_path / name)
    clips, notes = list_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a.gif", "b.webp", "deep/er/c.webp", "frames"]
    assert [clip.stem for clip in clips] == ["a", "b", "deep/er/c", "frames"]
    assert (clips[3].facts.frames, clips[3].facts.rate, notes) == (5, 8, [])
    assert read_clip(clips[1]).frames.tobytes() == moving(5, 16, 24).tobytes()
    assert names(tmp_path / "frames") == ["frames"]
    assert names(tmp_path / "a.gif") == ["a.gif"]


def test_content_decides_and_the_rest_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.webp")
    os.rename(tmp_path / "a.webp", tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.webp")
    Image.new("RGB", (8, 8)).save(tmp_path / "c.jpg")
    (tmp_path / "a.txt").write_text("its prompt")
    (tmp_path / "d.txt").write_text("of nothing")
    (tmp_path / "e.json").write_text("{}")
    (tmp_path / ".hidden.gif").write_text("")
    clips, notes = list_clips(tmp_path)
    assert [clip.name for clip in clips] == ["a.png"]
    assert notes == ["Left out, as they are not clips: b.webp, c.jpg, d.txt and 1 more."]


def test_a_still_gif_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    assert list_clips(tmp_path)[0][0].facts.frames == 1


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".mp4"])
def test_a_damaged_clip_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "good.gif")
    if suffix == ".mp4":
        (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(4))
    else:
        path = save(tmp_path / f"cut{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\{suffix} is damaged or cut off.*or remove it"):
        list_clips(tmp_path)


def test_a_file_that_is_called_a_clip_and_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nonsense" * 9)
    with pytest.raises(DataError, match=r"a.mp4 is not a clip that can be read.*remove it"):
        list_clips(tmp_path)


def test_a_folder_of_frames_that_lost_one_is_refused(tmp_path: Path) -> None:
    (save(tmp_path / "frames") / "000002.png").unlink()
    with pytest.raises(DataError, match="4 of 5 frames are there"):
        list_clips(tmp_path)


def test_no_clip_and_no_folder_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0001.png")
    with pytest.raises(DataError, match=r"holds no clip.*states its rate in clip\.json"):
        list_clips(tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        list_clips(tmp_path / "nowhere")


def test_notes_of_reading_are_told_once_with_the_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (save(tmp_path / name) / "readme.md").write_text("")
    assert list_clips(tmp_path)[1] == ["a, b: Left out, as they are not frames: readme.md."]


def test_a_place_of_clips_is_told_from_models_and_images(tmp_path: Path) -> None:
    save(tmp_path / "clips/deep/a.webp")
    save(tmp_path / "model/demo.gif")
    (tmp_path / "model/model_index.json").write_text("{}")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.webp")
    found = {name: is_place_of_clips(tmp_path / name) for name in ("clips", "model", "images", "none")}
    assert found == {"clips": True, "model": False, "images": False, "none": False}
    assert is_place_of_clips(save(tmp_path / "b.gif"))


def test_a_reference_has_the_name_of_its_clip(tmp_path: Path) -> None:
    for name in ("clips/cat-1.webp", "clips/cat-2.webp", "clips/deep/dog.gif"):
        save(tmp_path / name)
    for name in ("real/cat-2.gif", "real/cat.webp", "real/deep/dog", "real/more.gif"):
        save(tmp_path / name)
    clips, _ = list_clips(tmp_path / "clips")
    real = tmp_path / "real"
    found, notes = references_of(clips, real)
    assert [path.relative_to(real).as_posix() for path in found] == ["cat.webp", "cat-2.gif", "deep/dog"]
    assert notes == [f"Not used of {real}: more.gif."]
    assert references_of(clips, real / "more.gif") == ([real / "more.gif"] * 3, [])
    (real / "deep/dog/readme.md").write_text("")
    told = references_of(clips, real)[1][1:]
    assert told == [f"{real / 'deep/dog'}: Left out, as they are not frames: readme.md."]


def test_missing_doubled_and_still_references_are_told(tmp_path: Path) -> None:
    for name in ("clips/cat.webp", "clips/dog.gif", "real/cat.gif", "real/cat.webp"):
        save(tmp_path / name)
    clips, _ = list_clips(tmp_path / "clips")
    with pytest.raises(DataError, match=r"cat.gif and .*cat.webp may both be the reference of cat.webp"):
        references_of(clips, tmp_path / "real")
    (tmp_path / "real/cat.gif").unlink()
    with pytest.raises(DataError, match=r"no clip for 1 of 2 clips, among them dog.gif"):
        references_of(clips, tmp_path / "real")
    Image.new("RGB", (8, 8)).save(tmp_path / "real/dog.png")
    with pytest.raises(DataError, match="no clip for 1 of 2"):
        references_of(clips, tmp_path / "real")
    found, _ = references_of(clips, tmp_path / "real", images=True)
    assert [path.name for path in found] == ["cat.webp", "dog.png"]
    with pytest.raises(DataError, match="nowhere does not exist"):
        references_of(clips, tmp_path / "nowhere")


def test_a_first_frame_is_that_of_a_clip_or_the_image(tmp_path: Path) -> None:
    assert np.array_equal(first_frame(save(tmp_path / "a.webp")), moving(1, 16, 24)[0])
    Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "a.png")
    assert np.array_equal(first_frame(tmp_path / "a.png"), np.full((4, 6, 3), (9, 8, 7)))


def test_a_digest_changes_with_every_frame_and_with_their_names(tmp_path: Path) -> None:
    frames, file = save(tmp_path / "frames"), save(tmp_path / "a.gif")
    seen = {digest(frames), digest(file)}
    os.rename(frames / "000001.png", frames / "000009.png")
    seen.add(digest(frames))
    Image.new("RGB", (24, 16)).save(frames / "000009.png")
    seen.add(digest(frames))
    file.write_bytes(file.read_bytes() + b"\0")
    assert len(seen | {digest(file)}) == 5
