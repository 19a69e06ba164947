"""The call that all measures of clips share: each clip's figure, what is kept, what is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError, SettingsError
from sanakit.eval import clip_measures
from sanakit.eval.clip_folder import FoundClip, list_clips
from sanakit.eval.clip_measures import (
    ALONE,
    CLIP_MEASURES,
    check_clip_measures,
    clip_notes,
    measure_clips,
)
from sanakit.eval.measures import Tools
from sanakit.eval.metrics.clip_distance import ClipMoments, clip_distance
from sanakit.eval.metrics.consistency import consistency
from sanakit.images.image import to_tensor
from sanakit.weights.clip import load_clip
from tests.eval.metrics.scenes import dark_and_light, grey, square, still


def save(path: Path, frames: np.ndarray, rate: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = VideoClip(frames=frames, rate=rate)  # pyright: ignore[reportArgumentType]
    return clip.save(path, 100 if path.suffix == ".webp" else None)[0]


@pytest.fixture
def clips(tmp_path: Path) -> list[FoundClip]:
    """A still one, one that alternates, and a moving one: their names are in this order."""
    for name, frames in (("a", still(5)), ("b", dark_and_light(5)), ("c", square(5))):
        save(tmp_path / f"clips/{name}.webp", frames)
    return list_clips(tmp_path / "clips")[0]


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames have the mean of each colour in each corner as features; the numbers of frames looked at."""
    seen: list[int] = []

    def extract(frames: np.ndarray) -> torch.Tensor:
        seen.append(len(frames))
        return torch.from_numpy(frames[:, ::8, ::8].reshape(len(frames), -1)[:, :9].astype(np.float32) + 1)

    monkeypatch.setattr(clip_measures, "_lite0_features", lambda tools: extract)
    monkeypatch.setattr(clip_measures, "_clip_features", lambda tools: extract)
    return seen


def values(name: str, clips: list[FoundClip], **tools: Any) -> list[float]:
    return [one["value"] for one in measure_clips(name, clips, Tools(**tools)).each.values()]


def test_each_clip_has_its_own_figure_and_the_mean_is_quoted(clips: list[FoundClip]) -> None:
    figures = measure_clips("temporal-flicker", clips, Tools())
    assert list(figures.each) == ["a.webp", "b.webp", "c.webp"]
    each = [one["value"] for one in figures.each.values()]
    assert each[:2] == [1, pytest.approx(0.8)]
    assert (figures.value, figures.clips) == (pytest.approx(sum(each) / 3), 3)
    assert values("still-flicker", clips) == [0, pytest.approx(20), 0]
    assert values("motion-smoothness", clips) == [1, pytest.approx(0.8), 1]


def test_motion_is_quoted_by_its_median(clips: list[FoundClip]) -> None:
    figures = measure_clips("motion", clips, Tools())
    each = [one["value"] for one in figures.each.values()]
    assert each[:2] == [0, pytest.approx(20)]
    assert figures.value == sorted(each)[1] == each[2]
    assert figures.details == {"mean": pytest.approx(sum(each) / 3)}


def test_consistency_is_weighed_by_clips_and_as_vbench_does_by_frames(
    tmp_path: Path, colours: list[int]
) -> None:
    save(tmp_path / "a.webp", still(3))
    save(tmp_path / "b.webp", np.concatenate([still(4), 255 - still(3)]))
    found, _ = list_clips(tmp_path)
    figures = measure_clips("subject-consistency", found, Tools())
    one, other = (part["value"] for part in figures.each.values())
    assert one == pytest.approx(1)
    assert other < 0.95
    assert figures.value == pytest.approx((one + other) / 2)
    assert figures.details == {"mean over frames": pytest.approx((2 * one + 6 * other) / 8)}
    assert colours == [3, 7]


