"""CLIP's folder, as transformers' CLIPModel has it, into a scorer and back.

A folder holds config.json, model.safetensors, tokenizer.json and preprocessor_config.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sanakit.errors import ModelNotFoundError
from sanakit.models.clip import Clip, ClipConfig
from sanakit.text.clip import BOS, EOS, ClipScorer, Preprocessing
from sanakit.text.tokenizer import load_tokenizer
from sanakit.weights.find.catalog import SCORERS
from sanakit.weights.find.hub import fetch_files
from sanakit.weights.find.resolve import ModelSource
from sanakit.weights.layouts.fields import check_clip, check_clip_images
from sanakit.weights.layouts.fill import fill
from sanakit.weights.layouts.parts import described, empty
from sanakit.weights.load import StrPath
from sanakit.weights.precision import choose_dtype, parse_dtype
from sanakit.weights.read.disk import read_json
from sanakit.weights.read.files import open_component
from sanakit.weights.read.header import write_safetensors
from sanakit.weights.save import check_replaced, exported, write_json

POCKET_CLIP = "pocket-clip"
"""Name of the CLIP that is embedded in this package."""
SKIPPED = {
    "text_model.embeddings.position_ids": "the numbers 0, 1, 2, ..., which older folders store",
    "vision_model.embeddings.position_ids": "the numbers 0, 1, 2, ..., which older folders store",
}
FILES = ("config.json", "model*.safetensors*", "tokenizer.json", "preprocessor_config.json")


def load_clip(
    path: StrPath, *, device: str | torch.device = "cpu", dtype: torch.dtype | str | None = None
) -> ClipScorer:
    """Load a CLIP with its tokenizer and its way to look at images.

    path: "pocket-clip" (embedded), a folder of transformers' CLIPModel, or a Hub "organisation/name" such as
    openai/clip-vit-large-patch14. dtype: to compute in; None chooses: float32 on a CPU, else as stored.
    Raises ModelNotFoundError, or WeightsError when the folder holds something else or is damaged.
    >>> from sanakit.weights import load_clip
    >>> load_clip("pocket-clip").texts(["a red apple"]).shape
    torch.Size([1, 192])
    """
    folder = clip_folder(path)
    path, seen = folder / "config.json", folder / "preprocessor_config.json"
    told, prepared = read_json(path), read_json(seen)
    check_clip(told, path)
    check_clip_images(prepared, seen)
    config = described(path, told, ClipConfig.from_transformers, "CLIP")
    preprocessing = described(seen, prepared, Preprocessing.from_transformers, "CLIP")
    files = open_component(folder)
    model = empty(partial(Clip, config), ModelSource(path=folder))
    pairs = [((name,), (name,)) for name in model.state_dict()]
    dtype = choose_dtype(device, files.dtype, dtype or "auto", what="CLIP")
    model = fill(model, files, pairs, skipped=SKIPPED, device=device, dtype=dtype)
    model.requires_grad_(False)
    return ClipScorer(model, load_tokenizer(folder), preprocessing)


def clip_folder(path: StrPath) -> Path:
    """Return the folder of a CLIP, fetched from the Hub if need be. Arguments as for `load_clip`."""
    if str(path) == POCKET_CLIP:
        folder = SCORERS[POCKET_CLIP]
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                "The embedded pocket-clip is missing from this installation: install the package again."
            )
        return folder
    return fetch_files(str(path), FILES)


def save_clip(
    folder: StrPath, scorer: ClipScorer, *, dtype: torch.dtype | str = torch.float32, card: str = ""
) -> Path:
    """Write a folder that transformers' CLIPModel, CLIPTokenizer and CLIPImageProcessor open.

    A CLIP's folder of that name is replaced when the new one is complete. dtype: to store in. card: content
    of its README.md, if any. Returns the folder. Raises OutputError when it cannot be written,
    PrecisionError for the dtype.
    """
    path, dtype = Path(folder).expanduser(), parse_dtype(dtype)
    check_replaced(path, "config.json", "CLIP")
    config = scorer.model.config.to_transformers() | {"torch_dtype": str(dtype).removeprefix("torch.")}
    with exported(path) as partial_folder:
        write_json(partial_folder / "config.json", config)
        write_json(partial_folder / "preprocessor_config.json", scorer.preprocessing.to_transformers())
        for name, content in _tokenizer_files(scorer).items():
            write_json(partial_folder / name, content)
        merges = json.loads(scorer.tokenizer.to_str())["model"]["merges"]
        lines = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]
        (partial_folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
        if card:
            (partial_folder / "README.md").write_text(card, encoding="utf-8")
        write_safetensors(partial_folder / "model.safetensors", scorer.model.state_dict(), dtype)
    return path


def _tokenizer_files(scorer: ClipScorer) -> Mapping[str, Any]:
    """Return the JSON files of a CLIPTokenizer; it reads its vocabulary from vocab.json and merges.txt."""
    whole = json.loads(scorer.tokenizer.to_str())
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    config = {
        **names,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": scorer.model.config.max_tokens,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
    }
    return {
        "tokenizer.json": whole,
        "vocab.json": whole["model"]["vocab"],
        "tokenizer_config.json": config,
        "special_tokens_map.json": names,
    }
