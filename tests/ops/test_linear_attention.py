"""ReLU linear attention against the quadratic formula that it reorders."""

from __future__ import annotations

import pytest
import torch

from sanakit.ops.linear_attention import relu_linear_attention


def draw(*shape: int, count: int = 3) -> list[torch.Tensor]:
    return [torch.randn(*shape, dtype=torch.float32) for _ in range(count)]


@pytest.mark.parametrize("scale", [1, 3e-8], ids=["of one", "of the constant"])
@pytest.mark.parametrize("shape", [(2, 3, 17, 8), (1, 1, 1, 4), (1, 2, 64, 32)])
def test_it_equals_the_quadratic_formula(shape, scale):
    """With diffusers' constant in the denominator, which matters where sums are as small as it is."""
    query, key, value = draw(*shape)
    query, key = query * scale, key * scale
    scores = query.double().relu() @ key.double().relu().transpose(-1, -2)
    expected = (scores / (scores.sum(-1, keepdim=True) + 1e-15)) @ value.double()
    out = relu_linear_attention(query, key, value)
    torch.testing.assert_close(out, expected.float(), atol=1e-5, rtol=1e-5)


def test_weights_sum_to_one():
    query, key, _ = draw(2, 3, 17, 8)
    out = relu_linear_attention(query, key, torch.ones_like(key))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_a_token_that_attends_to_nothing_gets_zero():
    query, key, value = draw(1, 1, 9, 4)
    query[:, :, 3] = -query[:, :, 3].abs()
    out = relu_linear_attention(query, key, value)
    assert not out[:, :, 3].any()
    assert out.isfinite().all()
    assert out.any()


def test_the_scale_of_queries_and_keys_does_not_matter():
    query, key, value = draw(1, 2, 9, 4)
    out = relu_linear_attention(query, key, value)
    torch.testing.assert_close(relu_linear_attention(query * 30, key / 7, value), out, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_many_tokens_of_half_precision_do_not_overflow(dtype):
    tokens = 16384  # 4096 px
    query, key, value = (30 * x.abs().to(dtype) for x in draw(1, 1, tokens, 8))
    assert (
        (key.relu().sum(-2) * 30).to(torch.float16).isinf().all()
    )  # the denominator that float16 would give
    out = relu_linear_attention(query, key, value)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    expected = relu_linear_attention(query.double(), key.double(), value.double())
    torch.testing.assert_close(out, expected, atol=1e-3, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(relu_linear_attention(query, key, value), out, atol=0, rtol=0)


def test_permuted_tokens_give_permuted_outputs():
    query, key, value = draw(2, 2, 31, 8)
    order = torch.randperm(31)
    out = relu_linear_attention(query, key, value)[:, :, order]
    permuted = relu_linear_attention(*(x[:, :, order] for x in (query, key, value)))
    torch.testing.assert_close(permuted, out, atol=1e-5, rtol=1e-5)


def test_gradients_agree_with_finite_differences():
    query, key, value = (x.double().requires_grad_() for x in draw(1, 1, 3, 2))
    # The function itself computes in float32, hence the wide step and tolerance.
    assert torch.autograd.gradcheck(
        relu_linear_attention, (query, key, value), eps=1e-2, atol=2e-2, rtol=2e-2
    )
