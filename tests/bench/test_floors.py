"""Counts of work against what torch counts while the plain path runs, and against the study's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sanakit.bench.floors import (
    Work,
    decoding,
    product,
    text_context,
    text_encoding,
    transformer_step,
)
from sanakit.models.dc_ae import DC_AE_F32C32_SANA, DC_AE_LITE, DC_AE_POCKET, DCAE, DCAEConfig, Stage
from sanakit.models.gemma2 import GEMMA2_2B, Gemma2, Gemma2Config, KVCache
from sanakit.models.sana import SANA_600M, Sana, SanaConfig

SANA = SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8)
GEMMA = Gemma2Config(
    vocab_size=600, width=48, depth=2, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
)
SMALL = (Stage(32, 1), Stage(64, 2), Stage(64, 1, (3, 5)))
SMALL_DCAE = DCAEConfig(encoder=SMALL, decoder=SMALL, latent_channels=8, interpolate_up=True)


def counted(call) -> int:
    """Operations that torch sees; the gradients that are on keep everything in torch."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("config", [SANA, replace(SANA, guidance_embed=True, qk_norm=True)])
def test_a_step_with_its_context_is_what_the_plain_forward_computes(config) -> None:
    model, text = Sana(config), torch.randn(2, 5, 48)
    guidance = torch.full((2,), 4.5) if config.guidance_embed else None
    time = torch.full((2,), 0.5)
    seen = counted(lambda: model(torch.randn(2, 8, 6, 4), time, text, guidance=guidance))
    needed = transformer_step(config, 6, 4, (5, 5)) + text_context(config, (5, 5))
    embedders = (1 + config.guidance_embed) * (256 * 64 + 64 * 64) + 6 * 64 * 64
    attention = 4 * 24 * 5 * 64 * 2 * config.depth  # fused on a CPU, where torch does not count it
    assert seen in (needed.flops + 2 * embedders, needed.flops + 2 * embedders - attention)


def test_a_prompt_of_one_token_saves_cross_attention() -> None:
    both, one = transformer_step(SANA, 6, 4, (5, 5)), transformer_step(SANA, 6, 4, (1, 5))
    assert both.flops - one.flops == SANA.depth * (2 * 2 * 24 * 64 * 64 + 4 * 24 * 5 * 64)
    assert both.weights == one.weights


@pytest.mark.parametrize("side", [2, 5, 7])
@pytest.mark.parametrize(
    "config",
    [
        DC_AE_POCKET,
        SMALL_DCAE,
        replace(SMALL_DCAE, interpolate_up=False),
        replace(SMALL_DCAE, decoder=(Stage(32, 0), *SMALL[1:])),
    ],
    ids=["pocket", "interpolating", "shuffling", "open-ended"],
)
def test_a_plain_decode_is_what_torch_counts(config, side: int) -> None:
    model = DCAE(config, "decoder")
    latents = torch.randn(1, config.latent_channels, side, side + 1)
    seen = counted(lambda: model.decode(latents))
    assert decoding(config, side, side + 1, winograd=False).flops == seen


@pytest.mark.parametrize("config", [DC_AE_POCKET, DC_AE_F32C32_SANA, DC_AE_LITE, SMALL_DCAE])
def test_the_weights_of_a_decoder_are_its_matrices(config) -> None:
    with torch.device("meta"):
        decoder = DCAE(config, "decoder")
    matrices = sum(weight.numel() for weight in decoder.parameters() if weight.ndim > 1)
    assert decoding(config, 16, 16).weights == matrices


def test_the_weights_of_a_transformer_are_its_matrices() -> None:
    with torch.device("meta"):
        model = Sana(SANA_600M)
    held = {name: weight.numel() for name, weight in model.named_parameters() if weight.ndim > 1}
    context = sum(size for name, size in held.items() if "kv_linear" in name or "y_embedder" in name)
    tables = sum(size for name, size in held.items() if "scale_shift_table" in name)
    assert transformer_step(SANA_600M, 16, 16, (1, 30)).weights == sum(held.values()) - context - tables


@pytest.mark.parametrize("past", [0, 7])
def test_text_is_what_torch_counts(past: int) -> None:
    model, cache = Gemma2(GEMMA), KVCache()
    if past:
        model(torch.zeros(1, past, dtype=torch.long), cache)
    seen = counted(lambda: model(torch.zeros(1, 5, dtype=torch.long), cache))
    assert text_encoding(GEMMA, 5, past).flops == seen


def test_counts_of_the_real_sizes_are_the_known_ones() -> None:
    """A step of diffusers at 512 px: 611 GF, of which text takes 94 and the empty prompt 38.

    A decode: 2092 GF. Gemma 2: 2.02 G weights in its layers.
    """
    assert transformer_step(SANA_600M, 16, 16, (1, 30)).flops == pytest.approx(
        (611 - 94 - 38) * 1e9, rel=0.01
    )
    assert decoding(DC_AE_F32C32_SANA, 16, 16, winograd=False).flops == pytest.approx(2092e9, rel=0.01)
    assert text_encoding(GEMMA2_2B, 20, 193).weights == pytest.approx(2.02e9, rel=0.01)


def test_winograd_saves_most_of_a_decode_but_nothing_on_few_tiles() -> None:
    def share(side: int) -> float:
        fast, plain = (
            decoding(DC_AE_F32C32_SANA, side, side, winograd=winograd).flops for winograd in (True, False)
        )
        return fast / plain

    assert share(1) == 1  # 64 tiles at 32 px
    assert 0.7 < share(2) < 1  # the last stage has 256
    assert 0.25 < share(32) < share(16) < 0.5


def test_bytes_follow_the_width_of_the_numbers() -> None:
    work = product(3, 4, 5) + Work(1)
    assert (work.flops, work.weights, work.activations) == (121, 20, 27)
    assert work.bytes() == 4 * 47
    assert work.bytes(weight_bytes=2) == 4 * 27 + 2 * 20
