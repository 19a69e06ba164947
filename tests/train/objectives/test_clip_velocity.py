"""The objective of clips: its loss is the equation with a time for each frame, however clips are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.chunk_times import sample_chunk_times
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana, SanaConfig
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.seeds import further_seed, step_generator
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.feeds.feed import Shown
from sanakit.train.objectives.clip_velocity import (
    MIXING,
    ClipMixing,
    ClipObjective,
    ClipVelocityBatch,
    clip_errors,
)
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.parts import Part, Share, split
from tests.train.objectives.test_velocity import CAPTIONS, TEXT

CONFIG = SanaVideoConfig(
    depth=2, width=32, cross_heads=2, head_dim=16, text_width=32, latent_channels=4, max_positions=64
)
WHOLE = Part(0, 6, 6)
CHUNKED = ClipMixing(held=0.5, in_chunks=1.0, chunk=2, alike=0.3)


class Clips:
    """The same few latents in each step; sample i is latent i."""

    def __init__(self, frames: int, side: int = 3) -> None:
        self.latents = torch.randn(6, 4, frames, side, side, generator=torch.Generator().manual_seed(0))

    def begin(self, first: int, parts: Sequence[Part]) -> None: ...

    def shown(self, step: int, part: Part) -> Shown:
        own = range(part.start, part.stop)
        return Shown(self.latents[list(own)], [CAPTIONS[(step + i) % 3] for i in own])


def make(mixing: ClipMixing, frames: int = 5, *, side: int = 3, dropout: float = 0.0) -> ClipObjective:
    torch.manual_seed(0)
    transformer = SanaVideo(CONFIG)
    transformer.init_weights()
    for parameter in transformer.parameters():  # silent at first, as published: make it speak
        parameter.data += 0.05 * torch.randn(parameter.shape)
    feed = Clips(frames, side)
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(CAPTIONS, 512), instruction="Draw: ")
    return ClipObjective(
        transformer,
        encoder,
        feed,
        mixing=mixing,
        shift=3.0,
        caption_dropout=dropout,
        watched=[Watched("", feed.latents[:3], CAPTIONS)],
        sheet=Sheet(
            prompts=CAPTIONS, guidance=2.0, steps=2, shape=(4, frames, side, side), decode=lambda z: z[:, :3]
        ),
    )


def derived(objective: ClipObjective, batch: ClipVelocityBatch, step: int) -> Tensor:
    """Return the loss from the equation, clip by clip and frame by frame, in float64."""
    losses = []
    assert isinstance(batch.latents, Tensor)
    for i in range(len(batch.latents)):
        x0, noise, t = (part[i].double() for part in (batch.latents, batch.noise, batch.t))
        frames = [
            (1 - t[k]) * x0[:, k] + t[k] * noise[:, k]  # C h w
            for k in range(len(t))
        ]
        text = objective.encoder.encode([CAPTIONS[(step + i) % 3]])[0][None].double()
        noisy = torch.stack(frames, dim=1)[None]
        v = objective.transformer(noisy, t[None], text, chunks=batch.chunks)[0]
        learned = range(1 if batch.held[i] else 0, len(t))
        errors = [(v[:, k] - (noise[:, k] - x0[:, k])).square().mean() for k in learned]
        losses.append(sum(errors[1:], errors[0]) / len(errors))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("mixing", [ClipMixing(), ClipMixing(held=0.5), CHUNKED])
def test_loss_and_gradient_are_those_of_the_equation_in_float64(mixing: ClipMixing) -> None:
    """1e-6 relative: the objective's errors are rounded to float32."""
    objective = make(mixing)
    batch = objective.batch(7, WHOLE)
    objective.transformer.double()
    assert isinstance(batch.latents, Tensor)
    own = replace(batch, latents=batch.latents.double(), noise=batch.noise.double(), t=batch.t.double())
    losses, gradients = [], []
    for loss in (objective.loss(own), derived(objective, own, 7)):
        objective.transformer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append(
            torch.cat(
                [p.grad.flatten().clone() for p in objective.transformer.parameters() if p.grad is not None]
            )
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert len(gradients[0]) == sum(p.numel() for p in objective.transformer.parameters())
    apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert apart < 1e-6


def test_a_clean_first_frame_has_time_0_and_no_gradient() -> None:
    objective = make(ClipMixing(held=0.5))
    batch = objective.batch(7, WHOLE)
    assert isinstance(batch.latents, Tensor)
    assert 0 < batch.held.sum() < 6
    assert (batch.t[batch.held, 0] == 0).all()
    assert (batch.t[~batch.held] > 0).all()
    assert (batch.t[:, 1:] == batch.t[:, 1:2]).all()
    assert (batch.t[~batch.held, 0] == batch.t[~batch.held, 1]).all()
    found = torch.randn(6, 4, 5, 3, 3, requires_grad=True)
    seen: list[Tensor] = []

    def model(noisy: Tensor, t: Tensor, text: Tensor, mask: Tensor, *, chunks: object) -> Tensor:
        seen.append(noisy)
        return found

    shown = (batch.latents, batch.noise, batch.t, torch.zeros(0), torch.zeros(0))
    clip_errors(model, *shown, chunks=None).sum().backward()  # pyright: ignore
    assert found.grad is not None
    assert torch.equal(seen[0][batch.held, :, 0], batch.latents[batch.held, :, 0])
    silent = found.grad.abs().amax((1, 3, 4)) == 0  # B T
    assert torch.equal(silent[:, 0], batch.held)
    assert not silent[:, 1:].any()


def test_each_clip_counts_the_same_with_and_without_a_clean_frame() -> None:
    """The mean is over the frames that are learned, not over all."""
    latents = torch.zeros(2, 4, 5, 3, 3)
    noise = torch.ones_like(latents)
    t = torch.full((2, 5), 0.5)
    t[0, 0] = 0
    shown = (latents, noise, t, torch.zeros(0), torch.zeros(0))
    errors = clip_errors(
        lambda noisy, *rest, chunks: torch.zeros_like(noisy),  # pyright: ignore[reportArgumentType]
        *shown,
        chunks=None,
    )
    assert errors.tolist() == [1.0, 1.0]


def test_chunks_have_times_of_their_own_that_never_fall() -> None:
    objective = make(ClipMixing(in_chunks=1.0, chunk=2, alike=0.3), frames=7)
    rows = []
    for step in range(20):
        batch = objective.batch(step, WHOLE)
        assert batch.chunks == [3, 2, 2]
        rows.append(batch.t)
    t = torch.cat(rows)
    assert (t.diff(dim=1) >= 0).all()
    assert (t[:, [0, 0, 3, 5]] == t[:, [1, 2, 4, 6]]).all()  # one time in a chunk
    alike = (t[:, 0] == t[:, -1]).float().mean()
    assert 0.15 < alike < 0.45
    independent = make(ClipMixing(in_chunks=1.0, chunk=2, order="uniform"), frames=7)
    falls = torch.cat([independent.batch(step, WHOLE).t for step in range(20)]).diff(dim=1) < 0
    assert falls.any(1).float().mean() > 0.3


def test_shares_of_the_samples_have_clean_chunks_before_the_last_or_it_as_the_anchor() -> None:
    """Those that are shown so are learned on the last chunk alone; the others' draws stay what they were."""
    plain = make(ClipMixing(in_chunks=1.0, chunk=2, alike=0.2), frames=7)
    mixed = make(ClipMixing(in_chunks=1.0, chunk=2, alike=0.2, last=0.2, clean=0.3), frames=7)
    pairs = [(plain.batch(step, WHOLE).t, mixed.batch(step, WHOLE).t) for step in range(40)]
    before, t = (torch.cat(one) for one in zip(*pairs, strict=True))
    clean = (t[:, :5] == 0).all(1)
    assert 0.2 < clean.float().mean() < 0.4
    assert (t[clean, 5:] > 0).all()
    assert 0.35 < (t == before).all(1).float().mean() < 0.65
    with pytest.raises(SettingsError, match="1 in all at most"):
        ClipMixing(last=0.6, clean=0.6)

    batch = next(mixed.batch(step, WHOLE) for step in range(9) if (mixed.batch(step, WHOLE).t == 0).any())
    assert isinstance(batch.latents, Tensor)
    found = torch.zeros_like(batch.latents, requires_grad=True)
    shown = (batch.latents, batch.noise, batch.t, torch.zeros(0), torch.zeros(0))
    errors = clip_errors(lambda *_, chunks: found, *shown, chunks=batch.chunks)  # pyright: ignore
    errors.sum().backward()
    assert found.grad is not None
    assert torch.equal(found.grad.abs().amax((1, 3, 4)) == 0, batch.t == 0)


def test_runs_that_have_begun_go_on_with_the_same_samples() -> None:
    """A step draws its own number, two of each sample, then times of chunks in the order of the mixing."""
    objective = make(CHUNKED, frames=7)
    batch = objective.batch(6, WHOLE)
    generator = step_generator(further_seed(objective.seed, MIXING), 6)
    _, *of_samples = torch.rand(13, generator=generator, dtype=torch.float32)
    held, alike = (torch.stack(of_samples).view(2, 6) < torch.tensor([[0.5], [0.3]])).unbind()
    times = sample_chunk_times(6, 3, objective.shift, generator)
    assert torch.equal(batch.held, held)
    assert 0 < alike.sum() < 6
    assert torch.equal(batch.t[~alike, 6], times[~alike, 2])
    assert (batch.t[alike, 1] == batch.t[alike, 6]).all()


def test_a_share_of_the_steps_is_in_chunks_on_every_part() -> None:
    objective = make(ClipMixing(in_chunks=0.4, chunk=2))
    steps = [objective.batch(step, WHOLE).chunks for step in range(60)]
    assert 0.2 < sum(chunks is not None for chunks in steps) / 60 < 0.6
    for part in split(6, Share(), 2):
        assert [objective.batch(step, part).chunks for step in range(10)] == steps[:10]


def test_parts_add_up_to_the_whole_batch() -> None:
    objective = make(CHUNKED, dropout=0.5)
    whole = objective.loss(objective.batch(2, WHOLE)).item()
    parts = [objective.loss(objective.batch(2, part)).item() for part in split(6, Share(), 2)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_a_clip_of_one_frame_has_the_loss_of_an_image() -> None:
    """The same weights as an image transformer, on one token, where no rotation turns: 1e-6 relative.

    Whatever the mixing is: a single frame is never held, nor in chunks.
    """
    objective = make(CHUNKED, frames=1, side=1)
    image = SanaConfig(
        **{name: getattr(CONFIG, name) for name in ("depth", "width", "cross_heads", "head_dim")},
        **{name: getattr(CONFIG, name) for name in ("text_width", "latent_channels", "mlp_ratio", "qk_norm")},
    )
    state = objective.transformer.state_dict()
    for name in [name for name in state if name.endswith("t_conv.weight")]:
        state[name].zero_()
        del state[name]
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"][:, :, 0]
    still = Sana(image)
    still.load_state_dict(state)

    class Images(Clips):
        def shown(self, step: int, part: Part) -> Shown:
            shown = super().shown(step, part)
            assert isinstance(shown.latents, Tensor)
            return Shown(shown.latents[:, :, 0], shown.captions)

    of_images = VelocityObjective(
        still,
        objective.encoder,
        Images(1, 1),
        shift=3.0,
        sheet=replace(objective.drawing, shape=(4, 1, 1)),
        caption_dropout=0.0,
    )
    for step in range(3):
        batch = objective.batch(step, WHOLE)
        assert batch.chunks is None
        assert not batch.held.any()
        expected = of_images.loss(of_images.batch(step, WHOLE)).item()
        assert objective.loss(batch).item() == pytest.approx(expected, rel=1e-6)


def test_every_way_that_is_trained_is_measured_and_drawn() -> None:
    usual = make(ClipMixing())
    measured = usual.evaluate(usual.model)
    assert {"right_0.85", "empty_0.85", "wrong_0.85"} <= measured.keys()
    assert not [name for name in measured if name.startswith(("held", "chunks"))]
    plain = usual.sheet(usual.model)
    chunked = make(ClipMixing(in_chunks=1.0, chunk=2))
    chunked.transformer.config = replace(CONFIG, causal=True)
    assert chunked.sheet(chunked.model).size == plain.size
    assert chunked.sheet(chunked.model).tobytes() != plain.tobytes()  # chunk after chunk

    mixed = make(CHUNKED)
    measured = mixed.evaluate(mixed.model)
    assert {"held_0.85", "chunks_0.85", "right_0.5"} <= measured.keys()
    assert len({measured[name] for name in ("held_0.85", "chunks_0.85", "right_0.85")}) == 3
    sheet = mixed.sheet(mixed.model)
    assert sheet.width == plain.width
    assert sheet.height == plain.height + 3 * 144  # three clips that go on from a frame


def test_clips_that_go_on_begin_with_the_frames_that_are_given() -> None:
    objective = make(CHUNKED)
    drawn = objective._going_on(objective.model)  # pyright: ignore[reportPrivateUsage]
    assert drawn.shape == (3, 3, 5, 3, 3)
    assert torch.equal(drawn[:, :, 0], objective.watched[0].latents[:, :3, 0])
    assert not torch.equal(drawn[:, :, 1], objective.watched[0].latents[:, :3, 1])


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"held": 1.5}, "held = 1.5"), ({"alike": -0.1}, "alike = -0.1"), ({"chunk": 0}, "chunk of 0")],
)
def test_a_mixing_out_of_range_is_refused(settings: dict[str, float], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        ClipMixing(**settings)  # pyright: ignore[reportArgumentType]
