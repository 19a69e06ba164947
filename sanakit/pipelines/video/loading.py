"""The three parts of a model of clips, edits or worlds, loaded to where they compute."""

from __future__ import annotations

import os
from typing import Any, Literal, overload

import torch

from sanakit.errors import WeightsError
from sanakit.models.contracts import TextModel, VideoCodec
from sanakit.models.dc_ae import DCAE
from sanakit.models.streaming.sana_streaming import SanaStreaming
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.sana_video2 import SanaVideo2
from sanakit.models.world.sana_wm import SanaWM
from sanakit.pipelines.memory import Budget, available_bytes, choose_device
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer

FITS = 0.8  # of what a device has free, for parts that stay there together


@overload
def load_parts(
    path: str | os.PathLike[str],
    kind: Literal["clip"],
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    memory: Budget,
    encoder: bool,
) -> tuple[SanaVideo | SanaVideo2, VideoCodec, TextModel, torch.device]: ...


@overload
def load_parts(
    path: str | os.PathLike[str],
    kind: Literal["edit"],
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    memory: Budget,
    encoder: bool,
) -> tuple[SanaStreaming, VideoCodec, TextModel, torch.device]: ...


@overload
def load_parts(
    path: str | os.PathLike[str],
    kind: Literal["world"],
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    memory: Budget,
    encoder: bool,
) -> tuple[SanaWM, VideoCodec, TextModel, torch.device]: ...


def load_parts(
    path: str | os.PathLike[str],
    kind: Literal["clip", "edit", "world"],
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    memory: Budget,
    encoder: bool,
) -> tuple[SanaVideo | SanaVideo2 | SanaStreaming | SanaWM, VideoCodec, TextModel, torch.device]:
    """Return the transformer, autoencoder and text encoder of a folder, and the device they compute on.

    memory: see `parse_budget`; parts that do not fit on the device within it stay outside. All else as for
    `TextToVideo.from_pretrained`.
    """
    device = choose_device(device)
    others = "auto" if dtype in ("float16", "fp16", torch.float16) else dtype
    mapped = device.type == "cpu" and dtype in ("auto", "float32", "fp32", torch.float32)
    held: dict[str, Any] = {"device": device, "mapped": mapped, "home": "cpu"}
    transformer = load_transformer(path, kind=kind, dtype=dtype, **held)
    codec = load_autoencoder(path, part="both" if encoder else "decoder", dtype=others, **held)
    if isinstance(codec, DCAE):
        raise WeightsError(f"{path} has an autoencoder of images: clips need one of clips.")
    text = load_text_encoder(path, dtype=others, **held)
    parts = (transformer, codec, text.model)
    if device.type != "cpu":
        size = sum(tensor.nbytes for part in parts for tensor in part.state_dict().values())
        free = available_bytes(device) if isinstance(memory, str) else memory
        if memory == "all" or size < FITS * free:
            for part in parts:
                part.to(device)
    return transformer, codec, text, device
