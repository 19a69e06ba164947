"""Blocks that do nothing are found and left out without a trace; the others stay in their order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.surgery.growth import silence
from sanakit.train.surgery.pruning import block_importance, kept_blocks, prune

CONFIG = SanaConfig(depth=5, width=64, cross_heads=4, text_width=48, latent_channels=4, qk_norm=True)


@pytest.fixture
def planted() -> Sana:
    """Five blocks, of which the second and the fourth do nothing."""
    torch.manual_seed(0)
    sana = Sana(CONFIG)
    for parameter in sana.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for number in (1, 3):
        silence(sana.blocks[number])
    return sana


def batch(seed: int, time: float, size: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(size, 4, 4, 4, generator=generator)
    text = torch.randn(size, 5, 48, generator=generator)
    mask = torch.tensor([[True] * 5, [True] + [False] * 4])[:size]
    return latents, torch.full((size,), time), text, mask


def batches() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    return [batch(i, time) for i, time in enumerate((0.2, 0.6, 0.95))]


def test_blocks_that_do_nothing_have_no_importance(planted: Sana) -> None:
    importance = block_importance(planted, batches())
    assert importance.shape == (5,)
    assert importance[[1, 3]].abs().max() < 1e-9
    assert importance[[0, 2, 4]].min() > 1e-3


def test_they_are_pruned_without_change_of_output(planted: Sana) -> None:
    pruned = prune(planted, block_importance(planted, batches()), 3)
    assert pruned.config.depth == len(pruned.blocks) == 3
    with torch.no_grad():
        assert torch.equal(pruned(*batch(7, 0.5)), planted(*batch(7, 0.5)))


def test_importance_is_one_minus_the_mean_cosine_over_tokens_and_batches(planted: Sana) -> None:
    seen = []
    planted.blocks[2].register_forward_hook(lambda module, given, result: seen.append((given[0], result)))
    given = [batch(0, 0.3), batch(1, 0.8, size=1)]  # batches of different sizes: tokens count alike
    importance = block_importance(planted, given)
    before, after = (torch.cat([pair[i].flatten(0, 1) for pair in seen]) for i in (0, 1))
    cosines = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
    assert len(cosines) == 3 * 16
    assert importance[2].item() == pytest.approx(1 - cosines.mean().item(), abs=1e-6)


def test_a_block_that_turns_its_tokens_around_is_the_most_important(planted: Sana) -> None:
    """Cosine -1, importance 2, whatever the tokens."""
    planted.blocks[2].register_forward_hook(lambda module, given, result: -given[0])
    importance = block_importance(planted, batches())
    assert importance.argmax() == 2
    assert importance[2].item() == pytest.approx(2.0)


def test_measuring_leaves_no_hooks_behind(planted: Sana) -> None:
    with pytest.raises(RuntimeError):
        block_importance(planted, [(torch.zeros(1, 9, 4, 4), *batch(0, 0.5)[1:])])
    assert not any(block._forward_hooks for block in planted.blocks)


def test_the_most_important_stay_in_their_order() -> None:
    assert kept_blocks([0.1, 0.9, 0.3, 0.8], 2) == [1, 3]
    assert kept_blocks([0.9, 0.1, 0.3, 0.8], 3) == [0, 2, 3]
    assert kept_blocks([0.5, 0.5, 0.5], 2) == [0, 1]


def test_a_pruned_model_holds_copies(planted: Sana) -> None:
    pruned = prune(planted, [5.0, 1, 4, 2, 3], 4)
    with torch.no_grad():
        pruned.blocks[1].scale_shift_table.zero_()
    assert planted.blocks[2].scale_shift_table.any()


@pytest.mark.parametrize("depth", [0, 6])
def test_an_impossible_depth_is_refused(planted: Sana, depth: int) -> None:
    with pytest.raises(SettingsError, match="1 to 5"):
        prune(planted, [1.0] * 5, depth)


def test_importance_of_another_model_is_refused(planted: Sana) -> None:
    with pytest.raises(SettingsError, match="4 values of importance came for 5 blocks"):
        prune(planted, [1.0] * 4, 3)


def test_importance_of_nothing_is_refused(planted: Sana) -> None:
    with pytest.raises(SettingsError, match="batches"):
        block_importance(planted, [])
