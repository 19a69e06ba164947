"""`sana data cache` on clips, as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.clip_files import counted
from tests.pipelines.video.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("video") / "model")


@pytest.fixture
def clips(sana) -> Path:
    """A folder in the current one."""
    folder = Path("clips")
    counted(folder / "a.webp", 10, caption="a disc")
    counted(folder / "b.gif", 9)
    counted(folder / "short.webp", 5, caption="a square")
    (folder / "c.mp4").write_bytes(b"no clip")
    (folder / "d.png").write_bytes(b"x")
    return folder


WORDS = ("--size", "32x32", "--frames", "10", "--device", "cpu")


def test_it_tells_what_is_taken_lost_and_left_out(sana, clips: Path, model: Path) -> None:
    done = sana("data", "cache", "clips", "cache", "--model", model, *WORDS)
    assert (done.code, done.err.splitlines()) == (
        0,
        [
            "Note: 10 frames make no whole number of latents: 9 are taken (1 + a multiple of 4).",
            "2 of 4 clips at 32 px in 1 size, 9 frames at 16 a second: latents 768 B; "
            + done.err.splitlines()[1].split("; ")[1],
            "Warning: d.png: is not a clip (.png)",
            "Warning: b.gif: It has no caption, and is trained on with an empty one.",
            "Warning: c.mp4: is not a clip that can be read: use MP4, MOV, WebM, Matroska, animated WebP, "
            "GIF, APNG or a folder of frames.",
            "Warning: short.webp: 5 frames at 16 a second are too few: the shortest length is 9",
        ],
    )
    assert done.out.startswith("cache  2 clips, ")
    assert done.out.endswith(" 1 shard, 1 broken, 1 too small, narrow or short, 1 not used besides clips\n")
    again = sana("data", "cache", "clips", "cache", "--model", model, *WORDS, "--json")
    found = json.loads(again.out)
    assert (found["pictures"], found["kept"], found["samples"]) == (2, 2, "clips")
    assert found["notes"] == {"b.gif": "It has no caption, and is trained on with an empty one."}


def test_short_clips_may_be_repeated_and_taken_at_another_rate(sana, clips: Path, model: Path) -> None:
    done = sana("data", "cache", "clips", "cache", "--model", model, *WORDS, "--repeat-short", "--fps", 32)
    assert done.code == 0
    assert "9 frames at 32 a second, short ones repeated: latents" in done.err
    assert "It has fewer than 32 frames a second: some are shown more than once." in done.err
    assert done.out.startswith("cache  3 clips, ")
    other = sana("data", "cache", "clips", "cache", "--model", model, *WORDS)
    assert other.code == 2
    assert "is a cache of clips of 9 frames at 32 a second, short ones repeated, not of 9 frames" in other.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "33x32"), "The size 33x32 does not fit the model: its sides must be multiples of 16 px."),
        (("--size", "32x32", "--resolution", 32), "Sizes came together with a resolution or square"),
        (("--fps", "fast"), "The rate 'fast' is not a number"),
        (("--motion", 200), "The motion score is 200: it must be a whole number, 0 to 100."),
    ],
)
def test_what_does_not_fit_is_a_sentence(sana, words: tuple, said: str, clips: Path, model: Path) -> None:
    refused = sana("data", "cache", "clips", "cache", "--model", model, *words)
    assert refused.code == 2
    assert said in refused.err


def test_settings_of_clips_are_not_ignored_by_a_model_of_images(sana, clips: Path, tiny: Path) -> None:
    refused = sana("data", "cache", "clips", "cache", "--model", tiny, "--fps", 8)
    assert refused.code == 2
    assert "is a model of images: leave out the settings of clips" in refused.err
