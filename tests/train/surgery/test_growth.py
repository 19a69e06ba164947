"""A grown transformer starts as the one it grew from, and its new blocks learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.surgery.growth import grow

CONFIG = SanaConfig(depth=3, width=64, cross_heads=4, text_width=48, latent_channels=4, qk_norm=True)


@pytest.fixture
def trained() -> Sana:
    """A transformer all of whose parameters matter."""
    torch.manual_seed(0)
    sana = Sana(CONFIG)
    for parameter in sana.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return sana


def arguments() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 4, 6, generator=generator)
    text = torch.randn(2, 5, 48, generator=generator)
    return latents, torch.tensor([0.3, 0.9]), text, torch.tensor([[True] * 5, [True] * 2 + [False] * 3])


@pytest.mark.parametrize("depth", [3, 4, 8])
def test_with_no_block_dropped_the_velocities_are_the_same(trained: Sana, depth: int) -> None:
    grown = grow(trained, depth, drop_last=0)
    assert len(grown.blocks) == grown.config.depth == depth
    with torch.no_grad():
        assert torch.equal(grown(*arguments()), trained(*arguments()))


def test_sampling_through_a_grown_model_is_the_same_too(trained: Sana) -> None:
    latents, _, text, _ = arguments()
    grown = grow(trained, 5, drop_last=0)
    expected = trained.velocity(latents, 0.7, trained.prepare(list(text)))
    torch.testing.assert_close(grown.velocity(latents, 0.7, grown.prepare(list(text))), expected)


def test_dropped_blocks_leave_the_others_as_they_were(trained: Sana) -> None:
    grown = grow(trained, 4, drop_last=2)
    shorter = Sana(replace(CONFIG, depth=1))
    dropped = ("blocks.1.", "blocks.2.")
    state = {name: tensor for name, tensor in trained.state_dict().items() if not name.startswith(dropped)}
    shorter.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(grown(*arguments()), shorter(*arguments()))
        assert not torch.allclose(grown(*arguments()), trained(*arguments()))


def test_a_grown_model_has_the_parameters_of_its_depth(trained: Sana) -> None:
    grown = grow(trained, 6)
    expected = Sana(replace(CONFIG, depth=6)).state_dict()
    assert {name: tensor.shape for name, tensor in grown.state_dict().items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    pointers = {parameter.data_ptr() for parameter in trained.parameters()}
    assert pointers.isdisjoint(parameter.data_ptr() for parameter in grown.parameters())


def test_gradients_reach_the_new_blocks_at_once_and_all_of_them_after_a_step(trained: Sana) -> None:
    grown = grow(trained, 6, drop_last=1)
    silent = {"attn.proj.weight", "attn.proj.bias", "cross_attn.proj.weight", "cross_attn.proj.bias"}
    silent |= {"mlp.point_conv.conv.weight"}

    def learning() -> list[set[str]]:
        grown.zero_grad()
        grown(*arguments()).square().mean().backward()
        return [
            {name for name, p in block.named_parameters() if p.grad is not None and p.grad.any()}
            for block in grown.blocks[2:]
        ]

    assert learning() == [silent] * 4
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter -= 0.01 * parameter.grad  # pyright: ignore[reportOperatorIssue]
    everything = {name for name, _ in grown.blocks[0].named_parameters()}
    assert learning() == [everything] * 4


def test_new_blocks_differ_so_that_they_learn_different_things(trained: Sana) -> None:
    first, second = grow(trained, 5, drop_last=0).blocks[3:]
    assert not torch.equal(first.attn.qkv.weight, second.attn.qkv.weight)


def test_a_grown_model_keeps_the_dtype(trained: Sana) -> None:
    assert {parameter.dtype for parameter in grow(trained.double(), 4).parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("depth", "drop_last", "words"), [(2, 0, "at least 3"), (4, 3, r"\[0, 2\]"), (4, -1, r"\[0, 2\]")]
)
def test_what_can_not_grow_is_refused(trained: Sana, depth: int, drop_last: int, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        grow(trained, depth, drop_last=drop_last)
