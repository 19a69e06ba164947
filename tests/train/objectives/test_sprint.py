"""Distillation into few steps: its losses are the equations, its parts learn in turns, guidance is heard."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.flow.guidance import classifier_free
from sanakit.flow.trigflow import trigflow
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import SANA_SPRINT_600M, Sana, SanaConfig
from sanakit.recipes import sprint
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distill.ladd import Adversarial, heads_loss, judged_blocks
from sanakit.train.distill.scm import Consistency
from sanakit.train.feeds.feed import Shown
from sanakit.train.loop import train
from sanakit.train.objectives.sprint import HEADS, STUDENT, SprintObjective, draw_few, transformer_of
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.parts import Part, Share, split
from sanakit.train.state.checkpoint import open_checkpoint
from sanakit.train.surgery.guidance_embed import with_guidance

pytestmark = pytest.mark.usefixtures("no_tensorboard", "bfloat16")

CAPTIONS = ("a fox", "two keys", "a blue star on a red ground")
TEXT = Gemma2Config(
    vocab_size=512, width=32, depth=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, query_scalar=16
)
SANA = SanaConfig(
    depth=2,
    width=32,
    cross_heads=2,
    head_dim=8,
    text_width=32,
    latent_channels=4,
    qk_norm=True,
    time_scale=1.0,
)
SHAPE = (4, 4, 4)
WHOLE = split(6, Share(), None)[0]
QUICK = Consistency(warmup=1)
HEADED = Adversarial(blocks=(0, 1))
LOOP = TrainConfig(
    steps=4,
    batch_size=6,
    learning_rate=1e-3,
    warmup_steps=0,
    weight_decay=0.0,
    log_every=1,
    evaluate_every=4,
    sheet_every=4,
    checkpoint_every=1,
)


class Latents:
    """A feed of the same few latents: sample i of a step is number i."""

    latents = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(3))

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        pass

    def shown(self, step: int, part: Part) -> Shown:
        own = list(range(part.start, part.stop))
        return Shown(self.latents[own], [CAPTIONS[i % 3] for i in own])


def make(
    consistency: Consistency = QUICK,
    adversarial: Adversarial | None = HEADED,
    *,
    sizes: SanaConfig = SANA,
    seed: int = 0,
    weights: int = 1,
) -> SprintObjective:
    torch.manual_seed(weights)
    teacher = Sana(sizes)
    for parameter in teacher.parameters():
        parameter.data = 0.15 * torch.randn(parameter.shape) + (parameter.ndim == 1) * parameter.data
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(CAPTIONS, 512), instruction="Draw: ")
    velocity = VelocityObjective(
        teacher,
        encoder,
        Latents(),
        shift=3.0,
        seed=seed,
        caption_dropout=0.0,
        watched=[Watched("", Latents.latents[:3], CAPTIONS)],
        sheet=Sheet(
            prompts=CAPTIONS[:2],
            guidance=2.0,
            steps=3,
            shape=SHAPE,
            decode=lambda z: z[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3),
        ),
    )
    return SprintObjective(velocity, with_guidance(teacher, seed), consistency, adversarial)


def gradients(objective: SprintObjective, step: int, parts: Sequence[Part] = (WHOLE,)) -> dict[str, Tensor]:
    objective.model.zero_grad()
    for part in parts:
        objective.loss(objective.batch(step, part)).backward()
    named = objective.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def everything(folder: Path) -> dict[str, Tensor]:
    saved = open_checkpoint(folder)
    assert saved is not None
    tensors = {name: torch.empty_like(tensor, device="cpu") for name, tensor in saved.tensors.items()}
    saved.read(tensors)
    return tensors


def test_the_students_loss_is_both_equations() -> None:
    """Written out again, with the derivative of a difference in float64 steps of the whole chain."""
    objective = make()
    batch = objective.batch(2, WHOLE)  # r = 1
    latents, text, mask = objective.velocity.inputs(batch.drawn)
    student, teacher, w = objective.student, objective.teacher, batch.guidance
    s, z = batch.angle, batch.drawn.noise
    cos, sin = s.cos()[:, None, None, None], s.sin()[:, None, None, None]

    def predict(x: Tensor, angle: Tensor) -> Tensor:
        return trigflow(lambda y, t: student(y, t, text, mask, w))(x, angle)

    def both(y: Tensor, t: float | Tensor) -> Tensor:
        return torch.cat([teacher(y, t, text[:, :1]), teacher(y, t, text, mask)])

    with torch.no_grad():
        x = cos * latents + sin * z
        d = trigflow(classifier_free(both, w))(x, s)
        h = 1e-2
        ahead = predict(x + h * cos * sin * d, s + h * s.cos() * s.sin())
        behind = predict(x - h * cos * sin * d, s - h * s.cos() * s.sin())
        f = predict(x, s)
        g = -(cos**2) * (f - d) - (cos * sin * x + (ahead - behind) / (2 * h))
        g = g / (g.flatten(1).norm(dim=1)[:, None, None, None] + 0.2)
        time = student.embed(latents, s.sin() / (s.sin() + s.cos()), w)[1]
        u = objective.model[STUDENT]["expected"](time).squeeze(1)
        consistency = 2 / s.tan() * torch.exp(-u) * g.square().flatten(1).mean(1) + u

        fakes = batch.fakes
        c, n = fakes.angle.cos()[:, None, None, None], fakes.angle.sin()[:, None, None, None]
        asked = c * latents + n * fakes.noise
        clean = c * asked - n * predict(asked, fakes.angle)
        t = fakes.judged[:, None, None, None]
        tokens: list[Tensor] = []
        teacher((1 - t) * clean + t * fakes.on_fake, fakes.judged, text, mask, tokens=tokens)
        heads = objective.model[HEADS].eval()
        adversarial = -heads(tokens).mean(1)
        wanted = (consistency + 0.5 * adversarial).mean()
        got = objective.loss(batch)
    assert got.item() == pytest.approx(wanted.item(), rel=2e-3)
    assert consistency.mean().item() != pytest.approx(wanted.item(), rel=2e-2)


def test_the_heads_loss_counts_drawn_and_misaligned_ones_as_fakes() -> None:
    objective = make()
    objective.model[HEADS].eval()
    batch = objective.batch(1, WHOLE)
    latents, text, mask = objective.velocity.inputs(batch.drawn)
    fakes, teacher, heads = batch.fakes, objective.teacher, objective.model[HEADS]
    t = fakes.judged[:, None, None, None]

    def judged(noisy: Tensor) -> Tensor:
        tokens: list[Tensor] = []
        teacher(noisy, fakes.judged, text, mask, tokens=tokens)
        return heads(tokens)

    with torch.no_grad():
        drawn = objective._fakes(batch, latents, text, mask)
        real = judged((1 - t) * latents + t * fakes.on_real)
        order = [5, 0, 1, 2, 3, 4]  # each with the latents of the one before
        rolled = judged((1 - t) * latents[order] + t * fakes.on_real[order])
        fake = judged((1 - t) * drawn + t * fakes.on_fake)
        wanted = heads_loss(real, fake, rolled).mean().item()
        assert objective.loss(batch).item() == pytest.approx(wanted, rel=1e-4)
        assert heads_loss(real, fake).mean().item() != pytest.approx(wanted, rel=1e-3)


def test_gradients_reach_the_part_that_learns_and_all_of_it() -> None:
    objective = make()
    own = [name for name, _ in objective.model.named_parameters()]
    # A student that is silent at first: of its new embedding, the first layer learns a step later.
    late = {"student.transformer.cfg_embedder.mlp.0.weight", "student.transformer.cfg_embedder.mlp.0.bias"}
    for step, part in ((0, STUDENT), (1, HEADS)):
        found = {name for name, gradient in gradients(objective, step).items() if gradient.abs().sum() > 0}
        wanted = {name for name in own if name.startswith(part)}
        assert found | (late if part == STUDENT else set()) == wanted
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_in_bfloat16_all_learns_and_angles_stay_in_float32() -> None:
    objective = make()
    plain = gradients(objective, 2)
    with torch.autocast("cpu", torch.bfloat16):
        batch = objective.batch(2, WHOLE)
        rounded = gradients(objective, 2)
    assert batch.angle.dtype == batch.fakes.angle.dtype == batch.drawn.noise.dtype == torch.float32
    assert rounded.keys() == plain.keys()
    for part in ("attn.qkv", "cross_attn.q_linear", "final_layer.linear"):
        own = [
            torch.cat([g[n].flatten() for n in g if part in n and "weight" in n]) for g in (plain, rounded)
        ]
        assert torch.nn.functional.cosine_similarity(*own, 0) > 0.9, part


def test_parts_add_up_to_the_batch_where_samples_are_judged_alone() -> None:
    thirds = split(6, Share(), 2)
    for adversarial in (None, replace(HEADED, group=1, misaligned=False)):
        objective = make(adversarial=adversarial)
        if adversarial is not None:
            objective.model[HEADS].eval()  # without the power iteration, which moves with every call
        for step in (0, 1):
            whole, added = gradients(objective, step), gradients(objective, step, thirds)
            for name, gradient in whole.items():
                torch.testing.assert_close(added[name], gradient, rtol=2e-3, atol=2e-4, msg=name)


def test_steps_alternate_and_leave_the_other_part_and_its_optimiser_alone(tmp_path) -> None:
    objective = make()
    seen = [{name: p.detach().clone() for name, p in objective.model.named_parameters()}]
    log = []
    for progress in train(objective, LOOP, tmp_path):
        seen.append({name: p.detach().clone() for name, p in objective.model.named_parameters()})
        log.append(progress)
    for step, (before, after) in enumerate(pairwise(seen)):
        moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == {STUDENT if step % 2 == 0 else HEADS}
    tensors = open_checkpoint(tmp_path)
    counts = {n: v for n, v in tensors.numbers["optimizers"].items() if n.endswith(".step")}
    assert {int(v) for v in counts.values()} == {2}  # of four steps, each part had two
    assert [math.isnan(p.loss) for p in log] == [False, True, False, True]
    assert ["loss_heads" in p.metrics for p in log] == [False, True, False, True]
    assert set(tensors.numbers["guards"]) == {STUDENT, HEADS}


def test_the_heads_have_neither_warm_up_nor_decay(tmp_path) -> None:
    config = replace(LOOP, warmup_steps=4, decay_fraction=0.0, checkpoint_every=4)
    assert [p.rate for p in train(make(), config, tmp_path)] == [0.25, 1.0, 0.75, 1.0]


def test_a_resumed_run_ends_as_one_that_was_never_stopped(tmp_path) -> None:
    list(train(make(), LOOP, tmp_path / "whole"))
    list(islice(train(make(), LOOP, tmp_path / "parts"), 2))
    other = make(weights=1)
    for parameter in other.model.parameters():
        parameter.data = parameter.data + 1  # whose own weights must not matter
    list(train(other, LOOP, tmp_path / "parts", resume=True))
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, parts[name])] == []
    assert any("_u" in name for name in whole)  # where the spectral norm's iterations stand


def test_scales_of_guidance_draw_different_images_of_one_seed(tmp_path) -> None:
    objective = make(Consistency(warmup=1, guidance=(4.0, 5.0)))
    alike = few(objective, 4.0), few(objective, 5.0)
    assert torch.equal(*alike)  # the student begins as its teacher
    list(train(objective, replace(LOOP, steps=6, learning_rate=3e-3), tmp_path))
    far = (few(objective, 4.0) - few(objective, 5.0)).abs().max().item()
    assert far > 1e-3


def few(objective: SprintObjective, guidance: float, steps: int = 1) -> Tensor:
    encoder = objective.velocity.encoder
    return draw_few(objective.student.eval(), encoder, CAPTIONS[:2], SHAPE, guidance=guidance, steps=steps)


def test_fakes_are_drawn_from_pure_noise_as_often_as_asked() -> None:
    for share in (0.0, 0.5, 1.0):
        objective = make(adversarial=replace(HEADED, pure_noise=share))
        parts = [objective.batch(step, WHOLE).fakes.angle for step in range(20)]
        pure = torch.cat(parts) == torch.tensor(math.pi / 2)
        assert pure.float().mean().item() == pytest.approx(share, abs=0.13 * (share == 0.5))
    batch = objective.batch(0, WHOLE)
    latents, text, mask = objective.velocity.inputs(batch.drawn)
    drawn = objective._fakes(batch, latents, text, mask)
    noise = batch.fakes.noise  # at t = 1, x0 = noise - v
    wanted = noise - objective.student(noise, torch.ones(6), text, mask, batch.guidance)
    torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-5)


def test_a_batch_depends_on_seed_and_step_alone_and_draws_each_noise_apart() -> None:
    objective = make()
    batch, part = objective.batch(3, WHOLE), Part(2, 5, 6)
    cut = objective.batch(3, part)
    for one, own in ((batch, cut), (batch.fakes, cut.fakes), (batch.drawn, cut.drawn)):
        for name in ("angle", "guidance", "noise", "judged", "on_fake", "on_real"):
            if isinstance(getattr(one, name, None), Tensor):
                assert torch.equal(getattr(one, name)[2:5], getattr(own, name)), name
    noises = [batch.drawn.noise, batch.fakes.noise, batch.fakes.on_fake, batch.fakes.on_real]
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])
    assert set(batch.guidance.tolist()) <= {4.0, 4.5, 5.0}
    assert not torch.equal(objective.batch(4, WHOLE).angle, batch.angle)
    assert not torch.equal(make(seed=1).batch(3, WHOLE).angle, batch.angle)


def test_what_is_measured_of_an_undistilled_student() -> None:
    objective = make(Consistency(guidance=(1.0,)))  # without guidance the teacher is the student
    measured = objective.evaluate(objective.model.eval())
    assert set(measured) == {"tangent_0.5", "tangent_1.0", "tangent_1.5", "away_1", "undistilled_1", "hinge"}
    assert measured["away_1"] == pytest.approx(measured["undistilled_1"], rel=1e-2)
    assert measured == objective.evaluate(objective.model)
    assert "hinge" not in make(adversarial=None).evaluate(make(adversarial=None).model.eval())


def test_the_sheet_has_a_row_of_the_teacher_and_of_each_number_of_steps() -> None:
    objective = make()
    one_row = 32
    height = objective.sheet(objective.model.eval()).height
    objective.velocity.drawing = replace(objective.velocity.drawing, above=torch.zeros(2, 3, 32, 32))
    assert objective.sheet(objective.model).height == pytest.approx(height * 5 / 4, abs=one_row / 4)


def test_misaligned_pairs_need_two_samples_at_a_time() -> None:
    with pytest.raises(SettingsError, match="raise the batch size or micro_batch"):
        make().begin(0, split(3, Share(), 1))
    make(adversarial=replace(HEADED, misaligned=False)).begin(0, split(3, Share(), 1))


def test_heads_behind_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(SettingsError, match="behind block 5, but the teacher has 2 blocks"):
        make(adversarial=Adversarial(blocks=(0, 5)))


def test_a_small_model_of_the_published_configuration_trains_as_published(tmp_path) -> None:
    """CAME over float32 masters, bfloat16, recomputed blocks, micro-batches; of the 28 blocks, four."""
    small = {"depth": 4, "width": 32, "cross_heads": 2, "head_dim": 16, "text_width": 32}
    sizes = replace(SANA_SPRINT_600M, guidance_embed=False, latent_channels=4, **small)
    objective = make(Consistency(), Adversarial(blocks=judged_blocks(4)), sizes=sizes)
    start = {name: p.detach().clone() for name, p in objective.model.named_parameters()}
    config = replace(sprint.PUBLISHED, steps=2, batch_size=4, micro_batch=2, warmup_steps=0, log_every=1)
    *_, last = train(objective, config, tmp_path)
    assert math.isfinite(last.metrics["loss_heads"])
    assert last.notes == ()
    moved = {name for name, p in objective.model.named_parameters() if not torch.equal(p, start[name])}
    assert "student.transformer.cfg_embedder.mlp.2.weight" in moved
    assert {name.split(".")[0] for name in moved} == {STUDENT, HEADS}
    assert len(moved) > 0.9 * len(start)
    assert transformer_of(objective.model).config == replace(sizes, guidance_embed=True)


def test_the_published_settings_are_the_published_ones() -> None:
    config = sprint.PUBLISHED
    assert (config.learning_rate, config.optimizer, config.batch_size) == (2e-6, "came", 16)
    assert (config.clip_norm, config.warmup_steps, config.decay_fraction) == (0.1, 5000, 0.0)
    assert (config.bf16, config.seed, config.weight_decay) == (True, 42, 0.0)
    settings, heads = Consistency(), Adversarial()
    assert (settings.mean, settings.std, settings.guidance) == (0.2, 1.6, (4.0, 4.5, 5.0))
    assert (settings.floor, settings.warmup) == (0.2, 2000)  # 0.1 and 4,000 of either kind of step
    assert (heads.weight, heads.mean, heads.std, heads.pure_noise) == (0.5, -0.6, 1.0, 0.5)
    assert (heads.blocks, heads.misaligned, heads.group) == ((2, 8, 14, 19), True, 8)


def test_without_consistency_the_judgement_alone_is_learned_and_without_both_nothing() -> None:
    objective = make(Consistency(weight=0.0))
    batch = objective.batch(2, WHOLE)
    latents, text, mask = objective.velocity.inputs(batch.drawn)
    objective.model[HEADS].eval()
    with torch.no_grad():
        tokens = objective._judged(objective._fakes(batch, latents, text, mask), batch, text, mask)
        wanted = -0.5 * objective.model[HEADS](tokens).mean()
        assert objective.loss(batch).item() == pytest.approx(wanted.item(), rel=1e-4)
    with pytest.raises(SettingsError, match="needs sCM or LADD"):
        make(Consistency(weight=0.0), None)
