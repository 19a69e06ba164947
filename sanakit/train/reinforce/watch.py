"""Against reward hacking: what the policy does to prompts and judges that it does not learn from.

At each evaluation the averaged policy draws prompts that are held out, always from the same seeds, and so did
the reference, once:
- `held_out_NAME` for the reward and each further judge, and the same `_before`, of the reference
- `diversity`: mean distance of a prompt's images from each other, over the reference's; 1: as diverse
- `drift`: distance of images from the reference's of the same seeds, over the distance of the reference's
  from each other; 0: the same images, 1: as far as if drawn from another seed
A reward that rises while a further judge falls, or while images grow alike, is being hacked. The training
ends when that holds for several evaluations in a row.

Shapes: P prompts, N images of each, J judges, C h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana
from sanakit.train.reinforce.rewards import Reward
from sanakit.train.reinforce.rollout import Rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class StopRule:
    """When a training ends early.

    fall: of a further judge's mean below the reference's, in standard deviations of its scores there.
    diversity: the least, over the reference's. patience: evaluations in a row. Raises SettingsError.
    """

    fall: float = 0.5
    diversity: float = 0.5
    patience: int = 3

    def __post_init__(self) -> None:
        if not (self.fall > 0 and 0 <= self.diversity < 1 and self.patience >= 1):
            raise SettingsError(
                f"fall = {self.fall}, diversity = {self.diversity}, patience = {self.patience}: use a fall "
                "above 0, a diversity from 0 to below 1, and a patience of at least 1."
            )


class Strikes(nn.Module):
    """How many evaluations in a row were against the rule: kept with the model, so a resumed run knows."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Drawings of held-out prompts. latents: P N C h w. scores: J P N, of the reward and further judges."""

    latents: Tensor
    scores: Tensor

    @property
    def distance(self) -> float:
        """Mean distance, root mean square over values, of a prompt's images from each other."""
        flat = self.latents.flatten(2).double()
        own = [torch.nn.functional.pdist(images).mean() for images in flat]
        return (torch.stack(own).mean() / flat.shape[2] ** 0.5).item()


class Watch:
    """Held-out prompts, drawn and judged; see the module's text.

    each: images of a prompt, at least 2. judges: besides the reward. Raises SettingsError without prompts.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        reference: Sana,
        prompts: Sequence[str],
        judges: Sequence[Reward] = (),
        *,
        each: int = 4,
        rule: StopRule | None = None,
    ) -> None:
        if not prompts or each < 2:
            raise SettingsError(
                f"{len(prompts)} prompts are held out, {each} images each: diversity and drift need a prompt "
                "and two images at least."
            )
        names = [reward.name for reward in (rollouts.reward, *judges)]
        if len(set(names)) < len(names):
            raise SettingsError(
                f"The judges {', '.join(names)} have a name twice: a judge that is the reward shows nothing."
            )
        self.rollouts, self.reference, self.prompts, self.judges = rollouts, reference, prompts, judges
        self.names, self.each, self.rule = names, each, rule or StopRule()
        self.strikes = Strikes()
        self._before: Seen | None = None
        self._wrong: list[str] = []  # with the last evaluation, in words

    def measure(self, transformer: Sana) -> dict[str, float]:
        """Draw, judge, and count whether it was against the rule; return the figures."""
        before, now = self.before(), self.draw(transformer)
        means, wanted = (seen.scores.mean((1, 2)).tolist() for seen in (now, before))
        spreads = before.scores.flatten(1).std(1, correction=0).tolist()
        own, others = now.distance, before.distance
        away = (now.latents - before.latents).double().square().mean((2, 3, 4)).sqrt().mean().item()
        figures = {f"held_out_{name}": mean for name, mean in zip(self.names, means, strict=True)}
        figures |= {f"held_out_{name}_before": mean for name, mean in zip(self.names, wanted, strict=True)}
        figures |= {"diversity": own / max(others, 1e-12), "drift": away / max(others, 1e-12)}
        each = list(zip(self.names, means, wanted, spreads, strict=True))[1:]
        self._wrong = [
            f"{name} fell from {start:.4g} to {mean:.4g}"
            for name, mean, start, spread in each
            if mean < start - self.rule.fall * spread
        ]
        if figures["diversity"] < self.rule.diversity:
            self._wrong.append(f"the diversity of a prompt's images fell to {figures['diversity']:.2f}")
        count = self.strikes.count
        count.copy_(count + 1 if self._wrong else torch.zeros_like(count))
        return figures

    def ended(self) -> str:
        """Return why the training is to end; "" while it goes on."""
        if (count := int(self.strikes.count.item())) < self.rule.patience:
            return ""
        what = f" ({', '.join(self._wrong)})" if self._wrong else ""
        return (
            f"The training ends early: what the reward does not measure got worse in {count} evaluations in "
            f"a row{what}. See log.jsonl for the last good step, and train that many --steps."
        )

    def before(self) -> Seen:
        """Return what the reference draws, which is drawn once."""
        if self._before is None:
            self._before = self.draw(self.reference)
        return self._before

    @torch.no_grad()
    def draw(self, transformer: Sana) -> Seen:
        """Draw every prompt: image j of prompt p from seed p * each + j."""
        plan, each = self.rollouts.plan, self.each
        drawn = [
            self.rollouts.draw(
                transformer, prompt, range(p * each, (p + 1) * each), plan.steps, judges=self.judges
            )
            for p, prompt in enumerate(self.prompts)
        ]
        return Seen(
            torch.stack([one.latents for one in drawn]), torch.stack([one.rewards for one in drawn], 1)
        )
