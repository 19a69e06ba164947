"""Training an autoencoder: which parts learn from which terms, and that images get better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.eval.networks.efficientnet import EfficientNetLite0
from sanakit.images.image import to_tensor
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.train.config import TrainConfig
from sanakit.train.feeds.images import Crops
from sanakit.train.loop import train
from sanakit.train.losses.discriminator import PatchDiscriminator
from sanakit.train.losses.perceptual import PerceptualDistance
from sanakit.train.objectives.autoencoder import (
    AutoencoderObjective,
    Terms,
    autoencoder_of,
    autoencoder_state,
    reconstruction_loss,
    train_only,
)
from sanakit.train.parts import Part

SMALL = DCAEConfig(
    encoder=(Stage(8, 0), Stage(16, 1), Stage(32, 1)),
    decoder=(Stage(16, 0), Stage(32, 1), Stage(32, 1)),
    latent_channels=8,
)
WHOLE = Part(0, 8, 8)
# Layers of SMALL that each choice of parts trains; its finest stage has no blocks.
MIDDLE = ("encoder.down_blocks.2.", "encoder.conv_out.", "decoder.conv_in.", "decoder.up_blocks.2.")
HEAD = ("decoder.up_blocks.1.", "decoder.norm_out.", "decoder.conv_out.")
TRAINED = {"whole": ("encoder.", "decoder."), "decoder": ("decoder.",), "middle": MIDDLE, "head": HEAD}


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    torch.manual_seed(1)
    return PerceptualDistance(EfficientNetLite0())


def images(count: int = 24, side: int = 32) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    soft = F.interpolate(torch.randn(count, 3, 4, 4, generator=generator), (side, side), mode="bicubic")
    return soft.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def objective(**settings) -> AutoencoderObjective:
    torch.manual_seed(0)
    pictures = images()
    crops = Crops(pictures[4:], crop=32)
    if settings.get("terms", Terms()).adversarial:
        settings["discriminator"] = PatchDiscriminator(8, layers=2)
    return AutoencoderObjective(DCAE(SMALL), crops, to_tensor(pictures[:4]), **settings)


def descend(trained: AutoencoderObjective, steps: int = 3, start: int = 0) -> None:
    optimizer = torch.optim.AdamW([p for p in trained.model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(start, start + steps):
        optimizer.zero_grad()
        trained.loss(trained.batch(step, WHOLE)).backward()
        optimizer.step()


def moved(trained: AutoencoderObjective, steps: int = 3, start: int = 0) -> set[str]:
    """Names of what training changes."""
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    descend(trained, steps, start)
    after = trained.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("parts", TRAINED)
def test_the_chosen_parts_learn_and_no_others(parts):
    trained = objective(parts=parts)
    expected = {name for name in trained.model.state_dict() if name.startswith(TRAINED[parts])}
    assert expected
    assert moved(trained) == expected


def test_the_finest_stage_belongs_to_the_head_where_it_has_blocks():
    config = replace(SMALL, decoder=(Stage(16, 1), Stage(32, 1), Stage(32, 1)))
    model = DCAE(config)
    _, decoder = train_only(model, "head")
    trained = {name.split(".", 2)[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"up_blocks", "norm_out", "conv_out"}
    assert all(p.requires_grad for p in decoder.up_blocks[0].parameters())
    assert not any(p.requires_grad for p in decoder.up_blocks[1].parameters())


def test_frozen_batch_norms_keep_their_statistics():
    config = replace(SMALL, decoder=(Stage(16, 0), Stage(32, 1, norm="batch_norm"), Stage(32, 1)))
    pictures = images()
    trained = AutoencoderObjective(
        DCAE(config), Crops(pictures, crop=32), to_tensor(pictures), parts="middle"
    )
    assert not any("running" in name for name in moved(trained))


def test_gan_terms_move_the_discriminator_and_the_decoders_head():
    trained = objective(parts="head", terms=Terms(adversarial=0.5))
    names = moved(trained)
    expected = {name for name in trained.model.state_dict() if name.startswith(("discriminator.",))}
    expected |= {f"autoencoder.{n}" for n in DCAE(SMALL).state_dict() if n.startswith(HEAD)}
    assert names == expected


def test_each_side_learns_from_its_own_gan_term():
    """With the pixel terms' gradient taken away, what is left is that of the judgement alone."""
    plain, judged = objective(parts="head"), objective(parts="head", terms=Terms(adversarial=0.5))
    judged.autoencoder.load_state_dict(plain.model.state_dict())
    for trained in (plain, judged):
        trained.loss(trained.batch(0, WHOLE)).backward()
    batch = judged.batch(0, WHOLE)
    judge, codec = cast(nn.ModuleDict, judged.model)["discriminator"], judged.autoencoder
    weights = [codec.decoder.conv_out.conv.weight, *judge.parameters()]
    drawn = codec.decode(codec.encode(batch.images))
    (of_decoder,) = torch.autograd.grad(-0.5 * judge(drawn).mean(), weights[:1])
    from_pixels = plain.autoencoder.decoder.conv_out.conv.weight.grad
    torch.testing.assert_close(weights[0].grad, from_pixels + of_decoder, atol=1e-6, rtol=1e-4)
    margins = F.relu(1 - judge(batch.images)).mean() + F.relu(1 + judge(drawn.detach())).mean()
    for weight, gradient in zip(weights[1:], torch.autograd.grad(margins, weights[1:]), strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-6, rtol=1e-4)


