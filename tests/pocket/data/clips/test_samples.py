"""What pocket-video learns from: every thing alike, none that is held out, in the words of its motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sanakit.pocket.data import toy
from sanakit.pocket.data.clips import samples as module
from sanakit.pocket.data.clips.dataset import PocketClips, clip_split, open_clips
from sanakit.pocket.data.clips.made import WORDS
from sanakit.pocket.data.clips.samples import captions_of_sample, list_clip_samples, render
from sanakit.pocket.data.clips.toy import HELD_OUT, build_toy_clips
from sanakit.pocket.data.dataset import PocketImages, open_pocket

ASKED = {"windows": 12, "motions": 2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> PocketClips:
    return open_clips(build_toy_clips(tmp_path_factory.mktemp("clips") / "toy-clips"))


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> PocketImages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "THINGS", 6)
        return open_pocket(toy.build_toy(tmp_path_factory.mktemp("images") / "toy"))


def test_things_have_the_same_weight_however_many_skin_tones_they_have(clips: PocketClips) -> None:
    rows = [*clips.rows, replace(clips.rows[0], tone="dark skin tone"), *clips.rows[:1] * 3]
    toned = replace(clips, rows=rows)
    weights: dict[str, float] = {}
    count: dict[str, int] = {}
    for sample in list_clip_samples(toned, None, windows=10, motions=2):
        concept = rows[sample.row].concept
        weights[concept] = weights.get(concept, 0.0) + sample.weight
        count[concept] = count.get(concept, 0) + 1
    assert len(set(map(lambda value: round(value, 9), weights.values()))) == 1  # all toy things are common
    assert count[rows[0].concept] == 10  # two windows of each of five clips
    assert weights.keys() == {row.concept for row in rows} - set(HELD_OUT)


def test_every_well_known_drawing_is_shown_still_and_moving(
    clips: PocketClips, drawings: PocketImages
) -> None:
    samples = list_clip_samples(clips, drawings, **ASKED)
    shown = {drawings.rows[one.row].concept for one in samples if one.kind != "animated"}
    assert shown == {row.concept for row in drawings.rows} - set(HELD_OUT)  # which are rare
    kinds = [one.kind for one in samples]
    assert kinds.count("made") == 2 * kinds.count("still") == 2 * 6 * 4
    assert samples == list_clip_samples(clips, drawings, **ASKED)
    assert {one.motion for one in samples if one.kind == "made"} == WORDS.keys()


def test_things_that_are_held_out_among_clips_are_not_drawn_either(
    clips: PocketClips, drawings: PocketImages
) -> None:
    first = drawings.rows[0].concept
    assert clip_split("cat") == "val"
    rows = [replace(row, concept="cat") if row.concept == first else row for row in drawings.rows]
    renamed = replace(drawings, rows=rows)
    shown = {
        rows[one.row].concept for one in list_clip_samples(clips, renamed, **ASKED) if one.kind != "animated"
    }
    assert shown == {row.concept for row in drawings.rows} - {first, *HELD_OUT}


def test_windows_are_those_of_the_clip_mirrored_or_not(clips: PocketClips) -> None:
    samples = list_clip_samples(clips, None, **ASKED)
    assert {one.flip for one in samples} == {True, False}
    assert len({one.start for one in samples}) > 10
    for one in samples[:20]:
        frames = render(one, clips, None)
        wanted = clips.take(one.row, one.start, 3, 17)
        assert np.array_equal(frames, wanted[:, :, ::-1] if one.flip else wanted)


def test_things_with_a_side_in_their_name_are_not_mirrored(clips: PocketClips) -> None:
    rows = [replace(row, concept=f"{row.concept} pointing right", split="train") for row in clips.rows]
    assert not any(one.flip for one in list_clip_samples(replace(clips, rows=rows), None, **ASKED))


def test_made_motion_is_a_loop_from_any_frame_on(clips: PocketClips, drawings: PocketImages) -> None:
    made = [
        one for one in list_clip_samples(clips, drawings, **ASKED) if one.kind == "made" and one.loop == 12
    ]
    assert made
    for one in made[:4]:
        frames = render(replace(one, flip=False), clips, drawings)
        assert frames.shape == (17, 16, 16, 3)
        assert np.array_equal(frames[:5], frames[12:])
        later = render(replace(one, flip=False, start=(one.start + 3) % 12), clips, drawings)
        assert np.array_equal(later[:9], frames[3:12])
        assert not np.array_equal(frames[0], frames[3])


def test_words_tell_the_motion_or_the_thing_alone(clips: PocketClips, drawings: PocketImages) -> None:
    samples = list_clip_samples(clips, drawings, **ASKED)
    animated = next(one for one in samples if one.kind == "animated")
    assert captions_of_sample(animated, clips, None) == clips.rows[animated.row].captions
    still = next(one for one in samples if one.kind == "still")
    assert captions_of_sample(still, clips, drawings) == drawings.rows[still.row].captions
    assert render(still, clips, drawings).shape == (1, 16, 16, 3)
    for one in samples:
        if one.motion is not None:
            captions = captions_of_sample(one, clips, drawings)
            told = [text for text in captions if any(words in text for words in WORDS[one.motion])]
            assert len(told) == 4
            assert len(captions) == 6
            others = {words for motion, words in WORDS.items() if motion != one.motion}
            assert not any(word in text for text in captions for some in others for word in some)


def test_shares_add_up() -> None:
    assert sum(module.SHARES.values()) == pytest.approx(1.0)
