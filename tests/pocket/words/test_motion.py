"""Captions of clips: they say what was measured."""

from __future__ import annotations

import pytest

from sanakit.pocket.words.motion import Motion, clip_captions, motion_words

STILL = Motion(change=1.5, bob=0.0, sway=0.0, swell=0.0)


@pytest.mark.parametrize(
    ("motion", "words"),
    [
        (STILL, ["moving"]),
        (Motion(change=1.5, bob=4.0, sway=3.9, swell=0.0), ["bobbing up and down"]),
        (Motion(change=1.5, bob=4.0, sway=5.0, swell=0.0), ["swaying from side to side"]),
        (Motion(change=0.5, bob=3.9, sway=2.9, swell=9.9), ["moving a little"]),
        (
            Motion(change=2.4, bob=9.0, sway=0.0, swell=10.0),
            ["bobbing up and down", "growing and shrinking", "moving a lot"],
        ),
    ],
)
def test_words_follow_the_measures(motion: Motion, words: list[str]) -> None:
    assert motion_words(motion) == words


def test_captions_name_the_thing_its_motion_and_its_design() -> None:
    motion = Motion(change=3.0, bob=9.0, sway=0.0, swell=0.0)
    assert clip_captions("dog face", "", ["animal", "dog", "pet"], motion) == [
        "an animated 3D render of a dog face",
        "dog face, animated 3D emoji",
        "a dog face bobbing up and down",
        "a dog face moving a lot",
        "a looping animation of the face of a dog bobbing up and down on a white background",
        "a dog face bobbing up and down and moving a lot, 3D render",
        "dog face, animal, pet, animated 3D emoji",
        "a dog face",
        "the face of a dog",
    ]


def test_skin_tones_join_the_name() -> None:
    assert "an animated 3D render of a guard with dark skin tone" in clip_captions(
        "guard", "dark skin tone", [], STILL
    )
    names = clip_captions("person: beard", "light skin tone", [], STILL)
    assert names[-1] == "person with a beard and light skin tone"
