"""`sana inspect` of a clip."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from sanakit.clips.clip import VideoClip
from tests.clips.moving import moving


@pytest.fixture(params=["cat.mp4", "cat.webm", "cat.webp", "cat.gif", "cat"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    settings = {"prompt": "a cat ☃", "seed": 3, "frames": 7}
    made = VideoClip(frames=moving(5), rate=Fraction(24000, 1001), settings=settings)
    return made.save(tmp_path / request.param)[0]


def test_inspect_tells_a_clips_facts_and_settings(sana, clip: Path) -> None:
    out = sana("inspect", clip).out
    lines = out.splitlines()
    assert lines[0] == str(clip)
    for line in (
        "  kind            clip",
        "  size            64x48",
        "  rate            23.976 frames a second (24000/1001)",
        "  seconds         0.208542",
        "  prompt          a cat ☃",
    ):
        assert line in lines
    assert [line for line in lines if "frames  " in line] == [
        "  frames          5",
        "  drawn frames    7",
    ]


def test_inspect_tells_what_the_file_and_its_settings_agree_on_once(sana, tmp_path: Path) -> None:
    settings = {"prompt": "a cat", "width": 64, "height": 48, "frames": 5}
    made = VideoClip(frames=moving(5), rate=Fraction(8), settings=settings)
    lines = sana("inspect", made.save(tmp_path / "cat.webp")[0]).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        *("kind", "format", "size", "frames", "rate", "seconds", "prompt"),
    ]


def test_inspect_prints_a_clip_for_machines(sana, clip: Path) -> None:
    told = json.loads(sana("inspect", clip, "--json").out)
    assert told["kind"] == "clip"
    assert (told["width"], told["height"], told["frames"], told["rate"]) == (64, 48, 5, "24000/1001")
    assert told["settings"] == {"prompt": "a cat ☃", "seed": 3, "frames": 7}
    assert told["seconds"] == pytest.approx(5 * 1001 / 24000, abs=1e-6)


def test_inspect_refuses_a_clip_that_was_cut_off(sana, tmp_path: Path) -> None:
    path, _ = VideoClip(frames=moving(5), rate=Fraction(16)).save(tmp_path / "cat.mp4")
    path.write_bytes(path.read_bytes()[:-5])
    outcome = sana("inspect", path)
    assert outcome.code == 2
    assert "damaged or cut off" in outcome.err
