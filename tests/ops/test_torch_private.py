"""Each private piece of torch that the package uses is still there, and does what is relied on."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from sanakit.ops import torch_private
from sanakit.quant.fp8 import round_rows


def test_the_cpu_is_asked_what_it_can_do() -> None:
    assert isinstance(torch_private.runs_vnni(), bool)
    assert isinstance(torch_private.multiplies_bfloat16(), bool)


def test_lists_of_tensors_are_copied_and_moved() -> None:
    targets, sources = [torch.zeros(2), torch.zeros(3, 1)], [torch.ones(2), torch.full((3, 1), 4.0)]
    torch_private.lerp_all(targets, sources, 0.25)
    assert [float(target.sum()) for target in targets] == [0.5, 3.0]
    torch_private.copy_all(targets, sources)
    assert all(map(torch.equal, targets, sources))


def test_a_product_in_float8_is_the_product_of_what_was_rounded() -> None:
    x, weight = torch.randn(32, 48), torch.randn(16, 48)
    (a, a_scale), (b, b_scale) = round_rows(x), round_rows(weight)
    bias = torch.randn(16, dtype=torch.bfloat16)
    got = torch_private.scaled_product(a, b, a_scale, b_scale[:, 0], bias)
    expected = (a.float() * a_scale) @ (b.float() * b_scale).t() + bias.float()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, atol=0.1, rtol=0.01)


def test_writes_are_counted_but_for_inference_tensors() -> None:
    tensor = torch.zeros(2)
    before = torch_private.writes_to(tensor)
    tensor.add_(1)
    assert torch_private.writes_to(tensor) == before + 1
    with torch.inference_mode():
        assert torch_private.writes_to(torch.zeros(2)) == 0


def test_the_store_of_a_process_group_is_found() -> None:
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        torch_private.process_store().set("word", "there")
        assert torch_private.process_store().get("word") == b"there"
    finally:
        dist.destroy_process_group()


def test_limits_of_compiled_shapes_only_rise() -> None:
    config = pytest.importorskip("torch._dynamo.config")
    with config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        torch_private.compile_at_least(20, 30)
        assert (config.recompile_limit, config.accumulated_recompile_limit) == (20, 600)
        torch_private.compile_at_least(10, 2)
        assert (config.recompile_limit, config.accumulated_recompile_limit) == (20, 600)
