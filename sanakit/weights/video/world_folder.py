"""Write a world model as a folder that `World` opens.

diffusers' pipeline opens it where the parts are those of SANA-WM: whole clips, and LTX-2's autoencoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from sanakit.models.video.wan_vae import WanVAE
from sanakit.models.world.sana_wm import SanaWM
from sanakit.text.encoder import TextEncoder
from sanakit.weights.find.resolve import INDEX
from sanakit.weights.layouts.video_vae import VideoVAE
from sanakit.weights.precision import parse_dtype
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
from sanakit.weights.video.folder import check_chunks, written_chunks, written_rate
from sanakit.weights.video.settings import ChunkSettings

EULER_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}


def save_world(
    folder: str | os.PathLike[str],
    *,
    transformer: SanaWM,
    autoencoder: VideoVAE,
    text_encoder: TextEncoder,
    flow_shift: float,
    frames: int,
    rate: int | Fraction,
    defaults: Mapping[str, Any],
    chunks: ChunkSettings | None = None,
    negative_prompt: str = "",
    dtype: torch.dtype | str = torch.float32,
    name: str = "",
    licence: str = "",
    example_prompts: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = (),
) -> Path:
    """Write a world model; a folder of that name is replaced when the new one is complete.

    flow_shift: > 0, the shift that it was trained with. frames, rate: of a clip, and how many a second.
    defaults: steps, guidance, width, height and solver. chunks: of weights that stream; others have none.
    dtype: to store in. Others: as for `save_diffusers`. Returns the folder.
    Raises OutputError when it cannot be written; SettingsError for a shift or default out of range, streaming
    weights without chunks or other ones with them, quantised layers and adapters; and SizeError for frames
    that the autoencoder cannot hold.
    """
    check_floats(transformer, text_encoder.model)
    check_chunks(transformer.config.causal, chunks)
    check_model(autoencoder, flow_shift, defaults, DEFAULTS)
    autoencoder.config.frame_rule.latents(frames)
    dtype, path = parse_dtype(dtype), Path(folder).expanduser()
    check_replaced(path, INDEX, "model")
    told: dict[str, Any] = {"frames": frames, "fps": written_rate(rate), "negative_prompt": negative_prompt}
    told |= written_chunks(chunks)
    ours: dict[str, Any] = {
        "format": 1,
        "defaults": {**defaults, **told},
        "precision": "any",
        "instruction": text_encoder.instruction,
        "max_tokens": text_encoder.max_tokens,
    }
    offered = {"name": name, "licence": licence}
    offered |= {"example_prompts": list(example_prompts), "sizes": list(sizes)}
    ours |= {key: value for key, value in offered.items() if value}
    euler = defaults.get("solver") == "euler"
    scheduler = (
        {**EULER_SCHEDULER, "shift": flow_shift} if euler else {**DPM_SCHEDULER, "flow_shift": flow_shift}
    )
    vae = "AutoencoderKLWan" if isinstance(autoencoder, WanVAE) else "AutoencoderKLLTX2Video"
    index = {
        "_class_name": "SanaWMPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "Gemma2Model"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "SanaWMTransformer3DModel"],
        "vae": ["diffusers", vae],
    }
    with exported(path) as partial:
        write_beside(partial, index, ours, None, text_encoder)
        write_json(partial / "scheduler" / "scheduler_config.json", scheduler)
        save_transformer(partial / "transformer", transformer, dtype=dtype)
        save_autoencoder(partial / "vae", autoencoder, dtype=dtype)
        write_text_encoder(partial / "text_encoder", text_encoder, dtype)
    return path
