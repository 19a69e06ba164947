"""The middle frame of clips, looked up in a gallery of three colours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.clips.clip import VideoClip
from sanakit.errors import DataError
from sanakit.eval.clip_folder import list_clips
from sanakit.pocket.evaluate import clips
from sanakit.pocket.evaluate.recognition import Gallery
from sanakit.pocket.evaluate.reference import PocketReference
from tests.clips.moving import flat

THINGS = ("apple", "frog", "whale")  # red, green, blue
RED, GREEN, BLUE = (255, 10, 0), (0, 255, 10), (10, 0, 255)


@pytest.fixture(autouse=True)
def three_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery(
        mean=torch.full((3,), -1.0),
        basis=torch.eye(3),
        images=torch.eye(3),
        labels=torch.arange(3),
        designs=("x",) * 3,
        artists=("x",) * 3,
        concepts=THINGS,
    )
    reference = PocketReference(
        gallery=gallery,
        prompts=tuple(f"a red {thing}" for thing in THINGS),
        styled_prompts=tuple(f"a {thing}, flat" for thing in THINGS),
        held_out=torch.zeros(0, 3, 256, 256),
        sources=(),
    )

    def colours(_: object, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    monkeypatch.setattr(clips, "load_reference", lambda: reference)
    monkeypatch.setattr(clips, "load_efficientnet", lambda: None)
    monkeypatch.setattr(clips, "image_features", colours)


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
