"""A model in another form: a diffusers folder, an official .pth, or graphs for ONNX Runtime or OpenVINO."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from sanakit.errors import SettingsError, WeightsError
from sanakit.models.gemma2 import Gemma2
from sanakit.models.sana import Sana
from sanakit.quant.quantize import dequantize
from sanakit.weights.control import (
    is_controlnet,
    load_controlnet,
    open_controlnet,
    save_controlnet,
    save_official_controlnet,
)
from sanakit.weights.find.resolve import resolve
from sanakit.weights.graphs import save_graphs
from sanakit.weights.layouts.parts import empty
from sanakit.weights.load import load_image_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.precision import parse_dtype
from sanakit.weights.save import kept_settings, save_diffusers, save_official
from sanakit.weights.settings import load_settings

Form = Literal["diffusers", "official", "onnx", "openvino"]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Form,
    *,
    dtype: torch.dtype | str = torch.float32,
) -> Path:
    """Rewrite a model in another form, whole or not at all.

    A quantised model is widened to float; the loss by rounding stays.
    source: as for `load_transformer`; of a file or folder of a ControlNet that alone is rewritten. target: a
    folder, for "official" a file, which has the transformer alone. dtype: to store the weights in; graphs in
    float32 or float16. Returns the target.
    Raises as loading and saving do, WeightsError for a source that is a folder of graphs.
    """
    if to not in ("diffusers", "official", "onnx", "openvino"):
        raise SettingsError(f"to = {to!r}, but it must be diffusers, official, onnx or openvino.")
    dtype = parse_dtype(dtype)
    if is_controlnet(source):
        return _convert_controlnet(source, target, to, dtype)
    found = resolve(source, ("transformer",) if to == "official" else ("transformer", "vae", "text_encoder"))
    if found.runtime:
        raise WeightsError(f"{found.path} holds graphs for {found.runtime}: convert the original model.")
    transformer = load_transformer(source, kind="image", dtype="float32")
    dequantize(transformer, empty(partial(Sana, transformer.config), found))
    if to == "official":
        return save_official(target, transformer, dtype=dtype)
    text_encoder = load_text_encoder(source, dtype="float32")
    dequantize(text_encoder.model, empty(partial(Gemma2, text_encoder.model.config), found))
    settings = load_settings(source)
    part = "both" if to == "diffusers" else "decoder"
    parts = {
        "transformer": transformer,
        "autoencoder": load_image_autoencoder(source, part=part, dtype="float32"),
        "text_encoder": text_encoder,
    }
    if to != "diffusers":
        return save_graphs(target, to, **parts, settings=settings, dtype=dtype)
    return save_diffusers(target, **parts, dtype=dtype, **kept_settings(settings))


def _convert_controlnet(
    source: str | os.PathLike[str], target: str | os.PathLike[str], to: Form, dtype: torch.dtype
) -> Path:
    """Rewrite a ControlNet. diffusers' layout takes its model's embedders from the source."""
    if to == "official":
        return save_official_controlnet(target, load_controlnet(source, dtype="float32"), dtype=dtype)
    if to != "diffusers":
        raise SettingsError(f"A ControlNet cannot be written as a graph for {to}: use diffusers or official.")
    trained = open_controlnet(resolve(source, ("controlnet",)))[3]
    net = load_controlnet(source, order="diffusers", dtype="float32")
    return save_controlnet(target, net, order=trained, dtype=dtype)
