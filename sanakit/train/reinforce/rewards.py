"""Rewards: from images and their prompts to a score for each; several with weights; named by one text each.

    pocket-clip              the embedded CLIP's score
    clip:PLACE               any CLIP of transformers, a folder or a Hub repository; PickScore's is one
    image-reward             ImageReward v1.0 from the Hub; image-reward:PLACE: a file or folder
    MODULE:FUNCTION          a Python function, called with PIL images and prompts; FILE.py:FUNCTION, too
    http://... https://...   an endpoint
    0.3*NAME                 any of these, times a weight

Shapes: B images, H W pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sanakit.errors import NumericsError, SettingsError
from sanakit.train.reinforce.reward_calls import EndpointReward, FunctionReward
from sanakit.train.reinforce.reward_networks import PreferenceReward, clip_reward

_WEIGHTED = re.compile(r"\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*\*\s*(.+)", re.IGNORECASE)
KNOWN = "pocket-clip, clip:PLACE, image-reward, MODULE:FUNCTION, FILE.py:FUNCTION, http://..."


class Reward(Protocol):
    """Scores images; more is better."""

    @property
    def name(self) -> str:
        """Its name in a log: letters, digits and -."""
        ...

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return a score of each image with its own prompt: B. images: B 3 H W in [-1, 1], on the CPU."""
        ...


def scored(reward: Reward, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Return the scores that a reward gives, B float32 on the CPU.

    Raises SettingsError for another number of scores than images, NumericsError for one that is not finite.
    """
    scores = reward(images, prompts).detach().float().cpu()
    if scores.shape != (len(images),):
        raise SettingsError(
            f"The reward {reward.name} returned {tuple(scores.shape)} scores for {len(images)} images: "
            "return one number for each."
        )
    for prompt, score in zip(prompts, scores.tolist(), strict=True):
        if not math.isfinite(score):
            raise NumericsError(
                f"The reward {reward.name} scored an image of {prompt[:60]!r} as {score}: return finite "
                "numbers."
            )
    return scores


@dataclass(frozen=True, slots=True)
class WeightedRewards:
    """The sum of several rewards, each times its weight. Raises SettingsError for weights that are all 0."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.weights) or not any(self.weights):
            raise SettingsError(
                f"{len(self.rewards)} rewards have the weights {self.weights}: give each one."
            )

    @property
    def name(self) -> str:
        """All names."""
        return "+".join(reward.name for reward in self.rewards)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the weighted sums, B."""
        pairs = zip(self.rewards, self.weights, strict=True)
        return torch.stack([weight * scored(reward, images, prompts) for reward, weight in pairs]).sum(0)


def open_rewards(texts: Sequence[str], device: str | torch.device = "cpu") -> Reward:
    """Return the reward that texts name, the weighted sum of several. device: of networks.

    Raises SettingsError for a text that names nothing, and what loading raises.
    """
    if not texts:
        raise SettingsError(f"No reward is named: give one of {KNOWN}.")
    weights, rewards = [], []
    for text in texts:
        weight, name = weight_of(text)
        weights.append(weight)
        rewards.append(open_reward(name, device))
    if len(rewards) == 1 and weights[0] == 1:
        return rewards[0]
    return WeightedRewards(tuple(rewards), tuple(weights))


def weight_of(text: str) -> tuple[float, str]:
    """Return a reward's weight and name. Raises SettingsError for a weight of 0, or one that is not a number.

    >>> weight_of("0.3*pocket-clip"), weight_of("image-reward")
    ((0.3, 'pocket-clip'), (1.0, 'image-reward'))
    """
    if (found := _WEIGHTED.fullmatch(text)) is None:
        return 1.0, text.strip()
    try:
        weight = float(found[1])
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise SettingsError(
            f"The weight of {text!r} is {found[1]}: write a number other than 0 before the *."
        )
    return weight, found[2].strip()


def open_reward(name: str, device: str | torch.device = "cpu") -> Reward:
    """Return one reward by its name, without a weight. Raises as `open_rewards`."""
    if name.startswith(("http://", "https://")):
        return EndpointReward(name)
    kind, _, place = name.partition(":")
    if name == "pocket-clip" or (kind == "clip" and place):
        return clip_reward(place or name, device)
    if kind == "image-reward":
        return PreferenceReward.open(place, device)
    if kind and place:
        return FunctionReward.open(name)
    raise SettingsError(f"There is no reward {name!r}: use one of {KNOWN}, each as WEIGHT*NAME if you like.")
