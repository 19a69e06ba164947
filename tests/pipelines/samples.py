"""Samples on their way, and how far two tensors are apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sanakit.pipelines.denoise import Batch, Sample, begin
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage


def begun(pipe: TextToImage, prompt: str | list[str] = "a red apple", **settings) -> list[Sample]:
    request = check_request(pipe.spec, prompt, **({"seed": 0} | settings))
    negative = request.negative_prompt if request.guided else None
    features, _ = pipe.encode(request.prompts, negative, pipe.plan(request), request.dialect)
    return begin(pipe.transformer, request, features, pipe.encode_source(request))


def finish(pipe: TextToImage, samples: Sequence[Sample]) -> list[Tensor]:
    """Step all of them together until each is done; those that are done leave."""
    while waiting := [sample for sample in samples if not sample.state.done]:
        Batch(pipe.transformer, waiting).step()
    return [sample.state.sample for sample in samples]


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
