"""The table of sizes in the documentation is the script's, which counts what a file holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors.torch import save_file

from sanakit.models.sana import Sana, SanaConfig
from sanakit.quant.plans import PLANS, find_plan
from sanakit.quant.quantize import quantize

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))

from plan_sizes import PAGE, page, stored_bytes


def test_page_shows_the_sizes_of_today() -> None:
    """Some seconds: ten models of full size are built on the meta device."""
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python docs/plan_sizes.py"


@pytest.mark.parametrize("plan", PLANS)
def test_counts_what_a_file_holds(plan: str, tmp_path: Path) -> None:
    size = SanaConfig(depth=2, width=64, cross_heads=4, text_width=16, latent_channels=4)
    counted = stored_bytes(Sana(size), find_plan(plan))
    module = Sana(size).half()
    quantize(module, find_plan(plan))
    save_file(module.state_dict(), tmp_path / "file.safetensors")
    content = (tmp_path / "file.safetensors").read_bytes()
    assert len(content) - 8 - int.from_bytes(content[:8], "little") == counted
