"""Bad checkpoints of a training: damaged files, forged pages with right checksums, folders of other things.

Whatever is read must be what was saved: another number is worse than a refusal.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bad_inputs.trial import WEIRD, Attempt, Planted, Wrong

NUMBERS = {"optimizers": {"optimizer.weight.step": 3.0}, "guard": {"losses": [0.1], "high": 0}}
STEPS = (5, 10)


@dataclass(frozen=True)
class Ready:
    """A run with two checkpoints."""

    run: Path


def tensors(step: int) -> dict[str, torch.Tensor]:
    """What was saved at a step."""
    weight = torch.arange(200.0).reshape(10, 20) + step
    return {
        "model.weight": weight,
        "average.weight": weight + 0.5,
        "optimizer.weight.half": weight.bfloat16(),
    }


def prepare(folder: Path, model: Path) -> Ready:
    """Save the checkpoints."""
    from sanakit.train.state.checkpoint import save_checkpoint

    for step in STEPS:
        save_checkpoint(folder / "run", step, tensors(step), {**NUMBERS, "step": step})
    return Ready(folder / "run")


def attempt(rng: random.Random, ready: Ready, place: Path) -> Attempt:
    """Damage the newest checkpoint, or both, or put other things in the folder."""
    run = Path(shutil.copytree(ready.run, place / "here" / "run"))
    newest = run / f"checkpoint-{STEPS[-1]:07d}"
    damage = rng.choice((_bit, _cut, _forged, _forged, _forged, _strange, _single))
    both = damage is not _single and rng.random() < 0.3
    what = damage(rng, newest, place / "canary")
    if both:
        what += " and " + damage(rng, run / f"checkpoint-{STEPS[0]:07d}", place / "canary")
    return Attempt(what, lambda: _resume(run, forged="forged" in what))


def _resume(run: Path, *, forged: bool) -> list[str]:
    """Open it as a resumed run does, and as a later stage does; compare with what was saved.

    forged: step and numbers may be others, as no checksum can tell.
    """
    from sanakit.errors import SanaError
    from sanakit.train.state.checkpoint import load_average, open_checkpoint

    refusal: SanaError | None = None
    notes: list[str] = []
    try:
        saved = open_checkpoint(run)
        if saved is not None:
            if not forged and (saved.step not in STEPS or saved.numbers != {**NUMBERS, "step": saved.step}):
                raise Wrong(f"step {saved.step} came with {str(saved.numbers)[:100]}")
            if saved.step == STEPS[0] and not forged and not saved.notes:
                raise Wrong("it went back to the checkpoint before without a word")
            found = {name: torch.empty_like(tensor) for name, tensor in tensors(0).items()}
            saved.read(found)
            if not any(_same(found, tensors(step)) for step in STEPS):
                raise Wrong(f"step {saved.step} came with other tensors")
            notes += saved.notes
    except SanaError as error:
        refusal = error
    average = None
    try:
        average = load_average(run)
    except SanaError as error:
        refusal = error
    known = [{"weight": tensors(step)["average.weight"]} for step in STEPS]
    if average is not None and not forged and not any(_same(average, one) for one in known):
        raise Wrong(f"the average came as {str(average)[:60]}")
    if refusal is not None:
        raise refusal
    return notes


def _same(found: Any, wanted: dict[str, torch.Tensor]) -> bool:
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        return False
    return all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def _file(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(folder.iterdir()))


def _bit(rng: random.Random, folder: Path, canary: Path) -> str:
    path = _file(rng, folder)
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{path.name} has another bit at {place}"


def _cut(rng: random.Random, folder: Path, canary: Path) -> str:
    path = _file(rng, folder)
    content = path.read_bytes()
    end = rng.randrange(len(content))
    path.write_bytes(content[:end])
    return f"{path.name} ends after {end} bytes"


def _forged(rng: random.Random, folder: Path, canary: Path) -> str:
    """Put something else into the page, and its checksum with it."""
    page = folder / "manifest.json"
    body = json.loads(page.read_text())
    del body["checksum"]
    key = rng.choice(("step", "numbers", "tensors", "files", "format", "tensors", "files"))
    value: Any = rng.choice(WEIRD)
    if key == "tensors" and rng.random() < 0.7:
        name = rng.choice(list(body["tensors"]))
        value = {
            **body["tensors"],
            name: rng.choice((*WEIRD, ["torch.float32", [10**9, 10**9]], ["x", [10, 20]])),
        }
    elif key == "files" and rng.random() < 0.7:
        name = rng.choice((*body["files"], "../x", "/etc/passwd", "\0", "x.safetensors"))
        value = {**body["files"], name: rng.choice((*WEIRD, [0, 0], ["x", 1], [1]))}
    body[key] = value
    try:
        text = json.dumps(body | {"checksum": zlib.crc32(json.dumps(body, sort_keys=True).encode())})
        page.write_text(text)
    except (TypeError, ValueError, UnicodeError):
        page.write_text("{")
    return f"a forged page with {key} = {str(value)[:80]!r}"


def _strange(rng: random.Random, folder: Path, canary: Path) -> str:
    """Put another thing where a file of the checkpoint was."""
    path = _file(rng, folder)
    how = rng.choice(("missing", "a folder", "a pickle", "a link in a circle", "nested", "a text", "twice"))
    if how == "twice":
        shutil.copy(path, path.with_name("shard-00002-model-00001-of-00001.safetensors"))
        return f"a file that is there twice ({path.name})"
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a pickle":
        path.write_bytes(pickle.dumps(Planted(canary)))
    elif how == "a link in a circle":
        path.symlink_to(path)
    elif how == "nested":
        path.write_text("[" * 100_000)
    elif how == "a text":
        path.write_text(rng.choice(("", "x", "[]", "{}", "null", "1")))
    return f"{path.name}: {how}"


def _single(rng: random.Random, folder: Path, canary: Path) -> str:
    """Leave only a single file of an earlier version, which is a pickle of tensors."""
    run = folder.parent
    for checkpoint in run.iterdir():
        shutil.rmtree(checkpoint)
    path = run / "checkpoint.pt"
    held: Any = {
        "step": 1,
        "model": {},
        "average": {"weight": tensors(STEPS[0])["average.weight"]},
        "optimizers": [],
    }
    how = rng.choice(("planted", "cut", "bit", "another", "text"))
    if how == "planted":
        held["x"] = Planted(canary)
    elif how == "another":
        held = rng.choice(
            ({}, [], None, {"average": None}, {"average": []}, {"average": {}}, {"average": {7: "x"}}, 1)
        )
    torch.save(held, path)
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: rng.randrange(len(content))]
    elif how == "bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "text":
        content = bytearray(rng.choice((b"", b"hello", bytes(500))))
    path.write_bytes(content)
    return f"checkpoint.pt: {how} {str(held)[:60] if how == 'another' else ''}"
