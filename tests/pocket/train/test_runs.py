"""What was trained in shards becomes a whole model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sanakit.pocket.data.toy import build_toy
from sanakit.pocket.evaluate.judge import load_judge
from sanakit.pocket.recipes import pocket
from sanakit.train.distributed.parallel import LossModule, _shard
from sanakit.train.loop import train
from sanakit.train.run import MODEL, averaged_weights


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, in which FSDP2 shards as it does among many."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.thorough
@pytest.mark.usefixtures("group")
def test_a_run_in_shards_ends_with_a_whole_model(tmp_path: Path) -> None:
    run = pocket.judge(build_toy(tmp_path / "toy"), tmp_path / "run", smoke=True)
    for _ in train(run.objective, run.config, tmp_path / "run"):
        pass
    _shard(LossModule(run.objective), run.objective.model, run.config)
    run.finish(tmp_path / "run")
    written, _ = load_judge(tmp_path / "run" / MODEL)
    averaged = averaged_weights(tmp_path / "run")
    for name, weight in written.state_dict().items():
        torch.testing.assert_close(weight.float(), averaged[name].half().float(), msg=name)
