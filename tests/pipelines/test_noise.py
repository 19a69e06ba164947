"""Noise: of a seed alone, and the caller's own only where it fits."""

from __future__ import annotations

import pytest
import torch

from sanakit.errors import SettingsError
from sanakit.pipelines.noise import check_latents, first_noise, seeded_noise

SHAPE = (4, 2, 3)


def test_the_noise_of_a_seed_is_that_of_torchs_generator():
    generator = torch.Generator().manual_seed(7)
    noise, own = first_noise(7, SHAPE)
    torch.testing.assert_close(noise, torch.randn(SHAPE, generator=generator), rtol=0, atol=0)
    more = [torch.randn(5, generator=one) for one in (own, generator)]
    torch.testing.assert_close(*more, rtol=0, atol=0)


def test_noise_in_a_batch_is_the_noise_alone():
    torch.testing.assert_close(seeded_noise([3, 9], SHAPE)[1], first_noise(9, SHAPE)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "latents",
    [
        torch.zeros(1, 4, 2, 2),
        torch.zeros(1, 4, 2, 3, dtype=torch.int64),
        torch.full((1, 4, 2, 3), float("nan")),
        [[0.0]],
    ],
)
def test_latents_that_do_not_fit_are_refused(latents):
    with pytest.raises(SettingsError, match="finite floats of the shape"):
        check_latents(latents, (1, *SHAPE))
    check_latents(torch.zeros(1, *SHAPE), (1, *SHAPE))
