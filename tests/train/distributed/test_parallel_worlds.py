"""Two processes train a world as one does with FSDP2, which gathers it block by block.

The second half of this file is what the processes run: `python test_parallel_worlds.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sanakit.models.world.blocks import WorldBlock
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import blocks, processes
from sanakit.train.loop import train
from tests.train.objectives.test_world_velocity import make

pytestmark = pytest.mark.thorough

CONFIG = TrainConfig(
    steps=3,
    batch_size=6,
    learning_rate=1e-3,
    warmup_steps=0,
    log_every=1,
    evaluate_every=3,
    sheet_every=100,
    checkpoint_every=100,
    parallel="fsdp",
    recompute=True,
)


def objective():
    torch.manual_seed(0)  # of the text encoder
    return make()


def losses(folder: Path) -> list[float]:
    return [progress.loss for progress in train(objective(), CONFIG, folder)]


def test_two_processes_have_the_losses_of_one_and_hold_blocks_in_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e-5 relative: sums in another order."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import takes longer than the test
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(rank)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    expected = losses(tmp_path / "alone")
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-4000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["losses"] == pytest.approx(expected, rel=1e-5)
        assert found["gathered alone"] == [True, True]


def test_blocks_of_worlds_are_those_of_the_transformer() -> None:
    made = make()
    assert blocks(made.model) == list(made.transformer.blocks)
    made.transformer.requires_grad_(False)
    assert blocks(made.model) == []


def work(folder: Path, rank: int) -> None:
    """One of two processes."""
    from torch.distributed.fsdp import FSDPModule

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with processes():
        made = objective()
        found = [progress.loss for progress in train(made, CONFIG, folder / "run")]
        alone = [
            isinstance(part, FSDPModule) for part in made.model.modules() if isinstance(part, WorldBlock)
        ]
    (folder / f"{rank}.json").write_text(json.dumps({"losses": found, "gathered alone": alone}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    torch.set_num_threads(1)
    work(Path(sys.argv[1]), int(sys.argv[2]))
