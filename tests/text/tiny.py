"""A language model that is small enough to be compared with another implementation."""

from __future__ import annotations

from sanakit.models.gemma2 import Gemma2Config

CONFIG = Gemma2Config(
    vocab_size=600,
    width=32,
    depth=3,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp_width=64,
    query_scalar=8,
    attention_softcap=3.0,
)
