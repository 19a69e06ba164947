"""Training of an adapter: its loss is the equation, it alone learns, and what is forgotten is measured."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from sanakit.adapters.fresh import AdapterSize, fresh_adapter
from sanakit.errors import SettingsError
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.quant.plans import PLANS
from sanakit.quant.quantize import quantize
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import spread
from sanakit.train.feeds.feed import Shown
from sanakit.train.objectives.adapter import ADAPTER, AdapterObjective
from sanakit.train.objectives.flow_matching import velocity_errors
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.optim.make import make_optimizers
from sanakit.train.parts import Part, Share, split
from sanakit.train.state.average import Average

CAPTIONS = ("a fox", "two keys", "a blue star on a red ground")
TEXT = Gemma2Config(
    vocab_size=512, width=32, depth=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, query_scalar=16
)
SANA = SanaConfig(
    depth=2, width=32, cross_heads=2, head_dim=8, text_width=32, latent_channels=4, qk_norm=True
)
WHOLE = split(6, Share(), None)[0]


class Latents:
    """A feed of the same few latents: sample i of a step is number i."""

    def __init__(self, seed: int) -> None:
        self.latents = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(seed))

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        pass

    def shown(self, step: int, part: Part) -> Shown:
        own = list(range(part.start, part.stop))
        return Shown(self.latents[own], [CAPTIONS[(step + i) % 3] for i in own])


def make(
    *, prior: bool = True, weight: float = 1.0, plan: str | None = None, dtype=torch.float32, judge=None
):
    torch.manual_seed(0)
    transformer = Sana(SANA)
    transformer.init_weights()
    for parameter in transformer.parameters():  # silent at first, as published: make it speak
        parameter.data += 0.05 * torch.randn(parameter.shape)
    if plan is not None:
        quantize(transformer, PLANS[plan])
    transformer.to(dtype)
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(CAPTIONS, 512), instruction="Draw: ")

    def velocity(seed: int) -> VelocityObjective:
        feed = Latents(seed)
        sheet = Sheet(prompts=CAPTIONS[:2], guidance=2.0, steps=2, shape=(4, 4, 4), decode=lambda z: z[:, :3])
        watched = [Watched("", feed.latents[:3], CAPTIONS)]
        return VelocityObjective(
            transformer,
            encoder,
            feed,
            shift=3.0,
            watched=watched,
            sheet=sheet,
            seed=seed,
            caption_dropout=0.0,
        )

    adapter = fresh_adapter(SANA, AdapterSize(rank=4), torch.Generator().manual_seed(1))
    return AdapterObjective(
        velocity(0), adapter, velocity(1) if prior else None, prior_weight=weight, judge=judge
    )


def speaking(objective: AdapterObjective) -> AdapterObjective:
    """With a B other than zero."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in objective.model.named_parameters():
        if name.endswith("up"):
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return objective


def gradients(objective: AdapterObjective, parts: Sequence[Part] = (WHOLE,)) -> dict[str, Tensor]:
    objective.model.zero_grad()
    for part in parts:
        objective.loss(objective.batch(0, part)).backward()
    return {name: p.grad.clone() for name, p in objective.model.named_parameters() if p.grad is not None}


def test_its_loss_is_that_of_its_images_and_weight_times_that_of_the_class() -> None:
    objective = speaking(make(weight=0.3))
    batch = objective.batch(0, WHOLE)
    sums = []
    for velocity, drawn in ((objective.velocity, batch.own), (objective.prior, batch.prior)):
        latents, text, mask = velocity.inputs(drawn)
        errors = velocity_errors(velocity.transformer, latents, drawn.noise, drawn.t, text, mask)
        sums.append(errors.double().mean().item())
    assert objective.loss(batch).item() == pytest.approx(sums[0] + 0.3 * sums[1], rel=1e-5)
    assert sums[0] != pytest.approx(sums[1], rel=1e-2)
    assert not torch.equal(batch.own.noise, batch.prior.noise)
    assert not torch.equal(batch.own.t, batch.prior.t)


def test_without_a_weight_the_class_is_not_computed_in_training() -> None:
    assert make(weight=0.0).batch(0, WHOLE).prior is None
    assert make(prior=False).batch(0, WHOLE).prior is None


def test_it_alone_learns_in_float32_beside_a_model_in_16_bits() -> None:
    objective = make(dtype=torch.bfloat16)
    before = copy.deepcopy(objective.base.state_dict())
    config = TrainConfig(steps=4, batch_size=6, learning_rate=1e-2, warmup_steps=0, weight_decay=0.0)
    start = {name: p.detach().clone() for name, p in objective.model.named_parameters()}
    (optimizer,) = make_optimizers(objective.model, config)
    for _ in range(2):
        assert all(p.dtype == torch.float32 for p in objective.model.parameters())
        gradients(objective)
        optimizer.step()
    for name, parameter in objective.model.named_parameters():
        assert not torch.equal(parameter, start[name]), name
    for name, tensor in objective.base.state_dict().items():
        if name in before and ".adapters." not in name:
            assert torch.equal(tensor, before[name]), name
    assert not any(p.grad is not None for n, p in objective.base.named_parameters() if ".adapters." not in n)


