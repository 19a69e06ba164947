"""Muon orthogonalises, part by part; every trained parameter has one optimiser."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sanakit.errors import WeightsError
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.config import TrainConfig
from sanakit.train.optim import Muon, make_optimizers, orthogonalise, resume_optimizers

CONFIG = TrainConfig(steps=10, batch_size=2, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
MUON = replace(CONFIG, optimizer="muon")


def whole_model() -> nn.ModuleDict:
    sana = Sana(SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8, qk_norm=True))
    gemma = Gemma2(
        Gemma2Config(
            vocab_size=64, width=48, depth=1, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
        )
    )
    return nn.ModuleDict({"transformer": sana, "text": gemma})


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (32, 96), (8, 100)])
def test_orthogonalise_makes_all_singular_values_alike(shape):
    matrix = torch.randn(shape) @ torch.diag(torch.linspace(0.2, 5, shape[1]))
    scale = 0.2 * max(shape) ** 0.5
    out = orthogonalise(matrix)
    values = torch.linalg.svdvals(out) / scale
    assert out.shape == shape
    assert out.dtype == torch.float32
    assert values.min() > 0.6
    assert values.max() < 1.3
    # It stays the nearest one: the singular vectors are the matrix's own.
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert (out * (left @ right)).sum() / out.norm() / (left @ right).norm() > 0.97


def test_orthogonalise_does_not_depend_on_the_gradient_s_size():
    matrix = torch.randn(16, 16)
    torch.testing.assert_close(orthogonalise(1e4 * matrix), orthogonalise(1e-3 * matrix), atol=0.1, rtol=0)
    assert not orthogonalise(torch.zeros(4, 4)).any()


def test_an_update_has_the_size_of_adam_s():
    for shape in ((64, 64), (192, 64), (64, 320)):
        assert orthogonalise(torch.randn(shape)).square().mean().sqrt() == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_fused_matrices_are_orthogonalised_separately(parts):
    weight = nn.Parameter(torch.zeros(parts * 16, 16))
    loud = torch.cat([10.0**part * torch.randn(16, 16) for part in range(parts)])
    weight.grad = loud
    Muon([{"params": [weight], "lr": 1.0, "parts": parts}], momentum=0.95, weight_decay=0.0).step()
    for moved in weight.detach().chunk(parts):
        values = torch.linalg.svdvals(moved) / (0.2 * 16**0.5)
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_steps_against_the_gradient_and_decays():
    weight = nn.Parameter(torch.eye(8))
    before = weight.detach().clone()
    weight.grad = torch.eye(8)
    Muon([{"params": [weight], "lr": 0.1}], momentum=0.9, weight_decay=0.5).step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * orthogonalise(torch.eye(8))
    torch.testing.assert_close(weight.detach(), expected, atol=1e-3, rtol=0)


def test_muon_handles_1x1_convolutions_and_skips_what_has_no_gradient():
    conv, idle = nn.Parameter(torch.randn(12, 6, 1, 1)), nn.Parameter(torch.ones(3, 3))
    before = conv.detach().clone()
    conv.grad = torch.randn_like(conv)
    Muon([{"params": [conv, idle], "lr": 0.1}], momentum=0.9, weight_decay=0.0).step()
    assert not torch.equal(conv, before)
    assert torch.equal(idle, torch.ones(3, 3))


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_every_trained_parameter_has_one_optimiser_and_a_base_rate(config):
    model = whole_model()
    frozen = model["text"].requires_grad_(False).norm.weight
    optimizers = make_optimizers(model, config)
    assert len(optimizers) == (1 if config is CONFIG else 2)
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert id(frozen) not in held
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            assert group["base_lr"] == (0.02 if isinstance(optimizer, Muon) else 1e-3)


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_gains_biases_and_embeddings_are_not_decayed(config):
    model = whole_model()
    decay = {
        id(parameter): group["weight_decay"]
        for optimizer in make_optimizers(model, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        spared = parameter.ndim == 1 or "embed" in name
        assert decay[id(parameter)] == (0.0 if spared else 0.1), name
    assert decay[id(model["text"].embed_tokens.weight)] == 0.0


def test_muon_takes_the_matrices_inside_blocks_with_their_parts():
    model = whole_model()
    _, muon = make_optimizers(model, MUON)
    parts = {id(p): group["parts"] for group in muon.param_groups for p in group["params"]}
    taken = {name: parts[id(p)] for name, p in model.named_parameters() if id(p) in parts}
    block = {name.split("blocks.0.")[1]: n for name, n in taken.items() if "blocks.0." in name}
    assert block == {
        "attn.qkv.weight": 3,
        "attn.proj.weight": 1,
        "cross_attn.q_linear.weight": 1,
        "cross_attn.kv_linear.weight": 2,
        "cross_attn.proj.weight": 1,
        "mlp.inverted_conv.conv.weight": 1,
        "mlp.point_conv.conv.weight": 1,
    }
    assert all("blocks." in name or "layers." in name for name in taken)
    assert any("layers.0.self_attn.q_proj" in name for name in taken)


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_rate_factors_reach_both_optimisers(config):
    model = whole_model()
    slow = replace(config, rate_factors=(("blocks.1", 0.1),))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in make_optimizers(model, slow):
        base = 0.02 if isinstance(optimizer, Muon) else 1e-3
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                factor = 0.1 if "blocks.1" in names[id(parameter)] else 1.0
                assert group["base_lr"] == pytest.approx(base * factor)


def trained(config: TrainConfig) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model = whole_model()
    optimizers = make_optimizers(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    return model, optimizers


def test_resuming_keeps_momenta_but_takes_the_new_settings():
    _, optimizers = trained(MUON)
    saved = [optimizer.state_dict() for optimizer in optimizers]
    fresh = make_optimizers(
        whole_model(), replace(MUON, learning_rate=1e-5, muon_learning_rate=1e-4, weight_decay=0.2)
    )
    resume_optimizers(fresh, saved)
    for optimizer, old in zip(fresh, saved, strict=True):
        rate = 1e-4 if isinstance(optimizer, Muon) else 1e-5
        assert {group["base_lr"] for group in optimizer.param_groups} == {rate}
        assert max(group["weight_decay"] for group in optimizer.param_groups) == 0.2
        states = optimizer.state_dict()["state"]
        assert states.keys() == old["state"].keys()
        for index, state in states.items():
            assert all(torch.equal(state[name], old["state"][index][name]) for name in state)


def test_an_optimiser_of_another_kind_is_refused():
    _, optimizers = trained(MUON)
    with pytest.raises(WeightsError, match="other parameter groups"):
        resume_optimizers(make_optimizers(whole_model(), CONFIG), [o.state_dict() for o in optimizers])
