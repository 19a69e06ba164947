"""Every trained parameter has one optimiser, with its own rate and decay, and a state that can be saved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.sana import Sana, SanaConfig
from sanakit.train.config import TrainConfig
from sanakit.train.optim.came import CAME
from sanakit.train.optim.make import make_optimizers, state_bytes
from sanakit.train.optim.muon import Muon

CONFIG = TrainConfig(steps=10, batch_size=2, learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.1)
MUON = replace(CONFIG, optimizer="muon")
CAME_32, CAME_8 = replace(CONFIG, optimizer="came"), replace(CONFIG, optimizer="came8bit")
EVERY = {"adamw": CONFIG, "muon": MUON, "came": CAME_32, "came8bit": CAME_8}
every_optimizer = pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)


def whole_model() -> nn.ModuleDict:
    sana = Sana(SanaConfig(depth=2, width=64, cross_heads=4, text_width=48, latent_channels=8, qk_norm=True))
    gemma = Gemma2(
        Gemma2Config(
            vocab_size=64, width=48, depth=1, heads=4, kv_heads=2, head_dim=12, mlp_width=96, query_scalar=12
        )
    )
    return nn.ModuleDict({"transformer": sana, "text": gemma})


@every_optimizer
def test_every_trained_parameter_has_one_optimiser_and_a_base_rate(config):
    model = whole_model()
    frozen = model["text"].requires_grad_(False).norm.weight
    optimizers = make_optimizers(model, config)
    assert len(optimizers) == (2 if config is MUON else 1)
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert id(frozen) not in held
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            assert group["base_lr"] == (0.02 if isinstance(optimizer, Muon) else 1e-3)


@every_optimizer
def test_gains_biases_embeddings_and_tables_are_not_decayed(config):
    model = whole_model()
    decay = {
        id(parameter): group["weight_decay"]
        for optimizer in make_optimizers(model, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        spared = parameter.ndim == 1 or "embed" in name or "scale_shift_table" in name
        assert decay[id(parameter)] == (0.0 if spared else 0.1), name
    assert decay[id(model["text"].embed_tokens.weight)] == 0.0
    tables = [parameter for name, parameter in model.named_parameters() if "scale_shift_table" in name]
    assert [decay[id(table)] for table in tables] == [0.0] * 3  # of two blocks and the final layer


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


@every_optimizer
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


@every_optimizer
def test_a_run_goes_on_from_saved_states_as_if_it_had_not_stopped(config, tmp_path):
    model, optimizers = trained(config)
    copy = whole_model()
    copy.load_state_dict(model.state_dict())
    resumed = make_optimizers(copy, config)
    torch.save([optimizer.state_dict() for optimizer in optimizers], tmp_path / "states.pt")
    for optimizer, state in zip(resumed, torch.load(tmp_path / "states.pt", weights_only=True), strict=True):
        optimizer.load_state_dict(state)
    for step in range(3):
        for trains, steps in ((model, optimizers), (copy, resumed)):
            generator = torch.Generator().manual_seed(step)
            for parameter in trains.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            for optimizer in steps:
                optimizer.step()
    for (name, one), two in zip(model.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_the_config_s_settings_reach_came():
    config = replace(CAME_8, came_betas=(0.8, 0.98, 0.998), rate_factors=(("blocks.1", 0.1),))
    (optimizer,) = make_optimizers(whole_model(), config)
    assert isinstance(optimizer, CAME)
    assert all(group["eight_bit"] and group["betas"] == config.came_betas for group in optimizer.param_groups)
    assert {group["base_lr"] for group in optimizer.param_groups} == {1e-3, 1e-3 * 0.1}


def test_states_are_counted_in_bytes():
    weight, gain = nn.Parameter(torch.zeros(256, 512)), nn.Parameter(torch.zeros(300))

    def bytes_of(optimizer: torch.optim.Optimizer) -> int:
        assert state_bytes([optimizer]) == 0
        weight.grad, gain.grad = torch.ones_like(weight), torch.ones_like(gain)
        optimizer.step()
        return state_bytes([optimizer])

    matrix, vector, factors = weight.numel(), gain.numel(), 2 * (256 + 512) * 4
    groups = [{"params": [weight, gain], "lr": 1e-3}]
    adamw = bytes_of(torch.optim.AdamW([weight, gain]))
    assert adamw == 8 * (matrix + vector) + 2 * 4  # two float32 each, and two counts of steps
    assert bytes_of(CAME(groups)) == 4 * matrix + factors + 8 * vector
    eight_bit = bytes_of(CAME([{"params": [weight, gain], "lr": 1e-3}], eight_bit=True))
    assert eight_bit == matrix + 256 * 4 + factors + 8 * vector  # one scale for each row of 512
    assert adamw / eight_bit > 7