def test_the_judgement_counts_from_its_step_and_the_discriminator_learns_before():
    terms = Terms(adversarial=0.5, adversarial_from=2)
    early, plain = objective(parts="head", terms=terms), objective(parts="head")
    early.autoencoder.load_state_dict(plain.model.state_dict())
    assert any(name.startswith("discriminator.") for name in moved(early, steps=2))
    descend(plain, steps=2)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(early.autoencoder.state_dict()[name], value, atol=1e-6, rtol=1e-5)
    assert early.batch(1, WHOLE).adversarial == 0
    assert early.batch(2, WHOLE).adversarial == 0.5


@pytest.mark.parametrize("terms", [Terms(), Terms(tone=1, edges=1), Terms(perceptual=1, adversarial=0.2)])
def test_parts_of_a_batch_add_up_to_the_batch(terms, distance):
    trained = objective(terms=terms, parts="whole", distance=distance, latent_noise=0.3)
    whole = trained.loss(trained.batch(4, WHOLE))
    whole.backward()
    gradients = {n: p.grad for n, p in trained.model.named_parameters()}
    trained.model.zero_grad()  # to None: the tensors above stay
    losses = [trained.loss(trained.batch(4, Part(*cut, 8))) for cut in ((0, 3), (3, 8))]
    added = torch.stack(losses).sum()
    added.backward()
    assert added.item() == pytest.approx(whole.item(), rel=1e-5)
    for name, parameter in trained.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("parts", "terms", "rate"),
    [
        ("whole", Terms(perceptual=0.1), 5e-3),
        ("decoder", Terms(tone=1, edges=1), 5e-3),
        ("middle", Terms(perceptual=0.1), 5e-3),
        ("head", Terms(adversarial=0.01, adversarial_from=15), 5e-3),
    ],
)
def test_held_out_pictures_get_better_in_every_phase(parts, terms, rate, distance, tmp_path):
    trained = objective(parts=parts, terms=terms, distance=distance)
    config = TrainConfig(
        steps=30,
        batch_size=8,
        learning_rate=rate,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=10,
        evaluate_every=10,
    )
    progress = list(train(trained, config, tmp_path))
    # with a discriminator the loss is the balance of two sides, and need not fall
    assert terms.adversarial or progress[-1].loss < 0.95 * progress[0].loss
    assert progress[-1].metrics["psnr"] > progress[0].metrics["psnr"] + 0.3
    assert ("perceptual" in progress[-1].metrics) == (terms.perceptual > 0)
    assert ("hinge" in progress[-1].metrics) == (terms.adversarial > 0)


def test_a_resumed_run_continues_exactly(tmp_path):
    terms = Terms(adversarial=0.1, adversarial_from=3)
    config = TrainConfig(
        steps=6, batch_size=8, learning_rate=1e-3, warmup_steps=1, log_every=1, checkpoint_every=4
    )

    def fresh() -> AutoencoderObjective:
        return objective(parts="head", terms=terms, latent_noise=0.2)

    whole = [progress.loss for progress in train(fresh(), config, tmp_path / "whole")]
    cut = train(fresh(), config, tmp_path / "cut")
    losses = [next(cut).loss for _ in range(5)]  # the checkpoint is of step 4
    del cut
    resumed = fresh()
    losses = losses[:4] + [p.loss for p in train(resumed, config, tmp_path / "cut", resume=True)]
    assert losses == whole


