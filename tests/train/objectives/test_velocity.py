"""One objective of flow matching: its loss is the equation, whoever feeds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.distill.depth import Teacher
from sanakit.train.feeds.feed import Shown
from sanakit.train.objectives.flow_matching import TIMES_WATCHED
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.parts import Part, Share, split

CAPTIONS = ("a fox", "two keys", "a blue star on a red ground")
TEXT = Gemma2Config(
    vocab_size=512,
    width=32,
    depth=1,
    heads=2,
    kv_heads=1,
    head_dim=16,
    mlp_width=32,
    query_scalar=16,
    sliding_window=16,
    sliding_layers=(True,),
)
SANA = SanaConfig(
    depth=2, width=32, cross_heads=2, head_dim=8, text_width=32, latent_channels=4, qk_norm=True
)


class Constant:
    """A feed of the same few latents: sample i of a step is latent i, in words that change with the step."""

    def __init__(self) -> None:
        self.latents = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        self.begun: tuple[int, int] | None = None

    def begin(self, first: int, parts: Sequence[Part]) -> None:
        self.begun = (first, len(parts))

    def shown(self, step: int, part: Part) -> Shown:
        own = range(part.start, part.stop)
        return Shown(self.latents[list(own)], [CAPTIONS[(step + i) % 3] for i in own])


def make(*, train_text: bool = False, caption_dropout: float = 0.0) -> VelocityObjective:
    torch.manual_seed(0)
    transformer = Sana(SANA)
    transformer.init_weights()
    for parameter in transformer.parameters():  # silent at first, as published: make it speak
        parameter.data += 0.02 * torch.randn(parameter.shape)
    feed = Constant()
    encoder = TextEncoder(Gemma2(TEXT), train_tokenizer(CAPTIONS, 512), instruction="Draw: ")
    return VelocityObjective(
        transformer,
        encoder,
        feed,
        shift=3.0,
        watched=[Watched("own_", feed.latents[:4], list(CAPTIONS) + ["a fox"])],
        sheet=Sheet(prompts=("a fox",), guidance=2.0, steps=2, shape=(4, 4, 4), decode=lambda z: z[:, :3]),
        caption_dropout=caption_dropout,
        train_text=train_text,
    )


def test_the_loss_is_the_equation_of_flow_matching_in_float64():
    """|model((1 - t) x0 + t noise, t, text) - (noise - x0)|^2, the mean over samples; 1e-5 relative."""
    objective = make()
    batch = objective.batch(7, Part(0, 6, 6))
    x0, noise, t = batch.latents.double(), batch.noise.double(), batch.t.double()
    features = objective.encoder.encode([CAPTIONS[(7 + i) % 3] for i in range(6)])
    total = 0.0
    model = objective.transformer.double()
    for i in range(6):
        x_t = (1 - t[i]) * x0[i] + t[i] * noise[i]
        text = features[i][None].double()
        given = model(x_t[None], t[i][None], text, torch.ones(1, text.shape[1], dtype=torch.bool))
        total += float((given[0] - (noise[i] - x0[i])).square().mean().detach())
    objective.transformer.float()
    assert objective.loss(batch).item() == pytest.approx(total / 6, rel=1e-5)


def test_parts_add_up_to_the_whole_batch():
    objective = make(caption_dropout=0.5)
    whole = objective.loss(objective.batch(2, Part(0, 6, 6))).item()
    parts = [objective.loss(objective.batch(2, part)).item() for part in split(6, Share(), 2)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_a_dropped_caption_leaves_the_first_feature_alone():
    objective = make(caption_dropout=1.0)
    batch = objective.batch(0, Part(0, 6, 6))
    assert batch.dropped.all()
    tails = [objective.encoder.tokenize([caption] * 6) for caption in CAPTIONS]
    losses = {round(objective.loss(replace(batch, tails=one)).item(), 6) for one in tails}
    assert len(losses) == 1
    heard = replace(batch, dropped=torch.zeros(6, dtype=torch.bool))
    spoken = {round(objective.loss(replace(heard, tails=one)).item(), 6) for one in tails}
    assert len(spoken) == 3


@pytest.mark.parametrize("train_text", [False, True])
def test_the_text_encoder_learns_only_where_it_is_to(train_text: bool):
    objective = make(train_text=train_text)
    objective.loss(objective.batch(0, Part(0, 6, 6))).backward()
    trained = [p.grad is not None for p in objective.encoder.model.parameters()]
    assert all(trained) if train_text else not any(trained)
    assert all(p.grad is not None for p in objective.transformer.parameters())
    assert ("text" in dict(objective.model.named_children())) is train_text


def test_what_is_watched_is_measured_under_its_name():
    objective = make()
    objective.begin(3, [Part(0, 6, 6)])
    measured = objective.evaluate(objective.model)
    assert {"own_right_0.85", "own_empty_0.85", "own_wrong_0.85"} <= measured.keys()
    assert objective.sheet(objective.model).size[0] > 0
    assert objective.feed.begun == (3, 1)


@pytest.mark.parametrize(
    ("captions", "wrong"),
    [
        (["a fox"] * 4, None),
        (["a fox"], None),
        (["a fox", "A FOX "] * 2, None),  # the same tokens
        (["a fox", "two keys", "a fox", "a fox"], ["two keys", "a fox", "two keys", "two keys"]),
        (["a fox", "two keys", "a blue star"], ["a blue star", "a fox", "two keys"]),
    ],
)
def test_a_wrong_caption_is_another_one_or_there_is_none(captions: list[str], wrong: list[str] | None):
    objective = make()
    latents = torch.randn(len(captions), 4, 4, 4, generator=torch.Generator().manual_seed(3))
    objective.watched = [Watched("", latents, captions)]
    measured = objective.evaluate(objective.model)
    assert {f"right_{time}" for time in TIMES_WATCHED} <= measured.keys()
    assert ("wrong_0.85" in measured) is (wrong is not None)
    if wrong is not None:
        objective.watched = [Watched("", latents, wrong)]
        assert measured["wrong_0.85"] == pytest.approx(
            objective.evaluate(objective.model)["right_0.85"], rel=1e-5
        )


def test_a_part_tells_how_much_of_the_batch_is_there():
    objective = make()
    batch = objective.batch(0, Part(0, 3, 6))
    assert objective.filled(batch).item() == pytest.approx(0.5)
    assert objective.filled(replace(batch, shares=torch.zeros(3))).item() == 0


def test_more_text_tokens_cost_more_operations():
    objective = make()
    few, many = (objective.batch(step, Part(0, 1, 1)) for step in (0, 2))
    assert objective.flops(few) < objective.flops(many)


def test_a_sample_counts_its_share_and_one_without_a_caption_is_trained_without():
    """Shares of a feed take the place of the mean; 0 is an empty place, whatever lies in it."""
    objective = make()
    plain = objective.batch(2, Part(0, 6, 6))
    alone = [objective.loss(replace(plain, shares=torch.eye(6)[i])).item() for i in range(6)]
    assert objective.loss(plain).item() == pytest.approx(sum(alone) / 6, rel=1e-5)
    shares = torch.tensor([0.5, 0, 0, 0.5, 0, 0])
    shown = objective.feed.shown(2, Part(0, 6, 6))
    captions = ["", *shown.captions[1:]]
    objective.feed.shown = lambda step, part: Shown(shown.latents, captions, shares)
    shared = objective.batch(2, Part(0, 6, 6))
    assert shared.dropped.tolist() == [True, *[False] * 5]
    wanted = (objective.loss(replace(shared, shares=torch.eye(6)[0])).item() + alone[3]) / 2
    assert objective.loss(shared).item() == pytest.approx(wanted, rel=1e-5)
    strange = shared.latents.clone()
    strange[[1, 2, 4, 5]] = 7.0
    assert objective.loss(replace(shared, latents=strange)).item() == objective.loss(shared).item()


def test_features_of_a_cache_take_the_place_of_the_text_encoder():
    """The same loss and fewer operations; a text encoder that is trained along takes none of a cache."""
    objective = make()
    plain = objective.batch(1, Part(0, 6, 6))
    shown = objective.feed.shown(1, Part(0, 6, 6))
    features = objective.encoder.encode(shown.captions)
    for one in (objective, trained := make(train_text=True)):
        one.feed.shown = lambda step, part: replace(shown, features=features)
    cached = objective.batch(1, Part(0, 6, 6))
    wanted = objective.loss(plain).item()
    objective.encoder.encode_tokens = None  # type: ignore[assignment] - not to be called
    assert objective.loss(cached).item() == pytest.approx(wanted, rel=1e-5)
    assert objective.flops(cached) < objective.flops(plain)
    assert not trained.batch(1, Part(0, 6, 6)).features


def test_a_teacher_is_the_target_and_freezes_the_text_encoder():
    objective = make(train_text=True)
    torch.manual_seed(5)
    student = Sana(SANA)
    student.load_state_dict(objective.transformer.state_dict())
    taught = objective.with_transformer(student, Teacher(objective.transformer, [0, 1]))
    assert taught.loss(taught.batch(0, Part(0, 6, 6))).item() < 1e-9  # it is the teacher
    assert not any(p.requires_grad for p in taught.encoder.model.parameters())
    assert set(dict(taught.model.named_children())) == {"transformer"}
    alone = objective.with_transformer(student)
    batch = alone.batch(0, Part(0, 6, 6))
    assert alone.loss(batch).item() == objective.loss(batch).item() > 0.1
    assert set(dict(alone.model.named_children())) == {"transformer", "text"}
