"""A clip and a prompt to an edited clip: its parts one after another, files read as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
import torch

from sanakit.clips.clip import VideoClip
from sanakit.clips.reading import ClipFile, open_clip
from sanakit.errors import MemoryLimitError, SettingsError, SizeError, WeightsError
from sanakit.images.image import to_levels
from sanakit.pipelines.video.editing.chunks import ChunkEditor, edited
from sanakit.pipelines.video.editing.video_to_video import VideoToVideo
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.video.editing.tiny import save_editor

PROMPT = "two green foxes on a table"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_editor(tmp_path_factory.mktemp("editing") / "model")


@pytest.fixture(scope="module")
def pipe(folder) -> VideoToVideo:
    return VideoToVideo.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def clip() -> VideoClip:
    frames = np.random.default_rng(0).integers(0, 256, (30, 32, 48, 3), dtype=np.uint8)
    return VideoClip(frames=frames, rate=Fraction(12))


def edit(pipe: VideoToVideo, clip, **settings) -> VideoClip:
    return pipe(PROMPT, clip, **{"seed": 7, "width": 48, "height": 32, **settings})


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The first 29")
def test_frames_are_encoded_edited_and_decoded(pipe, clip):
    """29 frames are 8 latents, in chunks of 5 and 3; all at once here, chunk by chunk there."""
    pixels = torch.from_numpy(clip.frames[:29].copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
    source = pipe.autoencoder.normalise(pipe.autoencoder.encode(pixels))
    editor = ChunkEditor(
        transformer=pipe.transformer, prompt=pipe.transformer.prepare(pipe.text_encoder.encode([PROMPT]))
    )
    latents = torch.cat(list(edited(editor, [source], 8, seed=7)), dim=2)
    wanted = to_levels(pipe.autoencoder.decode(pipe.autoencoder.denormalise(latents))[0].transpose(0, 1))
    ours = edit(pipe, clip)
    assert ours.frames.shape == (29, 32, 48, 3)
    assert np.abs(ours.frames.astype(int) - wanted.numpy().astype(int)).max() <= 1
    assert wanted.float().std() > 5
    assert ours.rate == 12
    told = {"prompt": PROMPT, "seed": 7, "width": 48, "height": 32, "frames": 29, "motion": 0}
    assert ours.settings == told | {"model": "tiny-video", "edits": "a clip"}
    assert ours.notes == ("The first 29 of the clip's 30 frames are edited, the others left out.",)


@pytest.mark.filterwarnings("ignore:The first 29")
def test_frames_come_chunk_by_chunk_and_the_file_is_read_no_further(pipe, clip, tmp_path, monkeypatch):
    whole, read, real = edit(pipe, clip), [], ClipFile.frames
    clip.save(tmp_path / "clip.webp", quality=100)

    def counted(self, *window):
        for frame in real(self, *window):
            read.append(1)
            yield frame

    monkeypatch.setattr(ClipFile, "frames", counted)
    with open_clip(tmp_path / "clip.webp") as file:
        stored = file.read()
        parts = pipe.stream(PROMPT, file, seed=7, width=48, height=32)
        assert not read
        first = next(parts)
        assert (first.first, len(first.frames), first.total, len(read)) == (0, 17, 29, 17)
        second = next(parts)
        assert (second.first, len(second.frames), len(read)) == (17, 12, 29)
        assert next(parts, None) is None
    frames = np.concatenate([first.frames, second.frames])
    assert np.array_equal(frames, edit(pipe, stored).frames)
    assert frames.shape == whole.frames.shape


@pytest.mark.filterwarnings("ignore:The (first|clip|prompt)")
def test_fewer_frames_another_size_and_the_prompt_count(pipe, clip):
    part = edit(pipe, clip, frames=9)
    assert part.frames.shape == (9, 32, 48, 3)
    assert edit(pipe, clip, frames=9, width=32, height=32).frames.shape == (9, 32, 32, 3)
    assert pipe(PROMPT, clip, frames=5, seed=7).frames.shape == (5, 64, 96, 3)  # the clip's shape, own area
    other = pipe("a red apple", clip, frames=9, seed=7, width=48, height=32)
    moved = edit(pipe, clip, frames=9, motion=30)
    changed = edit(pipe, VideoClip(frames=255 - clip.frames, rate=clip.rate), frames=9)
    for one in (other, moved, changed):
        assert np.abs(one.frames.astype(int) - part.frames.astype(int)).mean() > 0.5
    assert np.array_equal(edit(pipe, clip, frames=9).frames, part.frames)


def test_without_a_seed_one_is_drawn_and_told(pipe, clip):
    with pytest.warns(UserWarning, match="The first 1 of"):
        one = edit(pipe, clip, frames=1, seed=None)
    with pytest.warns(UserWarning, match="The first 1 of"):
        assert np.array_equal(edit(pipe, clip, frames=1, seed=one.settings["seed"]).frames, one.frames)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frames": 8}, "8 frames has no whole number of latents: use 5 or 9"),
        ({"frames": 31}, "frames = 31, but it must be a whole number from 1 to 30"),
        ({"width": 44}, "width = 44, but it must be a multiple of 8"),
        ({"height": None}, "width and height go together"),
        ({"seed": -1}, "seed = -1"),
        ({"motion": 101}, "motion = 101"),
        ({"num_inference_steps": 4}, "the model was distilled to its few steps"),
        ({"modion": 4}, "did you mean motion"),
    ],
)
def test_settings_that_it_cannot_follow_are_refused_at_once(pipe, clip, settings, said):
    with pytest.raises((SettingsError, SizeError), match=said):
        pipe.stream(PROMPT, clip, **{"seed": 7, "width": 48, "height": 32, **settings})


def test_other_things_than_a_prompt_and_a_clip_are_refused(pipe, clip):
    with pytest.raises(SettingsError, match="The prompt came as list"):
        pipe.stream([PROMPT], clip)
    with pytest.raises(SettingsError, match="The clip came as ndarray"):
        pipe.stream(PROMPT, clip.frames)


def test_a_budget_is_read_as_it_is_typed_and_kept(pipe, clip):
    parts = (pipe.transformer, pipe.autoencoder, pipe.text_encoder, pipe.settings)
    with pytest.raises(SettingsError, match="memory = 'much'"):
        VideoToVideo(*parts, memory="much")
    with pytest.raises(MemoryLimitError, match="9 frames of 48x32 px do not fit in 1 MB"):
        edit(VideoToVideo(*parts, memory="1MB"), clip, frames=9)


@pytest.mark.filterwarnings("ignore:The first 9")
def test_blocks_are_given_back_while_the_autoencoder_works(pipe, clip, monkeypatch):
    inside, seen, codec = [], [], pipe.autoencoder
    normalise, denormalise = codec.normalise, codec.denormalise

    @contextmanager
    def spied() -> Iterator[None]:
        inside.append(1)
        yield
        inside.pop()

    monkeypatch.setattr("sanakit.pipelines.video.editing.video_to_video.blocks_given_back", spied)
    monkeypatch.setattr(codec, "normalise", lambda part: seen.append(len(inside)) or normalise(part))
    monkeypatch.setattr(codec, "denormalise", lambda part: seen.append(len(inside)) or denormalise(part))
    edit(pipe, clip, frames=9)
    assert seen
    assert set(seen) == {1}
    assert not inside


def test_models_for_other_tasks_are_told_apart(folder, video_folder):
    with pytest.raises(WeightsError, match="is a transformer of clips, not of edits"):
        VideoToVideo.from_pretrained(video_folder, device="cpu")
    with pytest.raises(WeightsError, match="draws none of prompts: use `sana video --edit` or VideoToVideo"):
        TextToVideo.from_pretrained(folder, device="cpu")


def test_it_tells_what_it_has_loaded(pipe):
    assert repr(pipe).startswith("VideoToVideo: tiny-video, on cpu\n  transformer   SanaStreaming, ")
