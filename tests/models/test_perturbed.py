"""The perturbed branch against `forward` with an identity for attention, and against diffusers' processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.models.layers import LinearSelfAttention
from sanakit.models.perturbed import perturbed_velocity
from sanakit.models.sana import Sana, SanaConfig, TextContext

CONFIG = SanaConfig(depth=4, width=64, cross_heads=4, text_width=24, latent_channels=8, sample_size=4)
TOLERANCE = 2e-5  # of the largest number compared: float32 sums in another order


@pytest.fixture(params=[False, True], ids=["", "qk-norm"])
def model(request: pytest.FixtureRequest) -> Sana:
    model = Sana(replace(CONFIG, qk_norm=request.param))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.15)
    return model.eval()


def identity(attention: LinearSelfAttention, x: Tensor) -> Tensor:
    """Each token's own value, projected."""
    width = x.shape[-1]
    values = x @ attention.qkv.weight[2 * width :].T
    return values @ attention.proj.weight.T + attention.proj.bias


def close(ours: Tensor, theirs: Tensor) -> None:
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@torch.no_grad()
def plainly(model: Sana, blocks: tuple[int, ...], latents: Tensor, t: Tensor, text: list[Tensor]) -> Tensor:
    """`forward` with the identity in some blocks, prompt by prompt."""
    for i in blocks:
        attention = model.blocks[i].attn
        attention.forward = lambda x, attention=attention: identity(attention, x)
    found = [model(latents[i : i + 1], t[i : i + 1], text[i][None]) for i in range(len(latents))]
    for i in blocks:
        del model.blocks[i].attn.forward
    return torch.cat(found)


@pytest.mark.parametrize("blocks", [(0,), (2,), (3,), (1, 3)], ids=str)
@pytest.mark.parametrize("times", [1, 2])
def test_all_three_branches_equal_those_computed_alone(model: Sana, blocks: tuple[int, ...], times: int):
    latents = torch.randn(2, 8, 4, 6)
    t = torch.tensor([0.8, 0.8 if times == 1 else 0.3])
    texts, null = [torch.randn(5, 24), torch.randn(3, 24)], torch.randn(1, 24)
    prompts = TextContext.join([model.prepare([text]) for text in texts])
    both = TextContext.join([model.prepare([text]) for text in (null, null, *texts)])
    given = t if times == 2 else 0.8
    found = perturbed_velocity(model, blocks, latents, given, both, prompts)
    assert found.shape == (6, 8, 4, 6)
    close(found[:4], model.velocity(latents, given, both))
    expected = plainly(model, blocks, latents, t, texts)
    close(found[4:], expected)
    assert (found[2:4] - expected).abs().max() > 0.01  # it is another velocity
    alone = perturbed_velocity(model, blocks, latents, given, prompts, prompts)
    close(alone, found[2:])


def test_diffusers_processor_perturbs_alike(model: Sana):
    from diffusers.models.attention_processor import PAGIdentitySanaLinearAttnProcessor2_0

    from tests.models.test_sana import published

    if model.config.qk_norm:
        pytest.skip("diffusers' processor leaves out the norms of queries and keys")
    theirs = published(model)
    theirs.transformer_blocks[1].attn1.processor = PAGIdentitySanaLinearAttnProcessor2_0()
    latents, text = torch.randn(2, 8, 4, 4), torch.randn(2, 5, 24)
    with torch.no_grad():  # the processor perturbs the second half of its batch
        expected = theirs(
            torch.cat([latents] * 2),
            encoder_hidden_states=torch.cat([text] * 2),
            timestep=torch.full((4,), 500.0),
        ).sample
    prompts = TextContext.join([model.prepare([one]) for one in text])
    close(perturbed_velocity(model, (1,), latents, 0.5, prompts, prompts), expected)


def test_blocks_before_the_first_perturbed_one_run_once_for_both(model: Sana, monkeypatch):
    rows = []
    prompts = model.prepare([torch.randn(5, 24)])
    for i, block in enumerate(model.blocks):
        cross, own = block.cross_attn, block.cross_attn.add_
        monkeypatch.setattr(cross, "add_", lambda x, p, i=i, own=own: (rows.append(i), own(x, p)))
    freed: list[object] = []
    perturbed_velocity(model, (2,), torch.randn(1, 8, 4, 4), 0.5, prompts, prompts, after_block=freed.append)
    assert rows == [0, 1, 2, 2, 3, 3]
    assert freed == list(model.blocks)
