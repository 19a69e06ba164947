"""Autoencoders on any folder of images: DC-AE's three phases, and a decoder refined behind latents in use.

`autoencoder` (256 px, everything, L1 and perceptual), `adapt` (1024 px, the layers around the latents),
`refine` (256 px, the decoder's last layers, a discriminator besides): arXiv:2410.10733, section 3.3.
`decoder` trains a decoder alone: latents stay what they are, and diffusion models of them go on using it.
Each continues from the run before it, or from `source`: any model with an autoencoder. Steps, batch sizes and
rates are ours, for one device; the phases are the paper's. Perceptual terms need the extra [eval].
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from sanakit.models.dc_ae import DC_AE_POCKET
from sanakit.train.config import TrainConfig
from sanakit.train.objectives.autoencoder import Terms
from sanakit.train.run import Run
from sanakit.train.runs.autoencoder import Phase, folder_run, run_before

Source = str | os.PathLike[str] | None

LOW, HIGH = 256, 1024  # pixels
WORKERS = 2  # that read images
RECONSTRUCTION = Terms(pixels=1.0, perceptual=0.2)
REFINEMENT = replace(RECONSTRUCTION, adversarial=0.02, adversarial_from=500)

FURTHER = TrainConfig(  # an autoencoder that works already
    steps=10_000,
    batch_size=16,
    learning_rate=5e-5,
    warmup_steps=200,
    decay="cosine",
    decay_fraction=1.0,
    weight_decay=1e-3,
    bf16=True,
    evaluate_every=500,
)
FROM_NOTHING = replace(
    FURTHER,
    steps=20_000,
    learning_rate=1e-3,
    # The linear codec that it starts as is delicate: its layers learn slowly, the residual branches fast.
    rate_factors=((".conv1.", 1.0), (".conv2.", 1.0), (".norm.", 1.0), ("", 0.03)),
    clip_norm=3.0,
)
ADAPTATION = replace(FURTHER, steps=3000, batch_size=8)
# The discriminator starts from nothing, behind layers that hardly move
REFINING = replace(FURTHER, rate_factors=(("discriminator.", 4.0),))


def autoencoder(data: Path, output: Path, steps: int | None = None, *, source: Source = None) -> Run:
    """Phase 1, all that images of 256 px need: every layer, of `source` or of one of pocket's size."""
    config = FROM_NOTHING if source is None else FURTHER
    phase = Phase(parts="whole", terms=RECONSTRUCTION, resolution=LOW)
    return folder_run(data, output, source or DC_AE_POCKET, phase, config.lasting(steps), workers=WORKERS)


def adapt(data: Path, output: Path, steps: int | None = None, *, source: Source = None) -> Run:
    """Phase 2: the latents adapt to 1024 px; only the layers around them are trained."""
    start = source or run_before(output, "autoencoder")
    phase = Phase(parts="middle", terms=RECONSTRUCTION, resolution=HIGH)
    return folder_run(data, output, start, phase, ADAPTATION.lasting(steps), workers=WORKERS)


def refine(data: Path, output: Path, steps: int | None = None, *, source: Source = None) -> Run:
    """Phase 3: the decoder's last layers learn texture from a discriminator, at 256 px."""
    start = source or run_before(output, "autoencoder-adapt")
    phase = Phase(parts="head", terms=REFINEMENT, resolution=LOW)
    return folder_run(data, output, start, phase, REFINING.lasting(steps), workers=WORKERS)


def decoder(data: Path, output: Path, steps: int | None = None, *, source: Source = None) -> Run:
    """Train the whole decoder with a discriminator at 256 px; encoder and latents stay unchanged."""
    start = source or run_before(output, "autoencoder")
    phase = Phase(parts="decoder", terms=REFINEMENT, resolution=LOW)
    return folder_run(data, output, start, phase, REFINING.lasting(steps), workers=WORKERS)
