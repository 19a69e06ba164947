"""LADD: hinge losses and heads against torch's own operations in float64, and whom the gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.distill.ladd import (
    Adversarial,
    GroupedBatchNorm,
    Head,
    Heads,
    features,
    heads_loss,
    judged_blocks,
    student_loss,
)

WIDTH = 8
TEACHER = SanaConfig(
    depth=3, width=32, cross_heads=2, text_width=8, latent_channels=4, qk_norm=True, time_scale=1.0
)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_hinge_losses_and_their_gradients() -> None:
    real, fake, rolled = (draw(3, 7).requires_grad_(True) for _ in range(3))
    heads_loss(real, fake, rolled).sum().backward()
    torch.testing.assert_close(real.grad, (real < 1) / (-2 * 7.0), rtol=1e-6, atol=0, check_dtype=False)
    for one in (fake, rolled):
        torch.testing.assert_close(one.grad, (one > -1) / (4 * 7.0), rtol=1e-6, atol=0, check_dtype=False)
    wanted = (F.relu(1 - real).mean(1) + F.relu(1 + torch.cat([fake, rolled], 1)).mean(1)) / 2
    torch.testing.assert_close(heads_loss(real, fake, rolled), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(student_loss(fake), -fake.sum(1) / 7, rtol=1e-6, atol=0)


def test_the_heads_loss_is_one_for_ignorance_and_zero_for_certainty() -> None:
    nothing, sure = torch.zeros(2, 4), torch.full((2, 4), 1.5)
    assert heads_loss(nothing, nothing).tolist() == [1.0, 1.0]
    assert heads_loss(sure, -sure, -sure).tolist() == [0.0, 0.0]
    assert heads_loss(sure, -sure, sure).tolist() == [0.625, 0.625]  # misaligned ones are half of the fakes


@pytest.mark.parametrize(("count", "groups"), [(8, [8]), (16, [8, 8]), (12, [6, 6]), (9, [5, 4])])
def test_the_norm_is_a_batch_norm_of_each_group(count, groups) -> None:
    norm = GroupedBatchNorm(WIDTH, 8)
    norm.weight.data, norm.bias.data = torch.randn(2, WIDTH)
    x = torch.randn(count, WIDTH, 6)
    wanted = [
        F.batch_norm(some, None, None, norm.weight, norm.bias, training=True, eps=1e-5)
        for some in x.split(groups)
    ]
    torch.testing.assert_close(norm(x), torch.cat(wanted), rtol=1e-5, atol=1e-5)


def test_a_head_is_the_published_chain_of_layers() -> None:
    head = Head(WIDTH, 4).eval()  # no power iteration: the weights stay what they are
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape) / 2
    tokens = torch.randn(4, 12, WIDTH)
    single, around, judge = head.single[0], head.around[0], head.judge
    wide = {layer: layer.weight.double() for layer in (single, around, judge)}

    def norm(x: Tensor, like: GroupedBatchNorm) -> Tensor:
        x = (x - x.mean((0, 2), keepdim=True)) / (x.var((0, 2), correction=0, keepdim=True) + 1e-5).sqrt()
        return F.leaky_relu(x * like.weight.double()[:, None] + like.bias.double()[:, None], 0.2)

    x = tokens.double().transpose(1, 2)
    x = norm(F.conv1d(x, wide[single], single.bias.double()), head.single[1])
    ring = torch.cat([x[..., -4:], x, x[..., :4]], -1)
    x = (x + norm(F.conv1d(ring, wide[around], around.bias.double()), head.around[1])) / math.sqrt(2)
    wanted = F.conv1d(x, wide[judge], judge.bias.double()).squeeze(1)
    torch.testing.assert_close(head(tokens).double(), wanted, rtol=1e-4, atol=1e-5)


def test_every_matrix_of_a_head_has_the_spectral_norm_one() -> None:
    head = Head(WIDTH, 4)
    for _ in range(30):
        head(torch.randn(4, 12, WIDTH))
    for layer in (head.single[0], head.around[0], head.judge):
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(
            1, rel=1e-3
        )


def test_judgements_do_not_depend_on_the_order_within_a_group() -> None:
    head, order = Head(WIDTH, 4).eval(), torch.tensor([2, 0, 3, 1, 4, 5, 6, 7])
    tokens = torch.randn(8, 12, WIDTH)
    torch.testing.assert_close(head(tokens)[order], head(tokens[order]), rtol=1e-4, atol=1e-5)
    across = torch.tensor([4, 1, 2, 3, 0, 5, 6, 7])
    assert not torch.allclose(head(tokens)[across], head(tokens[across]), atol=1e-3)


def test_with_groups_of_one_a_judgement_is_the_samples_own() -> None:
    head, tokens = Head(WIDTH, 1).eval(), torch.randn(5, 12, WIDTH)
    torch.testing.assert_close(head(tokens)[2:3], head(tokens[2:3]), rtol=1e-4, atol=1e-5)


def test_features_are_the_teachers_tokens_and_lead_gradients_to_what_it_sees() -> None:
    teacher = Sana(TEACHER).requires_grad_(False)
    heads = Heads(TEACHER.width, Adversarial(blocks=(0, 2)))
    noisy, t, text = (
        torch.randn(2, 4, 4, 4, requires_grad=True),
        torch.tensor([0.3, 0.7]),
        torch.randn(2, 3, 8),
    )
    mask = torch.ones(2, 3, dtype=torch.bool)
    seen: list[Tensor] = []
    teacher(noisy, t, text, mask, tokens=seen)
    tokens = features(teacher, heads.blocks, noisy, t, text, mask)
    assert [torch.equal(one, seen[block]) for one, block in zip(tokens, (0, 2), strict=True)] == [True, True]
    judgements = heads.fixed(tokens)
    assert judgements.shape == (2, 2 * 16)
    student_loss(judgements).sum().backward()
    assert noisy.grad.abs().sum() > 0
    assert [name for name, p in heads.named_parameters() if p.grad is not None] == []
    heads_loss(
        heads([one.detach() for one in tokens]), heads([-one.detach() for one in tokens])
    ).sum().backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


def test_heads_lie_behind_the_published_blocks_or_in_proportion() -> None:
    assert judged_blocks(20) == (2, 8, 14, 19)
    assert judged_blocks(28) == (2, 8, 14, 20, 27)
    assert judged_blocks(12) == (1, 4, 8, 11)
    assert judged_blocks(1) == (0,)
    for depth in range(1, 61):
        assert judged_blocks(depth)[-1] == depth - 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": 0.0},
        {"blocks": ()},
        {"blocks": (3, 2)},
        {"blocks": (-1,)},
        {"pure_noise": 1.5},
        {"group": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(SettingsError):
        Adversarial(**wrong)