def test_background_consistency_looks_with_the_embedded_clip_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = square(3)
    save(tmp_path / "a.webp", frames)
    found, _ = list_clips(tmp_path)
    figures = measure_clips("background-consistency", found, Tools(device="cpu"))
    expected = consistency(load_clip("pocket-clip").images(to_tensor(frames)))
    assert figures.value == pytest.approx(expected, abs=1e-6)
    assert (figures.by, 0.5 < expected < 1) == ("pocket-clip", True)
    asked: list[str] = []

    def load(place: str, **_: Any) -> Any:
        asked.append(place)
        return load_clip("pocket-clip")

    monkeypatch.setattr(clip_measures, "load_clip", load)
    tools = Tools(weights={"clip": str(tmp_path / "mine")}, device="cpu")
    assert measure_clips("background-consistency", found, tools).by == str(tmp_path / "mine")
    assert asked == [str(tmp_path / "mine")]


def test_what_was_found_is_kept_until_the_clip_or_its_reference_changes(
    tmp_path: Path, colours: list[int], clips: list[FoundClip]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    first = measure_clips("subject-consistency", clips, Tools(), folder=kept)
    assert len(colours) == 3
    assert measure_clips("subject-consistency", clips, Tools(), folder=kept) == first
    assert len(colours) == 3
    save(clips[1].path, still(6))
    again = measure_clips("subject-consistency", list_clips(tmp_path / "clips")[0], Tools(), folder=kept)
    assert (len(colours), colours[-1]) == (4, 6)
    assert again.each["b.webp"] != first.each["b.webp"]
    lines = (kept / "subject-consistency.jsonl").read_text().splitlines()
    assert [json.loads(line)["picture"] for line in lines] == ["a.webp", "b.webp", "c.webp", "b.webp"]
    real = save(tmp_path / "real.webp", square(5))
    tools = Tools(reference=real)
    before = measure_clips("difference-error", clips[2:], tools, folder=kept).value
    save(real, np.roll(square(5), 16, axis=1))
    assert (before, measure_clips("difference-error", clips[2:], tools, folder=kept).value) == (0, 2)


def test_the_error_of_differences_needs_equal_clips(tmp_path: Path, clips: list[FoundClip]) -> None:
    real = tmp_path / "real"
    for name, frames in (("a", still(5)), ("b", still(5)), ("c", square(5)), ("d", square(4))):
        save(real / f"{name}.webp", frames)
    figures = measure_clips("difference-error", clips[2:], Tools(reference=real))
    assert (figures.value, figures.notes) == (0, [f"Not used of {real}: a.webp, b.webp, d.webp."])
    with pytest.raises(DataError, match=r"a\.webp: Its reference does not move"):
        measure_clips("difference-error", clips[:1], Tools(reference=real))
    with pytest.raises(DataError, match=r"c\.webp: A clip of 5 frames of 64x40 is compared with one of 4"):
        measure_clips("difference-error", clips[2:], Tools(reference=real / "d.webp"))


def test_the_first_frame_is_compared_with_the_start_image(tmp_path: Path, clips: list[FoundClip]) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for clip, frame in zip("abc", (still(1), dark_and_light(1) + 51, square(1)), strict=True):
        Image.fromarray(frame[0]).save(start / f"{clip}.png")
    figures = measure_clips("first-frame", clips, Tools(reference=start))
    assert [one["value"] for one in figures.each.values()] == [
        100,
        pytest.approx(20 * math.log10(5), abs=1e-4),
        100,
    ]
    assert [one["SSIM"] for one in figures.each.values()][::2] == [pytest.approx(1), pytest.approx(1)]
    assert figures.details["scaled"] == 0
    Image.fromarray(square(1)[0]).resize((128, 80), Image.Resampling.NEAREST).save(start / "c.png")
    scaled = measure_clips("first-frame", clips[2:], Tools(reference=start))
    assert 15 < scaled.value < 100
    assert scaled.details["scaled"] == 1
    save(tmp_path / "small.gif", grey(1, 8, 40))
    with pytest.raises(DataError, match=r"small.gif: SSIM needs 11 pixels a side, and its frames are 40x8"):
        measure_clips("first-frame", list_clips(tmp_path / "small.gif")[0], Tools(reference=start / "c.png"))


def test_dynamic_degree_compares_at_the_rate_of_the_clips(tmp_path: Path, clips: list[FoundClip]) -> None:
    real = tmp_path / "real"
    save(real / "a.webp", square(9, 1), 16)  # every second frame of it: two pixels, as the clip at 8 a second
    tools = Tools(reference=real)
    figures = measure_clips("dynamic-degree", clips[2:], tools)
    assert figures.value == pytest.approx(1)
    assert figures.details["reference clips"] == 1
    assert figures.notes == ["Reference: Taken at 8 frames a second, as the clips: a.webp."]
    assert measure_clips("dynamic-degree", clips, tools).value == figures.value  # a median
    assert measure_clips("dynamic-degree", clips[:1], tools).value == 0
    save(real / "b.webp", square(5, 2), 4)
    with pytest.raises(DataError, match=r"fewer than 8 frames a second, such as b\.webp"):
        measure_clips("dynamic-degree", clips, tools)
    save(clips[0].path, still(5), 24)
    with pytest.raises(DataError, match="the clips have 8, 24: measure each rate alone"):
        measure_clips("dynamic-degree", list_clips(tmp_path / "clips")[0], tools)


def test_the_distance_of_sets_takes_all_frames_of_both(
    tmp_path: Path, colours: list[int], clips: list[FoundClip]
) -> None:
    save(tmp_path / "real/a.webp", square(6, 3))
    save(tmp_path / "real/b.webp", grey(1))
    figures = measure_clips("frechet-lite0", clips, Tools(reference=tmp_path / "real"))
    extract = clip_measures._lite0_features(Tools())
    sides = ClipMoments(), ClipMoments()
    for side, several in zip(sides, ([still(5), dark_and_light(5), square(5)], [square(6, 3)]), strict=True):
        for frames in several:
            side.add(extract(frames))
    expected = clip_distance(*sides)
    assert figures.value == pytest.approx(expected.total)
    assert figures.details == {
        "frames": pytest.approx(expected.frames),
        "changes": pytest.approx(expected.changes),
        "reference clips": 1,
    }
    assert figures.notes[0] == "Reference: Not counted, for one frame: b.webp."
    assert figures.each == {}


def test_clips_of_too_few_frames_are_not_counted_and_told(tmp_path: Path, clips: list[FoundClip]) -> None:
    save(tmp_path / "clips/d.gif", grey(1))
    save(tmp_path / "clips/e.webp", square(2))
    found, _ = list_clips(tmp_path / "clips")
    assert clip_notes(ALONE, found)[:2] == [
        f"Not counted in {', '.join(name for name in ALONE if name != 'motion-smoothness')}, for fewer than "
        "2 frames: d.gif.",
        "Not counted in motion-smoothness, for fewer than 3 frames: d.gif, e.webp.",
    ]
    assert clip_notes(["first-frame"], found[3:4]) == []
    assert list(measure_clips("motion", found, Tools()).each) == ["a.webp", "b.webp", "c.webp", "e.webp"]
    with pytest.raises(DataError, match="No clip has the 3 frames that motion-smoothness needs"):
        measure_clips("motion-smoothness", found[3:], Tools())


def test_different_sizes_and_rates_are_told(tmp_path: Path) -> None:
    save(tmp_path / "a.webp", still(3))
    save(tmp_path / "b.webp", square(3), 12)
    save(tmp_path / "c.webp", square(3), 12)
    notes = clip_notes(ALONE, list_clips(tmp_path)[0])
    assert [note.partition(". ")[0] for note in notes] == [
        "The clips have different sizes: 64x40 (2), 56x40 (1)",
        "The clips have different rates: 12 (2), 8 (1)",
    ]


@pytest.mark.parametrize(
    ("names", "tools", "message"),
    [
        (["fid"], Tools(), "no measure 'fid' of clips: use subject-consistency"),
        (["motion", "first-frame"], Tools(), "first-frame compares with the reference of each clip"),
        (["dynamic-degree"], Tools(), "dynamic-degree compares with real clips"),
        (["motion"], Tools(reference=Path("x")), "--reference is not used by motion"),
        (["motion"], Tools(weights={"clip": "x"}), "--weights clip=... is not used by motion"),
        (["background-consistency"], Tools(weights={"vqa": "x"}), "--weights vqa=... is not used"),
    ],
)
def test_measures_and_tools_that_do_not_fit_are_refused(names: list[str], tools: Tools, message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        check_clip_measures(names, tools)
    assert message in str(refused.value)


def test_every_measure_is_named_once() -> None:
    assert len(set(CLIP_MEASURES)) == len(CLIP_MEASURES) == 10