def test_a_small_rate_moves_every_value_beside_a_model_in_16_bits() -> None:
    objective = speaking(make(dtype=torch.bfloat16))
    config = TrainConfig(steps=300, batch_size=6, learning_rate=1e-6, warmup_steps=0, weight_decay=0.0)
    start = {name: p.detach().clone() for name, p in objective.model.named_parameters()}
    gradients(objective)
    (optimizer,) = make_optimizers(objective.model, config)
    for _ in range(20):
        optimizer.step()  # by the same gradient: what bfloat16 would lose for most values
    moved = [(p != start[name]).float().mean() for name, p in objective.model.named_parameters()]
    assert torch.stack(moved).mean() > 0.99


@pytest.mark.parametrize("plan", ["int8-weight", "int4", "nf4"])
def test_gradients_beside_a_quantised_model_are_those_beside_its_widened_weights(plan) -> None:
    few = speaking(make(plan=plan))
    wide = speaking(make())
    widened = {name: module for name, module in few.base.named_modules() if hasattr(module, "dequantized")}
    assert widened
    for name, module in widened.items():
        layer = wide.base.get_submodule(name)
        weight = layer.conv.weight if hasattr(layer, "conv") else layer.weight
        weight.data.copy_(module.dequantized().reshape(weight.shape))
    theirs = gradients(wide)
    for name, gradient in gradients(few).items():
        torch.testing.assert_close(gradient, theirs[name], rtol=2e-3, atol=2e-6)


def test_beside_tokens_in_8_bits_gradients_point_the_same_way() -> None:
    few, wide = gradients(speaking(make(plan="int8"))), gradients(speaking(make(plan="int8-weight")))
    one, other = (torch.cat([g.flatten() for g in found.values()]) for found in (few, wide))
    assert nn.functional.cosine_similarity(one, other, dim=0) > 0.99


def test_blocks_of_the_frozen_model_are_computed_again_with_the_same_gradients() -> None:
    """Recomputation holds fewer numbers for the backward pass, and touches no block outside the loss."""
    objective = speaking(make())
    plain = gradients(objective)
    config = TrainConfig(steps=1, batch_size=6, learning_rate=1e-3, recompute=True)
    held: list[int] = []

    def loss_of(losses) -> Tensor:
        held.append(0)

        def keep(one: Tensor) -> Tensor:
            held[-1] += one.numel()
            return one

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one):
            return losses(objective.batch(0, WHOLE))

    loss_of(objective.loss)
    objective.model.zero_grad()
    loss_of(spread(objective, config, Share())).backward()
    assert all("forward" not in vars(block) for block in objective.base.blocks)
    again = {name: one.grad for name, one in objective.model.named_parameters() if one.grad is not None}
    assert plain.keys() == again.keys()
    assert all(torch.equal(one, again[name]) for name, one in plain.items())
    assert held[1] < 0.5 * held[0]


def test_recomputation_where_nothing_can_be_computed_again_is_refused() -> None:
    objective = speaking(make())
    objective.base.blocks = nn.ModuleList()
    config = TrainConfig(steps=1, batch_size=6, learning_rate=1e-3, recompute=True)
    with pytest.raises(SettingsError, match="leave it out"):
        spread(objective, config, Share())


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    objective = speaking(make(weight=0.7))
    whole = gradients(objective)
    for name, gradient in gradients(objective, split(6, Share(), 4)).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_what_is_forgotten_is_the_class_s_larger_loss_with_the_average() -> None:
    objective = make(weight=0.0)
    average = Average(objective.model)
    average.start()
    measured = objective.evaluate(average.module())
    assert all(measured[f"forgotten_{t}"] == 0 for t in (0.5, 0.85, 0.95))
    speaking(objective)  # what is trained now; the average is where it was
    assert objective.evaluate(average.module())["forgotten_0.5"] == 0
    average.start()
    later = objective.evaluate(average.module())
    assert later["forgotten_0.5"] != 0
    now = objective.prior.evaluate(nn.ModuleDict({"transformer": objective.base}))["right_0.5"]
    for part in objective.model[ADAPTER].values():
        part.weight = 0.0
    before = objective.prior.evaluate(nn.ModuleDict({"transformer": objective.base}))["right_0.5"]
    assert later["forgotten_0.5"] == pytest.approx(now - before, rel=1e-5)
    assert later["right_0.85"] != measured["right_0.85"]


class Bright:
    """A judge that scores images by their brightness."""

    def scores(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        assert len(images) == len(texts) == 2
        return images.flatten(1).mean(1)


def test_a_judge_scores_the_class_with_the_adapter_and_without() -> None:
    objective = speaking(make(judge=Bright()))
    average = Average(objective.model)
    average.start()
    measured = objective.evaluate(average.module())
    assert measured["class_score"] != measured["class_score_before"]
    assert objective.sheet(average.module()).height == 2 * make(prior=False).sheet(average.module()).height


def test_the_result_holds_the_trained_tensors_in_their_places() -> None:
    objective = speaking(make())
    tensors = {name: p.detach() for name, p in objective.model[ADAPTER].named_parameters()}
    made = objective.trained(tensors)
    attached = {(path, part.start): part for path, part in objective._set.parts(ADAPTER)}
    assert len(made.parts) == len(attached)
    for part in made.parts:
        own = attached[part.place.layer, part.place.start]
        assert torch.equal(part.up, own.up)
        assert torch.equal(part.down, own.down)
        assert part.up.any()
