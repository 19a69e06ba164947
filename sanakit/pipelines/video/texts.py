"""The texts of a call for clips: features of its prompts, their weights, and what the user should know.

Shapes: L text tokens, E text width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sanakit.models.contracts import TextModel
from sanakit.pipelines.memory import MemoryPlan, stage
from sanakit.pipelines.request import Request
from sanakit.pipelines.video.request import ClipRequest
from sanakit.text.prompt_weights import weigh
from sanakit.weights.known_things import unknown_prompts
from sanakit.weights.settings import ModelSettings


def text_features(
    encoder: TextModel,
    own: ModelSettings,
    request: ClipRequest,
    sampling: Request,
    plan: MemoryPlan,
    device: torch.device,
) -> tuple[list[Tensor], list[Tensor | None], list[str]]:
    """Return features, L E, of the negative prompts, then of the prompts; their weights, L; and notes.

    own: the model's settings. request: the prompts as they were typed. sampling: the texts to encode, the
    request's own or those of its chunks.
    """
    told: list[str] = []
    with stage(encoder.model, plan, device):
        encoder.after_layer = plan.after_layer
        nulls = [null.text for null in sampling.nulls]
        features = encoder.encode_negative(nulls, told, sampling.dialect)
        features += encoder.encode(sampling.prompts, told, sampling.dialect)
        told += unknown_prompts(own, request.typed, encoder)
        weights = weigh(encoder, sampling.texts, sampling.nulls, told, sampling.dialect)
    return features, weights, [*sampling.notes, *told]
