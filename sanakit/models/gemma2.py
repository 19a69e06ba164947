"""Gemma 2 decoder without its language head: tokens in, hidden states out. SANA's text encoder.

Source: Gemma 2 report (arXiv:2408.00118); behaviour equal to transformers' Gemma2Model with eager attention.
Shapes: B prompts, L new tokens, P tokens already in the cache, S = P + L, D width, H query heads,
K key heads, G = H / K query heads that share one key head, E head_dim.
Particular to Gemma 2: four RMS norms a layer whose scale is 1 + weight, grouped queries, attention scores
soft-capped by a tanh (so fused attention kernels do not apply), every other layer limited to `sliding_window`
tokens, and an embedding times sqrt(D), rounded to the compute dtype. State-dict keys equal transformers'
Gemma2Model (no "model." prefix)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sanakit.errors import WeightsError
from sanakit.models.layers import Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Gemma2Config:
    """Size of a Gemma 2 decoder."""

    vocab_size: int
    width: int  # D
    depth: int
    heads: int  # H
    kv_heads: int  # K
    head_dim: int  # E, even
    mlp_width: int
    query_scalar: float  # scores are divided by its square root
    attention_softcap: float = 50.0
    sliding_window: int = 4096  # tokens that a sliding layer sees, the present one included
    sliding_layers: tuple[bool, ...] = ()  # one flag a layer; () = layers 0, 2, 4, ... slide, as published
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if not self.sliding_layers:
            object.__setattr__(self, "sliding_layers", tuple(i % 2 == 0 for i in range(self.depth)))
        if len(self.sliding_layers) != self.depth:
            raise WeightsError(f"Gemma 2: {len(self.sliding_layers)} layer types for {self.depth} layers.")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise WeightsError(
                f"Gemma 2: {self.heads} heads must be a multiple of {self.kv_heads} key heads,"
                f" and the head size {self.head_dim} must be even."
            )

    @classmethod
    def from_transformers(cls, config: dict[str, Any]) -> Gemma2Config:
        """Read the content of a transformers `config.json` (either spelling of the rotary base).

        Raises WeightsError when it describes another architecture or lacks a field.
        """
        known = {
            "model_type": ("gemma2",),
            "hidden_activation": ("gelu_pytorch_tanh",),
            "attention_bias": (False,),
            "use_bidirectional_attention": (None, False),
        }
        for key, allowed in known.items():
            if config.get(key, allowed[0]) not in allowed:
                raise WeightsError(
                    f"The text encoder has {key} = {config[key]!r}; only {allowed[0]!r} is supported."
                )
        if config.get("attn_logit_softcapping", 50.0) is None:
            raise WeightsError(
                "The text encoder has no attention soft-capping: it is not a published Gemma 2."
            )
        layer_types = config.get("layer_types") or ()
        rope = config.get("rope_parameters") or {}
        try:
            return cls(
                vocab_size=config["vocab_size"],
                width=config["hidden_size"],
                depth=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                kv_heads=config["num_key_value_heads"],
                head_dim=config["head_dim"],
                mlp_width=config["intermediate_size"],
                query_scalar=config["query_pre_attn_scalar"],
                attention_softcap=config["attn_logit_softcapping"],
                sliding_window=config["sliding_window"],
                sliding_layers=tuple(kind == "sliding_attention" for kind in layer_types),
                rope_theta=rope.get("rope_theta", config.get("rope_theta", 10_000.0)),
                norm_eps=config["rms_norm_eps"],
            )
        except KeyError as missing:
            raise WeightsError(
                f"The text encoder's config.json lacks {missing}: download the file again."
            ) from None

    def to_transformers(self) -> dict[str, Any]:
        """Return the `config.json` content from which transformers (from 4.42 on) builds the same model."""
        return {
            "architectures": ["Gemma2Model"],
            "model_type": "gemma2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_width,
            "query_pre_attn_scalar": self.query_scalar,
            "attn_logit_softcapping": self.attention_softcap,
            "sliding_window": self.sliding_window,
            "layer_types": [
                ("full_attention", "sliding_attention")[slides] for slides in self.sliding_layers
            ],
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "max_position_embeddings": 8192,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        }


GEMMA2_2B = Gemma2Config(
    vocab_size=256_000,
    width=2304,
    depth=26,
    heads=8,
    kv_heads=4,
    head_dim=256,
    mlp_width=9216,
    query_scalar=256,
)

EMBEDDED_AT_ONCE = 16  # rows; to read one, Linux may map 2 MB of the file around it


class KVCache:
    """Keys and values of the tokens seen so far; `Gemma2.forward` extends it.

    keys, values: one tensor B K P E a layer, keys already rotated to their positions; a sliding layer keeps
    only what a later token can still see. length: number of tokens seen, P.
    It never writes into a tensor, so caches may share memory and gradients flow through it.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.length = 0

    def expand(self, batch: int) -> KVCache:
        """Return a cache for `batch` prompts that share this cache's single beginning; copies nothing."""
        shared = KVCache()
        shared.keys = [key.expand(batch, -1, -1, -1) for key in self.keys]
        shared.values = [value.expand(batch, -1, -1, -1) for value in self.values]
        shared.length = self.length
        return shared

    def beginning(self, length: int) -> KVCache | None:
        """Return the cache of the first `length` tokens alone; None if a sliding layer has dropped them."""
        if any(key.shape[2] < self.length for key in self.keys):
            return None
        start = KVCache()
        start.keys = [key[:, :, :length] for key in self.keys]
        start.values = [value[:, :, :length] for value in self.values]
        start.length = length
        return start

    def extend(self, layer: int, key: Tensor, value: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """Append B K L E keys and values to a layer and return all that its new tokens may see, B K S E.

        window: tokens that the layer sees, the present one included; None: all.
        """
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            key = torch.cat([self.keys[layer], key], dim=2)
            value = torch.cat([self.values[layer], value], dim=2)
        gone = 0 if window is None else max(0, key.shape[2] - (window - 1))
        self.keys[layer], self.values[layer] = key[:, :, gone:], value[:, :, gone:]
        return key, value


class Gemma2(nn.Module):
    """Gemma 2 decoder without the language head."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.depth))
        self.norm = GemmaRMSNorm(config.width, config.norm_eps)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; its big weights may be stored in another one (`layouts/fill.py`)."""
        return self.norm.weight.dtype

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        after_layer: Callable[[nn.Module], object] | None = None,
        padding: bool = False,
    ) -> Tensor:
        """Return the hidden states after the last norm, B L D, in the compute dtype; differentiable.

        tokens: B L, int64 ids below vocab_size. Pad on the right if prompts differ in length: attention is
        causal, so the padding changes no earlier token.
        cache: the preceding tokens (batch B); the tokens take the positions cache.length, cache.length + 1,
        ... and are appended to it.
        after_layer: called with each layer when it has run, and with the embedding table now and then, to
        free their memory. padding: the tokens see all of the cache, and neither themselves nor each other.
        """
        cache = KVCache() if cache is None else cache
        past, new = cache.length, tokens.shape[1]
        x = self._embed(tokens, after_layer)  # B L D
        x = x * torch.tensor(self.config.width**0.5, dtype=x.dtype)
        positions = torch.arange(past + new, device=tokens.device)
        rotation = rotary_table(positions[past:], self.config.head_dim, self.config.rope_theta, x.dtype)
        distance = positions[past:, None] - positions  # L S, how far back each key lies
        unseen = (positions >= past).expand_as(distance) if padding else distance < 0
        unseen_by_sliding = unseen if padding else unseen | (distance >= self.config.sliding_window)
        for layer, slides in zip(self.layers, self.config.sliding_layers, strict=True):
            x = layer(x, rotation, unseen_by_sliding if slides else unseen, cache)
            if after_layer is not None:
                after_layer(layer)
        cache.length = past + new
        return self.norm(x)

    def _embed(self, tokens: Tensor, after_layer: Callable[[nn.Module], object] | None) -> Tensor:
        """B L -> B L D: rows are gathered as stored, then widened; never the whole table."""
        if after_layer is None:
            return self.embed_tokens(tokens).to(self.dtype)
        rows = []
        for some in tokens.flatten().split(EMBEDDED_AT_ONCE):
            rows.append(self.embed_tokens(some))
            after_layer(self.embed_tokens)
        return torch.cat(rows).to(self.dtype).unflatten(0, tokens.shape)


