"""Features of a call's prompts: those of the negative prompts first, and what is told of them."""

from __future__ import annotations

import torch

from sanakit.pipelines.video.request import check_clip_request
from sanakit.pipelines.video.texts import text_features


def test_negative_prompts_come_first_and_cut_prompts_are_told(video_pipe) -> None:
    prompts = ["a fox", "two green foxes on a table " * 20]
    request = check_clip_request(video_pipe.spec, prompts, "a red apple", guidance=3.0, motion=0)
    encoder, plan = video_pipe.text_encoder, video_pipe.plan(request)
    given = (encoder, video_pipe.settings.shared, request, request.sampling, plan, video_pipe.device)
    features, weights, notes = text_features(*given)
    wanted = [*encoder.encode_negative(["a red apple"]), *encoder.encode(request.sampling.prompts, [])]
    assert len(features) == len(weights) == 3
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(features, wanted, strict=True))
    assert weights == [None] * 3
    assert any("too long" in note for note in notes)
    assert list(request.sampling.notes) == notes[: len(request.sampling.notes)]
