"""The parts of SANA against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sanakit.models import layers
from sanakit.models.layers import (
    CrossAttention,
    LinearSelfAttention,
    MixFFN,
    Pointwise,
    RMSNorm,
    grid_positions,
    modulated_norm,
    sinusoid,
)


def test_rms_norm_divides_by_the_root_mean_square():
    norm = RMSNorm(16)
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rms_norm_squares_in_float32(dtype):
    x = torch.full((2, 8), 3000.0, dtype=dtype)  # its square is beyond float16
    out = RMSNorm(8)(x)
    assert out.dtype == dtype
    assert torch.equal(out, torch.ones_like(x))


@pytest.mark.parametrize("batch", [1, 3])
def test_shared_and_own_modulation_give_the_same_norm(batch):
    x = torch.randn(batch, 5, 16)
    scale, shift = torch.randn(2, 1, 1, 16)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    expected = normed * (1 + scale) + shift
    torch.testing.assert_close(modulated_norm(x, scale, shift), expected, atol=1e-5, rtol=1e-5)
    own = modulated_norm(x, scale.expand(batch, -1, -1), shift.expand(batch, -1, -1))
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


def test_self_attention_mixes_inside_heads_only():
    layer = LinearSelfAttention(16, 4, qk_norm=False)
    layer.proj = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 9, 16)
    before = layer(x)
    with torch.no_grad():
        layer.qkv.weight[32 + 4 : 32 + 8] += 1  # values of the second head
    changed = (layer(x) - before).abs().amax((0, 1)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 4 + [False] * 8


def test_self_attention_clips_what_float16_can_not_hold():
    layer = LinearSelfAttention(8, 4, qk_norm=False).half()
    nn.init.constant_(layer.qkv.weight, 1.0)
    nn.init.constant_(layer.proj.weight, 1000.0)
    out = layer(torch.full((1, 3, 8), 4.0, dtype=torch.float16))
    assert torch.equal(out, torch.full_like(out, 65504))


@pytest.mark.parametrize(("eps", "used"), [(None, 1e-5), (1e-6, 1e-6)])
def test_cross_attention_norms_queries_and_keys_with_its_own_eps_or_another(eps, used):
    layer = CrossAttention(16, 4, qk_norm=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.zeros_(layer.q_linear.bias)
    nn.init.zeros_(layer.kv_linear.bias)
    x, text = 3e-3 * torch.randn(1, 9, 16), 3e-3 * torch.randn(1, 5, 16)  # so small that eps counts
    wide = {name: parameter.detach().double() for name, parameter in layer.named_parameters()}
    key, value = (text.double() @ wide["kv_linear.weight"].T).chunk(2, dim=-1)
    query = x.double() @ wide["q_linear.weight"].T
    query, key = (
        y / (y.square().mean(-1, keepdim=True) + used).sqrt() * wide[f"{name}_norm.weight"]
        for name, y in (("q", query), ("k", key))
    )
    query, key, value = (y.unflatten(-1, (4, 4)).transpose(1, 2) for y in (query, key, value))
    seen = (query @ key.transpose(2, 3) / 2).softmax(-1) @ value
    expected = seen.transpose(1, 2).flatten(2) @ wide["proj.weight"].T + wide["proj.bias"]
    with torch.no_grad():
        prompt, out = layer.prepare(text, 1, eps), torch.zeros(1, 9, 16)
        out += x
        layer.add_(out, [prompt])
    torch.testing.assert_close((out - x).double(), expected, atol=1e-6, rtol=1e-5)


def test_cross_attention_ignores_masked_text():
    layer = CrossAttention(16, 4, qk_norm=True)
    x, text = torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    masked = layer(x, *layer.keys_values(text), mask)
    torch.testing.assert_close(masked, layer(x, *layer.keys_values(text[:, :3])))
    assert not torch.allclose(masked, layer(x, *layer.keys_values(text)))


@torch.no_grad()
def test_a_prompt_of_one_token_is_a_constant():
    layer = CrossAttention(16, 4, qk_norm=True)
    text, x = torch.randn(1, 1, 16), torch.randn(3, 9, 16)
    prepared = layer.prepare(text, 3)
    assert prepared.key is None
    expected = layer(x, *layer.keys_values(text.expand(3, -1, -1)))
    torch.testing.assert_close(prepared.constant.expand(3, 9, -1), expected)


def test_attention_in_bf16_keeps_its_gradient_near_float32():
    layer = CrossAttention(16, 2, qk_norm=False)
    x, text = torch.randn(1, 9, 16), torch.randn(1, 5, 16)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = layer(x, *layer.keys_values(text))
        assert out.dtype == dtype
        out.float().square().mean().backward()
        gradients.append(layer.q_linear.weight.grad.clone())
    assert (gradients[0] - gradients[1]).norm() < 0.05 * gradients[0].norm()


def test_a_convolution_on_tokens_is_the_1x1_convolution():
    layer = Pointwise(8, 12)
    x = torch.randn(2, 8, 3, 5)
    expected = layer.conv(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(layer.product(x.flatten(2).transpose(1, 2)), expected)


@pytest.mark.parametrize("grid", [(3, 5), (5, 3)])
def test_mix_ffn_reads_the_neighbours_of_a_token_and_no_others(grid):
    height, width = grid
    layer = MixFFN(8, 2.0)
    nn.init.normal_(layer.depth_conv.conv.weight)
    x = torch.randn(1, height * width, 8)
    changed = x.clone()
    changed[0, 1 * width + 1] += 1
    moved = ((layer(x, *grid) - layer(changed, *grid)).abs().amax(-1) > 1e-6).view(height, width)
    expected = torch.zeros(height, width, dtype=torch.bool)
    expected[0:3, 0:3] = True
    assert torch.equal(moved, expected)


def test_a_sinusoid_is_cosines_then_sines_of_falling_frequency():
    out = sinusoid(torch.tensor([0.0, 3.0, 999.0]), 8)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    frequencies = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(out[1], torch.cat([(3 * frequencies).cos(), (3 * frequencies).sin()]))
    assert not torch.allclose(out[2], sinusoid(torch.tensor([998.0]), 8)[0], atol=1e-3)


@pytest.mark.parametrize(("grid", "interpolation"), [((4, 4), 1.0), ((4, 6), 2.0), ((8, 2), 1.0)])
def test_positions_encode_x_in_the_first_half_and_y_in_the_second(grid, interpolation):
    height, width = grid
    out = grid_positions(height, width, 16, base_size=4, interpolation=interpolation).view(height, width, 16)
    assert out.dtype == torch.float32
    assert (out[..., :8] == out[:1, :, :8]).all()  # no y in the first half
    assert (out[..., 8:] == out[:, :1, 8:]).all()
    x = torch.arange(width) * 4 / width / interpolation
    torch.testing.assert_close(out[0, :, 0], x.sin())
    torch.testing.assert_close(out[0, :, 4], x.cos())


def test_positions_of_any_size_span_the_same_range():
    small = grid_positions(4, 4, 16, base_size=8, interpolation=1.0).view(4, 4, 16)
    large = grid_positions(16, 16, 16, base_size=8, interpolation=1.0).view(16, 16, 16)
    torch.testing.assert_close(large[::4, ::4], small)


def drawn(batch: int, times: str, width: int) -> layers.Modulation:
    shift, scale, gate = torch.randn(3, batch if times == "own" else 1, 1, width)
    return shift, scale, gate


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("times", ["shared", "own"])
@pytest.mark.parametrize("values", [1, 1500, 15_000, 10**9])  # 1 and 7 tokens, 2 samples, all at a time
@torch.no_grad()
def test_self_attention_in_bands_equals_the_whole(values, times, qk_norm, monkeypatch):
    layer = LinearSelfAttention(64, 32, qk_norm)
    x, (shift, scale, gate) = torch.randn(3, 35, 64), drawn(3, times, 64)
    expected = x + gate * layer(modulated_norm(x, scale, shift))
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    layer.add_(x, (shift, scale, gate))
    assert apart(x, expected) < 1e-6


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("values", [1, 1500, 10**9])  # 1 token, 7 tokens, all
@torch.no_grad()
def test_cross_attention_in_bands_equals_the_whole(values, qk_norm, monkeypatch):
    layer = CrossAttention(64, 4, qk_norm)
    x, texts = torch.randn(4, 35, 64), [torch.randn(1, tokens, 64) for tokens in (1, 9, 3)]
    prompts = [layer.prepare(text, count) for text, count in zip(texts, (1, 2, 1), strict=True)]
    each = [texts[0], texts[1], texts[1], texts[2]]
    pairs = zip(x.split(1), each, strict=True)
    expected = torch.cat([sample + layer(sample, *layer.keys_values(text)) for sample, text in pairs])
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    layer.add_(x, prompts)
    assert apart(x, expected) < 1e-6


@pytest.mark.parametrize("height", [1, 3, 8, 9])
@pytest.mark.parametrize("times", ["shared", "own"])
@pytest.mark.parametrize("values", [1, 1300, 2000, 8000, 10**9])  # of 400 in a row: bands of 2 to 5 rows
@torch.no_grad()
def test_a_mix_ffn_in_bands_equals_the_whole(values, times, height, monkeypatch):
    ffn = MixFFN(16, 2.5)  # 80 hidden values a token
    x, (shift, scale, gate) = torch.randn(3, height * 5, 16), drawn(3, times, 16)
    expected = x + gate * ffn(modulated_norm(x, scale, shift), height, 5)
    monkeypatch.setattr(layers, "_BAND_VALUES", values)
    ffn.add_(x, (shift, scale, gate), height, 5)
    assert apart(x, expected) < 2e-6


def test_bands_keep_to_their_size_and_are_nearly_even():
    x = torch.empty(1, 128)
    values = layers._BAND_VALUES // 10 + 1  # of a step: 9 fit
    assert layers.band(x, 1, values) == 9
    assert layers.band(x[:, :10], 1, values) == 5
    assert layers.band(x[:, :9], 1, values) == 9
    assert layers.band(x, 1, 10**12) == 1
    assert layers.band(x.to("meta"), 1, 10**12) == 128  # not on a CPU: all
