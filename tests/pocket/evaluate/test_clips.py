"""The middle frame of clips, looked up in a gallery of three colours."""

from __future__ import annotations

from pathlib import Path

import pytest

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError
from sanakit.eval.clip_folder import list_clips
from sanakit.pocket.evaluate import clips
from tests.clips.moving import flat
from tests.pocket.evaluate.colours import use_colours

THINGS = ("apple", "frog", "whale")  # red, green, blue
RED, GREEN, BLUE = (255, 10, 0), (0, 255, 10), (10, 0, 255)


@pytest.fixture(autouse=True)
def three_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    red, flat_ones = [f"a red {thing}" for thing in THINGS], [f"a {thing}, flat" for thing in THINGS]
    use_colours(monkeypatch, clips, concepts=THINGS, prompts=red, styled=flat_ones)


def save(path: Path, *colours: tuple[int, int, int], **settings: str) -> None:
    VideoClip(frames=flat(*colours), rate=8, settings=settings).save(path)  # pyright: ignore[reportArgumentType]


def test_the_middle_frame_decides_and_the_prompt_is_that_of_the_file_or_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", BLUE, BLUE, RED, BLUE, BLUE, prompt="A red apple")
    save(tmp_path / "b.gif", BLUE, GREEN, BLUE, prompt="apple")
    save(tmp_path / "c.gif", GREEN, RED, BLUE)  # a frog, says the text; the middle frame is red
    (tmp_path / "c.txt").write_text("a frog, flat\nof another line\n")
    found, notes = list_clips(tmp_path)
    figures = clips.recognise_clips(found)
    assert {name: one["value"] for name, one in figures.each.items()} == {"a.gif": 1, "b.gif": 0, "c.gif": 0}
    assert [one["rank"] for one in figures.each.values()] == [1, 3, 2]
    assert figures.value == pytest.approx(1 / 3)
    assert (figures.details, figures.notes, notes) == ({"top-5": 1}, [], [])


def test_clips_of_other_prompts_are_named(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", RED, RED, prompt="apple")
    save(tmp_path / "b.gif", RED, RED, prompt="a castle")
    save(tmp_path / "c.gif", RED, RED)
    figures = clips.recognise_clips(list_clips(tmp_path)[0])
    assert (figures.value, figures.clips) == (1, 1)
    assert figures.notes == [
        "Not recognised, as their prompt asks for none of the 200 common things: b.gif, c.gif."
    ]
    (tmp_path / "a.gif").unlink()
    with pytest.raises(DataError, match=r"write it into NAME\.txt"):
        clips.recognise_clips(list_clips(tmp_path)[0])
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"c\.txt cannot be read .* save it as UTF-8"):
        clips.recognise_clips(list_clips(tmp_path)[0])
