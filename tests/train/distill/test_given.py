"""What is known of clips: a first frame goes in clean, cameras are those of the frames at hand.

A world rolled out in training is the one that `World` streams.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.steered import SteeredWorld
from sanakit.pipelines.video.chunks import ChunkSampler, ClipPoint
from sanakit.pipelines.video.streaming import chunk_lengths, stream
from sanakit.train.distill.dmd import roll_out
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import NOTHING, Given
from sanakit.train.objectives.world_velocity import given_of
from sanakit.weights.video.settings import WORLD_CHUNKS, ChunkSettings
from tests.train.distill.test_dmd import model as clip_model
from tests.train.distill.test_dmd import normal, words
from tests.train.objectives.test_world_velocity import LATENTS, PIXELS, SIDE, STRIDE, cameras, speaking

SHAPE = (4, LATENTS, SIDE, SIDE)


def given(batch: int) -> Given:
    return given_of(normal(batch, *SHAPE, seed=5), cameras(batch), (STRIDE, PIXELS))


def test_a_known_frame_goes_in_clean_at_time_zero_and_cameras_are_those_of_the_frames() -> None:
    world, known = speaking().double(), given(2)
    assert known.first is not None
    assert known.inputs is not None
    noisy, t = normal(2, 4, 3, SIDE, SIDE), torch.tensor([0.7, 0.4], dtype=torch.float64)
    text, mask = normal(2, 5, 32, seed=9), torch.ones(2, 5, dtype=torch.bool)
    found = known.velocity(world, noisy, t, text, mask, [2, 1])
    whole, times = noisy.clone(), t[:, None].repeat(1, 3)
    whole[:, :, 0], times[:, 0] = known.first[:, :, 0], 0
    camera, plucker = known.inputs
    seen = {"cameras": camera[:, :3], "plucker": plucker[:, :, :3]}
    assert torch.equal(found, world(whole, times, text, mask, chunks=[2, 1], **seen))
    each = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.9]], dtype=torch.float64)
    found = known.velocity(world, noisy, each, text, mask, [2, 1])
    assert torch.equal(found, world(whole, each, text, mask, chunks=[2, 1], **seen))
    assert each[:, 1].tolist() == [0, 0]
    assert not torch.equal(found, NOTHING.velocity(world, whole, each, text, mask, [2, 1]))
    assert torch.equal(known.drawn(known.beginning(noisy)), noisy[:, :, 1:])


def test_of_plain_clips_nothing_is_known() -> None:
    clips, (text, mask) = clip_model(0), words(2)
    noisy, t = normal(2, 4, 3, 2, 2), torch.tensor([0.7, 0.4], dtype=torch.float64)
    assert torch.equal(NOTHING.velocity(clips, noisy, t, text, mask), clips(noisy, t, text, mask))
    assert torch.equal(NOTHING.drawn(noisy), noisy)
    assert NOTHING.beginning(noisy) is noisy


@pytest.mark.parametrize("chunks", [WORLD_CHUNKS, ChunkSettings()], ids=["euler", "fresh noise"])
def test_a_rolled_out_world_is_the_one_that_is_streamed(chunks: ChunkSettings) -> None:
    """In float64, by the solver of its folder: chunks and the state behind them, 1e-6 (times in float32)."""
    world, known = speaking().double(), given(1)
    assert known.first is not None
    assert known.inputs is not None
    assert chunks.times is not None
    path = CameraInputs(*(part[0] for part in known.inputs))
    steered, text = SteeredWorld(world, path), normal(1, 5, 32, seed=9)
    solver = chunks.solver(chunks.times)
    sampler = ChunkSampler(transformer=steered, height=SIDE, width=SIDE, solver=solver)
    prompt = steered.prepare([text[0]])
    drawn = list(stream(sampler, [prompt], LATENTS, start=3, chunk=2, image=known.first))

    random, noises = torch.Generator().manual_seed(3), [list[Tensor]() for _ in range(4)]
    lengths = chunk_lengths(LATENTS, 2)
    for number, frames in enumerate(lengths):
        noises[0].append(torch.randn(1, 4, frames, SIDE, SIDE, generator=random))
        for one in noises[1:] if chunks.shift else ():
            fresh = torch.randn(1, 4, frames - (number == 0), SIDE, SIDE, generator=random)
            one.append(torch.cat([torch.zeros(1, 4, frames - fresh.shape[2], SIDE, SIDE), fresh], dim=2))
    noise = [torch.cat(one, dim=2).double() for one in noises if one]
    mask, few = torch.ones(1, 5, dtype=torch.bool), FewTimes.of(chunks)
    with torch.no_grad():
        found = roll_out(
            world, noise, text, mask, chunks=lengths, sampler=few, last=few.steps - 1, given=known
        )
    torch.testing.assert_close(found, torch.cat([one.latents for one in drawn], dim=2), rtol=1e-6, atol=1e-6)
    assert torch.equal(found[:, :, :1], known.first)

    point = ClipPoint.start(0)
    for latents, one in zip(found.split(lengths, dim=2), drawn, strict=True):
        point = sampler.follow(point, latents, prompt)
        pairs = zip(flat(point.state), flat(one.point.state), strict=True)
        for here, there in pairs:
            torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)


def flat(state: object) -> list[Tensor]:
    """Return the tensors of a state of all blocks."""
    found: list[Tensor] = []
    for block in getattr(state, "blocks", []):
        waiting = [block.attention, block.last]
        while waiting:
            one = waiting.pop()
            if isinstance(one, Tensor):
                found.append(one)
            elif one is not None:
                waiting += list(one)
    assert len(found) > 4
    return found
