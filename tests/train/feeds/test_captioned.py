"""No image is lost or comes twice in an epoch, whoever reads it and wherever the run was interrupted.

The second half of this file is what the processes run: `python test_captioned.py DATA OUTPUT STEPS`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanakit.data.batches.loader import LoadedBatch, Loader, SampleRange
from sanakit.recipes import RECIPES
from sanakit.train.run import run_recipe

PICTURES, BATCH = 7, 4  # two batches an epoch, the second of them not full
KEYS = "keys-{}.txt"  # of each process: a line an image, its step and key


def start(data: Path, output: Path, steps: int, world: int) -> None:
    """Train in so many processes, as torchrun would start them; a run that is there goes on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    words = [sys.executable, __file__, str(data), str(output), str(steps)]
    processes = [
        subprocess.Popen(
            words,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()


@pytest.mark.slow
def test_each_picture_comes_once_an_epoch_over_two_processes_and_a_resume_on_one(tmp_path: Path) -> None:
    data, output = tmp_path / "pictures", tmp_path / "run"
    data.mkdir()
    for number in range(PICTURES):
        Image.fromarray(np.full((32, 32, 3), 30 * number, np.uint8)).save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(f"picture {number}")
    start(data, output, 3, world=2)  # one epoch and a half
    start(data, output, 6, world=1)
    seen = [line.split() for path in output.glob(KEYS.format("*")) for line in path.read_text().splitlines()]
    assert len({path.name for path in output.glob(KEYS.format("*"))}) == 2
    expected = {f"{number}.png": 1 for number in range(PICTURES)}
    for epoch in range(3):
        assert Counter(key for step, key in seen if int(step) // 2 == epoch) == expected


def main(data: Path, output: Path, steps: int) -> None:
    """Train, and note which images this process was given."""
    read = Loader.batch

    def noting(self: Loader, step: int, part: SampleRange) -> LoadedBatch:
        batch = read(self, step, part)
        with (output / KEYS.format(os.environ["RANK"])).open("a") as file:
            file.writelines(f"{step} {key}\n" for key in batch.keys if key)
        return batch

    Loader.batch = noting
    list(
        run_recipe(
            "finetune",
            RECIPES,
            data=data,
            output=output,
            steps=steps,
            resolution=32,
            batch_size=BATCH,
            resume=True,
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
