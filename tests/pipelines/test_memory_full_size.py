"""A budget is kept by the whole process, measured from outside, with the weights of SANA 0.6B."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DCAE
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2
from sanakit.models.sana import SANA_600M, Sana
from sanakit.pipelines.memory import parse_budget
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

DRAW = """
import sys
from pathlib import Path
from sanakit import TextToImage
from sanakit.models.contracts import LatentShape
folder, budget, residence = sys.argv[1:]
pipe = TextToImage.from_pretrained(folder, device="cpu", memory=budget)
assert pipe._memory.plan(LatentShape.image(32, 16, 16), 2).residence == residence
pipe("a red apple", width=512, height=512, steps=1, seed=0)
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) * 1024)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published sizes in bfloat16, random; of Gemma 2 two layers and a small vocabulary."""
    from dataclasses import replace

    torch.manual_seed(0)
    gemma = replace(GEMMA2_2B, depth=2, vocab_size=600, sliding_layers=())
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes in the snow"] * 20, 520)
    return save_diffusers(
        tmp_path_factory.mktemp("full") / "model",
        transformer=Sana(SANA_600M),
        autoencoder=DCAE(DC_AE_F32C32_SANA),
        text_encoder=TextEncoder(Gemma2(gemma), tokenizer, "", 20),
        flow_shift=3.0,
        defaults={"steps": 1, "guidance": 4.5, "width": 512, "height": 512, "solver": "dpm"},
        name="random",
        dtype=torch.bfloat16,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("budget", "residence"), [("1.05GB", "layered"), ("2.2GB", "staged"), ("4GB", "resident")]
)
def test_the_process_stays_within_its_budget(folder: Path, budget: str, residence: str) -> None:
    command = [sys.executable, "-c", DRAW, str(folder), budget, residence]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout) <= parse_budget(budget)
