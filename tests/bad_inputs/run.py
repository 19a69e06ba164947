"""Thousands of bad inputs, made from a seed: does the program refuse each in a sentence?

    python tests/bad_inputs/run.py                              200 of each family, some minutes
    python tests/bad_inputs/run.py --count 1000 --seed 1        more, and others
    python tests/bad_inputs/run.py --only weights images        some families
    python tests/bad_inputs/run.py --only weights --number 17   one input again, with its traceback

`trial.py` says what a fault is; a hang, a process that dies and memory without bounds are faults, too. Each
family runs in a process of its own, which is killed and replaced when an input takes longer than --limit.
Exit code 1 if there is a fault. pytest does not collect this file; `test_run.py` tries a few of each family.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers are forked
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.dont_write_bytecode = True

from bad_inputs import (  # noqa: E402 - the tree of tests is on the path now
    api_bodies,
    checkpoints,
    command_lines,
    data_sets,
    databases,
    image_files,
    weight_files,
)
from bad_inputs.tiny import make_model  # noqa: E402
from bad_inputs.trial import Attempt, Verdict, judge  # noqa: E402

MORE_MEMORY = 2 << 30  # bytes that a family's process may take beyond what it starts with
SHOWN = 8  # numbers of the same fault
PREPARING = 300  # seconds for what all inputs of a family share
FORK = multiprocessing.get_context("fork")  # torch is loaded once


class Family(Protocol):
    """A kind of input: a module with these two functions."""

    def prepare(self, folder: Path, model: Path) -> Any:
        """Make what all of its inputs share, once in a process. model: the tiny model's folder."""
        ...

    def attempt(self, rng: random.Random, ready: Any, place: Path) -> Attempt:
        """Make one input below place/given; the working folder is place/here, which is empty."""
        ...


FAMILIES: dict[str, Family] = {
    "commands": command_lines,
    "api": api_bodies,
    "weights": weight_files,
    "images": image_files,
    "data": data_sets,
    "checkpoints": checkpoints,
    "databases": databases,
}


