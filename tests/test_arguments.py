"""Arguments of diffusers are answered with ours, and ours exist."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from sanakit import TextToImage, TextToVideo, World
from sanakit.arguments import OF_CLIPS, OF_EDITS, OF_WORLDS, OURS, check_arguments
from sanakit.errors import ArgumentError, SettingsError
from sanakit.pipelines.control import ControlImage
from sanakit.pipelines.image_to_image import ImageToImage
from sanakit.pipelines.video.editing.request import EditSettings
from sanakit.pipelines.video.editing.video_to_video import VideoToVideo
from sanakit.pipelines.video.request import ClipDrawSettings
from sanakit.pipelines.world.request import WorldDrawSettings

CLIPS = [(TextToVideo, OF_CLIPS, ClipDrawSettings), (World, OF_WORLDS, WorldDrawSettings)]
CLIPS += [(VideoToVideo, OF_EDITS, EditSettings)]


@pytest.fixture(scope="module")
def pipe() -> TextToImage:
    return TextToImage.from_pretrained("pocket", device="cpu")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("num_inference_steps", "steps=20"), ("guidance_scale", "guidance=4.5"), ("generator", "seed=7")],
)
def test_a_call_names_our_argument(pipe: TextToImage, theirs: str, ours: str) -> None:
    wrong: dict[str, Any] = {theirs: 3}
    for call in (pipe, pipe.stream):
        with pytest.raises(TypeError, match=f"^{theirs} is not an argument here: use {re.escape(ours)}"):
            call("a red apple", **wrong)


@pytest.mark.parametrize("task", [TextToImage, ImageToImage, *(task for task, *_ in CLIPS)])
def test_loading_names_our_argument_before_anything_is_read(task) -> None:
    with pytest.raises(SettingsError, match='torch_dtype is not an argument here: use dtype="bfloat16"'):
        task.from_pretrained("nowhere", torch_dtype="float16")


def test_a_slip_names_the_nearest_and_nonsense_nothing(pipe: TextToImage) -> None:
    with pytest.raises(ArgumentError, match=r"^stepz is not an argument here: did you mean steps\?"):
        pipe("a red apple", stepz=3)
    with pytest.raises(ArgumentError, match=r"^qqqq is not an argument here\.$"):
        pipe("a red apple", qqqq=3)
    check_arguments([])


@pytest.mark.parametrize("theirs", ["num_frames", "fps", "num_videos_per_prompt"])
def test_an_argument_of_clips_is_answered_with_the_task_that_draws_them(
    pipe: TextToImage, theirs: str
) -> None:
    wrong: dict[str, Any] = {theirs: 3}
    with pytest.raises(ArgumentError, match=f"^{theirs} is not an argument here: use TextToVideo, with "):
        pipe("a red apple", **wrong)


def test_an_answer_that_is_an_argument_alone_is_one_of_images() -> None:
    tasks = (TextToImage.__call__, TextToImage.from_pretrained)
    known = {name for task in tasks for name in inspect.signature(task).parameters}
    alone = {found[1] for remedy in OURS.values() if (found := re.match(r"(\w+)=", remedy))}
    assert "steps" in alone
    assert alone - known == set()


def test_what_is_named_exists() -> None:
    """Each "name=" of a remedy is an argument of a call, of loading, or of a control image."""
    known: set[str] = set()
    for function in (
        *(TextToImage.__call__, TextToImage.from_pretrained, TextToVideo.__call__, ControlImage),
        TextToImage.load_adapter,
    ):
        known |= set(inspect.signature(function).parameters)
    named = {name for remedy in OURS.values() for name in re.findall(r"(\w+)=", remedy)}
    assert named
    assert named - known == set()
    assert not known & OURS.keys() - {"image", "scheduler"}


@pytest.mark.parametrize(("task", "ours", "settings"), CLIPS)
def test_what_is_named_for_clips_exists_in_their_tasks(task, ours, settings) -> None:
    """An answer that is an argument alone is one of the task itself; others may name another task."""
    own = set(inspect.signature(task.__call__).parameters) | set(
        inspect.signature(task.from_pretrained).parameters
    )
    alone = {found[1] for remedy in ours.values() if (found := re.match(r"(\w+)=", remedy))}
    assert "dtype" in alone
    assert alone - own == set()
    everywhere = own | {name for other, *_ in CLIPS for name in inspect.signature(other.__call__).parameters}
    assert {name for remedy in ours.values() for name in re.findall(r"(\w+)=", remedy)} - everywhere == set()
    assert set(settings.__annotations__) & ours.keys() <= {"image"}
    with pytest.raises(ArgumentError, match="did you mean motion"):
        check_arguments(["motiom"], EditSettings.__annotations__, ours)
