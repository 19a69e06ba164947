"""When weights are in memory, and how many frames are decoded at a time."""

from __future__ import annotations

import pytest
import torch

from sanakit.pipelines.video import memory
from sanakit.pipelines.video.memory import choose_plan
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.video.tiny import apart

CPU = torch.device("cpu")


def test_a_long_clip_is_decoded_in_chunks_to_the_same_frames(video_pipe, monkeypatch) -> None:
    latents = torch.randn(1, 4, 7, 4, 6)
    whole = video_pipe.decode(latents)
    sizes = []
    stream = video_pipe.autoencoder.decode_stream

    def spied(chunks):
        for frames in stream(chunks):
            sizes.append(frames.shape[2])
            yield frames

    monkeypatch.setattr(memory, "WHOLE_BYTES", 0)
    monkeypatch.setattr(video_pipe.autoencoder, "decode_stream", spied)
    assert apart(video_pipe.decode(latents), whole) < 2e-5
    assert sizes == [1, 16, 8]


@pytest.mark.parametrize(
    ("small", "free", "residence"), [(10**9, 10**9, "resident"), (0, 10**9, "staged"), (0, 10, "layered")]
)
def test_small_models_stay_and_large_ones_come_for_their_stage(
    video_pipe, monkeypatch, small, free, residence
) -> None:
    monkeypatch.setattr(memory, "SMALL", small)
    monkeypatch.setattr(memory, "available_bytes", lambda device: free)
    monkeypatch.setattr(memory, "mapped_bytes", lambda part: 100)
    assert choose_plan(video_pipe.transformer, video_pipe.autoencoder, device=CPU).residence == residence


def test_parts_that_wait_outside_come_in_for_their_stage(video_pipe) -> None:
    assert choose_plan(video_pipe.transformer, device=torch.device("meta")).residence == "staged"


def test_weights_that_are_released_block_by_block_draw_the_same_clip(video_folder, monkeypatch) -> None:
    pipe = TextToVideo.from_pretrained(video_folder, device="cpu")
    called = {"steps": 2, "guidance": 3.0, "seed": 1, "output": "latent"}
    wanted = pipe("a red apple", **called).clips
    released = []
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 0)
    release = pipe.plan().after_block
    assert release is not None
    monkeypatch.setattr(
        "sanakit.pipelines.memory.release", lambda part: (released.append(part), release(part))
    )
    assert torch.equal(pipe("a red apple", **called).clips, wanted)
    blocks = list(pipe.transformer.blocks)
    assert [part for part in released if part in blocks] == 2 * blocks
