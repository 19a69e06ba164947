"""A whole tiny model of random numbers that edits clips, as a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sanakit.models.streaming.config import SanaStreamingConfig
from sanakit.weights import save_transformer
from tests.models.streaming.edits import randomised
from tests.pipelines.video.tiny import save_tiny

CONFIG = SanaStreamingConfig(
    depth=4, width=64, cross_heads=2, head_dim=32, text_width=48, latent_channels=4, max_positions=32
)


def save_editor(folder: Path) -> Path:
    """Write the model."""
    save_tiny(folder)
    torch.manual_seed(2)
    save_transformer(folder / "transformer", randomised(CONFIG, 0.1))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "SanaStreamingPipeline"}
    index |= {"transformer": ["sanakit", "SanaStreamingTransformer3DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
