"""The command run in this process, in an empty folder, and a tiny model of random numbers to run it on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.cli import main
from sanakit.models.dc_ae import DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.weights import save_diffusers

STAGES = (Stage(8, 0), *(Stage(8, 1),) * 5)  # 32 pixels to a latent, as in every released model
AUTOENCODER = DCAEConfig(encoder=STAGES, decoder=STAGES, latent_channels=8, head_dim=8, scaling_factor=0.5)
SANA = SanaConfig(depth=1, width=32, cross_heads=2, text_width=24, latent_channels=8, sample_size=2)
GEMMA = Gemma2Config(
    vocab_size=600, width=24, depth=1, heads=2, kv_heads=1, head_dim=12, mlp_width=48, query_scalar=12
)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def sana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `sana` with the given words, in tmp_path / "here", which is empty at first."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # not that of whoever runs the tests

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Outcome(int(end.value.code or 0), out, err)

    return run


def save(folder: Path, config: SanaConfig, defaults: dict[str, Any]) -> Path:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red apple on a table", "two green foxes"] * 20, 520)
    return save_diffusers(
        folder,
        transformer=Sana(config).eval(),
        autoencoder=DCAE(AUTOENCODER).eval(),
        text_encoder=TextEncoder(Gemma2(GEMMA).eval(), tokenizer, "Draw this: ", 20),
        defaults={"width": 96, "height": 64, **defaults},
        name=folder.name,
    )


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {"steps": 2, "guidance": 2.0, "solver": "dpm"}
    return save(tmp_path_factory.mktemp("models") / "tiny", SANA, defaults)


@pytest.fixture(scope="session")
def sprint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SANA-Sprint model, whose folder says neither solver nor steps: SCM, two steps."""
    config = replace(SANA, qk_norm=True, guidance_embed=True, time_scale=1.0)
    return save(tmp_path_factory.mktemp("models") / "sprint", config, {})


@pytest.fixture
def tiny(_tiny: Path, tmp_path: Path) -> Path:
    """The model's folder, a copy that a test may damage."""
    return Path(shutil.copytree(_tiny, tmp_path / "tiny"))
