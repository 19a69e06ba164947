"""A model that draws 64 x 64 px in milliseconds, and a reward that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sanakit.adapters.fresh import AdapterSize, fresh_adapter
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.reinforce.algorithm import Algorithm
from sanakit.train.reinforce.nft import NFT
from sanakit.train.reinforce.objective import ReinforceObjective
from sanakit.train.reinforce.policies import Policies, adapter_policies, whole_policies
from sanakit.train.reinforce.rewards import Reward
from sanakit.train.reinforce.rollout import RolloutPlan, Rollouts
from sanakit.train.reinforce.watch import StopRule, Watch
from sanakit.weights.settings import ModelSettings

PROMPTS = ["a fox", "two keys", "a blue star", "a red ground", "a cat"]
HELD_OUT = ["a dog", "a hat"]
TEXT = Gemma2Config(
    vocab_size=512, width=32, depth=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, query_scalar=16
)
SANA = SanaConfig(
    depth=1,
    width=32,
    cross_heads=2,
    head_dim=8,
    text_width=32,
    latent_channels=4,
    qk_norm=True,
    sample_size=2,
)
STAGES = (Stage(8, 0), *(Stage(8, 1),) * 5)  # 32 pixels to a latent
CODEC = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=4, head_dim=8, scaling_factor=0.5)
SETTINGS = ModelSettings(name="small", steps=4, guidance=2.0, width=64, height=64)
PLAN = RolloutPlan(
    prompts=2,
    candidates=6,
    keep=4,
    draft_steps=2,
    draft_plan="int8-weight",
    steps=4,
    checked_prompts=0,
    at_once=4,
)


@dataclass
class Redness:
    """Mean of the red channel; keeps what it saw."""

    name: str = "red"
    sign: float = 1.0
    seen: list[tuple[str, Tensor]] = field(default_factory=list)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.seen += zip(prompts, images, strict=True)
        return self.sign * images[:, 0].flatten(1).mean(1)


def parts() -> tuple[Sana, DCAE, TextEncoder]:
    """Transformer, autoencoder, text encoder, always the same."""
    torch.manual_seed(0)
    transformer, codec = Sana(SANA), DCAE(CODEC).eval().requires_grad_(False)
    transformer.init_weights()
    for parameter in transformer.parameters():  # silent at first, as published: make it speak
        parameter.data += 0.1 * torch.randn(parameter.shape)
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(PROMPTS + HELD_OUT, 512), instruction="Draw: ")
    return transformer, codec, encoder


def policies(transformer: Sana, *, whole: bool = False) -> Policies:
    if whole:
        return whole_policies(transformer)
    adapter = fresh_adapter(SANA, AdapterSize(layers="attention", rank=4), torch.Generator().manual_seed(1))
    return adapter_policies(transformer, adapter)


def make(
    plan: RolloutPlan = PLAN,
    algorithm: Algorithm | None = None,
    *,
    whole: bool = False,
    reward: Reward | None = None,
    judges: Sequence[Reward] = (),
    rule: StopRule | None = None,
    **settings: Any,
) -> ReinforceObjective:
    transformer, codec, encoder = parts()
    algorithm = algorithm or NFT()
    own = policies(transformer, whole=whole)
    rollouts = Rollouts(codec, encoder, SETTINGS, plan, algorithm, reward or Redness())
    watch = Watch(rollouts, own.reference, HELD_OUT, judges, each=2, rule=rule)
    return ReinforceObjective(own, rollouts, algorithm, watch, PROMPTS, **settings)
