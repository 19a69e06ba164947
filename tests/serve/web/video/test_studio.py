"""From a wish to a clip: seen on its way, kept with its settings, stopped, and refused in a sentence."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from PIL import Image

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import open_clip
from sanakit.serve.http.videos import reading
from sanakit.serve.web.history import SHARED
from sanakit.serve.web.studio import View
from sanakit.serve.web.video import studio as studio_module
from sanakit.serve.web.video.settings import ClipWish
from sanakit.serve.web.video.studio import STRIP, ClipStudio, strip_of
from sanakit.serve.web.video.tab import VideoTab

SMALL = ClipWish(
    **{"model": "tiny-video", "prompt": "a red apple", "frames": 5, "width": 64, "height": 64, "rate": 8.0},
    **{"motion": 0, "seed": "7", "steps": 2, "guidance": 3.0, "solver": "dpm", "negative_prompt": ""},
)


def draw(studio: ClipStudio, wish: ClipWish) -> list[View]:
    async def follow() -> list[View]:
        return [view async for view in studio.draw("tab-1", SHARED, wish)]

    return asyncio.run(follow())


@pytest.mark.parametrize("format", ["mp4", "webp"])
def test_a_clip_is_seen_on_its_way_and_kept_with_its_settings(
    tab: VideoTab, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    if format == "mp4":
        pytest.importorskip("av")
    monkeypatch.setattr(studio_module, "usual_format", lambda: format)
    first, *steps, last = draw(tab.studio, replace(SMALL, image=Image.new("RGB", (64, 64), "teal")))
    assert (first.state, first.previews) == ("waiting", [None])
    assert {view.state for view in steps} <= {"drawing"}
    assert (last.state, last.message[:9], len(last.previews)) == ("done", "Drawn in ", 5)
    (name,) = last.names
    with open_clip(tab.history.file(SHARED, name)) as file:
        facts = file.facts
    assert (facts.frames, facts.width, facts.rate) == (5, 64, 8)
    assert (facts.settings["seed"], facts.settings["begins_with"]) == (7, "an image")
    assert Path(name).suffix == f".{format}"
    assert tab.history.names(SHARED) == []  # the gallery is of images


def test_the_middle_is_shown_while_it_is_drawn_but_not_where_a_filter_looks(
    tab: VideoTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [view.previews[0] for view in draw(tab.studio, replace(SMALL, steps=3)) if view.state == "drawing"]
    assert any(isinstance(image, Image.Image) for image in seen)
    monkeypatch.setattr(tab.clips, "image_filter", lambda *_: None)
    seen = [view.previews[0] for view in draw(tab.studio, replace(SMALL, steps=3)) if view.state == "drawing"]
    assert all(image is None for image in seen)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": " "}, "Write what to draw"),
        ({"frames": 6}, "use 5 or 9"),
        ({"width": 65}, "multiples of 16"),
        ({"rate": 5000.0}, "rate"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_a_sentence(tab: VideoTab, changes: dict[str, Any], words: str) -> None:
    last = draw(tab.studio, replace(SMALL, **changes))[-1]
    assert (last.state, words in last.message, last.free) == ("failed", True, True)


def test_a_clip_may_not_take_more_memory_than_over_the_api(
    tab: VideoTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    assert "too much for one clip" in draw(tab.studio, SMALL)[-1].message


def test_a_tab_stops_its_own_clip(tab: VideoTab) -> None:
    async def follow() -> list[str]:
        states = []
        async with contextlib.aclosing(tab.studio.draw("tab-1", SHARED, replace(SMALL, steps=900))) as views:
            async for view in views:
                states.append(view.state)
                if view.state == "drawing":
                    tab.studio.cancel("tab-2")  # somebody else's
                    tab.studio.cancel("tab-1")
        return states

    states = asyncio.run(follow())
    assert states[-1] == "stopped"
    assert len(states) < 100


def test_a_strip_goes_from_the_first_frame_to_the_last() -> None:
    def levels(count: int) -> list[int]:
        frames = np.repeat(np.arange(count, dtype=np.uint8), 300 * 8 * 3).reshape(count, 8, 300, 3)
        strip = strip_of(VideoClip(frames=frames, rate=Fraction(8)))
        assert all(max(image.size) <= 192 for image in strip)
        return [image.getpixel((0, 0))[0] for image in strip]  # pyright: ignore

    assert levels(1) == [0]
    assert levels(5) == [0, 1, 2, 3, 4]
    assert (len(levels(81)), levels(81)[0], levels(81)[-1]) == (STRIP, 0, 80)
