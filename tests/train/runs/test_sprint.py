"""A run's student is saved as a Sprint model, which draws in one, two and four steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from sanakit import TextToImage
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distill.ladd import Adversarial
from sanakit.train.distill.scm import Consistency
from sanakit.train.feeds.feed import Shown
from sanakit.train.loop import train
from sanakit.train.objectives.sprint import draw_few
from sanakit.train.objectives.velocity import Sheet, VelocityObjective
from sanakit.train.parts import Part
from sanakit.train.runs.sprint import SprintAim, distil, save_student
from sanakit.train.state.checkpoint import load_average
from sanakit.weights import describe, load_settings, load_transformer
from sanakit.weights.settings import ModelSettings

pytestmark = pytest.mark.usefixtures("no_tensorboard")

STAGES = (Stage(8, 0), *(Stage(8, 1),) * 5)
CODEC = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=4, head_dim=8, scaling_factor=0.5)
SANA = SanaConfig(
    depth=1,
    width=32,
    cross_heads=2,
    text_width=32,
    latent_channels=4,
    qk_norm=True,
    time_scale=1.0,
    sample_size=2,
)
TEXT = Gemma2Config(
    vocab_size=512, width=32, depth=1, heads=2, kv_heads=1, head_dim=16, mlp_width=32, query_scalar=16
)
AIM = SprintAim(consistency=Consistency(guidance=(2.0, 2.5, 3.0)), adversarial=Adversarial(blocks=(0,)))
CAPTIONS = ["a fox", "two keys"]


class Latents:
    def begin(self, first: int, parts: Sequence[Part]) -> None:
        pass

    def shown(self, step: int, part: Part) -> Shown:
        return Shown(torch.randn(len(part), 4, 2, 2), [CAPTIONS[i % 2] for i in range(len(part))])


def parts() -> tuple[Sana, DCAE, TextEncoder]:
    torch.manual_seed(0)
    models = Sana(SANA), DCAE(CODEC), Gemma2(TEXT)
    for model in models:
        for name, parameter in model.named_parameters():
            nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    encoder = TextEncoder(models[2].eval(), train_tokenizer(CAPTIONS, 512), "Draw: ")
    return models[0], models[1].eval(), encoder


def test_the_averaged_student_becomes_a_sprint_model_that_draws_in_few_steps(tmp_path: Path) -> None:
    transformer, codec, encoder = parts()
    sheet = Sheet(prompts=CAPTIONS, guidance=2.5, steps=2, shape=(4, 2, 2), decode=codec.decode)
    velocity = VelocityObjective(transformer, encoder, Latents(), shift=3.0, sheet=sheet, caption_dropout=0.0)
    objective = distil(velocity, AIM)
    config = TrainConfig(steps=2, batch_size=2, learning_rate=1e-3, warmup_steps=0)
    list(train(objective, config, tmp_path))
    settings = ModelSettings(name="tiny", width=64, height=64, steps=9, guidance=4.0, guidance_kind="apg")
    save_student(tmp_path, objective, codec, settings)

    saved = load_settings(tmp_path / "model")
    assert (saved.name, saved.solver, saved.steps, saved.guidance) == ("tiny-sprint", "scm", 2, 2.5)
    assert saved.guidance_kind == "cfg"
    assert describe(tmp_path / "model").parts[0].kind == "transformer"
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["_class_name"] == "SanaSprintPipeline"
    average = load_average(tmp_path)
    student = load_transformer(tmp_path / "model")
    for name, tensor in student.state_dict().items():
        kept = average[f"student.transformer.{name}"]
        torch.testing.assert_close(tensor, kept, rtol=1e-3, atol=1e-4)  # float16

    pipe = TextToImage.from_pretrained(tmp_path / "model")
    images = [pipe("a fox", seed=0, steps=steps).images[0].tobytes() for steps in (1, 2, 4)]
    assert len({*images}) == 3
    low, high = (
        draw_few(student, encoder, ["a fox"], (4, 2, 2), guidance=scale, steps=1) for scale in (2.0, 3.0)
    )
    assert torch.isfinite(low).all()
    assert not torch.equal(low, high)


def test_what_it_is_made_with_can_be_recorded() -> None:
    assert json.loads(json.dumps(asdict(AIM)))["adversarial"]["blocks"] == [0]
    assert SprintAim(adversarial=None).adversarial is None
