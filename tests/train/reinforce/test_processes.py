"""Two processes reinforce as one does: each draws its own groups, and advantages see the rewards of all.

The second half of this file is what the processes run: `python test_processes.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import processes
from sanakit.train.loop import train
from sanakit.train.reinforce.watch import StopRule
from tests.train.reinforce.small import Redness, make

pytestmark = pytest.mark.thorough

CONFIG = TrainConfig(
    steps=3,
    batch_size=24,
    learning_rate=1e-2,
    warmup_steps=0,
    decay_fraction=0.0,
    log_every=1,
    evaluate_every=2,
    sheet_every=100,
    parallel="ddp",
)


def found(folder: Path) -> list[tuple[int, float]]:
    """Losses of a run that its rule ends after the evaluation in step 2: on all ranks, or it would hang."""
    ending = {"judges": [Redness("green", sign=-1.0)], "rule": StopRule(fall=1e-9, patience=1)}
    return [(p.step, p.loss) for p in train(make(**ending), CONFIG, folder)]


def test_losses_are_those_of_one_process_and_all_end_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    alone = found(tmp_path / "alone")
    assert [step for step, _ in alone] == [1, 2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    place["PYTHONPATH"] = str(repository)
    pair = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / "pair")],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in pair:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0
        together = json.loads(out)
        assert [step for step, _ in together] == [1, 2]
        for (_, one), (_, other) in zip(alone, together, strict=True):
            assert other == pytest.approx(one, rel=1e-4)


if __name__ == "__main__":
    sys.modules["torch.utils.tensorboard"] = None  # pyright: ignore[reportArgumentType]
    with processes():
        print(json.dumps(found(Path(sys.argv[1]))))
