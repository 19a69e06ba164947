"""A student is told its distance from the teacher, in velocity and tokens, and comes nearer by it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.distill.depth import Teacher
from sanakit.train.surgery.growth import silence
from sanakit.train.surgery.pruning import block_importance, prune, teacher_of

CONFIG = SanaConfig(depth=5, width=64, cross_heads=4, text_width=48, latent_channels=4, qk_norm=True)
IDLE = (1, 3)  # blocks that do nothing


@pytest.fixture
def whole() -> Sana:
    torch.manual_seed(0)
    sana = Sana(CONFIG)
    for name, parameter in sana.named_parameters():
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
    return sana


def batch(seed: int = 0, size: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    noisy = torch.randn(size, 4, 4, 4, generator=generator)
    text = torch.randn(size, 5, 48, generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (size, 1), generator=generator)
    return noisy, torch.rand(size, generator=generator), text, mask


def pruned(whole: Sana, depth: int, importance: list[float]) -> tuple[Sana, Teacher]:
    return prune(whole, importance, depth), teacher_of(whole, importance, depth)


def test_a_block_answers_for_those_left_out_behind_it(whole: Sana) -> None:
    assert list(teacher_of(whole, [5.0, 1, 0, 4, 3], 3).stages) == [2, 3, 4]
    assert list(teacher_of(whole, [0.0, 5, 1, 4, 0], 2).stages) == [2, 4]
    assert list(teacher_of(whole, [1.0] * 5, 5).stages) == [0, 1, 2, 3, 4]
    with pytest.raises(SettingsError, match="1 to 5"):
        teacher_of(whole, [1.0] * 5, 6)


def test_nothing_is_to_be_learned_where_only_idle_blocks_are_missing(whole: Sana) -> None:
    for number in IDLE:
        silence(whole.blocks[number])
    importance = block_importance(whole, [batch()]).tolist()
    student, teacher = pruned(whole, 3, importance)
    assert teacher.errors(student, *batch(1)).max() < 1e-9  # rounding of float32
    student, teacher = pruned(whole, 2, importance)
    assert (teacher.errors(student, *batch(1)) > 0).all()


def test_the_errors_are_those_of_velocity_and_tokens(whole: Sana) -> None:
    """By hand: the tokens come from hooks on the blocks."""
    student, teacher = pruned(whole, 2, [0.5, 0.1, 0.9, 0.2, 0.3])  # 0 and 2 stay
    given = batch()
    seen: list[Tensor] = []
    for block in (whole.blocks[1], whole.blocks[4], *student.blocks):
        block.register_forward_hook(lambda module, given, result: seen.append(result))
    with torch.no_grad():
        velocities = (student(*given) - whole(*given)).square().mean((1, 2, 3))
    first, last, *wanted = seen
    tokens = [
        (own - theirs).square().sum((1, 2)) / theirs.square().sum((1, 2))
        for own, theirs in zip((first, last), wanted, strict=True)
    ]
    errors = teacher.errors(student, *given)
    torch.testing.assert_close(errors, velocities + (tokens[0] + tokens[1]) / 2)


def test_a_sample_s_error_does_not_depend_on_the_others(whole: Sana) -> None:
    """So that a batch can be cut into parts."""
    student, teacher = pruned(whole, 2, [0.5, 0.1, 0.9, 0.2, 0.3])
    given = batch(size=4)
    parts = [teacher.errors(student, *(one[cut] for one in given)) for cut in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(torch.cat(parts), teacher.errors(student, *given))


def test_only_the_student_gets_gradients(whole: Sana) -> None:
    student, teacher = pruned(whole, 3, [5.0, 4, 3, 2, 1])
    teacher.errors(student, *batch()).mean().backward()
    assert all(parameter.grad is None for parameter in whole.parameters())
    silent = [name for name, parameter in student.named_parameters() if parameter.grad is None]
    assert not silent


def test_a_student_comes_nearer(whole: Sana) -> None:
    student, teacher = pruned(whole, 3, [5.0, 1, 4, 2, 3])
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    with torch.no_grad():
        before = teacher.errors(student, *batch(-1, 32)).mean()
    for step in range(30):
        optimizer.zero_grad()
        teacher.errors(student, *batch(step, 16)).mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert teacher.errors(student, *batch(-1, 32)).mean() < 0.7 * before
