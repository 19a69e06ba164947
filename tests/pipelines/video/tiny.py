"""A whole tiny video model of random numbers as a folder in diffusers' layout, and what compares it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.wan_vae import WanVAE, WanVAEConfig
from sanakit.text.known_things import FILE as KNOWN_THINGS
from sanakit.text.known_things import KnownThings
from sanakit.weights import save_autoencoder, save_transformer
from sanakit.weights.save import DPM_SCHEDULER, write_json
from tests.pipelines.conftest import INSTRUCTION, MAX_TOKENS, SANA, randomised, save

TRANSFORMER = SanaVideoConfig(
    depth=2,
    width=64,
    cross_heads=2,
    head_dim=32,
    text_width=48,
    latent_channels=4,
    patch=2,
    max_positions=64,
    sample_size=6,  # of no published model: it has no bins
)
AUTOENCODER = WanVAEConfig(
    width=8,
    depth=1,
    latent_channels=4,
    latents_mean=(0.5, -1.0, 0.0, 0.3),
    latents_std=(0.5, 1.0, 2.0, 1.5),
)
SIZE = {"width": 96, "height": 64}
DEFAULTS = {"steps": 3, "guidance": 3.0, **SIZE, "frames": 9, "negative_prompt": "", "motion": 0}
GRID = (4, 3, 8, 12)  # C t h w of the default clip
INDEX = {
    "_class_name": "SanaVideoPipeline",
    "_diffusers_version": "0.36.0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "SanaVideoTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def save_tiny(
    folder: Path,
    config: SanaVideoConfig = TRANSFORMER,
    defaults: dict[str, Any] | None = None,
    instruction: bool = True,
) -> Path:
    """Write the model. defaults: of its sanakit.json; None: DEFAULTS. instruction: keep a short one there."""
    save(folder, SANA)
    torch.manual_seed(1)
    save_transformer(folder / "transformer", randomised(SanaVideo(config), 0.2))  # pyright: ignore
    vae = randomised(WanVAE(AUTOENCODER), 0.08)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
    save_autoencoder(folder / "vae", vae)  # pyright: ignore[reportArgumentType]
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", {**DPM_SCHEDULER, "flow_shift": 8.0})
    ours: dict[str, Any] = {"format": 1, "name": "tiny-video", "max_tokens": MAX_TOKENS}
    ours |= {"defaults": DEFAULTS if defaults is None else defaults}
    ours |= {"instruction": INSTRUCTION} if instruction else {}
    (folder / "sanakit.json").write_text(json.dumps(ours))
    return folder


def save_embedded(folder: Path, animated: Sequence[str] = ("a cat face",)) -> Path:
    """Write a model as one that is embedded: pocket's text encoder, known things, no tokenizer of its own."""
    save_tiny(folder, replace(TRANSFORMER, text_width=256), {**DEFAULTS, "steps": 2})
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    ours = json.loads((folder / "sanakit.json").read_text())
    ours |= {"name": "pocket-video", "licence": "MIT", "text_encoder_of": "pocket"}
    ours |= {"example_prompts": ["a cat face turning"]}
    (folder / "sanakit.json").write_text(json.dumps(ours))
    things = {**dict.fromkeys(animated, ("kitty",)), "a red apple": ()}
    known = KnownThings(things, threshold=0.4, animated=animated)
    (folder / KNOWN_THINGS).write_text(known.text(), encoding="utf-8")
    return folder


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def noise(seed: int, clips: int = 1, grid: tuple[int, ...] = GRID) -> Tensor:
    """Return the noise of clips from a seed on, B C t h w."""
    generators = [torch.Generator().manual_seed(seed + number) for number in range(clips)]
    return torch.stack([torch.randn(grid, generator=generator) for generator in generators])
