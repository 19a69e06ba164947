"""Optimisers on parameters that FSDP2 cuts over two ranks take the steps that one process takes.

Run as a script, this file is one of the two ranks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sanakit.errors import SettingsError
from sanakit.train.config import TrainConfig
from sanakit.train.optim.came import CAME
from sanakit.train.optim.make import make_optimizers, state_bytes

pytestmark = pytest.mark.thorough

STEPS, STOP = 6, 3  # a checkpoint is written after STOP steps
OPTIMIZERS = ("muon", "came", "came8bit")


class Net(nn.Module):
    """Matrices of even and odd numbers of rows, one with fewer rows than ranks, a convolution, vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(
            [nn.Linear(128, 129), nn.Conv2d(129, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)]
        )
        self.last = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.blocks[0](x).tanh()[..., None, None].expand(-1, -1, 3, 3)
        return self.last(self.blocks[2](self.blocks[1](hidden)).mean((2, 3)))


@dataclass
class Run:
    net: Net
    optimizers: list[torch.optim.Optimizer]

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            x = torch.randn(8, 128, generator=torch.Generator().manual_seed(step))
            self.net(x).square().mean().backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def states(self) -> dict:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizers = get_state_dict(self.net, self.optimizers)
        return {"model": model, "optimizers": optimizers}

    def load(self, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import set_state_dict

        states = self.states()
        dcp.load(states, checkpoint_id=folder)
        set_state_dict(
            self.net,
            self.optimizers,
            model_state_dict=states["model"],
            optim_state_dict=states["optimizers"],
        )


def start(name: str, sharded: bool) -> Run:
    net = Net()
    if sharded:
        for block in net.blocks:
            fully_shard(block)
        fully_shard(net)
    config = TrainConfig(
        steps=STEPS,
        batch_size=8,
        learning_rate=3e-3,
        optimizer=name,
        muon_learning_rate=0.01,
        weight_decay=0.1,
    )
    return Run(net, make_optimizers(net, config))


def rank_main(rank: int, folder: Path) -> None:
    """What one of two ranks does: train, leave a checkpoint on the way and the weights at the end."""
    import torch.distributed.checkpoint as dcp

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in OPTIMIZERS:
        run = start(name, sharded=True)
        run.steps(0, STOP)
        dcp.save(run.states(), checkpoint_id=folder / name)
        run.steps(STOP, STEPS)
        weights = {key: tensor.full_tensor() for key, tensor in run.net.state_dict().items()}
        own = state_bytes(run.optimizers)
        if rank == 0:
            torch.save({"weights": weights, "bytes": own}, folder / f"{name}.pt")
    # tensor parallelism cuts other axes: refused
    mesh = init_device_mesh("cpu", (2,))
    across = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)]))
    with pytest.raises(SettingsError, match="first axis"):
        CAME([{"params": [across], "lr": 0.1}])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, __file__]
    ranks = [
        subprocess.Popen(
            command + [str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)[-4000:]
    return folder


def assert_same_steps(one: Tensor, two: Tensor, name: str) -> None:
    """Equal but for the order of sums, which may bring an entry in 8 bits to the level beside its own."""
    apart = ~torch.isclose(one, two, rtol=2e-4, atol=2e-5)
    assert apart.float().mean() < (0.001 if name == "came8bit" else 1e-9)
    torch.testing.assert_close(one, two, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_ranks_take_the_steps_of_one_process(two_ranks, name):
    alone = start(name, sharded=False)
    alone.steps(0, STEPS)
    found = torch.load(two_ranks / f"{name}.pt")
    for key, tensor in alone.net.state_dict().items():
        assert not torch.equal(tensor, Net().state_dict()[key])
        assert_same_steps(found["weights"][key], tensor, name)
    # each rank keeps half of what is kept by row; columns are kept by both
    assert found["bytes"] < (0.6 if name == "muon" else 0.75) * state_bytes(alone.optimizers)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(two_ranks, name):
    alone = start(name, sharded=False)
    alone.load(two_ranks / name)
    for optimizer in alone.optimizers:
        for state in optimizer.state.values():
            assert not any(isinstance(tensor, DTensor) for tensor in state.values())
            assert "codes" not in state or state["codes"].dtype == torch.int8
    assert name != "came8bit" or any("codes" in state for state in alone.optimizers[0].state.values())
    alone.steps(STOP, STEPS)
    found = torch.load(two_ranks / f"{name}.pt")
    for key, tensor in alone.net.state_dict().items():
        assert_same_steps(tensor, found["weights"][key], name)


if __name__ == "__main__":
    rank_main(int(sys.argv[1]), Path(sys.argv[2]))
