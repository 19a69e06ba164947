"""SANA-Video 2.0: its sizes, two kinds of attention, residuals over depth, its blocks and the transformer."""

from __future__ import annotations

from sanakit.models.video.sana_video2.config import SANA_VIDEO2_5B, SANA_VIDEO2_14B, SanaVideo2Config
from sanakit.models.video.sana_video2.model import SanaVideo2

__all__ = ["SANA_VIDEO2_5B", "SANA_VIDEO2_14B", "SanaVideo2", "SanaVideo2Config"]
