"""Gemma 2 against transformers' Gemma2Model (eager attention), and its cache against itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from sanakit.errors import WeightsError
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2, Gemma2Config, KVCache

TINY = Gemma2Config(
    vocab_size=97,
    width=48,
    depth=4,
    heads=4,
    kv_heads=2,
    head_dim=16,
    mlp_width=96,
    query_scalar=24,
    attention_softcap=2.0,  # low, so that the capping shows
    sliding_window=5,
)
TOLERANCE = 2e-5


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def random_weights(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


@pytest.fixture
def pair() -> tuple[Gemma2, transformers.Gemma2Model]:
    torch.manual_seed(0)
    config = transformers.Gemma2Config(**TINY.to_transformers(), attn_implementation="eager")
    theirs = transformers.Gemma2Model(config).eval()
    random_weights(theirs)
    ours = Gemma2(TINY)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, TINY.vocab_size, (2, 19), generator=torch.Generator().manual_seed(1))


def test_hidden_states_and_gradients_equal_transformers_beyond_the_sliding_window(pair, tokens):
    ours, theirs = pair
    out, reference = ours(tokens), theirs(tokens).last_hidden_state
    assert relative_error(out, reference) < TOLERANCE
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weight).sum().backward()
    (reference * weight).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert relative_error(parameter.grad, expected[name].grad) < TOLERANCE, name


def test_the_sliding_window_and_the_softcap_change_the_result(pair, tokens):
    ours, _ = pair
    for changed in (replace(TINY, sliding_window=64), replace(TINY, attention_softcap=50.0)):
        other = Gemma2(changed)
        other.load_state_dict(ours.state_dict())
        assert relative_error(other(tokens), ours(tokens)) > 1e-2


@pytest.mark.parametrize("cuts", [(1, 18), (7, 12), (4, 1, 14)])
def test_hidden_states_do_not_depend_on_how_the_cache_was_filled(pair, tokens, cuts):
    ours, _ = pair
    cache = KVCache()
    parts = [ours(part, cache) for part in tokens.split(cuts, dim=1)]
    assert cache.length == tokens.shape[1]
    assert relative_error(torch.cat(parts, dim=1), ours(tokens)) < TOLERANCE


def test_one_prefix_serves_a_batch_with_its_gradients_and_stays_unchanged(pair, tokens):
    ours, theirs = pair
    prefix = tokens[:1, :8]
    whole = torch.cat([prefix.expand(2, -1), tokens[:, 8:]], dim=1)
    cache = KVCache()
    ours(prefix, cache)
    shared = cache.expand(2)
    assert shared.keys[0].data_ptr() == cache.keys[0].data_ptr()
    out = ours(whole[:, 8:], shared)
    assert (cache.length, shared.length) == (8, 19)
    reference = theirs(whole).last_hidden_state[:, 8:]
    assert relative_error(out, reference) < TOLERANCE
    out.square().sum().backward()
    reference.square().sum().backward()
    for (name, parameter), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert relative_error(parameter.grad, expected.grad) < TOLERANCE, name


def test_right_padding_changes_no_real_token(pair, tokens):
    ours, theirs = pair
    padded = torch.cat([tokens, torch.zeros(2, 6, dtype=torch.int64)], dim=1)
    assert relative_error(ours(padded)[:, :19], ours(tokens)) < TOLERANCE
    masked = theirs(padded, attention_mask=(padded > 0).long()).last_hidden_state
    assert relative_error(ours(padded)[:, :19], masked[:, :19]) < TOLERANCE


def test_bfloat16_stays_close_to_transformers_bfloat16(pair, tokens):
    ours, theirs = pair
    exact = ours(tokens)
    ours, theirs = ours.bfloat16(), theirs.bfloat16()
    out, reference = ours(tokens), theirs(tokens).last_hidden_state
    assert out.dtype == torch.bfloat16
    # Both round at every operation: ours must lie as near to the float32 result as theirs.
    assert (out.float() - exact).norm() < 1.2 * (reference.float() - exact).norm()


def test_the_2b_size_has_the_keys_shapes_and_count_of_transformers():
    with torch.device("meta"):
        ours = Gemma2(GEMMA2_2B)
        theirs = transformers.Gemma2Model(transformers.Gemma2Config())
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert sum(parameter.numel() for parameter in ours.parameters()) == 2_614_341_888


def test_configs_survive_the_way_through_transformers():
    for config in (TINY, GEMMA2_2B, replace(TINY, sliding_layers=(False, True, True, False), rope_theta=5e3)):
        theirs = transformers.Gemma2Config(**config.to_transformers())
        assert Gemma2Config.from_transformers(theirs.to_dict()) == config
        assert Gemma2Config.from_transformers(config.to_transformers()) == config
    assert Gemma2Config.from_transformers(transformers.Gemma2Config().to_dict()) == GEMMA2_2B


def test_a_config_of_before_layer_types_and_rope_parameters_is_read():
    old = GEMMA2_2B.to_transformers()
    del old["layer_types"], old["rope_parameters"]
    assert Gemma2Config.from_transformers(old) == GEMMA2_2B


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "llama"),
        ({"hidden_activation": "silu"}, "silu"),
        ({"use_bidirectional_attention": True}, "bidirectional"),
        ({"attn_logit_softcapping": None}, "soft-capping"),
        ({"num_key_value_heads": 3}, "multiple of 3"),
        ({"head_dim": 15}, "15"),
        ({"layer_types": ["full_attention"]}, "1 layer types for 4"),
    ],
)
def test_foreign_configs_are_refused(change, said):
    with pytest.raises(WeightsError, match=said):
        Gemma2Config.from_transformers(TINY.to_transformers() | change)


def test_an_incomplete_config_names_the_missing_field():
    config = TINY.to_transformers()
    del config["head_dim"]
    with pytest.raises(WeightsError, match="head_dim"):
        Gemma2Config.from_transformers(config)
