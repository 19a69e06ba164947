"""Bad weights: a model's folder with one damage, and .pth files of all kinds, opened and drawn with."""

from __future__ import annotations

import json
import math
import pickle
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bad_inputs.json_files import broken_text, score_by_clip, spoil_clip
from bad_inputs.trial import WEIRD, Attempt, Planted
from sanakit.errors import SanaError

PARTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
CONFIGS = (
    *("transformer/config.json", "vae/config.json", "text_encoder/config.json"),
    *("scheduler/scheduler_config.json", "sanakit.json", "model_index.json", "tokenizer/tokenizer.json"),
)
# Keys that decide what is computed. A text, a list, an object or a negative number there is wrong.
DECIDING = {
    "transformer/config.json": (
        *("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels"),
        *("mlp_ratio", "patch_size", "sample_size", "caption_channels", "num_cross_attention_heads"),
    ),
    "vae/config.json": (
        "latent_channels",
        "scaling_factor",
        "attention_head_dim",
        "decoder_block_out_channels",
    ),
    "text_encoder/config.json": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "rms_norm_eps"),
        *("query_pre_attn_scalar", "vocab_size", "intermediate_size", "num_key_value_heads"),
    ),
    "scheduler/scheduler_config.json": ("flow_shift",),
    "sanakit.json": ("max_tokens", "instruction", "defaults", "precision", "name"),
}
Entries = list[tuple[str, Any]]  # of a safetensors header; a list, as a name may come twice
Damage = Callable[[random.Random, Entries, bytearray], str]


@dataclass(frozen=True)
class Ready:
    """The sound model, and its transformer as an official file."""

    model: Path
    official: bytes


