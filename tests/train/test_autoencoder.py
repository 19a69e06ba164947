"""Training a decoder: what is drawn, what is frozen, and that pictures get better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sanakit.errors import SettingsError
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.train.autoencoder import AutoencoderObjective, reconstruction_loss, to_tensor
from sanakit.train.config import TrainConfig
from sanakit.train.loop import train

SMALL = DCAEConfig(
    encoder=(Stage(8, 0), Stage(16, 1), Stage(32, 1)),
    decoder=(Stage(16, 0), Stage(32, 1), Stage(32, 1)),
    latent_channels=8,
)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


def images(count: int = 24, side: int = 32) -> np.ndarray:
    generator = torch.Generator().manual_seed(3)
    soft = F.interpolate(torch.randn(count, 3, 4, 4, generator=generator), (side, side), mode="bicubic")
    return soft.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()


def objective(pictures: np.ndarray | None = None, **settings) -> AutoencoderObjective:
    pictures = images() if pictures is None else pictures
    weights = np.ones(len(pictures))
    weights[:4] = 0  # held out
    return AutoencoderObjective(
        DCAE(SMALL), pictures, weights, range(4), **({"batch_size": 8, "crop": 16} | settings)
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_training_improves_held_out_pictures_and_leaves_the_encoder(tmp_path):
    trained = objective()
    encoder = {name: p.clone() for name, p in trained.autoencoder.encoder.state_dict().items()}
    config = TrainConfig(
        steps=60,
        batch_size=8,
        learning_rate=5e-3,
        warmup_steps=5,
        ema_decay=0.9,
        log_every=15,
        evaluate_every=15,
    )
    progress = list(train(trained, config, tmp_path))
    assert progress[-1].loss < 0.7 * progress[0].loss
    assert progress[-1].metrics["psnr"] > progress[0].metrics["psnr"] + 2
    assert progress[-1].metrics["ssim"] > progress[0].metrics["ssim"]
    for name, parameter in trained.autoencoder.encoder.state_dict().items():
        assert torch.equal(parameter, encoder[name]), name


def test_equal_generators_draw_equal_batches():
    trained = objective(latent_noise=0.5)
    assert trained.loss(0, seeded()) == trained.loss(0, seeded())
    assert trained.loss(0, seeded()) != trained.loss(0, seeded(1))


def test_crops_are_cut_from_drawn_images_and_mirrored_half_of_the_time():
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, None, :, None], (6, 32, 32, 3)).copy()
    ramp[:4] = 255  # never drawn: weight 0
    crops = objective(ramp)._crops(200, 16, seeded())
    assert crops.shape == (200, 3, 16, 16)
    steps = crops[:, 0, 0].diff(dim=-1) * 127.5
    rising = steps.isclose(torch.ones(())).all(-1)
    falling = steps.isclose(-torch.ones(())).all(-1)
    assert (rising | falling).all()
    assert 60 < rising.sum() < 140


def test_whole_images_follow_crops_in_smaller_batches(monkeypatch):
    trained = objective(whole_from=10)
    seen = []
    encode = trained.autoencoder.encode
    monkeypatch.setattr(trained.autoencoder, "encode", lambda x: seen.append(tuple(x.shape)) or encode(x))
    for step in (0, 9, 10):
        trained.loss(step, seeded())
    assert seen == [(8, 3, 16, 16), (8, 3, 16, 16), (2, 3, 32, 32)]


def test_latent_noise_reaches_the_decoder():
    quiet, noisy = objective(), objective(latent_noise=2.0)
    noisy.autoencoder.load_state_dict(quiet.autoencoder.state_dict())
    assert noisy.loss(0, seeded()) != quiet.loss(0, seeded())


def test_the_loss_is_zero_for_equals_and_counts_tone_and_edges():
    picture = torch.rand(2, 3, 16, 16)
    assert reconstruction_loss(picture, picture) == 0
    # A shift of tone: pixels and means, no edges.  Stripes: pixels and edges, no means.
    assert reconstruction_loss(picture + 0.1, picture).item() == pytest.approx(0.2, abs=1e-5)
    stripes = torch.tensor([0.1, -0.1]).repeat(8).expand(2, 3, 16, 16)
    assert reconstruction_loss(picture + stripes, picture).item() == pytest.approx(0.1 + 0.2, abs=1e-5)


def test_bytes_become_the_whole_range():
    out = to_tensor(np.array([[[[0, 127, 255]]]], dtype=np.uint8))
    assert out.flatten().tolist() == pytest.approx([-1, -1 / 255, 1])


@pytest.mark.parametrize(("held_out", "rows", "columns"), [(4, 2, 4), (10, 2, 10), (24, 4, 10), (70, 6, 10)])
def test_the_sheet_shows_originals_above_reconstructions(held_out, rows, columns):
    pictures = np.concatenate([images()] * 3)
    trained = objective(pictures)
    trained.reference = to_tensor(pictures[:held_out])
    sheet = np.asarray(trained.sheet(trained.autoencoder)).astype(np.float32)
    assert sheet.shape[:2] == (rows * 144, columns * 144)
    tiles = sheet.reshape(rows, 144, columns, 144, 3).mean((1, 3))
    original = trained.reference[0].add(1).mul(127.5).mean((1, 2))
    assert tiles[0, 0] == pytest.approx(original.numpy(), abs=2)
    originals, drawn = tiles[::2], tiles[1::2]
    assert np.abs(originals - drawn).max() > 20  # an untrained model's are not the originals
    assert originals.std((0, 1)).mean() > 3 * drawn.std((0, 1)).mean()


def test_half_a_model_is_refused():
    with pytest.raises(SettingsError, match="part='both'"):
        AutoencoderObjective(DCAE(replace(SMALL), part="decoder"), images(), np.ones(24), [0], batch_size=2)