@dataclass
class Tally:
    """What became of the inputs of a family."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)  # number, input, what is wrong
    seconds: float = 0.0

    def add(self, number: int, what: str, verdict: Verdict) -> None:
        self.kinds[verdict.kind] += 1
        if verdict.kind == "fault":
            self.faults.append((number, what, verdict.text))


@contextmanager
def placed(folder: Path) -> Iterator[Path]:
    """Make the folders of one input, work in the one that is empty, and remove them afterwards."""
    before, temporary = os.getcwd(), tempfile.tempdir
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("given", "here", "tmp"):
        (folder / name).mkdir(parents=True)
    os.chdir(folder / "here")
    tempfile.tempdir = str(folder / "tmp")
    try:
        yield folder
    finally:
        os.chdir(before)
        tempfile.tempdir = temporary
        shutil.rmtree(folder, ignore_errors=True)


def prepare(name: str, model: Path, folder: Path) -> Any:
    """Make what the inputs of a family share; other libraries keep their caches in the same folder."""
    (folder / "ready").mkdir(parents=True)
    os.environ["HF_HOME"] = str(folder / "ready")
    return FAMILIES[name].prepare(folder / "ready", model)


def try_one(
    name: str,
    seed: int,
    number: int,
    ready: Any,
    folder: Path,
    began: Callable[[str], None] = lambda what: None,
) -> Verdict:
    """Make input `number` of a family and try it. began: told the input in words, before it is tried."""
    rng = random.Random(f"{name} {seed} {number}")
    with placed(folder) as place:
        attempt = FAMILIES[name].attempt(rng, ready, place)
        began(attempt.what)
        return judge(attempt, place)


def run_family(name: str, seed: int, numbers: range, model: Path, folder: Path, limit: float) -> Tally:
    """Try inputs in a process of their own, and in a new one after each that hangs or kills it."""
    tally, began, number = Tally(), time.monotonic(), numbers.start
    while number < numbers.stop:
        ours, theirs = FORK.Pipe()
        task = theirs, name, seed, range(number, numbers.stop), model, folder
        worker = FORK.Process(target=_work, args=task)
        worker.start()
        theirs.close()
        what, patience = "(preparing)", PREPARING
        try:
            while number < numbers.stop and ours.poll(patience):
                came, patience = ours.recv(), limit
                if isinstance(came, Verdict):
                    tally.add(number, what, came)
                    number, what = number + 1, "(making it)"
                else:
                    what = came
            if number < numbers.stop:
                tally.add(number, what, Verdict("fault", f"no answer in {patience:g} s"))
        except EOFError:
            worker.join()
            tally.add(number, what, Verdict("fault", f"the process died ({worker.exitcode})"))
        finally:
            worker.kill()
            worker.join()
            ours.close()
        number += 1
    tally.seconds = time.monotonic() - began
    return tally


def _work(pipe: Connection, name: str, seed: int, numbers: range, model: Path, folder: Path) -> None:
    """Send each input in words, then its verdict."""
    shutil.rmtree(folder, ignore_errors=True)
    ready = prepare(name, model, folder)
    _bound_memory()
    for number in numbers:
        pipe.send(try_one(name, seed, number, ready, folder / "place", pipe.send))
    os._exit(0)  # without waiting for threads of an engine


def _bound_memory() -> None:
    with open("/proc/self/status") as status:
        taken = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MORE_MEMORY,) * 2)


def print_tallies(tallies: dict[str, Tally], seed: int) -> None:
    """Print the table and every kind of fault with the numbers that show it again."""
    print("| family | inputs | refused | told | accepted | faults | seconds |\n|---|---|---|---|---|---|---|")
    for name, tally in tallies.items():
        cells = [tally.kinds.total(), *(tally.kinds[kind] for kind in ("refused", "told", "accepted"))]
        print(f"| {name} | {' | '.join(map(str, cells))} | {tally.kinds['fault']} | {tally.seconds:.0f} |")
    for name, tally in tallies.items():
        same: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
        for number, what, text in tally.faults:
            same[_kind(what, text)].append((number, what, text))
        for found in same.values():
            numbers = " ".join(str(number) for number, _, _ in found[:SHOWN])
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            _, what, text = min(found, key=lambda one: len(one[1]))
            print(f"\n{name} {numbers}{more} (seed {seed}): {what[:300]}\n    {text[:600]}")


def _kind(what: str, text: str) -> str:
    """Return what faults of the same kind share: the place of an exception; else the words without names."""
    if re.match(r"\w+ at \S+:\d+: ", text) and not text.startswith("Wrong"):
        return text.split(": ")[0]
    return re.sub(r"\S*[\d./]\S*", "*", f"{text} {what if 'silence' in text else ''}")


def show(name: str, seed: int, number: int, model: Path, folder: Path) -> None:
    """Try one input in this process and let its exception come through."""
    ready = prepare(name, model, folder)
    with placed(folder / "place") as place:
        attempt = FAMILIES[name].attempt(random.Random(f"{name} {seed} {number}"), ready, place)
        print(
            f"{attempt.what}\ninvalid by construction: {attempt.invalid}\n{judge(attempt, place)}", flush=True
        )
        attempt.act()


def main() -> int:
    """Run the families that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="inputs of each family (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--number", type=int, help="one input, in this process")
    parser.add_argument("--limit", type=float, default=30, help="seconds for one input (30)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as place:
        folder = Path(place).resolve()
        model = make_model(folder / "tiny")
        if asked.number is not None:
            for name in asked.only:
                show(name, asked.seed, asked.number, model, folder / name)
            return 0
        tallies = {
            name: run_family(name, asked.seed, range(asked.count), model, folder / name, asked.limit)
            for name in asked.only
        }
    print_tallies(tallies, asked.seed)
    return int(any(tally.faults for tally in tallies.values()))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # an engine's threads do not end by themselves