def prepare(folder: Path, model: Path) -> Ready:
    """Write the official file."""
    from sanakit.weights import load_transformer, save_official

    return Ready(model, save_official(folder / "sound.pth", load_transformer(model)).read_bytes())


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Damage a copy of the model, or an official file."""
    kind = rng.choice((_header, _header, _bytes, _config, _config, _files, _pth, _pth, spoil_clip))
    if kind is spoil_clip:
        folder = place / "given" / "clip"
        what, invalid = spoil_clip(rng, folder)
        return Attempt(what, lambda: score_by_clip(folder), invalid)
    if kind is _pth:
        path = place / "given" / "x.pth"
        what, invalid = _pth(rng, ready, path, place / "canary")
        return Attempt(what, lambda: _load(path), invalid)
    folder = Path(shutil.copytree(ready.model, place / "given" / "model"))
    what, invalid = kind(rng, folder, place / "canary")
    return Attempt(what, lambda: _draw(folder), invalid)


def _draw(folder: Path) -> list[str]:
    """Describe the model, load its encoder, then draw one small image with it."""
    from sanakit.pipelines.text_to_image import TextToImage
    from sanakit.weights import describe, load_autoencoder

    with suppress(SanaError):
        describe(folder)
    load_autoencoder(folder)
    pipe = TextToImage.from_pretrained(folder, device="cpu")
    return pipe("a red apple", seed=0, steps=1, width=64, height=64).warnings


def _load(path: Path) -> list[str]:
    from sanakit.weights import describe, load_settings, load_transformer

    with suppress(SanaError):
        describe(path)
    with suppress(SanaError):
        load_settings(path)
    load_transformer(path)
    return []


def _header(rng: random.Random, folder: Path, canary: Path) -> tuple[str, bool]:
    """Change the header of one part in a way that the format forbids, or that makes it another model."""
    part = rng.choice(list(PARTS))
    path = folder / PARTS[part]
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    entries: Entries = list(json.loads(content[8 : 8 + length]).items())
    data = bytearray(content[8 + length :])
    damage = rng.choice(HEADERS)
    how = damage(rng, entries, data)
    text = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}"
    path.write_bytes(struct.pack("<Q", len(text.encode())) + text.encode() + data)
    return f"{PARTS[part]}: {how}", True


def _tensor(rng: random.Random, entries: Entries, dims: int = 0) -> tuple[str, dict[str, Any]]:
    """Choose a tensor of at least so many dimensions and more than one number."""
    found = [one for one in entries if one[0] != "__metadata__" and len(one[1]["shape"]) >= dims]
    return rng.choice([one for one in found if math.prod(one[1]["shape"]) > 1])


def _wrong_side(rng: random.Random, entries: Entries, data: bytearray) -> str:
    name, entry = _tensor(rng, entries, 1)
    side = rng.randrange(len(entry["shape"]))
    came = entry["shape"][side]
    entry["shape"][side] = rng.choice(
        (str(came), float(came), came + 0.5, -came, 0, came + 1, None, [came], 2**64)
    )
    return f"{name} has a side {entry['shape'][side]!r} for {came}"


def _wrong_offset(rng: random.Random, entries: Entries, data: bytearray) -> str:
    name, entry = _tensor(rng, entries)
    start, end = entry["data_offsets"]
    entry["data_offsets"] = rng.choice(
        ([str(start), str(end)], [float(start), float(end)], [end, start], [start], [start, end, end], None)
        + ([start - 4, end - 4], [start + 2**40, end + 2**40], [start + 4, end + 4], [-4, end], {}, "x")
    )
    return f"{name} has the offsets {entry['data_offsets']} for {[start, end]}"


def _overlap(rng: random.Random, entries: Entries, data: bytearray) -> str:
    name, entry = _tensor(rng, entries)
    size = entry["data_offsets"][1] - entry["data_offsets"][0]
    others = [start for n, e in entries if n != "__metadata__" for start in e["data_offsets"][:1]]
    start = rng.choice(
        [one for one in others if one != entry["data_offsets"][0] and one + size <= len(data)] or [4]
    )
    entry["data_offsets"] = [start, start + size]
    return f"{name} shares the bytes of another tensor"


def _hole(rng: random.Random, entries: Entries, data: bytearray) -> str:
    _, entry = _tensor(rng, entries)
    at = entry["data_offsets"][0]
    data[at:at] = bytes(64)
    for name, other in entries:
        if name != "__metadata__" and other["data_offsets"][0] >= at:
            other["data_offsets"] = [one + 64 for one in other["data_offsets"]]
    return f"64 bytes of no tensor at {at}"


def _names(rng: random.Random, entries: Entries, data: bytearray) -> str:
    name, entry = _tensor(rng, entries)
    where = next(n for n, one in enumerate(entries) if one[0] == name)
    how = rng.choice(("twice", "renamed", "dropped", "extra"))
    if how == "twice":
        entries.insert(rng.randrange(len(entries)), (name, {**entry, "shape": [1, *entry["shape"]]}))
    elif how == "renamed":
        entries[where] = (rng.choice(("x", "", "\0", name + "s", name[:-1], "../" + name)), entry)
    elif how == "dropped":
        entries.pop(where)
    else:
        entries.append(("x", {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}))
        data += bytes(4)
    return f"{name} is there {how}"


def _dtype(rng: random.Random, entries: Entries, data: bytearray) -> str:
    name, entry = _tensor(rng, entries)
    entry["dtype"] = rng.choice(("I32", "F64", "f32", "F31", "", None, 7, ["F32"], "U8", "BOOL", "F8_E4M3"))
    return f"{name} is of the dtype {entry['dtype']!r}"


def _transposed(rng: random.Random, entries: Entries, data: bytearray) -> str:
    found = [one for one in entries if "shape" in one[1] and len(set(one[1]["shape"]) - {1}) > 1]
    name, entry = rng.choice(found)
    entry["shape"] = entry["shape"][::-1]
    return f"{name} is transposed"


def _not_numbers(rng: random.Random, entries: Entries, data: bytearray) -> str:
    drawn_with = [one for one in entries if not one[0].startswith("encoder.")]
    name, entry = _tensor(rng, drawn_with)
    start, end = entry["data_offsets"]
    data[start:end] = struct.pack("<f", rng.choice((math.nan, math.inf))) * ((end - start) // 4)
    return f"{name} is NaN or infinite"


def _huge(rng: random.Random, entries: Entries, data: bytearray) -> str:
    """Declare more than any disk holds, in numbers that go together."""
    name, entry = _tensor(rng, entries, 1)
    times = rng.choice((2**20, 2**40, 2**62))
    start, end = entry["data_offsets"]
    entry["shape"] = [entry["shape"][0] * times, *entry["shape"][1:]]
    entry["data_offsets"] = [start, start + (end - start) * times]
    return f"{name} has {entry['shape']} numbers"


def _chain(rng: random.Random, entries: Entries, data: bytearray) -> str:
    """Let every tensor begin where another one does, or end before it begins."""
    tensors = [entry for name, entry in entries if name != "__metadata__"]
    if rng.random() < 0.5:
        for entry in tensors:
            entry["data_offsets"] = entry["data_offsets"][::-1]
        return "all tensors end before they begin"
    for entry in tensors:
        start, end = entry["data_offsets"]
        entry["data_offsets"] = [0, end - start]
    return "all tensors begin at 0"


HEADERS: list[Damage] = [
    _wrong_side,
    _wrong_offset,
    _overlap,
    _hole,
    _names,
    _dtype,
    _transposed,
    _not_numbers,
    _huge,
    _chain,
]


def _bytes(rng: random.Random, folder: Path, canary: Path) -> tuple[str, bool]:
    """Damage the bytes of a part, or put another kind of file in its place."""
    path = folder / rng.choice(list(PARTS.values()))
    content = bytearray(path.read_bytes())
    length, size = struct.unpack("<Q", content[:8])[0], len(content)
    how = rng.choice(
        ("cut", "longer", "header bit", "data bit", "length", "pickle", "text", "nested", "empty")
    )
    if how == "cut":
        content = content[: rng.randrange(size)]
    elif how == "longer":
        content += bytes(rng.choice((1, 64, 5000)))
    elif how == "header bit":
        content[rng.randrange(8 + length)] ^= 1 << rng.randrange(8)
    elif how == "data bit":
        content[rng.randrange(8 + length, size)] ^= 1 << rng.randrange(8)
    elif how == "length":
        content[:8] = struct.pack("<Q", rng.choice((0, 1, 2, length - 1, length + 1, size, 2**62, 2**64 - 1)))
    elif how == "nested":
        text = b'{"a":' * 100_000
        content = bytearray(struct.pack("<Q", len(text)) + text)
    else:
        content = bytearray(
            {"pickle": pickle.dumps(Planted(canary), 2), "text": b"<!DOCTYPE html>", "empty": b""}[how]
        )
    path.write_bytes(content)
    return f"{path.relative_to(folder)}: {how}", how not in ("header bit", "data bit")


def _config(rng: random.Random, folder: Path, canary: Path) -> tuple[str, bool]:
    """Put a strange value under a key of a configuration, or damage the file."""
    name = rng.choice(CONFIGS)
    path = folder / name
    if rng.random() < 0.2:
        how = broken_text(rng, path)
        return f"{name}: {how}", name in DECIDING and not how.startswith("halves")
    content = json.loads(path.read_text())
    key = rng.choice(list(DECIDING.get(name, content)))
    if name not in DECIDING or key not in content or rng.random() < 0.4:
        key, value, wrong = rng.choice(list(content)), rng.choice(WEIRD), False
    else:
        value = rng.choice(("x", [], {}, -1, [[]], ["x"], {"x": 1}, True, math.nan, math.inf, -math.inf))
        wrong = type(value) in (int, float) or type(value) is not type(content[key])  # another text may do
    content[key] = value
    path.write_text(json.dumps(content))
    return f"{name}: {key} = {str(value)[:60]!r}", wrong


def _files(rng: random.Random, folder: Path, canary: Path) -> tuple[str, bool]:
    """Remove, add or replace whole files."""
    path = folder / rng.choice((*PARTS.values(), *CONFIGS[:3], "tokenizer/tokenizer.json"))
    name = path.relative_to(folder)
    how = rng.choice(("missing", "a folder", "a link in a circle", "a link to nowhere", "shards", "stale"))
    if how == "stale":  # an older split beside the file; only the name tells that it is old
        stem = path.stem if path.suffix == ".safetensors" else "x"
        path.with_name(f"{stem}-00001-of-00002.safetensors").write_bytes(b"old")
        return f"{name}: half of a split lies beside it", False
    if how == "shards":
        shutil.copy(path, path.with_name(f"{path.stem}-00001-of-00003{path.suffix}"))
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how.startswith("a link"):
        path.symlink_to(path if "circle" in how else folder / "nowhere")
    return f"{name}: {how}", True


def _pth(rng: random.Random, ready: Ready, path: Path, canary: Path) -> tuple[str, bool]:
    """Write a .pth file that is damaged, foreign, or would run something."""
    how = rng.choice(("planted", "cut", "bit", "foreign", "packed", "bomb", "keys", "value"))
    if how == "planted":
        held: Any = {"state_dict": {"a": torch.zeros(2)}, "x": Planted(canary)}
        held = rng.choice((held, Planted(canary), {"state_dict": Planted(canary)}, [Planted(canary)]))
        if rng.random() < 0.5:
            torch.save(held, path)
        else:
            path.write_bytes(pickle.dumps(held, rng.choice((2, 3, 4, 5))))
        return "a .pth that would make a file", True
    if how == "cut":
        path.write_bytes(ready.official[: rng.randrange(len(ready.official))])
        return "a .pth that ends early", True
    if how == "bit":
        content = bytearray(ready.official)
        place = rng.randrange(len(content))
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return f"a .pth with another bit at {place}", False
    if how in ("packed", "bomb"):
        return _repacked(rng, ready, path, bomb=how == "bomb"), how == "bomb"
    path.write_bytes(ready.official)
    content = torch.load(path, weights_only=True)
    state = content["state_dict"]
    name = rng.choice(list(state))
    if how == "foreign":
        content = rng.choice(
            ({}, [], {"epoch": 3}, {"state_dict": {}}, {"state_dict": []}, torch.zeros(3), "x", None)
        )
    elif how == "keys":
        old = state.pop(name)
        state[rng.choice((7, (1, 2), "", "\0", name + "s", "x." + name))] = old
    else:
        whole = state[name]
        state[name] = rng.choice(
            (None, 3, "x", [whole], whole.double().to(torch.complex128), whole.to_sparse(), whole.int())
            + (
                whole[..., :0],
                whole[None],
                whole.reshape(-1)[:1],
                torch.full_like(whole, math.nan).half()[:0],
            )
        )
        name = f"{name} = {type(state[name]).__name__}"
    with warnings.catch_warnings(action="ignore"):
        torch.save(content, path)
    return f"a .pth with {how} {name if how != 'foreign' else repr(content)[:60]}", True


def _repacked(rng: random.Random, ready: Ready, path: Path, *, bomb: bool) -> str:
    """Write the archive again: compressed, with strange names, or with an entry that swells."""
    source = path.with_suffix(".zip")
    source.write_bytes(ready.official)
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    prefix = rng.choice(("", "../../", "/", "x/"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", packing) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if bomb and entry.filename.endswith("data.pkl"):
                new.writestr(entry.filename, bytes(1 << 28), zipfile.ZIP_DEFLATED)
            else:
                new.writestr(prefix + entry.filename, content)
    source.unlink()
    return f"a .pth {'that swells' if bomb else 'packed again'} ({packing}, prefix {prefix!r})"