def test_noise_on_latents_reaches_the_decoder_and_is_drawn_per_step():
    quiet, noisy = objective(), objective(latent_noise=2.0)
    assert quiet.loss(quiet.batch(0, WHOLE)) != noisy.loss(noisy.batch(0, WHOLE))
    first, again, next_one = (noisy.batch(step, WHOLE).noise for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)
    deviations = first.flatten(1).std(1)
    assert (deviations < 2.2).all()
    assert deviations.max() > 2 * deviations.min()


def test_the_loss_is_zero_for_equals_and_counts_tone_and_edges():
    picture, terms = torch.rand(2, 3, 16, 16), Terms(tone=1, edges=1)
    assert reconstruction_loss(picture, picture, terms).tolist() == [0, 0]
    # A shift of tone: pixels and means, no edges.  Stripes: pixels and edges, no means.
    shifted = reconstruction_loss(picture + 0.1, picture, terms)
    assert shifted.tolist() == pytest.approx([0.2, 0.2], abs=1e-5)
    stripes = torch.tensor([0.1, -0.1]).repeat(8).expand(2, 3, 16, 16)
    striped = reconstruction_loss(picture + stripes, picture, terms)
    assert striped.tolist() == pytest.approx([0.1 + 0.2] * 2, abs=1e-5)


def test_the_autoencoder_is_found_with_and_without_a_discriminator():
    for terms in (Terms(), Terms(adversarial=0.1)):
        trained = objective(terms=terms)
        assert autoencoder_of(trained.model) is trained.autoencoder
        DCAE(SMALL).load_state_dict(autoencoder_state(trained.model.state_dict()))


@pytest.mark.parametrize(("held_out", "rows", "columns"), [(4, 2, 4), (10, 2, 10), (24, 4, 10), (70, 6, 10)])
def test_the_sheet_shows_originals_above_reconstructions(held_out, rows, columns):
    trained = objective()
    trained.reference = to_tensor(np.concatenate([images()] * 3)[:held_out])
    sheet = np.asarray(trained.sheet(trained.autoencoder)).astype(np.float32)
    assert sheet.shape[:2] == (rows * 144, columns * 144)
    tiles = sheet.reshape(rows, 144, columns, 144, 3).mean((1, 3))
    original = trained.reference[0].add(1).mul(127.5).mean((1, 2))
    assert tiles[0, 0] == pytest.approx(original.numpy(), abs=2)
    originals, drawn = tiles[::2], tiles[1::2]
    assert np.abs(originals - drawn).max() > 20  # an untrained model's are not the originals
    assert originals.std((0, 1)).mean() > 3 * drawn.std((0, 1)).mean()


def test_another_distance_can_be_given():
    class Squared(nn.Module):
        def forward(self, drawn: Tensor, wanted: Tensor) -> Tensor:
            return (drawn - wanted).square().mean((1, 2, 3))

    plain, squared = objective(), objective(terms=Terms(perceptual=2.0), distance=Squared())
    batch = plain.batch(0, WHOLE)
    drawn = plain.autoencoder.decode(plain.autoencoder.encode(batch.images))
    more = 2 * (drawn - batch.images).square().mean()
    torch.testing.assert_close(squared.loss(batch), plain.loss(batch) + more)


def test_what_can_not_be_trained_is_refused():
    pictures = images()
    crops, reference = Crops(pictures, crop=16), to_tensor(pictures)
    unknown: Any = "tail"
    with pytest.raises(SettingsError, match="part='both'"):
        AutoencoderObjective(DCAE(SMALL, part="decoder"), crops, reference)
    with pytest.raises(SettingsError, match="whole, decoder, middle, head"):
        AutoencoderObjective(DCAE(SMALL), crops, reference, parts=unknown)
    with pytest.raises(SettingsError, match="negative"):
        Terms(perceptual=-1)
    with pytest.raises(SettingsError, match="besides the adversarial"):
        Terms(pixels=0, adversarial=1)
