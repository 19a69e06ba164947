"""Messages by torch.distributed, in a group of one; `pipelines/video/test_sharing.py` has a group of two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from sanakit.models.video.split.exchange import ProcessExchange


@pytest.fixture
def exchange() -> Iterator[ProcessExchange]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield ProcessExchange()
    finally:
        dist.destroy_process_group()


def test_alone_there_is_nothing_to_add_and_nobody_to_tell(exchange: ProcessExchange) -> None:
    assert (exchange.rank, exchange.world) == (0, 1)
    rows = torch.arange(12.0).view(3, 4).t()  # not contiguous
    assert torch.equal(exchange.total(rows), rows)
    assert exchange.swapped({}) == {}
    (part,) = exchange.gathered(rows, [(4, 3)])
    assert torch.equal(part, rows)
