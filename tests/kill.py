"""kill -9 at random moments: is anything lost, done twice, or different afterwards?

    python tests/kill.py                             10 kills of each kind of work, a few minutes
    python tests/kill.py --kills 50 --seed 1         more, at other moments
    python tests/kill.py --only training serving     some

Training, drawing a file of prompts, caching latents and converting run to the end once, undisturbed. Then
they are killed and begun again by the same command until they are done, and the results are compared to the
bit. A server is killed while a client sends it jobs (`kill_server.py`), or asks for clips
(`kill_videos.py`). Moments are drawn from the seed, as
parts of the undisturbed time. The command is the real one, in a process that is forked, so that torch is
loaded once. Nothing temporary may be left once the work is done, and nothing half made may open as a model.
Exit code 1 if anything differs. pytest does not collect this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: processes are forked
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from bad_inputs.tiny import make_images, make_model, make_prompts
from kill_server import FORK, PATIENCE, Material, Outcome, besiege_server
from kill_videos import besiege_videos

STEPS, PICTURES = 12, 18
# Imported before anything is forked: moments are to fall into the work, not into imports.
IMPORTED = (
    *(
        "sanakit.cli.data.cache",
        "sanakit.data.cache.build",
        "sanakit.pipelines.batch",
        "sanakit.recipes.finetune",
    ),
    *("sanakit.serve.server", "sanakit.train.run", "sanakit.weights.conversion", "sanakit.weights.quantized"),
    *("torch.distributed.checkpoint", "sanakit.pipelines.prompt_file", "sanakit.weights.about.inspect"),
)
TIMED = {"seconds", "samples_per_second", "data_wait", "mfu"}  # figures of a log that differ between runs


# The work: what is begun, and begun again after a kill, in a folder of its own.


def train(material: Material, folder: Path) -> None:
    """Fine-tune the tiny model for a few steps, with a checkpoint every second one."""
    from sanakit.recipes import finetune

    sys.modules["torch.utils.tensorboard"] = None  # pyright: ignore[reportArgumentType] - it loads slowly
    every = {"log_every": 1, "checkpoint_every": 2, "evaluate_every": 6, "sheet_every": 6}
    finetune.WORKERS, finetune.SMALL = 0, replace(finetune.SMALL, **every)
    words = ("train", "finetune", "--data", material.images, "--source", material.model, "--resume")
    run(*words, "--steps", STEPS, "--batch-size", 4, "--output", folder / "run")


def draw(material: Material, folder: Path) -> None:
    """Draw a file of prompts."""
    words = ("generate", "--prompts", material.prompts, "--model", material.model, "--device", "cpu")
    run(*words, "--output", folder / "drawn")


def cache(material: Material, folder: Path) -> None:
    """Cache latents and text features in many small shards."""
    from sanakit.data.cache import build

    build.SHARD = 3000
    words = ("data", "cache", material.images, folder / "cache", "--model", material.model, "--text")
    run(*words, "--device", "cpu", "--batch", 2)


def convert(material: Material, folder: Path) -> None:
    """Write the embedded model as a folder, as a file of the official layout, and in fewer bits."""
    run("convert", "pocket", folder / "folder", "--to", "diffusers", "--dtype", "float16")
    run("convert", "pocket", folder / "model.pth", "--to", "official", "--dtype", "float16")
    run("quantize", "pocket", folder / "quantised", "--plan", "int8")


def run(*words: object) -> None:
    """Run `sana`; end the process where it does not succeed."""
    from sanakit.cli import main

    try:
        main([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise


# What is compared, to the bit: each gives the number of units, and the differences in words.


def compare_training(whole: Path, killed: Path) -> tuple[int, list[str]]:
    """Compare every line of the log, the last checkpoint and the finished model."""
    found = [json.loads(line) for line in (killed / "run" / "log.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in (whole / "run" / "log.jsonl").read_text().splitlines()]
    faults = [
        f"step {step} stands {times} times in the log"
        for step, times in Counter(row["step"] for row in found).items()
        if times > 1
    ]
    rows = ([{key: row[key] for key in row.keys() - TIMED} for row in log] for log in (found, wanted))
    faults += [] if next(rows) == next(rows) else ["the log differs"]
    faults += compare_files(whole / "run" / "model", killed / "run" / "model")[1]
    return len(wanted), faults + compare_checkpoints(whole / "run", killed / "run")


def compare_checkpoints(whole: Path, killed: Path) -> list[str]:
    """Compare step, numbers and tensors of the last checkpoints; in what order a file has them is its own."""
    from sanakit.train.state.checkpoint import open_checkpoint

    states = []
    for place in (whole, killed):
        saved = open_checkpoint(place)
        assert saved is not None
        tensors = {name: torch.empty_like(like, device="cpu") for name, like in saved.tensors.items()}
        saved.read(tensors)
        states.append((saved, tensors))
    (first, wanted), (second, found) = states
    faults = [] if (first.step, first.numbers) == (second.step, second.numbers) else ["its numbers differ"]
    if found.keys() != wanted.keys():
        return [*faults, "the checkpoint has other tensors"]
    return faults + [f"{name} differs" for name in wanted if not torch.equal(wanted[name], found[name])]


def compare_folder(name: str, whole: Path, killed: Path) -> tuple[int, list[str]]:
    """Compare the files of one folder."""
    return compare_files(whole / name, killed / name)


def compare_cache(whole: Path, killed: Path) -> tuple[int, list[str]]:
    """Compare the files of a cache, and count its entries."""
    from sanakit.data.cache.store import Cache

    _, faults = compare_files(whole / "cache", killed / "cache")
    entries = Cache(killed / "cache")
    keys = Counter(entries[number].key for number in range(len(entries)))
    faults += [f"{key} stands {times} times in the cache" for key, times in keys.items() if times > 1]
    wanted = len(Cache(whole / "cache"))
    return wanted, faults + ([] if len(keys) == wanted else [f"{len(keys)} of {wanted} entries"])


def compare_conversions(whole: Path, killed: Path) -> tuple[int, list[str]]:
    """Compare two folders by their bytes, a .pth file, whose archive is named at random, by its tensors."""
    count, faults = 1, []
    for name in ("folder", "quantised"):
        more, differences = compare_files(whole / name, killed / name)
        count, faults = count + more, faults + differences
    return count, faults + compare_official(whole, killed)


def compare_official(whole: Path, killed: Path) -> list[str]:
    """Compare the tensors of the .pth files."""
    states = [torch.load(place / "model.pth", weights_only=True)["state_dict"] for place in (whole, killed)]
    same = states[0].keys() == states[1].keys()
    same = same and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    return [] if same else ["model.pth differs"]


def compare_files(whole: Path, killed: Path) -> tuple[int, list[str]]:
    """Compare all files that are not temporary."""
    contents = []
    for place in (whole, killed):
        paths = (path for path in place.rglob("*") if path.is_file() and not is_temporary(path))
        contents.append({str(path.relative_to(place)): path.read_bytes() for path in paths})
    first, second = contents
    faults = [f"{name} is lost" for name in first.keys() - second.keys()]
    faults += [f"{name} is too many" for name in second.keys() - first.keys()]
    faults += [f"{name} differs" for name in first.keys() & second.keys() if first[name] != second[name]]
    return len(first), faults


def is_temporary(path: Path) -> bool:
    """Return whether a file, or a folder that it is in, has a temporary name."""
    return any(part.startswith(".") or part.endswith(".part") for part in path.parts)


def half_made(material: Material, whole: Path, killed: Path) -> list[str]:
    """After each kill: what has its final name must be whole, and what has not is told for what it is."""
    from sanakit.errors import WeightsError
    from sanakit.weights import describe

    faults = []
    for left in unfinished(killed):
        try:
            describe(left)
            faults.append(f"{left.name} opens as a model")
        except WeightsError as error:
            faults += [] if "was killed" in str(error) else [f"{left.name}: {error}"]
    for name in ("folder", "quantised"):
        if (killed / name).exists():
            faults += [f"half made: {one}" for one in compare_files(whole / name, killed / name)[1]]
    return faults + (compare_official(whole, killed) if (killed / "model.pth").exists() else [])


def unfinished(folder: Path) -> list[Path]:
    """Return what killed processes left in a folder, but for empty files of locks."""
    left = [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".old"))]
    return left + [*folder.rglob("*.part")]


def whole_images(material: Material, whole: Path, killed: Path) -> list[str]:
    """After each kill: every image that is there must be the right one."""
    drawn = [path for path in (killed / "drawn").glob("*.png") if not is_temporary(path)]
    return [
        f"{path.name} is half made"
        for path in drawn
        if path.read_bytes() != (whole / "drawn" / path.name).read_bytes()
    ]


Work = Callable[[Material, Path], None]
Comparison = Callable[[Path, Path], tuple[int, list[str]]]
WORK: dict[str, tuple[Work, Comparison, Callable[[Material, Path, Path], list[str]]]] = {
    "training": (train, compare_training, lambda material, whole, killed: []),
    "prompts": (draw, partial(compare_folder, "drawn"), whole_images),
    "caching": (cache, compare_cache, lambda material, whole, killed: []),
    "converting": (convert, compare_conversions, half_made),
}


SERVERS = {"serving": besiege_server, "videos": besiege_videos}


def besiege(name: str, material: Material, folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Kill one kind of work so many times, in as many rounds as that takes; compare each round's result."""
    act, compare, look = WORK[name]
    outcome, whole = Outcome(), folder / "whole"
    whole.mkdir(parents=True)
    began = time.monotonic()
    if _end(_begin(act, material, whole)) != 0:
        outcome.faults.append("the undisturbed work did not succeed")
        return outcome
    took, rounds = time.monotonic() - began, 0
    while outcome.kills < kills:
        killed = folder / f"round-{rounds}"
        killed.mkdir()
        code: int | None = None
        while code is None:
            process = _begin(act, material, killed)
            process.join(rng.uniform(0, took) if outcome.kills < kills else PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
                outcome.kills += 1
                outcome.faults += [f"round {rounds}: {one}" for one in look(material, whole, killed)]
            else:
                code = process.exitcode
        if code == 0:
            count, faults = compare(whole, killed)
            outcome.units += count
            outcome.faults += [f"round {rounds}: {one}" for one in faults]
            outcome.faults += [f"round {rounds}: {one.name} is left behind" for one in unfinished(killed)]
        else:
            outcome.faults.append(f"round {rounds}: it ended with {code}; see {killed}.txt")
        outcome.left += len(unfinished(killed))
        rounds += 1
    return outcome


def _begin(act: Work, material: Material, folder: Path) -> BaseProcess:
    process = FORK.Process(target=_in_process, args=(act, material, folder))
    process.start()
    return process


def _in_process(act: Work, material: Material, folder: Path) -> None:
    """Do the work with all it says in a file beside its folder."""
    with open(f"{folder}.txt", "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        act(material, folder)


def _end(process: BaseProcess) -> int | None:
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
    return process.exitcode


def main() -> int:
    """Lay the sieges that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each kind (10)")
    parser.add_argument("--seed", type=int, default=0)
    kinds = [*WORK, *SERVERS]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, metavar="KIND")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave everything in this new folder")
    asked = parser.parse_args()
    for module in IMPORTED:
        import_module(module)
    outcomes: dict[str, Outcome] = {}
    titles = ("work", "kills", "jobs struck", "compared", "given up, told", "lost, doubled or different")
    print(f"| {' | '.join((*titles, 'left behind', 'seconds'))} |\n|{'---|' * (len(titles) + 2)}")
    with tempfile.TemporaryDirectory(prefix="kill-") as place:
        folder = Path(asked.keep or place).resolve()
        folder.mkdir(parents=True, exist_ok=not asked.keep)
        material = Material(
            make_model(folder / "tiny"),
            make_images(folder / "images", PICTURES),
            make_prompts(folder / "prompts.jsonl", PICTURES),
        )
        for kind in asked.only:
            rng, began = random.Random(f"{kind} {asked.seed}"), time.monotonic()
            siege = SERVERS.get(kind) or partial(besiege, kind)
            outcomes[kind] = found = siege(material, folder / kind, asked.kills, rng)
            cells = (found.kills, found.struck or "", found.units, found.told, len(found.faults), found.left)
            print(f"| {kind} | {' | '.join(map(str, cells))} | {time.monotonic() - began:.0f} |", flush=True)
    for kind, found in outcomes.items():
        print(
            *(f"{kind} (seed {asked.seed}): {one}" for one in dict.fromkeys(found.faults)), sep="\n", end=""
        )
    return int(any(found.faults for found in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
