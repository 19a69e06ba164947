"""Latents to frames in chunks, the same whatever the chunks."""

from __future__ import annotations

import pytest
import torch

from sanakit.pipelines.video.memory import ClipPlan, ClipPlanner
from sanakit.pipelines.video.text_to_video import TextToVideo
from tests.pipelines.video.tiny import apart


@pytest.mark.parametrize("chunk", [4, 2, 1])
def test_a_clip_decoded_in_chunks_has_the_same_frames(video_folder, monkeypatch, chunk) -> None:
    """In float64, since the kernel of small pieces rounds otherwise; frames are given on in float32."""
    pipe = TextToVideo.from_pretrained(video_folder, device="cpu")
    pipe.autoencoder.double()
    latents = torch.randn(1, 4, 7, 4, 6)
    whole, sizes = pipe.decode(latents), []
    stream = pipe.autoencoder.decode_stream

    def spied(chunks):
        for frames in stream(chunks):
            sizes.append(frames.shape[2])
            yield frames

    monkeypatch.setattr(ClipPlanner, "plan", lambda *_: ClipPlan("resident", 0, 0, chunk))
    monkeypatch.setattr(pipe.autoencoder, "decode_stream", spied)
    assert apart(pipe.decode(latents), whole) < 1e-6
    assert sizes[0] == 1
    assert max(sizes) == 4 * chunk
    assert apart(pipe.decode(latents[:, :, :1]), whole[:, :, :1]) < 1e-6  # one latent is one chunk
