"""Prompts whose tokens weigh differently in cross-attention.

A token of weight w counts as w copies of it: of a softmax's terms exp(s), its own becomes w exp(s), which is
exp(s + log w). So log w is added to its score for every image token and head; weight 1 changes nothing, 2 is
the token twice, and a token of weight 0 is left out.
Scaling the token's features would not do: SANA normalises them (`attention_y_norm`). Three times as long
behind its MLP, a token is the same; before the MLP, it is turned by 23 degrees and hardly longer (pocket).
Shapes: h heads, L text tokens, d head width.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.layers import TextKeysValues
from sanakit.models.sana import TextContext


def weighted(context: TextContext, weights: Tensor | None) -> TextContext:
    """Return the context of one prompt with the weights of its tokens.

    weights: L, finite, not negative, not all 0; None: all 1, and the context is returned as it is.
    Raises SettingsError for the context of a model that computes keys and values itself, such as a graph.
    """
    if weights is None or bool((weights == 1).all()):
        return context
    return TextContext([[_weighted(prompt, weights) for prompt in layer] for layer in context.layers])


def _weighted(prompt: TextKeysValues, weights: Tensor) -> TextKeysValues:
    key, value = prompt.key, prompt.value
    if prompt.constant is not None:  # of one token, whose weight cancels
        return prompt
    if key is None or value is None:
        raise SettingsError("This model knows no prompt weights: omit them, or use one that is not a graph.")
    assert len(weights) == key.shape[2], "one weight a token"
    weights = weights.to(key.device)
    kept = weights > 0
    bias = weights[kept].log().to(key).reshape(1, 1, 1, -1)
    return replace(prompt, key=key[:, :, kept], value=value[:, :, kept], bias=bias)
