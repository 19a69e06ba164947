"""The objective of worlds: flow matching along camera paths, in chunks, behind a clean first frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError, WeightsError
from sanakit.flow.chunk_times import mix_chunk_times
from sanakit.flow.schedule import sample_training_times
from sanakit.models.gemma2 import Gemma2
from sanakit.models.world.camera import camera_inputs, inverse_pose, ray_frames
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import spread
from sanakit.train.feeds.feed import Shown
from sanakit.train.feeds.latents import LatentFeed, PathFeed
from sanakit.train.objectives.velocity import Sheet
from sanakit.train.objectives.world_velocity import (
    PUBLISHED,
    WatchedPaths,
    WorldBatch,
    WorldMixing,
    WorldObjective,
    chunks_of,
    inputs_of,
)
from sanakit.train.parts import Part, Share, split
from tests.models.world.worlds import poses
from tests.train.objectives.test_velocity import CAPTIONS, TEXT

CONFIG = SanaWMConfig(
    depth=2,
    width=32,
    cross_heads=2,
    head_dim=16,
    text_width=32,
    latent_channels=4,
    max_positions=64,
    softmax_every=2,
    taps=2,
    plucker_channels=12,
    rounded=False,
    variant="streaming",
)
STRIDE, PIXELS, SIDE = 2, 4, 3
WHOLE = Part(0, 6, 6)
LATENTS = 5  # in chunks of 3 and 2
FRAMES = 1 + STRIDE * (LATENTS - 1)


def cameras(count: int = 6) -> Tensor:
    """Paths that start at several angles, and lenses of several lengths: B F 20."""
    rows = []
    for number in range(count):
        path = poses(FRAMES, start=0.3 * number, reach=1.0 + number)
        lens = torch.tensor([10.0 + number, 11.0, 6.0, 5.0]).expand(FRAMES, 4)
        rows.append(torch.cat([path.flatten(1).float(), lens], dim=1))
    return torch.stack(rows)


class Clips:
    """The same few latents in each step; sample i is latent i."""

    def __init__(self) -> None:
        self.latents = torch.randn(6, 4, LATENTS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self.cameras = cameras()

    def begin(self, first: int, parts: Sequence[Part]) -> None: ...

    def shown(self, step: int, part: Part) -> Shown:
        own = list(range(part.start, part.stop))
        captions = [CAPTIONS[(step + i) % 3] for i in own]
        return Shown(self.latents[own], captions, cameras=self.cameras[own])


def speaking(config: SanaWMConfig = CONFIG) -> SanaWM:
    torch.manual_seed(0)
    transformer = SanaWM(config)
    transformer.init_weights()
    for parameter in transformer.parameters():  # silent at first, as published: make it speak
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return transformer


def make(
    mixing: WorldMixing | None = None, config: SanaWMConfig = CONFIG, transformer: SanaWM | None = None
) -> WorldObjective:
    feed = Clips()
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(CAPTIONS, 512), instruction="Draw: ")
    return WorldObjective(
        transformer or speaking(config),
        encoder,
        feed,
        mixing=mixing or WorldMixing(held=0.5, chunk=2),
        compression=(STRIDE, PIXELS),
        shift=3.0,
        caption_dropout=0.0,
        watched=[WatchedPaths("unseen_", feed.latents[:3], CAPTIONS, feed.cameras[:3])],
        sheet=Sheet(prompts=(), guidance=1.0, steps=1, shape=(4, LATENTS, SIDE, SIDE), decode=_decode),
    )


def _decode(latents: Tensor) -> Tensor:
    return latents[:, :3].repeat_interleave(STRIDE, dim=2)[:, :, 1:]


def only(way: str, held: float = 0.0) -> WorldMixing:
    return WorldMixing(held=held, chunk=2, ways={name: float(name == way) for name in PUBLISHED})


def derived(objective: WorldObjective, batch: WorldBatch, step: int) -> Tensor:
    """Return the loss from the equation, clip by clip and frame by frame, in float64."""
    losses = []
    assert isinstance(batch.latents, Tensor)
    for i in range(len(batch.latents)):
        x0, noise, t = (part[i].double() for part in (batch.latents, batch.noise, batch.t))
        frames = [(1 - t[k]) * x0[:, k] + t[k] * noise[:, k] for k in range(LATENTS)]
        text = objective.encoder.encode([CAPTIONS[(step + i) % 3]])[0][None].double()
        row = Clips().cameras[i]
        size, compression = (SIDE * PIXELS, SIDE * PIXELS), (STRIDE, PIXELS)
        seen = camera_inputs(row[:, :16].view(-1, 4, 4), row[:, 16:], size=size, compression=compression)
        v = objective.transformer(
            torch.stack(frames, dim=1)[None],
            t[None],
            text,
            cameras=seen.cameras[None].double(),
            plucker=seen.plucker[None].double(),
            chunks=batch.chunks,
        )[0]
        learned = [k for k in range(LATENTS) if t[k] > 0]
        errors = [(v[:, k] - (noise[:, k] - x0[:, k])).square().mean() for k in learned]
        losses.append(torch.stack(errors).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("variant", ["bidirectional", "chunk_causal", "streaming"])
def test_loss_and_gradient_are_those_of_the_equation_in_float64(variant) -> None:
    """1e-6 relative: the objective's errors are rounded to float32. Every trained weight has a gradient."""
    objective = make(config=replace(CONFIG, variant=variant))
    batch = objective.batch(7, WHOLE)
    assert batch.chunks == {"bidirectional": None, "chunk_causal": [3, 2], "streaming": [3, 2]}[variant]
    objective.transformer.double()
    assert isinstance(batch.latents, Tensor)
    own = replace(
        batch,
        latents=batch.latents.double(),
        noise=batch.noise.double(),
        t=batch.t.double(),
        inputs=type(batch.inputs)(*(part.double() for part in batch.inputs)),
    )
    losses, gradients = [], []
    for loss in (objective.loss(own), derived(objective, own, 7)):
        objective.transformer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        named = objective.transformer.named_parameters()
        trained = {name: p for name, p in named if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())
        gradients.append(
            torch.cat([p.grad.flatten().clone() for p in trained.values() if p.grad is not None])
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 1e-6


def test_what_no_way_of_calling_reaches_is_not_trained_and_all_else_is() -> None:
    objective = make()
    names = {name for name, p in objective.transformer.named_parameters() if not p.requires_grad}
    softmax = ("A_log", "dt_bias", "beta_proj.weight", "beta_proj.bias", "gate_proj.weight", "gate_proj.bias")
    assert names == {
        *("raymap_embedder.proj.weight", "raymap_embedder.proj.bias"),
        *("blocks.0.attn.recall_gate", "blocks.1.attn.recall_gate"),
        *(f"blocks.1.attn.{name}" for name in softmax),
    }


@pytest.mark.parametrize("way", PUBLISHED)
def test_each_way_has_the_times_of_its_name(way: str) -> None:
    batch = make(only(way)).batch(3, WHOLE)
    first, last = batch.t[:, :3], batch.t[:, 3:]
    assert (first == first[:, :1]).all()
    assert (last == last[:, :1]).all()
    if way == "same":
        assert torch.equal(batch.t[:, 0], batch.t[:, 4])
    elif way == "clean":
        assert (first == 0).all()
        assert (last > 0).all()
    else:
        assert (first[:, 0] <= last[:, 0]).all()
        assert (first[:, 0] < last[:, 0]).any()
    if way != "clean":
        assert (batch.t > 0).all()


def test_the_last_chunk_has_the_drawn_time() -> None:
    """Its median over many samples is that of training times; "incremental" is noisier at the end."""
    which, generator = torch.zeros(800), torch.Generator().manual_seed(0)
    last, rising = (
        mix_chunk_times(which, 2, 3.0, generator, only(way).ways.items())[:, -1]
        for way in ("last", "incremental")
    )
    drawn = sample_training_times(len(which), 3.0, torch.Generator().manual_seed(1))
    assert float(last.median()) == pytest.approx(float(drawn.median()), abs=0.04)
    assert float(rising.median()) > float(last.median()) + 0.04


def test_ways_come_in_their_shares() -> None:
    objective = make(WorldMixing(held=0.0, chunk=2))
    t = torch.cat([objective.batch(step, WHOLE).t for step in range(150)])
    assert float((t[:, 0] == t[:, -1]).float().mean()) == pytest.approx(PUBLISHED["same"], abs=0.04)
    assert float((t[:, 0] == 0).float().mean()) == pytest.approx(PUBLISHED["clean"], abs=0.04)


def test_clean_frames_are_seen_clean_and_have_no_gradient() -> None:
    objective = make(WorldMixing(held=0.5, chunk=2, ways={"clean": 0.5, "same": 0.5}))
    batch = objective.batch(2, WHOLE)
    found = torch.randn(6, 4, LATENTS, SIDE, SIDE, requires_grad=True)
    seen: list[Tensor] = []

    def model(noisy: Tensor, *rest: object, **how: object) -> Tensor:
        seen.append(noisy)
        return found

    objective.transformer = model  # pyright: ignore[reportAttributeAccessIssue]
    latents, text, mask = objective.inputs(batch)
    objective.errors(batch, latents, text, mask).sum().backward()
    assert found.grad is not None
    silent = found.grad.abs().amax((1, 3, 4)) == 0
    assert torch.equal(silent, batch.t == 0)
    clean = (batch.t == 0)[:, None, :, None, None].expand_as(latents)
    assert clean.any()
    assert not clean.all()
    assert torch.equal(seen[0][clean], latents[clean])
    held = batch.t[:, 0] == 0
    assert 0 < held.sum() < 6


def test_a_batch_is_the_same_however_it_is_cut() -> None:
    objective = make()
    whole = objective.batch(4, WHOLE)
    parts = [objective.batch(4, part) for part in split(6, Share(), 4)]
    for name in ("t", "noise"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert torch.equal(torch.cat([part.inputs.plucker for part in parts]), whole.inputs.plucker)
    total = sum(objective.loss(part).item() for part in parts)
    assert total == pytest.approx(objective.loss(whole).item(), rel=1e-5)


def test_evaluation_measures_right_no_and_another_path_and_their_gap() -> None:
    objective = make()
    measured = objective.evaluate(objective.model)
    for time in (0.5, 0.85, 0.95):
        right, other = measured[f"unseen_right_{time}"], measured[f"unseen_other_{time}"]
        assert measured[f"unseen_gap_{time}"] == other - right
        assert len({right, other, measured[f"unseen_none_{time}"]}) == 3
    assert measured == objective.evaluate(objective.model)
    assert objective.sheet(objective.model).size[0] > 0
    one = objective.watched[0]
    assert isinstance(one, WatchedPaths)
    objective.watched = [replace(one, cameras=one.cameras[:1].expand_as(one.cameras))]
    assert "unseen_gap_0.5" not in objective.evaluate(objective.model)


def test_a_model_that_learns_paths_widens_the_gap() -> None:
    """Twenty steps on six clips whose content is their camera alone: the other path becomes the worse one."""
    objective = make(WorldMixing(held=1.0, chunk=2, ways={"same": 1.0}))
    feed = objective.feed
    assert isinstance(feed, Clips)
    first = feed.cameras[:, -1, 3] / feed.cameras[:, -1, 3].abs().max()  # how far aside the path ends
    feed.latents[:] = first[:, None, None, None, None]
    objective.watched = [WatchedPaths("", feed.latents, [CAPTIONS[i % 3] for i in range(6)], feed.cameras)]
    before = objective.evaluate(objective.model)["gap_0.85"]
    optimizer = torch.optim.AdamW(objective.transformer.parameters(), 1e-2)
    for step in range(20):
        optimizer.zero_grad()
        objective.loss(objective.batch(step, WHOLE)).backward()
        optimizer.step()
    assert objective.evaluate(objective.model)["gap_0.85"] > before + 0.05


def test_weights_that_no_path_can_reach_are_refused() -> None:
    transformer = SanaWM(CONFIG)
    transformer.init_weights()
    make(transformer=transformer)  # published: one of both is zero
    torch.nn.init.zeros_(transformer.plucker_embedder.proj.weight)
    with pytest.raises(WeightsError, match="both zero"):
        make(transformer=transformer)


def test_clips_without_fitting_cameras_are_refused() -> None:
    objective = make()
    with pytest.raises(SettingsError, match="have no cameras"):
        inputs_of(None, (6, 4, LATENTS, SIDE, SIDE), (STRIDE, PIXELS))
    with pytest.raises(SettingsError, match="one for each frame"):
        inputs_of(cameras()[:, 1:], (6, 4, LATENTS, SIDE, SIDE), (STRIDE, PIXELS))
    objective.feed = LatentFeed(torch.randn(2, 4, LATENTS, SIDE, SIDE), [["a"], ["b"]], torch.ones(2))
    with pytest.raises(SettingsError, match="have no cameras"):
        objective.batch(0, WHOLE)
    with pytest.raises(SettingsError, match="parts of one model"):
        make(config=replace(CONFIG, plucker_channels=24))


@pytest.mark.parametrize(
    "settings",
    [
        {"held": 1.5},
        {"chunk": 0},
        {"ways": {"same": 0.5}},
        {"ways": {"odd": 1.0}},
        {"ways": {"same": 2.0, "last": -1.0}},
    ],
)
def test_a_mixing_out_of_range_is_refused(settings: dict) -> None:
    with pytest.raises(SettingsError):
        WorldMixing(**settings)


def test_chunks_are_those_that_the_variant_draws() -> None:
    assert chunks_of("bidirectional", 10, 3) is None
    assert chunks_of("chunk_causal", 10, 3) == chunks_of("streaming", 10, 3) == [4, 3, 3]
    assert chunks_of("chunk_causal", 9, 3) == [4, 5]  # the last one takes what is left
    assert chunks_of("streaming", 9, 3) == [3, 3, 3]


def test_a_feed_shows_each_clip_with_its_own_camera() -> None:
    latents = torch.arange(5.0)[:, None, None, None, None].expand(5, 4, LATENTS, 1, 1)
    paths = torch.arange(5.0)[:, None, None].expand(5, FRAMES, 20)
    feed = PathFeed(latents, [[str(n)] for n in range(5)], torch.ones(5), paths, seed=3)
    for part in (WHOLE, Part(2, 5, 6)):
        shown = feed.shown(1, part)
        assert isinstance(shown.latents, Tensor)
        assert shown.cameras is not None
        assert torch.equal(shown.latents[:, 0, 0, 0, 0], shown.cameras[:, 0, 0])
        assert shown.captions == [str(int(n)) for n in shown.cameras[:, 0, 0].tolist()]


def test_autocast_leaves_the_geometry_alone() -> None:
    """Under bf16 the loss moves by its rounding alone; rays and their inverses are those of float32."""
    objective = make()
    batch = objective.batch(1, WHOLE)
    exact = objective.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective.loss(batch)
        rays = ray_frames(batch.inputs.cameras, SIDE, SIDE)
        back = inverse_pose(rays)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert rays.dtype == back.dtype == torch.float32
    assert torch.equal(rays, ray_frames(batch.inputs.cameras, SIDE, SIDE))
    torch.testing.assert_close(back @ rays, torch.eye(4).expand_as(rays), atol=1e-4, rtol=0)


def test_blocks_are_recomputed_although_some_of_their_weights_are_idle() -> None:
    objective = make()
    batch = objective.batch(1, WHOLE)
    plain = objective.loss(batch)
    spread(objective, TrainConfig(steps=1, batch_size=6, learning_rate=1e-3, recompute=True), Share())
    assert all("forward" in vars(block) for block in objective.transformer.blocks)
    again = objective.loss(batch)
    again.backward()
    assert torch.equal(plain, again)