class Layer(nn.Module):
    """One decoder layer: attention and gated MLP, each normed before and after."""

    def __init__(self, config: Gemma2Config, index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, index)
        self.mlp = GatedMLP(config.width, config.mlp_width)
        self.input_layernorm = GemmaRMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = GemmaRMSNorm(config.width, config.norm_eps)
        self.pre_feedforward_layernorm = GemmaRMSNorm(config.width, config.norm_eps)
        self.post_feedforward_layernorm = GemmaRMSNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], unseen: Tensor, cache: KVCache) -> Tensor:
        """B L D -> B L D; see `Attention` for the arguments."""
        x = x + self.post_attention_layernorm(
            self.self_attn(self.input_layernorm(x), rotation, unseen, cache)
        )
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Attention(nn.Module):
    """Causal attention with grouped queries, rotary positions and soft-capped scores."""

    def __init__(self, config: Gemma2Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.scale = config.query_scalar**-0.5
        self.softcap = config.attention_softcap
        self.window = config.sliding_window if config.sliding_layers[index] else None
        self.q_proj = Linear(config.width, self.heads * self.head_dim, bias=False)
        self.k_proj = Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = Linear(config.width, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = Linear(self.heads * self.head_dim, config.width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], unseen: Tensor, cache: KVCache) -> Tensor:
        """B L D -> B L D.   rotation: cosines and sines, L E each.   unseen: L P+L bool, True = hidden."""
        batch, new, _ = x.shape
        query = rotate(self.q_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2), rotation)  # B H L E
        key = rotate(self.k_proj(x).unflatten(2, (self.kv_heads, -1)).transpose(1, 2), rotation)  # B K L E
        value = self.v_proj(x).unflatten(2, (self.kv_heads, -1)).transpose(1, 2)
        key, value = cache.extend(self.index, key, value, self.window)  # B K S E
        unseen = unseen[:, unseen.shape[1] - key.shape[2] :]
        # Query heads of one group stand below each other, so that keys and values need not be repeated.
        query = (query * self.scale).reshape(batch, self.kv_heads, -1, self.head_dim)  # B K G*L E
        scores = (query @ key.transpose(2, 3)).float() / self.softcap
        scores = torch.tanh(scores) * self.softcap
        scores = scores.unflatten(2, (-1, new)).masked_fill(unseen, float("-inf"))  # B K G L S
        weights = scores.softmax(dim=-1).to(value.dtype).flatten(2, 3)
        out = (weights @ value).reshape(batch, self.heads, new, self.head_dim)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """down(GELU(gate(x)) * up(x)), with the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, hidden, bias=False)
        self.up_proj = Linear(width, hidden, bias=False)
        self.down_proj = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B L D -> B L D."""
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class GemmaRMSNorm(nn.Module):
    """Root-mean-square norm in float32 whose scale is 1 + weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... D, dtype kept."""
        return F.rms_norm(x.float(), (x.shape[-1],), 1 + self.weight.float(), self.eps).to(x.dtype)


def rotary_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of the rotary embedding, L E each (both halves of E alike), in float32."""
    frequencies = theta ** -(torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions[:, None].float() * frequencies  # L E/2
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate ... L E by the angles of `rotary_table`; element i pairs with element i + E/2."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
