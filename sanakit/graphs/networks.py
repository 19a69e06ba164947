"""The networks to export: each with tensors in and out, example inputs, and the free axes.

transformer     latents B C h w, t B, text B L E, mask B L (SANA-Sprint: guidance B) -> velocity B C h w
vae_decoder     latents B C h w, unscaled -> images B 3 H W, about [-1, 1]
text_encoder    tokens B T, keys and values N 1 K P F of the P tokens before them -> features B T E, and the
                keys and values N B K P+T F of all

Attention in the text encoder is causal and padding stands on the right, so it needs no mask; P may be 0. So
the instruction before every prompt is one pass, whose keys and values serve all prompts after it.
Shapes: B batch, C latent channels, h w latent grid, H W pixels, L features of a prompt, E text width, T new
tokens, N layers, K key heads, F head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sanakit.models.dc_ae import DCAE
from sanakit.models.gemma2 import Gemma2, KVCache
from sanakit.models.sana import Sana

RunGraph = Callable[[dict[str, np.ndarray]], list[np.ndarray]]
"""A network as a runtime runs it: inputs by name -> outputs in order."""

# Sizes of the examples: all different, none of them 0 or 1, which an exporter takes for constants. The grid
# has more cells than a head has channels: there the decoder attends in the way that is linear in the cells.
BATCH, HEIGHT, WIDTH, TEXT, NEW, PAST = 2, 9, 10, 7, 6, 5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Network:
    """A module to export. inputs: an example of each, in order. free: their axes of any size, by name."""

    module: nn.Module
    inputs: Mapping[str, Tensor]
    free: Mapping[str, Mapping[int, str]]
    outputs: tuple[str, ...]


class CachedText(nn.Module):
    """Gemma 2 with its cache as tensors in and out."""

    def __init__(self, model: Gemma2) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the module's text."""
        cache = _WholeCache()
        cache.keys = [key.expand(len(tokens), -1, -1, -1) for key in keys.unbind()]
        cache.values = [value.expand(len(tokens), -1, -1, -1) for value in values.unbind()]
        cache.length = keys.shape[3]
        features = self.model(tokens, cache)
        return features, torch.stack(cache.keys), torch.stack(cache.values)


class _WholeCache(KVCache):
    """Keeps what a sliding layer no longer sees: all layers have one length then, and masks hide it."""

    def extend(self, layer: int, key: Tensor, value: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """As its parent without a window."""
        return super().extend(layer, key, value, None)


def transformer_network(transformer: Sana) -> Network:
    """Return one step of the transformer."""
    config = transformer.config
    inputs = {
        "latents": torch.zeros(BATCH, config.latent_channels, HEIGHT, WIDTH, dtype=torch.float32),
        "t": torch.ones(BATCH, dtype=torch.float32),
        "text": torch.zeros(BATCH, TEXT, config.text_width, dtype=torch.float32),
        "mask": torch.ones(BATCH, TEXT, dtype=torch.bool),
    }
    free = {
        "latents": {0: "batch", 2: "height", 3: "width"},
        "t": {0: "batch"},
        "text": {0: "batch", 1: "length"},
        "mask": {0: "batch", 1: "length"},
    }
    if config.guidance_embed:
        inputs["guidance"], free["guidance"] = torch.ones(BATCH, dtype=torch.float32), {0: "batch"}
    return Network(module=transformer, inputs=inputs, free=free, outputs=("velocity",))


def decoder_network(autoencoder: DCAE) -> Network:
    """Return the decoder. Raises SettingsError for an autoencoder without one."""
    latents = torch.zeros(BATCH, autoencoder.config.latent_channels, HEIGHT, WIDTH, dtype=torch.float32)
    free = {"latents": {0: "batch", 2: "height", 3: "width"}}
    decoder = autoencoder.check_latents(latents)
    return Network(module=decoder, inputs={"latents": latents}, free=free, outputs=("images",))


def text_network(model: Gemma2) -> Network:
    """Return the language model."""
    config = model.config
    past = torch.zeros(config.depth, 1, config.kv_heads, PAST, config.head_dim, dtype=torch.float32)
    inputs = {"tokens": torch.zeros(BATCH, NEW, dtype=torch.int64), "keys": past, "values": past.clone()}
    free = {"tokens": {0: "batch", 1: "new"}, "keys": {3: "past"}, "values": {3: "past"}}
    outputs = ("features", "all_keys", "all_values")
    return Network(module=CachedText(model), inputs=inputs, free=free, outputs=outputs)
