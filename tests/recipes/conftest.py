"""Images with captions and a tiny model to train on them, for recipes that go on from a finished model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.cli import main
from sanakit.recipes import finetune
from tests.recipes.folders import Command, Writer, add_broken
from tests.tiny_image_model import save_tiny

SHAPES = ((64, 64), (128, 32), (32, 128))  # width and height of the buckets at 64 px


def _write_pictures(folder: Path, *, each: int = 3, scale: int = 1) -> Path:
    """`each` images of every shape, with two captions, one a line in a .txt file."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(7)
    for number in range(each * len(SHAPES)):
        width, height = (side * scale for side in SHAPES[number % len(SHAPES)])
        soft = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        soft.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a red apple {number}\ntwo green foxes\n")
    return folder


@pytest.fixture(scope="session")
def write_pictures() -> Callable[..., Path]:
    """The function above, for tests, which cannot import from here."""
    return _write_pictures


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorBoard, which loads slowly."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {"steps": 2, "guidance": 2.0, "solver": "dpm"}
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", defaults=defaults)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """The recipe as it is, but read by this process, and with a look at every step."""
    every = {"log_every": 1, "checkpoint_every": 1, "evaluate_every": 100, "sheet_every": 100}
    monkeypatch.setattr(finetune, "WORKERS", 0)
    monkeypatch.setattr(finetune, "SMALL", replace(finetune.SMALL, **every))


@pytest.fixture
def pictures(write_pictures: Writer, tmp_path: Path) -> Path:
    """Nine sound images of three shapes with two captions each, and three broken files."""
    return add_broken(write_pictures(tmp_path / "pictures"))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `sana`; return its standard output and its standard error."""

    def run(*words: object) -> tuple[str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert not end.value.code, captured.err
        return captured.out, captured.err

    return run


@pytest.fixture
def mistake(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `sana` with a mistake in it; return the sentence about it."""

    def run(*words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        assert end.value.code == 2
        return capsys.readouterr().err

    return run
