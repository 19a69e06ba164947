"""Texts of video models are those of diffusers, byte for byte, and stand in the windows of each dialect."""

from __future__ import annotations

import inspect

from sanakit.text.native import NATIVE_INSTRUCTION, dialect_windows
from sanakit.text.tokenizer import train_tokenizer
from sanakit.text.video import NEGATIVE_PROMPT, VIDEO_INSTRUCTION, with_motion


def test_the_instruction_and_the_negative_prompt_are_those_of_diffusers() -> None:
    from diffusers.pipelines.sana_video import pipeline_sana_video as theirs

    parameters = inspect.signature(theirs.SanaVideoPipeline.__call__).parameters
    assert "\n".join(parameters["complex_human_instruction"].default) == VIDEO_INSTRUCTION
    assert f'negative_prompt = "{NEGATIVE_PROMPT}"' in theirs.EXAMPLE_DOC_STRING
    assert 'f" motion score: {motion_score}."' in theirs.EXAMPLE_DOC_STRING


def test_a_motion_score_of_0_adds_nothing() -> None:
    assert with_motion("a cat", 7) == "a cat motion score: 7."
    assert with_motion("a cat", 0) == "a cat"


def test_the_scripts_put_the_instruction_for_images_before_video_prompts_and_cut_no_flags() -> None:
    tokenizer = train_tokenizer(["a red apple"] * 20, 512)
    windows = dialect_windows(tokenizer, VIDEO_INSTRUCTION, 300)
    usual, native = windows["diffusers"][0], windows["native"][0]
    assert usual.text == VIDEO_INSTRUCTION
    assert native.text == NATIVE_INSTRUCTION
    told: list[str] = []
    assert usual.clean(" A Cat --ar 3:4 ", told) == "a cat --ar 3:4"
    assert native.clean(" A Cat --ar 3:4 ", told) == "A Cat --ar 3:4"
    assert told == []
