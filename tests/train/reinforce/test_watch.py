"""What a policy does to held-out prompts and other judges, and when a training is ended for it."""

from __future__ import annotations

import re

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.train.reinforce.watch import Seen, StopRule, Watch
from tests.train.reinforce.small import HELD_OUT, PROMPTS, Redness, make


class Played(Watch):
    """With drawings that a test gives, the reference's first."""

    def __init__(self, *drawings: Seen, rule: StopRule) -> None:
        objective = make(judges=[Redness("other")], rule=rule)
        super().__init__(
            objective.rollouts, objective.policies.reference, HELD_OUT, [Redness("other")], each=2, rule=rule
        )
        self.drawings = list(drawings)

    def draw(self, transformer) -> Seen:
        return self.drawings.pop(0)


def seen(reward: float, other: float, spread: float = 1.0, moved: float = 0.0) -> Seen:
    """Two prompts, two images each: at -spread and +spread, all moved."""
    latents = torch.tensor([-spread, spread]).view(1, 2, 1, 1, 1).expand(2, 2, 4, 2, 2) + moved
    around = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])  # a standard deviation of 1
    return Seen(latents, torch.stack([reward + around, other + around]))


def test_figures_are_means_and_distances_over_the_references() -> None:
    watch = Played(seen(0, 0), seen(2, 1, spread=0.5, moved=0.25), rule=StopRule())
    own = watch.reference
    figures = watch.measure(own)
    assert figures["held_out_red"] == pytest.approx(2)
    assert figures["held_out_red_before"] == pytest.approx(0)
    assert figures["held_out_other"] == pytest.approx(1)
    assert figures["diversity"] == pytest.approx(0.5)
    # the reference's two images are 2 apart; each moved by 0.5 inwards and 0.25 along
    assert figures["drift"] == pytest.approx((0.75 + 0.25) / 2 / 2)


def test_the_same_policy_has_not_moved() -> None:
    objective = make(judges=[Redness("other", sign=-1.0)])
    figures = objective.watch.measure(objective.policies.learning)
    assert figures["drift"] == pytest.approx(0, abs=1e-6)
    assert figures["diversity"] == pytest.approx(1)
    assert figures["held_out_red"] == pytest.approx(figures["held_out_red_before"])
    assert figures["held_out_other"] == pytest.approx(-figures["held_out_red"])
    assert objective.watch.ended() == ""


def test_it_is_drawn_from_prompts_that_are_not_trained_on_and_the_reference_once() -> None:
    reward = Redness()
    objective = make(reward=reward)
    objective.watch.measure(objective.policies.learning)
    objective.watch.measure(objective.policies.learning)
    asked = [prompt for prompt, _ in reward.seen]
    assert {*asked} == {*HELD_OUT}
    assert not {*asked} & {*PROMPTS}
    assert len(asked) == 3 * 2 * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(seen(9, -0.6), "other fell from 0 to -0.6"), (seen(9, 0, spread=0.4), "diversity .* fell to 0.40")],
)
def test_some_bad_evaluations_in_a_row_end_it(wrong: Seen, said: str) -> None:
    good = seen(1, 0)
    watch = Played(seen(0, 0), wrong, good, wrong, wrong, rule=StopRule(patience=2))
    ends = []
    for _ in range(4):
        watch.measure(watch.reference)
        ends.append(watch.ended())
    assert [bool(why) for why in ends] == [False, False, False, True]
    assert re.search(said, ends[-1])
    assert watch.strikes.count.item() == 2  # a tensor of the model: a resumed run knows


def test_a_reward_that_falls_is_not_hacking() -> None:
    watch = Played(seen(0, 0), seen(-9, 0), rule=StopRule(patience=1))
    watch.measure(watch.reference)
    assert watch.ended() == ""


def test_a_watch_needs_prompts_two_images_and_judges_of_other_names() -> None:
    objective = make()
    drawn = (objective.rollouts, objective.policies.reference)
    with pytest.raises(SettingsError, match="at least"):
        Watch(*drawn, [], each=2)
    with pytest.raises(SettingsError, match="at least"):
        Watch(*drawn, HELD_OUT, each=1)
    with pytest.raises(SettingsError, match="a name twice"):
        Watch(*drawn, HELD_OUT, [Redness()])


@pytest.mark.parametrize("changed", [{"fall": 0.0}, {"diversity": 1.0}, {"patience": 0}])
def test_rules_out_of_range_are_refused(changed) -> None:
    with pytest.raises(SettingsError, match="patience of at least 1"):
        StopRule(**changed)
