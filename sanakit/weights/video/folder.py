"""Write a model of clips as a diffusers folder, which `TextToVideo` and diffusers' pipeline open."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from sanakit.errors import SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.text.encoder import TextEncoder
from sanakit.text.known_things import KnownThings
from sanakit.weights.find.resolve import INDEX
from sanakit.weights.layouts.sana_video import CAUSAL
from sanakit.weights.precision import check_rule, parse_dtype
from sanakit.weights.save import (
    DEFAULTS,
    DPM_SCHEDULER,
    check_floats,
    check_model,
    check_replaced,
    exported,
    save_autoencoder,
    save_transformer,
    write_beside,
    write_json,
    write_text_encoder,
)
from sanakit.weights.video.settings import ChunkSettings

VIDEO_INDEX = {
    "_class_name": "SanaVideoPipeline",
    "_diffusers_version": "0.36.0",
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "SanaVideoTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


def save_video(
    folder: str | os.PathLike[str],
    *,
    transformer: SanaVideo,
    autoencoder: WanVAE,
    text_encoder: TextEncoder,
    flow_shift: float,
    frames: int,
    rate: int | Fraction,
    motion: int = 0,
    negative_prompt: str = "",
    defaults: Mapping[str, Any] | None = None,
    chunks: ChunkSettings | None = None,
    dtype: torch.dtype | str = torch.float32,
    precision: str = "any",
    name: str = "",
    licence: str = "",
    example_prompts: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = (),
    known_things: KnownThings | None = None,
) -> Path:
    """Write a model of clips; a folder of that name is replaced when the new one is complete.

    flow_shift: > 0, the shift it was trained and is sampled with. frames, rate: of a clip, and how many a
    second. motion: the score behind each prompt, 0 for none. defaults: steps, guidance, width, height and
    solver. chunks: how a causal transformer draws; diffusers 0.42 has no class for one, and opens no such
    folder. dtype: to store in. Others: as for `save_diffusers`. Returns the folder.
    Raises OutputError when it cannot be written; PrecisionError when dtype contradicts precision;
    SettingsError for a shift or default out of range, a causal transformer without chunks or another one with
    them, quantised layers and adapters; and SizeError for frames that the autoencoder cannot hold.
    """
    check_floats(transformer, text_encoder.model)
    check_chunks(transformer.config.causal, chunks)
    check_model(autoencoder, flow_shift, defaults, DEFAULTS)
    autoencoder.config.frame_rule.latents(frames)
    dtype, path = parse_dtype(dtype), Path(folder).expanduser()
    check_rule(dtype, precision, "The model")
    check_replaced(path, INDEX, "model")
    told = {"frames": frames, "fps": written_rate(rate), "motion": motion, "negative_prompt": negative_prompt}
    told |= written_chunks(chunks)
    index = VIDEO_INDEX | ({"transformer": ["diffusers", CAUSAL]} if chunks is not None else {})
    ours: dict[str, Any] = {
        "format": 1,
        "defaults": {**(defaults or {}), **told},
        "precision": precision,
        "instruction": text_encoder.instruction,
        "max_tokens": text_encoder.max_tokens,
    }
    offered = {"name": name, "licence": licence}
    offered |= {"example_prompts": list(example_prompts), "sizes": list(sizes)}
    ours |= {key: value for key, value in offered.items() if value}
    with exported(path) as partial:
        write_beside(partial, index, ours, known_things, text_encoder)
        write_json(
            partial / "scheduler" / "scheduler_config.json", {**DPM_SCHEDULER, "flow_shift": flow_shift}
        )
        save_transformer(partial / "transformer", transformer, dtype=dtype)
        save_autoencoder(partial / "vae", autoencoder, dtype=dtype)
        write_text_encoder(partial / "text_encoder", text_encoder, dtype)
    return path


def check_chunks(causal: bool, chunks: ChunkSettings | None) -> None:
    """Raise SettingsError for a causal transformer without chunks, or another one with them."""
    if causal != (chunks is not None):
        raise SettingsError(
            "A causal transformer came without its chunks: pass `chunks`."
            if chunks is None
            else "Chunks came with a transformer that draws whole clips: leave `chunks` out."
        )


def written_chunks(chunks: ChunkSettings | None) -> dict[str, Any]:
    """Return chunks as a folder's defaults have them."""
    if chunks is None:
        return {}
    shift = {} if chunks.times is None else {"shift": chunks.shift}
    return {"chunks": {"length": chunks.length, "times": chunks.times, **shift}}


def written_rate(rate: int | Fraction) -> int | str:
    """Return a rate as JSON holds it exactly."""
    exact = Fraction(rate)
    return exact.numerator if exact.denominator == 1 else f"{exact.numerator}/{exact.denominator}"
