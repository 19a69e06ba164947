"""A folder of images becomes an autoencoder's: what is held out, where it starts, what is left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanakit.errors import DataError
from sanakit.eval.metrics.similarity import psnr
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.train.config import TrainConfig
from sanakit.train.feeds.images import LoadedImages
from sanakit.train.loop import train
from sanakit.train.objectives.autoencoder import AutoencoderObjective, Terms, autoencoder_state
from sanakit.train.parts import Part
from sanakit.train.run import averaged_weights
from sanakit.train.runs.autoencoder import Phase, folder_run, run_before
from sanakit.weights import load_autoencoder, save_autoencoder

SMALL = DCAEConfig(
    encoder=(Stage(8, 0), Stage(16, 1), Stage(32, 1)),
    decoder=(Stage(16, 0), Stage(32, 1), Stage(32, 1)),
    latent_channels=8,
)
PHASE = Phase(parts="whole", terms=Terms(), resolution=32)
CONFIG = TrainConfig(
    steps=3, batch_size=4, learning_rate=1e-4, warmup_steps=1, checkpoint_every=2, log_every=1
)
SIZES = ((48, 48), (40, 80), (80, 40))  # width and height


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Importing it takes longer than these tests."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """21 soft images in three ratios, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(5)
    for number in range(21):
        soft = Image.fromarray(generator.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        soft.resize(SIZES[number % 3], Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    (folder / "broken.png").write_bytes(b"no picture at all")
    return folder


def run(data: Path, output: Path, start=SMALL, phase: Phase = PHASE, config: TrainConfig = CONFIG):
    made = folder_run(data, output, start, phase, config)
    assert isinstance(made.objective, AutoencoderObjective)
    return made, made.objective


def test_held_out_pictures_are_never_trained_on(data, tmp_path):
    _, objective = run(data, tmp_path / "run")
    assert len(objective.reference) == 2  # a tenth
    assert objective.reference.shape[2:] == (32, 32)
    pictures = objective.images
    assert isinstance(pictures, LoadedImages)
    assert pictures.loader.report().used == 19
    drawn = [pictures.loader.batch(step, Part(0, 4, 4)) for step in range(12)]
    assert len({key for batch in drawn for key in batch.keys if key}) == 19
    assert {batch.images.shape[2:] for batch in drawn} > {(32, 32)}


def test_from_nothing_it_starts_as_the_linear_codec_of_the_folder(data, tmp_path):
    _, objective = run(data, tmp_path / "run")
    model = objective.autoencoder
    with torch.no_grad():
        drawn = model.decode(model.encode(objective.reference)).clamp(-1, 1)
        unlearnt = DCAE(SMALL)
        noise = unlearnt.decode(unlearnt.encode(objective.reference)).clamp(-1, 1)
    assert psnr(drawn, objective.reference).mean() > 20
    assert psnr(noise, objective.reference).mean() < 15


def test_empty_places_and_broken_pictures_count_nothing(data, tmp_path):
    _, objective = run(data, tmp_path / "run", config=replace(CONFIG, batch_size=8))
    batches = [objective.images.batch(step, Part(0, 8, 8)) for step in range(3)]
    kept = [batch.shares.count_nonzero().item() for batch in batches]
    assert sum(kept) == 19
    assert min(kept) < 8
    for batch in batches:
        assert set(batch.shares.unique().tolist()) <= {0.0, 0.125}


def test_the_result_loads_back_with_its_scale_and_a_report(data, tmp_path):
    made, objective = run(data, tmp_path / "run")
    assert [progress.step for progress in train(objective, CONFIG, tmp_path / "run")] == [1, 2, 3]
    made.finish(tmp_path / "run")
    model = load_autoencoder(tmp_path / "run" / "model" / "vae")
    for name, value in autoencoder_state(averaged_weights(tmp_path / "run")).items():
        assert torch.equal(model.state_dict()[name], value), name
    with torch.no_grad():
        scaled = model.encode(objective.reference) * model.config.scaling_factor
    assert scaled.std().item() == pytest.approx(1, rel=1e-3)
    report = (tmp_path / "run" / "pictures.txt").read_text()
    assert "broken.png" in report
    assert "19 of 22 images" in report


def test_a_decoder_trained_alone_keeps_the_scale_of_its_latents(data, tmp_path):
    torch.manual_seed(0)
    save_autoencoder(tmp_path / "start", DCAE(replace(SMALL, scaling_factor=0.625)))
    phase = replace(PHASE, parts="decoder")
    made, objective = run(data, tmp_path / "run", tmp_path / "start", phase)
    list(train(objective, CONFIG, tmp_path / "run"))
    made.finish(tmp_path / "run")
    start, result = (
        load_autoencoder(path) for path in (tmp_path / "start", tmp_path / "run" / "model" / "vae")
    )
    assert result.config == start.config
    for name, value in start.state_dict().items():
        assert torch.equal(result.state_dict()[name], value) == name.startswith("encoder."), name


def test_a_resumed_run_continues_exactly(data, tmp_path):
    whole = [p.loss for p in train(run(data, tmp_path / "a")[1], CONFIG, tmp_path / "a")]
    cut = train(run(data, tmp_path / "b")[1], CONFIG, tmp_path / "b")
    first = [next(cut).loss for _ in range(2)]
    del cut
    again = train(run(data, tmp_path / "b")[1], CONFIG, tmp_path / "b", resume=True)
    assert first + [p.loss for p in again] == whole


def test_a_folder_without_enough_pictures_says_so(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGB", (48, 48)).save(tmp_path / "one" / "a.png")
    with pytest.raises(DataError, match="No image can be trained on"):
        folder_run(tmp_path / "one", tmp_path / "run", SMALL, PHASE, CONFIG)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a.png")
    with pytest.raises(DataError, match="larger ones"):
        folder_run(tmp_path / "one", tmp_path / "run2", SMALL, PHASE, CONFIG)


def test_a_missing_run_before_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train autoencoder first.*--source"):
        run_before(tmp_path / "autoencoder-adapt", "autoencoder")
