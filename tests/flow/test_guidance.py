from __future__ import annotations

import math

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.flow.guidance import classifier_free


def two_prompts(latents: torch.Tensor, t: float) -> torch.Tensor:
    """Velocities for both prompts: the first half scales by 2, the second by 5; time is added to both."""
    return torch.cat([2 * latents, 5 * latents]) + t


@pytest.fixture
def latents():
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.0, 1.0, 4.5])
def test_guided_velocity_is_unconditional_plus_scaled_difference(latents, scale):
    guided = classifier_free(two_prompts, scale)(latents, 0.25)
    torch.testing.assert_close(guided, (2 + scale * 3) * latents + 0.25)
    assert guided.shape == latents.shape


def test_the_velocity_is_asked_once_for_both_prompts(latents):
    seen = []

    def spy(latents, t):
        seen.append((latents, t))
        return two_prompts(latents, t)

    classifier_free(spy, 2.0)(latents, 0.5)
    ((given, t),) = seen
    assert torch.equal(given, latents)
    assert t == 0.5


def test_scale_has_no_effect_where_prompts_agree(latents):
    guided = classifier_free(lambda latents, t: torch.cat([latents, latents]), 7.0)
    torch.testing.assert_close(guided(latents, 0.5), latents)


def test_half_precision_velocities_are_combined_in_float32():
    both = torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)
    guided = classifier_free(lambda latents, t: both, 4.5)(torch.zeros(1, dtype=torch.bfloat16), 0.5)
    assert guided.dtype == torch.float32
    assert guided.item() == 1 + 4.5 * 0.0078125


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, -0.5, 10**400])
def test_scale_out_of_range_is_refused_with_a_remedy(scale):
    with pytest.raises(SettingsError, match=r"4\.5 is usual, 1 switches it off"):
        classifier_free(two_prompts, scale)


def test_each_sample_may_have_a_scale_of_its_own(latents):
    scales = [0.0, 1.5, 7.0]
    together = classifier_free(two_prompts, torch.tensor(scales))(latents, 0.25)
    assert together.shape == latents.shape
    for i, scale in enumerate(scales):
        alone = classifier_free(two_prompts, scale)(latents[i : i + 1], 0.25)
        torch.testing.assert_close(together[i : i + 1], alone)
