"""Weights: the catalog of models, and bytes into modules and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sanakit.weights.about.inspect import describe
    from sanakit.weights.clip import load_clip, save_clip
    from sanakit.weights.control import load_controlnet, save_controlnet, save_official_controlnet
    from sanakit.weights.conversion import convert
    from sanakit.weights.find.catalog import CATALOG
    from sanakit.weights.fingerprint import fingerprint_weights
    from sanakit.weights.graphs import save_graphs
    from sanakit.weights.load import load_image_autoencoder, load_text_encoder, load_transformer
    from sanakit.weights.quantized import save_quantized
    from sanakit.weights.read.mapping import mapped_bytes, release
    from sanakit.weights.safety import load_prompt_filter
    from sanakit.weights.save import save_autoencoder, save_diffusers, save_official, save_transformer
    from sanakit.weights.settings import load_configs, load_settings
    from sanakit.weights.video.autoencoder import load_autoencoder, save_official_autoencoder

__all__ = [
    "CATALOG",
    "convert",
    "describe",
    "fingerprint_weights",
    "load_autoencoder",
    "load_clip",
    "load_configs",
    "load_controlnet",
    "load_image_autoencoder",
    "load_prompt_filter",
    "load_settings",
    "load_text_encoder",
    "load_transformer",
    "mapped_bytes",
    "release",
    "save_autoencoder",
    "save_clip",
    "save_controlnet",
    "save_diffusers",
    "save_graphs",
    "save_official",
    "save_official_autoencoder",
    "save_official_controlnet",
    "save_quantized",
    "save_transformer",
]

_HOMES = {
    "CATALOG": "find.catalog",
    "convert": "conversion",
    "describe": "about.inspect",
    "fingerprint_weights": "fingerprint",
    "load_autoencoder": "video.autoencoder",
    "load_clip": "clip",
    "load_configs": "settings",
    "load_controlnet": "control",
    "load_image_autoencoder": "load",
    "load_prompt_filter": "safety",
    "load_settings": "settings",
    "load_text_encoder": "load",
    "load_transformer": "load",
    "mapped_bytes": "read.mapping",
    "release": "read.mapping",
    "save_clip": "clip",
    "save_autoencoder": "save",
    "save_controlnet": "control",
    "save_diffusers": "save",
    "save_graphs": "graphs",
    "save_official": "save",
    "save_official_autoencoder": "video.autoencoder",
    "save_official_controlnet": "control",
    "save_quantized": "quantized",
    "save_transformer": "save",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the catalog alone needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
