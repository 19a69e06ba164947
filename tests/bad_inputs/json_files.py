"""Bad files of JSON, as any model has them, and a CLIP with one of them."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

from bad_inputs.trial import WEIRD


def broken_text(rng: random.Random, path: Path) -> str:
    broken: dict[str, bytes] = {
        "cut": path.read_bytes()[: rng.randrange(path.stat().st_size)],
        "nested": b'{"a":' * 100_000,
        "a list": b"[]",
        "a number": b"1",
        "not UTF-8": b'{"\xff": 1}',
        "empty": b"",
        "UTF-16": path.read_text().encode("utf-16"),
        "twice": re.sub(rb'^\s*\{\s*("[^"]+")', rb"{\1: 7, \1", path.read_bytes(), count=1),
        "a number of 5,000 digits": path.read_bytes().replace(b"{", b'{"x": ' + b"9" * 5000 + b", ", 1),
        "halves of characters": path.read_bytes().replace(b"{", b'{"\\ud83d": "\\ude00\\ud83d", ', 1),
    }
    how = rng.choice(list(broken))
    path.write_bytes(broken[how])
    return how


def spoil_clip(rng: random.Random, folder: Path) -> tuple[str, bool]:
    """Put a strange value into a configuration of the embedded CLIP."""
    from sanakit.weights.clip import clip_folder

    folder.mkdir()
    for path in clip_folder("pocket-clip").iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder)
    name = rng.choice(("config.json", "preprocessor_config.json", "tokenizer.json"))
    path = folder / name
    if rng.random() < 0.2:
        return f"clip/{name}: {broken_text(rng, path)}", False
    content = json.loads(path.read_text())
    inner = [(held, key) for held in content.values() if isinstance(held, dict) for key in held]
    holder, key = rng.choice([(content, key) for key in content] + inner[:40])
    holder[key] = value = rng.choice(WEIRD)
    path.write_text(json.dumps(content))
    return f"clip/{name}: {key} = {str(value)[:60]!r}", False


def score_by_clip(folder: Path) -> list[str]:
    """Score a text with a CLIP."""
    import torch

    from sanakit.weights import load_clip

    scorer = load_clip(folder)
    images, texts = scorer.images(torch.zeros(1, 3, 40, 30)), scorer.texts(["a red apple"])
    return [] if (images @ texts.T).isfinite().all() else ["its score is not finite"]
