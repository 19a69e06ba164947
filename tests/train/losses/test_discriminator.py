"""The patch discriminator: what it sees, and which side learns from which loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sanakit.errors import SettingsError
from sanakit.train.losses.discriminator import PatchDiscriminator, decoder_loss, hinge_loss


def gradient_norm(module: torch.nn.Module) -> float:
    return sum(p.grad.square().sum().item() for p in module.parameters() if p.grad is not None) ** 0.5


def test_each_judgement_sees_70_pixels() -> None:
    """Group norm lets a little of the whole image through; without it the published patch remains."""
    judge = PatchDiscriminator(8)
    for index, layer in enumerate(judge.layers):
        if isinstance(layer, torch.nn.GroupNorm):
            judge.layers[index] = torch.nn.Identity()
    picture = torch.randn(1, 3, 128, 128, requires_grad=True)
    judgements = judge(picture)
    assert judgements.shape == (1, 1, 14, 14)
    judgements[0, 0, 7, 7].backward()
    assert picture.grad is not None
    seen = picture.grad.abs().sum((0, 1)) > 0
    assert (seen.any(0).sum().item(), seen.any(1).sum().item()) == (70, 70)


def test_a_judgement_does_not_depend_on_the_batch() -> None:
    judge, pictures = PatchDiscriminator(8), torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(judge(pictures), torch.cat([judge(x) for x in pictures.split(1)]))


def test_losses_are_those_of_the_paper() -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((1, 2, 3), keepdim=True)

    real = torch.tensor([2.0, 0.25]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    drawn = torch.tensor([-3.0, 0.5]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    assert hinge_loss(Constant(), drawn, real).tolist() == pytest.approx([0, 0.75 + 1.5])
    assert decoder_loss(Constant(), drawn).tolist() == pytest.approx([3, -0.5])


def test_each_loss_moves_its_own_side_only() -> None:
    judge, source = PatchDiscriminator(8), torch.nn.Conv2d(3, 3, 3, padding=1)
    real = torch.randn(2, 3, 32, 32)
    hinge_loss(judge, source(real), real).mean().backward()
    assert gradient_norm(judge) > 0
    assert gradient_norm(source) == 0
    judge.zero_grad()
    decoder_loss(judge, source(real)).mean().backward()
    assert gradient_norm(judge) == 0
    assert gradient_norm(source) > 0


def test_one_backward_pass_gives_the_gradients_of_two_steps() -> None:
    judge, source = PatchDiscriminator(8), torch.nn.Conv2d(3, 3, 3, padding=1)
    real = torch.randn(2, 3, 32, 32)
    drawn = source(real)
    (decoder_loss(judge, drawn) + hinge_loss(judge, drawn, real)).mean().backward()
    of_source = torch.autograd.grad(-judge(source(real)).mean(), list(source.parameters()))
    margins = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(source(real))).mean()
    of_judge = torch.autograd.grad(margins, list(judge.parameters()))
    expected = [*of_source, *of_judge]
    for parameter, gradient in zip([*source.parameters(), *judge.parameters()], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_it_learns_to_tell_sharp_pictures_from_soft_ones() -> None:
    judge, generator = PatchDiscriminator(16), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3)

    def pair() -> tuple[torch.Tensor, torch.Tensor]:
        sharp = torch.rand(8, 3, 32, 32, generator=generator).round() * 2 - 1
        return sharp, F.avg_pool2d(sharp, 3, stride=1, padding=1)

    for _ in range(20):
        sharp, soft = pair()
        optimizer.zero_grad()
        hinge_loss(judge, soft, sharp).mean().backward()
        optimizer.step()
    sharp, soft = pair()
    assert hinge_loss(judge, soft, sharp).mean() < 0.5
    assert judge(sharp).mean() > 0 > judge(soft).mean()


@pytest.mark.parametrize("settings", [{"width": 12}, {"width": 0}, {"layers": 0}])
def test_impossible_sizes_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match="multiple of 8"):
        PatchDiscriminator(**settings)
