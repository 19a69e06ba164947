"""DC-AE: blocks, the autoencoder, and how it runs on bands of rows."""

from __future__ import annotations

from sanakit.models.dc_ae.model import (
    DC_AE_F32C32_SANA,
    DC_AE_LITE,
    DC_AE_POCKET,
    DCAE,
    DCAEConfig,
    Decoder,
    Encoder,
    Halves,
    StageConfig,
)

Stage = StageConfig  # its public name of before

__all__ = [
    "DCAE",
    "DC_AE_F32C32_SANA",
    "DC_AE_LITE",
    "DC_AE_POCKET",
    "DCAEConfig",
    "Decoder",
    "Encoder",
    "Halves",
    "Stage",
    "StageConfig",
]
