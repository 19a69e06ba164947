"""Samples on their way, and how far two tensors are apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sanakit.pipelines.denoise import Batch, Sample, begin
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from sanakit.text.prompt_weights import weigh


def begun(pipe: TextToImage, prompt: str | list[str] = "a red apple", **settings) -> list[Sample]:
    request = check_request(pipe.spec, prompt, **({"seed": 0} | settings))
    nulls = [null.text for null in request.nulls]
    features, notes = pipe.encode(request.prompts, nulls, pipe.plan(request), request.dialect)
    weights = weigh(pipe.text_encoder, request.texts, request.nulls, notes, request.dialect)
    return begin(pipe.transformer, request, features, pipe.encode_source(request.conditions), weights=weights)


def finish(pipe: TextToImage, samples: Sequence[Sample]) -> list[Tensor]:
    """Step all of them together until each is done; those that are done leave."""
    while waiting := [sample for sample in samples if not sample.state.done]:
        Batch(pipe.transformer, waiting).step()
    return [sample.state.sample for sample in samples]


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
