"""pocket-world's sizes: what it ships fits its budget, and it streams."""

from __future__ import annotations

import torch

from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.sana_wm import SanaWM
from sanakit.pocket.data.worlds.dataset import LENGTH
from sanakit.pocket.recipes import world
from sanakit.train.objectives.world_velocity import chunks_of

MOST_BYTES = 25_000_000  # of what is not pocket's own text encoder, in float16


def test_the_shipped_size_fits_its_budget() -> None:
    with torch.device("meta"):
        transformer, codec = SanaWM(world.TRANSFORMER), WanVAE(world.AUTOENCODER)
    counts = [sum(p.numel() for p in part.parameters()) for part in (transformer, codec)]
    assert 8e6 <= counts[0] <= 15e6
    assert 2 * sum(counts) <= MOST_BYTES


def test_it_streams_in_chunks_that_reach_its_whole_window() -> None:
    """Three chunks: the first one, which is never forgotten, the one before, and its own."""
    codec = world.AUTOENCODER
    assert world.TRANSFORMER.causal
    assert world.TRANSFORMER.plucker_channels == 6 * codec.frame_rule.per_latent
    assert {world.TRANSFORMER.is_softmax(block) for block in range(world.TRANSFORMER.depth)} == {True, False}
    assert chunks_of("streaming", codec.frame_rule.latents(LENGTH), 3) == [4, 3, 3]
