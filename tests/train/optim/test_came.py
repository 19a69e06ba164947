"""CAME does what its paper says; in 8 bits it is nearly the same, in a quarter of the memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sanakit.errors import PrecisionError
from sanakit.train.optim.came import BETAS, CAME, EPSILONS, LEVELS, dequantise, quantise


def came_of_the_paper(weight: Tensor, gradients: list[Tensor], lr: float, decay: float) -> Iterator[Tensor]:
    """Algorithm 2 of arXiv:2307.02047, with sums and outer products as it is printed; n x m, float64."""
    beta_1, beta_2, beta_3 = BETAS
    eps_1, eps_2 = EPSILONS
    n, m = weight.shape
    ones_n, ones_m = torch.ones(n, 1, dtype=torch.float64), torch.ones(m, 1, dtype=torch.float64)
    theta, moment = weight.clone(), torch.zeros(n, m, dtype=torch.float64)
    r, c, big_r, big_c = torch.zeros_like(ones_n), torch.zeros_like(ones_m), 0 * ones_n, 0 * ones_m
    for g in gradients:
        squared = g**2 + eps_1 * ones_n @ ones_m.T
        r = beta_2 * r + (1 - beta_2) * squared @ ones_m
        c = beta_2 * c + (1 - beta_2) * squared.T @ ones_n
        u = g / torch.sqrt(r @ c.T / (ones_n.T @ r))
        u = u / max(1.0, float(torch.sqrt((u**2).sum() / (n * m))))
        moment = beta_1 * moment + (1 - beta_1) * u
        instability = (u - moment) ** 2 + eps_2
        big_r = beta_3 * big_r + (1 - beta_3) * instability @ ones_m
        big_c = beta_3 * big_c + (1 - beta_3) * instability.T @ ones_n
        s = big_r @ big_c.T / (ones_n.T @ big_r)
        theta = theta - lr * decay * theta - lr * moment / torch.sqrt(s)
        yield theta


@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (6, 1), (6, 3, 1, 1), (5, 2, 3, 3), (8, 1, 3, 3)])
def test_came_is_the_paper_s_algorithm(shape):
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    sizes = torch.logspace(-3, 2, shape[0], dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
    gradients = [sizes * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(50)]
    gradients[20] *= 1e3  # an outlier, which the clipping of updates must catch
    expected = came_of_the_paper(start.flatten(1), [g.flatten(1) for g in gradients], lr=0.01, decay=0.1)
    exact, single = nn.Parameter(start.clone()), nn.Parameter(start.float())
    groups = [{"params": [exact], "lr": 0.01, "weight_decay": 0.1}]
    steps = CAME(groups), CAME([{"params": [single], "lr": 0.01, "weight_decay": 0.1}])
    for gradient, theta in zip(gradients, expected, strict=True):
        exact.grad, single.grad = gradient, gradient.float()
        for optimizer in steps:
            optimizer.step()
        torch.testing.assert_close(exact.detach().flatten(1), theta, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(single.detach().flatten(1).double(), theta, rtol=1e-4, atol=1e-4)


def test_vectors_keep_their_whole_second_moment():
    vector = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    gradient = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    optimizer = CAME([{"params": [vector], "lr": 0.1}])
    moment, square, wanted = torch.zeros(4), torch.zeros(4), torch.zeros(4, dtype=torch.float64)
    for step in range(1, 6):
        vector.grad = gradient * step
        optimizer.step()
        square = 0.999 * square + 0.001 * ((gradient * step) ** 2 + 1e-30)
        update = gradient * step / square.sqrt()
        moment = 0.9 * moment + 0.1 * update / max(1.0, update.square().mean().sqrt().item())
        wanted = wanted - 0.1 * moment
    torch.testing.assert_close(vector.detach(), wanted)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_zero_gradients_move_nothing_and_idle_parameters_get_no_state(eight_bit):
    weight, idle = nn.Parameter(torch.ones(128, 128)), nn.Parameter(torch.ones(3, 3))
    optimizer = CAME([{"params": [weight, idle], "lr": 0.1}], eight_bit=eight_bit)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(weight, torch.ones(128, 128))
    assert list(optimizer.state) == [weight]


def test_weights_in_16_bits_are_refused():
    with pytest.raises(PrecisionError, match="master weights in float32"):
        CAME([{"params": [nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))], "lr": 1e-3}])


@pytest.mark.parametrize("columns", [1, 9, 2048, 2049, 5600])
def test_a_stored_entry_is_off_by_at_most_half_a_level_of_its_block(columns):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(16, columns, generator=generator) * torch.logspace(-12, 6, 16)[:, None]
    values[3] = 0.0
    values[5, 0] = 1e4 * values[5].abs().max()  # drowns its own block, and no other
    codes, scales = quantise(values)
    blocks = -(-columns // 2048)
    assert codes.dtype == torch.int8
    assert codes.shape == values.shape
    assert scales.shape == (16, blocks)
    back = dequantise(codes, scales)
    width = -(-columns // blocks)
    for block in range(blocks):
        part = slice(block * width, (block + 1) * width)
        largest = values[:, part].abs().amax(1, keepdim=True)
        assert ((back - values)[:, part].abs() <= largest / (2 * LEVELS) * 1.0001).all()
        assert torch.equal(back[:, part].abs().amax(1) == 0, largest[:, 0] == 0)
    again = quantise(back)
    assert torch.equal(again[0], codes)  # storing what was stored changes nothing


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ((128, 128), True),
        ((127, 129), False),
        ((16384,), False),
        ((128, 128, 1, 1), True),
        ((32, 64, 3, 3), True),
    ],
)
def test_matrices_from_16384_entries_on_are_stored_in_8_bits(shape, stored):
    weight = nn.Parameter(torch.zeros(shape))
    optimizer = CAME([{"params": [weight], "lr": 0.1}], eight_bit=True)
    weight.grad = torch.randn(shape)
    optimizer.step()
    kept = optimizer.state[weight]
    assert ("codes" in kept) == stored
    assert ("momentum" in kept) == (not stored)
    if stored:
        assert kept["codes"].dtype == torch.int8
        assert {kept[name].dtype for name in kept if name != "codes"} == {torch.float32}


def least_squares(eight_bit: bool, seed: int) -> float:
    """Mean square error after learning a map of 256 numbers to 64, from noisy batches; 1 at the start."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(512, 256, generator=generator) * torch.logspace(0, -1, 256)
    wanted = inputs @ torch.randn(256, 64, generator=generator)
    wanted = (wanted + 0.05 * torch.randn(wanted.shape, generator=generator)) / wanted.std()
    weight = nn.Parameter(torch.zeros(64, 256))
    optimizer = CAME([{"params": [weight], "lr": 0.0}], eight_bit=eight_bit)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 100) * (1 - step / 400)
        batch = torch.randint(0, 512, (64,), generator=generator)
        (inputs[batch] @ weight.T - wanted[batch]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return (inputs @ weight.T - wanted).square().mean().item()


@pytest.mark.parametrize("seed", [0, 1])
def test_8_bits_learn_least_squares_as_well_as_32(seed):
    whole, stored = least_squares(False, seed), least_squares(True, seed)
    assert whole < 0.01
    assert stored == pytest.approx(whole, rel=0.05)
    assert stored != whole


@pytest.mark.parametrize("eight_bit", [False, True])
def test_a_loaded_state_continues_bit_for_bit(eight_bit):
    torch.manual_seed(0)
    weights = [
        nn.Parameter(torch.randn(130, 128)),
        nn.Parameter(torch.randn(12, 1, 3, 3)),
        nn.Parameter(torch.ones(5)),
    ]
    optimizer = CAME([{"params": weights, "lr": 0.01}], eight_bit=eight_bit)

    def steps(weights: list[nn.Parameter], optimizer: CAME, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(4):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()

    steps(weights, optimizer, 1)
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    resumed = CAME([{"params": copies, "lr": 0.01}], eight_bit=eight_bit)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for weight, other in zip(weights, copies, strict=True):
        kept = optimizer.state[weight]
        assert {name: t.dtype for name, t in resumed.state[other].items()} == {
            n: t.dtype for n, t in kept.items()
        }
    steps(weights, optimizer, 2)
    steps(copies, resumed, 2)
    for weight, other in zip(weights, copies, strict=True):
        assert torch.equal(weight, other)
