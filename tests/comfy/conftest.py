"""The embedded model as the loader node gives it, once a session, what its nodes give, and a host."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sanakit.comfy.loader import LoadModel
from sanakit.pipelines.text_to_image import TextToImage
from tests.comfy.calling import Stopped, call


@pytest.fixture(scope="session")
def model() -> TextToImage:
    [loaded] = LoadModel().load("pocket")
    return loaded


@pytest.fixture(scope="session")
def texts(model: TextToImage) -> tuple:
    return call("SanakitTextEncode", model, prompt="a red apple")


@pytest.fixture(scope="session")
def apple(model: TextToImage) -> Tensor:
    """IMAGE of one image, 256 px."""
    [image] = call("SanakitTextToImage", model, prompt="a red apple", seed=3)
    return image


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """The few things of ComfyUI that the nodes ask for, recorded."""
    seen = SimpleNamespace(bars=[], stop_at=None, diffusers=tmp_path)

    class ProgressBar:
        def __init__(self, total: int) -> None:
            seen.bars.append([])

        def update_absolute(self, value: int, total: int, preview: Any) -> None:
            seen.bars[-1].append((value, total, preview))

    def throw() -> None:
        if seen.stop_at is not None and sum(map(len, seen.bars)) >= seen.stop_at:
            raise Stopped

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    module("comfy.utils", ProgressBar=ProgressBar)
    management = {"throw_exception_if_processing_interrupted": throw}
    module("comfy.model_management", **management, get_torch_device=lambda: torch.device("cpu"))
    seen.method = SimpleNamespace(value="none")
    module("comfy.cli_args", args=SimpleNamespace(preview_size=300, preview_method=seen.method))
    module("folder_paths", get_folder_paths=lambda kind: [str(tmp_path)] if kind == "diffusers" else [])
    return seen
