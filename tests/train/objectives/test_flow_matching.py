"""Flow matching on a tiny model that learns eight captioned latents by heart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.bench.floors import transformer_step
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.instruction import COMPLEX_HUMAN_INSTRUCTION
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.feeds.latents import LatentFeed
from sanakit.train.loop import train
from sanakit.train.objectives.flow_matching import TIMES_WATCHED, pad_text, start_text_encoder
from sanakit.train.objectives.velocity import Sheet, VelocityObjective, Watched
from sanakit.train.parts import Part

CAPTIONS = [f"a {colour} {thing}" for colour in ("red", "blue") for thing in ("fox", "apple", "boat", "moon")]
SANA = SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=4, sample_size=4)
GEMMA = Gemma2Config(
    vocab_size=768, width=48, depth=2, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([COMPLEX_HUMAN_INSTRUCTION] * 50 + CAPTIONS * 20, 768)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    """Flat latents, as different from each other as can be."""
    signs = torch.randn(len(CAPTIONS), 4, 1, 1, generator=torch.Generator().manual_seed(2)).sign()
    return signs.expand(-1, -1, 4, 4).contiguous()


def objective(
    tokenizer,
    latents: Tensor,
    *,
    randomised: bool = False,
    weights: Tensor | None = None,
    seed: int = 0,
    **settings,
) -> VelocityObjective:
    torch.manual_seed(0)
    sana, gemma = Sana(SANA), Gemma2(GEMMA)
    sana.init_weights()
    start_text_encoder(gemma)
    if randomised:
        for parameter in sana.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    captions = [[caption, caption + "!"] for caption in CAPTIONS]
    weights = torch.ones(len(CAPTIONS)) if weights is None else weights
    return VelocityObjective(
        sana,
        TextEncoder(gemma, tokenizer),
        LatentFeed(latents, captions, weights, seed=seed),
        shift=3.0,
        seed=seed,
        watched=[Watched("", latents, CAPTIONS)],
        sheet=Sheet(prompts=CAPTIONS[:3], guidance=2.5, steps=2, shape=(4, 4, 4), decode=lambda z: z[:, :3]),
        train_text=True,
        **settings,
    )


def loss(objective: VelocityObjective, step: int = 0, total: int = 16) -> Tensor:
    """Loss of the whole batch of a step."""
    return objective.loss(objective.batch(step, Part(0, total, total)))


def test_the_first_loss_is_the_mean_square_of_the_velocity(tokenizer, latents):
    """The output layer starts silent; noise and latents have unit variance each."""
    losses = [loss(objective(tokenizer, latents, seed=seed)).item() for seed in range(3)]
    assert losses == pytest.approx([2.0] * 3, rel=0.1)
    measured = objective(tokenizer, latents)
    assert set(measured.evaluate(measured.model)) == {
        f"{case}_{time}" for case in ("right", "empty", "wrong") for time in TIMES_WATCHED
    }


@pytest.mark.thorough
def test_an_overfit_model_hears_its_captions(tokenizer, latents, tmp_path):
    trained = objective(tokenizer, latents)
    config = TrainConfig(
        steps=60,
        batch_size=16,
        learning_rate=4e-3,
        optimizer="muon",
        muon_learning_rate=8e-3,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        evaluate_every=60,
    )
    progress = list(train(trained, config, tmp_path))
    assert progress[-1].loss < 0.6 * progress[0].loss
    measured = progress[-1].metrics
    for time in TIMES_WATCHED:
        assert measured[f"wrong_{time}"] > measured[f"right_{time}"] + 0.1, time
    # Near pure noise the latents say nothing: without a caption the best guess is the mean of all eight.
    assert measured["empty_0.95"] > measured["right_0.95"] + 0.1


def test_a_batch_is_a_function_of_seed_and_step(tokenizer, latents):
    first = objective(tokenizer, latents, randomised=True)
    assert loss(first, 3) == loss(objective(tokenizer, latents, randomised=True), 3)
    assert loss(first, 3) != loss(first, 4)
    assert loss(first, 3) != loss(objective(tokenizer, latents, randomised=True, seed=1), 3)


def test_losses_of_parts_add_up_to_that_of_the_batch(tokenizer, latents):
    trained = objective(tokenizer, latents, randomised=True)
    parts = [trained.loss(trained.batch(2, Part(*cut, 16))) for cut in ((0, 3), (3, 4), (4, 16))]
    assert sum(parts).item() == pytest.approx(loss(trained, 2).item(), rel=1e-5)


def test_flops_grow_with_the_batch_and_are_three_times_the_forwards(tokenizer, latents):
    trained = objective(tokenizer, latents)
    half, whole = (trained.batch(0, Part(0, count, 16)) for count in (8, 16))
    assert 1.7 < trained.flops(whole) / trained.flops(half) < 2.3
    least = transformer_step(SANA, 4, 4, [2] * 16).flops
    assert 3 * least < trained.flops(whole) < 30 * least


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_captions_are_dropped_in_their_share(tokenizer, latents, dropout):
    trained = objective(tokenizer, latents, randomised=True, caption_dropout=dropout)
    masks = []
    trained.transformer.register_forward_pre_hook(lambda module, given: masks.append(given[3]))
    loss(trained, total=128)
    assert masks[0][:, 0].all()  # the feature that an empty prompt has
    kept = masks[0][:, 1:].any(1).float().mean().item()
    assert kept == pytest.approx(1 - dropout, abs=0.0 if dropout in (0.0, 1.0) else 0.12)


def test_a_dropped_caption_is_the_empty_negative_prompt(tokenizer, latents):
    """What guidance subtracts at inference is what dropout trained."""
    trained = objective(tokenizer, latents, randomised=True, caption_dropout=1.0)
    seen = []
    trained.transformer.register_forward_pre_hook(lambda module, given: seen.append(given))
    with torch.no_grad():
        loss(trained)
    _, _, text, mask = seen[0]
    empty = trained.encoder.encode_negative([""])[0]
    assert mask.sum(1).tolist() == [1] * 16
    torch.testing.assert_close(text[:, 0], empty.expand(16, -1))


def test_gradients_reach_the_text_encoder(tokenizer, latents):
    trained = objective(tokenizer, latents, randomised=True, caption_dropout=0.0)
    loss(trained).backward()
    still = [name for name, p in trained.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_images_are_drawn_by_weight_and_captions_alike(tokenizer, latents):
    weights = torch.tensor([0.0, 3, 0, 0, 1, 0, 0, 0])
    trained = objective(tokenizer, latents, randomised=True, weights=weights)
    captions = [[caption, caption + "!"] for caption in CAPTIONS]
    tails = [trained.encoder.tokenize(alternatives) for alternatives in captions]
    drawn = []
    encode = trained.encoder.encode_tokens
    trained.encoder.encode_tokens = lambda given: drawn.extend(map(tuple, given)) or encode(given)  # type: ignore[method-assign]
    loss(trained, total=64)
    counts = {(i, j): drawn.count(tuple(tails[i][j])) for i in range(8) for j in range(2)}
    assert {key for key, count in counts.items() if count} == {(1, 0), (1, 1), (4, 0), (4, 1)}
    assert counts[1, 0] + counts[1, 1] == pytest.approx(48, abs=12)
    assert counts[1, 0] == pytest.approx(24, abs=12)


def test_padding_text_to_a_multiple_changes_no_velocity(tokenizer, latents):
    trained = objective(tokenizer, latents, randomised=True)
    text, mask = torch.randn(2, 5, 48), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    padded, padded_mask = pad_text(text, mask, 16)
    assert padded.shape == (2, 16, 48)
    assert padded_mask.sum(1).tolist() == [5, 3]
    assert pad_text(padded, padded_mask, 16)[0].shape == (2, 16, 48)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        expected = trained.transformer(latents[:2], t, text, mask)
        torch.testing.assert_close(trained.transformer(latents[:2], t, padded, padded_mask), expected)


def test_the_sheet_draws_every_prompt_the_same_each_time(tokenizer, latents):
    trained = objective(tokenizer, latents, randomised=True)
    first, again = trained.sheet(trained.model), trained.sheet(trained.model)
    assert first.size == (8 * 144, 144)
    assert first.tobytes() == again.tobytes()
    thirds = [first.crop((i * 144, 0, (i + 1) * 144, 144)).tobytes() for i in range(3)]
    assert len(set(thirds)) == 3


def test_start_text_encoder_keeps_tokens_apart():
    torch.manual_seed(0)
    model = Gemma2(GEMMA)
    tokens = torch.tensor([[2, 300, 301, 302, 303, 304]])

    def likeness() -> float:
        with torch.no_grad():
            hidden = torch.nn.functional.normalize(model(tokens)[0, 1:], dim=-1)
        return ((hidden @ hidden.T).sum().item() - 5) / 20

    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=48**-0.5)
    before = likeness()
    start_text_encoder(model)
    assert likeness() < before
